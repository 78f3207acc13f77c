"""The base of every section of an experiment file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of an experiment file: unknown keys are errors, and no value is echoed in an error (it could
    be a secret).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
