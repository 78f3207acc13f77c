"""How `igpo doctor` shows its findings: each as soon as it is there."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from pipeline.doctor.checks import Finding

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


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
