"""The subject of the checks of `igpo doctor`, their findings, and how these are printed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.text import Text

from pipeline.terminal import Console

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig
    from envs.search.task import SearchTask
    from pipeline.doctor.questions import Seen
    from pipeline.estimate.model import Model
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
    questions: dict[str, Seen] = field(default_factory=dict)
    """What was seen of all questions, by split; empty until they are looked at."""
    on_looked: Callable[[int, int], object] = lambda done, total: None
    """Gets the number of questions looked at, and of all of them."""
    joins_cluster: bool = False
    """The run takes GPUs of other machines."""


@contextmanager
def busy(subject: Subject, console: Console) -> Generator[None]:
    """Shows that checks are under way, and how many questions have been looked at."""
    with console.status("checking ...") as status:
        subject.on_looked = lambda done, total: status.update(f"checking {done:,} of {total:,} questions ...")
        yield


def show(findings: Iterator[Finding], subject: Subject, console: Console) -> bool:
    """Prints the findings on `subject` as they come. Returns whether one of them is a failure."""
    failed = False
    while True:
        with busy(subject, console):
            finding = next(findings, None)
        if finding is None:
            return failed
        failed |= finding.status == "fail"
        status = Text(f"{finding.status:5}", style=COLOURS[finding.status])
        console.print(Text.assemble(status, (f"{finding.name:12}", "bold"), finding.message))
