"""Builds a protocol with its tokenizer from the settings."""

from __future__ import annotations

from pathlib import Path

from envs.errors import InputError
from envs.git_lfs import refuse_pointers_of_model
from envs.search.config import SearchEnvSettings
from envs.search.protocols.base import Protocol

SHOWS_TOOLS = ("igpo", "chat")
"""Protocols whose policy can call every tool; the others know `search` alone. One of your own says so by an
attribute `shows_tools`."""


def shows_tools(protocol: Protocol) -> bool:
    """Whether a policy can call every tool under the protocol."""
    return protocol.name in SHOWS_TOOLS or bool(getattr(protocol, "shows_tools", False))


def build_protocol(settings: SearchEnvSettings, tools: list[dict]) -> Protocol:
    """The protocol that `settings.protocol` names, over the tokenizer in the folder `settings.tokenizer`.

    Args:
        settings: the environment's settings.
        tools: JSON schemas (`name`, `description`, `parameters`), which the protocols of `SHOWS_TOOLS` show
            to the policy.

    Raises:
        InputError: the folder holds no tokenizer, the tokenizer lacks something that the protocol needs
            (control tokens, a chat template), or one of your own is incomplete or does not read what it
            writes.
    """
    tokenizer = load_tokenizer(settings.tokenizer)
    try:
        protocol = _build(settings, tokenizer, tools)
        for role in settings.roles:  # a template may refuse what a role says: now, not in the first rollout
            protocol.prompt(role.instruction, "?", list(role.shown_actions))
    except ValueError as error:
        raise InputError(str(error)) from error
    return protocol


def _build(settings: SearchEnvSettings, tokenizer, tools: list[dict]) -> Protocol:
    if ":" in settings.protocol:
        from envs.search.protocols.own import own_protocol

        return own_protocol(settings.protocol, tokenizer, tools)
    match settings.protocol:
        case "tiny":
            from envs.search.protocols.tiny import TinyProtocol

            return TinyProtocol(tokenizer)
        case "chat_short":
            from envs.search.protocols.chat_short import ChatShortProtocol

            return ChatShortProtocol(tokenizer, settings.worked_examples)
        case "igpo":
            from envs.search.protocols.igpo import IGPOProtocol

            return IGPOProtocol(tokenizer, tools)
        case "search_r1":
            from envs.search.protocols.search_r1 import SearchR1Protocol

            return SearchR1Protocol(tokenizer)
        case "chat":
            from envs.search.protocols.chat import ChatProtocol

            return ChatProtocol(tokenizer, tools)
    raise InputError(f"protocol `{settings.protocol}` is unknown")


def load_tokenizer(folder: str | None):
    """The Hugging Face tokenizer in `folder`; remote code is never run."""
    from transformers import AutoTokenizer

    if folder is None:
        raise InputError(
            "env_config.tokenizer is missing: give the policy's folder (experiments take it from "
            "`model_path`)"
        )
    if Path(folder).is_dir():
        refuse_pointers_of_model(Path(folder), "tokenizer file")
    try:
        # Without the argument transformers would ask at the terminal whether to run a model's code.
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer could be loaded from {folder}: {str(error).splitlines()[0]}"
        ) from error
