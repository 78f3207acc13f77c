"""The policy as a torch module: loading, packed forwards, LoRA, FSDP."""
