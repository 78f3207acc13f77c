"""Credentials: keys are read from the environment and checked; whatever leaves the process is masked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from envs.errors import InputError

MASK = "***"
SHORTEST = 6
"""Shorter values of secret variables are not masked: they stand in ordinary words."""
_SECRET_VARIABLE = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIAL", re.I
)
_WORDS = r"access_?key|api_?key|auth|credentials?|key|passw(?:or)?d|pwd|secret(?:_?key)?|sig(?:nature)?|token"
_USER_INFO = re.compile(
    r"(?<=://)(?:[^\s/?#'\"<>]*|(?![^\s/@:'\"<>]*:\d+[/?#])[^\s/@:'\"<>]*:[^\s'\"<>]*?)@(?=[^\s@])"
)
"""What stands before the `@` of an address: a name, and a password that may hold `@` or `/`."""
_QUERY = re.compile(rf"(?<=[?&;])((?:[\w\-]*[_\-])?(?:{_WORDS})=)[^&;\s'\"<>]+", re.I)

_keys: set[str] = set()
"""Values that `read_key` has handed out."""


def read_key(variable: str, service: str, reader: str) -> str:
    """The key in an environment variable, without white space around it.

    Args:
        variable: name of the environment variable.
        service: who gives the key, in messages.
        reader: what needs it, in messages.

    Raises:
        InputError: it is not set, or holds characters that no HTTP header can carry. The key is not quoted.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"{reader} needs a key of {service} in the environment variable {variable}")
    bad = next((place for place, letter in enumerate(key, 1) if not "!" <= letter <= "~"), None)
    if bad is not None:
        raise InputError(
            f"the key in the environment variable {variable} holds, as its character {bad}, a blank, a line "
            "break or a letter outside ASCII, which no key has: set it again"
        )
    _keys.add(key)
    return key


def masked(text: str) -> str:
    """`text` with `***` for each credential in it.

    These are: names and passwords in addresses, values of keys and tokens in their queries, and wherever they
    stand, the values of secret environment variables (`..._TOKEN`, `..._PASSWORD`, `..._SECRET`, `..._KEY`),
    passwords of addresses in any variable, and keys that `read_key` has read.
    """
    for value in sorted(_values(), key=len, reverse=True):
        if value in text:
            text = text.replace(value, MASK)
    if "://" not in text:
        return text
    return _QUERY.sub(rf"\1{MASK}", _USER_INFO.sub(f"{MASK}@", text))


def masked_values(content: Any) -> Any:
    """A copy of JSON values with each text `masked`; keys of mappings stay."""
    if isinstance(content, str):
        return masked(content)
    if isinstance(content, Mapping):
        return {key: masked_values(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [masked_values(value) for value in content]
    return content


def has_credentials(address: str) -> bool:
    """Whether an address carries a name, a password, a key or a token."""
    return _USER_INFO.sub(f"{MASK}@", address) != address or bool(_QUERY.search(address))


def refuse_credentials(address: str, where: str, instead: str) -> None:
    """Raises InputError for an address with credentials, which would be stored and shown.

    Args:
        address: the address.
        where: what holds it, in the message: a key of an experiment file, an argument.
        instead: where its credentials belong.
    """
    if has_credentials(address):
        raise InputError(
            f"{where}: {masked(address)} carries credentials, which would be stored with the run: {instead}"
        )


def refuse_credentials_in(settings: Any, where: str) -> None:
    """Raises InputError for an address with credentials anywhere in an experiment's settings."""
    if isinstance(settings, str):
        refuse_credentials(settings, where, "put them into the environment, where its library looks for them")
    elif isinstance(settings, Mapping):
        for key, value in settings.items():
            refuse_credentials_in(value, f"{where}.{key}")
    elif isinstance(settings, list | tuple):
        for value in settings:
            refuse_credentials_in(value, where)


def _values() -> set[str]:
    values = set(_keys)
    for name, value in os.environ.items():
        if "://" in value:
            password = _password(value)
            values |= {password, unquote(password)}
        elif _SECRET_VARIABLE.search(name) and not os.path.exists(value):  # a file of keys is no key
            values.add(value.strip())
    return {value for value in values if len(value) >= SHORTEST}


def _password(address: str) -> str:
    try:
        return urlsplit(address).password or ""
    except ValueError:  # an address that is none
        return ""
