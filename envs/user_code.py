"""Functions that a user names by import path, such as an outcome or a tool."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from envs.errors import InputError


def import_function(path: str, what: str) -> Callable[..., Any]:
    """Imports the function at `module:function`.

    Args:
        path: the import path.
        what: the purpose of the function, such as "outcome", for error messages.

    Raises:
        InputError: the path has another form, the module cannot be imported, or it has no such function (the
            message suggests the nearest name).
    """
    module_name, _, function_name = path.partition(":")
    if not module_name or not function_name:
        raise InputError(f"{what} {path!r} must have the form `module:function`")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"{what} {path!r}: module {module_name!r} can't be imported ({error}): is its folder on "
            "PYTHONPATH?"
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        near = difflib.get_close_matches(function_name, vars(module), n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{what} {path!r}: module {module_name!r} has no {function_name!r}{hint}")
    if not callable(function):
        raise InputError(f"{what} {path!r} is not a function but {type(function).__name__}")
    return function
