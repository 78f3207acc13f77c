"""The base of every section of an experiment file."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints

_PATH = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
ImportPath = Annotated[str, StringConstraints(pattern=f"^{_PATH}$")]
"""`module:function`, a part of one's own."""


class Settings(BaseModel):
    """A section of an experiment file.

    Unknown keys are errors. Error messages do not show values, which could be secrets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def known_or_own(*known: str) -> BeforeValidator:
    """Refuses a value that is neither one of `known` nor an import path; the error names the nearest one."""

    def check(value: Any) -> Any:
        if value in known or (isinstance(value, str) and re.fullmatch(_PATH, value)):
            return value
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise ValueError(
            f"`{str(value)[:40]}` is unknown: {hint}Known: {', '.join(known)}, or `module:function` for your "
            "own"
        )

    return BeforeValidator(check)
