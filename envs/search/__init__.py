"""The multi-agent search environment."""
