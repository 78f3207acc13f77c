"""Whether a checkpoint can be a run's beginning.

RLlib restores what it finds. It passes over a policy that the checkpoint does not hold, which would then
begin with its first weights, without a word. Adapters of another `alpha` fit, but make another policy.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSelector, FileSystem, FileType

from algorithms.igpo.weights.export import located
from envs.engine.lora import LoraSettings
from envs.errors import InputError

SIZES = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
"""Names in a Hugging Face configuration that the shapes of the weights follow from."""
MODULES = "learner_group/learner/rl_module"
"""RLlib's folder of a checkpoint that holds a folder for each policy."""
MADE_WITH = "class_and_ctor_args.pkl"
"""RLlib's file of a policy's folder that says how its module was made."""


def check_policies(
    checkpoint: str | Path,
    policies: Iterable[str],
    adapters: Mapping[str, LoraSettings],
    filesystem: FileSystem | None = None,
) -> None:
    """Raises InputError for policies of a run that are not in the checkpoint, or are there in another form.

    It may hold more of them.

    Args:
        checkpoint: its folder, or a URL of it.
        policies: ids of the run's policies.
        adapters: those of them that have adapters, with their settings.
        filesystem: pyarrow's file system of the folder, where it is no URL.
    """
    found, path = located(checkpoint)
    source, folder = filesystem or found, f"{path}/{MODULES}"
    files = source.get_file_info(FileSelector(folder, allow_not_found=True))
    held = sorted(file.base_name for file in files if file.type is FileType.Directory)
    missing = [policy for policy in policies if policy not in held]
    if held and missing:
        raise InputError(
            f"{checkpoint}: this checkpoint holds the policies {', '.join(held)}, but the roles speak "
            f"through {', '.join(missing)} too: give them its policies, or begin without it"
        )
    for policy in policies:
        made_with = f"{folder}/{policy}/{MADE_WITH}"
        if source.get_file_info(made_with).type is FileType.File:
            with source.open_input_stream(made_with) as stream:
                lora = _adapters_of(stream.read())
            _check_form(checkpoint, policy, lora, adapters.get(policy))


def check_shapes(checkpoint: str | Path, model: str, config: Any) -> None:
    """Raises InputError where the weights of a checkpoint are those of a model of other sizes.

    Args:
        checkpoint: its folder. One without Hugging Face folders is looked at when it is restored.
        model: the run's `model_path`.
        config: that model's configuration, of transformers.
    """
    for path in sorted(Path(checkpoint, "hf").glob("*/config.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        different = [
            f"{name} {held[name]} and not {getattr(config, name)}"
            for name in SIZES
            if name in held and hasattr(config, name) and held[name] != getattr(config, name)
        ]
        if different:
            raise InputError(
                f"{checkpoint}: its policy {path.parent.name} is a model of another shape than model_path "
                f"{model} ({', '.join(different)}): set model_path to the model that it was trained from"
            )


def _check_form(
    checkpoint: str | Path, policy: str, held: LoraSettings | None, wanted: LoraSettings | None
) -> None:
    if _form(held) == _form(wanted):
        return
    here = "all weights" if held is None else f"adapters ({_words(held)})"
    there = "all weights" if wanted is None else f"adapters ({_words(wanted)})"
    cure = "leave `lora` out" if held is None else "set `lora` as there"
    if held is None:
        cure += f", or begin new adapters of its weights with model_path: {checkpoint}/hf/{policy}"
    raise InputError(f"{checkpoint}: it holds {here} of policy {policy}, but the run trains {there}: {cure}")


def _form(lora: LoraSettings | None) -> Any:
    if lora is None:
        return None
    targets = lora.targets if isinstance(lora.targets, str) else sorted(set(lora.targets))
    return lora.rank, lora.alpha_in_force, targets


def _words(lora: LoraSettings) -> str:
    targets = lora.targets if isinstance(lora.targets, str) else f"[{', '.join(lora.targets)}]"
    return f"rank: {lora.rank}, alpha: {lora.alpha_in_force:g}, targets: {targets}"


def _adapters_of(made_with: bytes) -> LoraSettings | None:
    """The adapters' settings that a policy of a checkpoint was made with; None: it had none."""
    _, arguments = _Plain(io.BytesIO(made_with)).load()["ctor_args_and_kwargs"]
    lora = arguments["model_config"].get("lora")
    return None if lora is None else LoraSettings(**lora)


class _Plain(pickle.Unpickler):
    """Reads plain values alone. Classes and what is made of them are left out: nothing is imported or run."""

    def find_class(self, module: str, name: str) -> Any:
        return _LeftOut


class _LeftOut:
    def __new__(cls, *args: Any, **kwargs: Any) -> _LeftOut:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...
