"""The subject of the checks of `igpo doctor`, their findings, and how these are printed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.text import Text

from pipeline.terminal import Console

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig
    from envs.search.task import SearchTask
    from pipeline.estimate.workload import Model
    from pipeline.experiment.experiment import Experiment

Status = Literal["ok", "warn", "fail"]
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class Finding(NamedTuple):
    """The result of one check. `message` says what, where and, unless all is fine, what to do."""

    name: str
    status: Status
    message: str


@dataclass
class Subject:
    """An experiment to check, and what the checks so far have loaded of it."""

    experiment: Experiment
    config: IGPOConfig
    task: SearchTask | None = None
    model: Model | None = None
    """Sizes of the policy; None where it is not on this machine."""
    vocabulary: int | None = None


def show(findings: Iterator[Finding], console: Console) -> bool:
    """Prints findings as they come. Returns whether one of them is a failure."""
    failed = False
    while True:
        with console.status("checking ..."):
            finding = next(findings, None)
        if finding is None:
            return failed
        failed |= finding.status == "fail"
        status = Text(f"{finding.status:5}", style=COLOURS[finding.status])
        console.print(Text.assemble(status, (f"{finding.name:12}", "bold"), finding.message))
