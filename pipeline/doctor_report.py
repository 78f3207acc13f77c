"""How `igpo doctor` runs its checks and shows them: each finding as soon as it is there."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from envs.data.errors import InputError
from pipeline.doctor import Finding, Subject, belief, format_validity, recall
from pipeline.policy import start_policy

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def expensive_checks(subject: Subject) -> Iterator[Finding]:
    """Retrieval, then what needs the rollout engine with the policy's weights: belief and format."""
    assert subject.task is not None, "the cheap checks come first"
    yield recall(subject.task)
    try:
        policy = start_policy(subject.config, str(subject.config.model_path))
    except InputError as error:
        yield Finding("engine", "fail", str(error))
        return
    yield belief(policy)
    yield format_validity(policy)


def show(findings: Iterator[Finding], console: Console) -> bool:
    """Prints findings as they come; True if one of them is a failure."""
    failed = False
    while True:
        with console.status("checking ..."):
            finding = next(findings, None)
        if finding is None:
            return failed
        failed |= finding.status == "fail"
        status = Text(f"{finding.status:5}", style=COLOURS[finding.status])
        console.print(Text.assemble(status, (f"{finding.name:12}", "bold"), finding.message))
