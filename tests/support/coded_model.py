"""A model whose folder ships its code: `trust_remote_code` decides whether that runs."""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

CONFIGURATION = """\
from transformers import LlamaConfig


class ShippedConfig(LlamaConfig):
    model_type = "shipped"
"""
MODEL = """\
from transformers import LlamaForCausalLM, LlamaModel

from .configuration_shipped import ShippedConfig


class ShippedModel(LlamaModel):
    config_class = ShippedConfig


class ShippedForCausalLM(LlamaForCausalLM):
    config_class = ShippedConfig
"""


def ship_code(folder: Path) -> Path:
    """Turns a Llama in `folder` into a kind of model that transformers does not know, with code that does."""
    Path(folder, "configuration_shipped.py").write_text(CONFIGURATION)
    Path(folder, "modeling_shipped.py").write_text(MODEL)
    config = json.loads(Path(folder, "config.json").read_text())
    config |= {
        "model_type": "shipped",
        "architectures": ["ShippedForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_shipped.ShippedConfig",
            "AutoModel": "modeling_shipped.ShippedModel",
            "AutoModelForCausalLM": "modeling_shipped.ShippedForCausalLM",
        },
    }
    Path(folder, "config.json").write_text(json.dumps(config))
    return folder


@contextmanager
def modules_in(folder: Path) -> Generator[None]:
    """transformers copies the code that it runs to `folder`; nothing of it stays loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
        patch.setattr(sys, "path", [*sys.path])
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]
