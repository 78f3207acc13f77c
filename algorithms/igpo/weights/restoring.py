"""Whether a checkpoint can be a run's beginning.

RLlib restores what it finds. It passes over a policy that the checkpoint does not hold, which would then
begin with its first weights, without a word. Adapters of another `alpha` fit, but make another policy.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from envs.engine.lora import LoraSettings
from envs.errors import InputError

MODULES = Path("learner_group", "learner", "rl_module")
"""RLlib's folder of a checkpoint that holds a folder for each policy."""
MADE_WITH = "class_and_ctor_args.pkl"
"""RLlib's file of a policy's folder that says how its module was made."""


def check_policies(
    checkpoint: str | Path, policies: Iterable[str], adapters: Mapping[str, LoraSettings]
) -> None:
    """Raises InputError for policies of a run that are not in the checkpoint, or are there in another form.

    It may hold more of them.

    Args:
        checkpoint: its folder.
        policies: ids of the run's policies.
        adapters: those of them that have adapters, with their settings.
    """
    folder = Path(checkpoint, MODULES)
    held = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    missing = [policy for policy in policies if policy not in held]
    if held and missing:
        raise InputError(
            f"{checkpoint}: this checkpoint holds the policies {', '.join(held)}, but the roles speak "
            f"through {', '.join(missing)} too: give them its policies, or begin without it"
        )
    for policy in policies:
        if (folder / policy / MADE_WITH).is_file():
            _check_form(checkpoint, policy, _adapters_of(folder / policy / MADE_WITH), adapters.get(policy))


def _check_form(
    checkpoint: str | Path, policy: str, held: LoraSettings | None, wanted: LoraSettings | None
) -> None:
    if _form(held) == _form(wanted):
        return
    here = "all weights" if held is None else f"adapters ({_words(held)})"
    there = "all weights" if wanted is None else f"adapters ({_words(wanted)})"
    cure = "leave `lora` out" if held is None else "set `lora` as there"
    if held is None:
        cure += f", or begin new adapters of its weights with model_path: {Path(checkpoint, 'hf', policy)}"
    raise InputError(f"{checkpoint}: it holds {here} of policy {policy}, but the run trains {there}: {cure}")


def _form(lora: LoraSettings | None) -> Any:
    if lora is None:
        return None
    targets = lora.targets if isinstance(lora.targets, str) else sorted(set(lora.targets))
    return lora.rank, lora.alpha_in_force, targets


def _words(lora: LoraSettings) -> str:
    targets = lora.targets if isinstance(lora.targets, str) else f"[{', '.join(lora.targets)}]"
    return f"rank: {lora.rank}, alpha: {lora.alpha_in_force:g}, targets: {targets}"


def _adapters_of(made_with: Path) -> LoraSettings | None:
    """The adapters' settings that a policy of a checkpoint was made with; None: it had none."""
    with made_with.open("rb") as file:
        _, arguments = _Plain(file).load()["ctor_args_and_kwargs"]
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
