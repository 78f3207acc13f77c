"""The base of every section of an experiment file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of an experiment file.

    Unknown keys are errors. Error messages do not show values, which could be secrets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
