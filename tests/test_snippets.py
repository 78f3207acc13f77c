"""What README and the pages say to type can be typed: commands and options exist, Python and SQL run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from pipeline.cli.igpo import app as igpo
from pipeline.cli.rllib import app as rllib

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {"igpo": get_command(igpo), "rllib": get_command(rllib)}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The words of every `igpo` and `rllib` command of a page's shell blocks."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s(?:&&|\||;)\s", line):
                words = shlex.split(part, comments=True)
                while words and (re.fullmatch(r"\w+=.*", words[0]) or words[0] == "$"):
                    words = words[1:]  # variables, and a prompt
                words = [word for word in words if word != "&" and not word.startswith("$")]
                if words and words[0] in COMMANDS:
                    found.append(words)
    return found


def parse(words: list[str]) -> None:
    """Parses the words as the console script would, and runs nothing."""
    name, *rest = words
    command = COMMANDS[name]
    while hasattr(command, "commands") and rest and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    assert not hasattr(command, "commands") or rest in ([], ["--version"], ["--install-completion"]), words
    if not hasattr(command, "commands"):
        command.make_context(" ".join(words), rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_exist_with_their_options(page):
    for words in commands(page):
        try:
            parse(words)
        except Exception as error:
            raise AssertionError(f"{page.name}: {shlex.join(words)}: {error}") from error


def test_most_commands_are_shown_in_some_page():
    shown = {words[1] for page in PAGES for words in commands(page) if words[0] == "igpo" and len(words) > 1}
    assert shown >= {"sql", "report", "show", "runs", "recredit", "doctor", "study", "browse", "profile"}


def test_the_credit_of_the_readme_is_what_it_says():
    (block,) = blocks(ROOT / "README.md", "python")
    names: dict = {}
    exec(block, names)
    paid = names["advantages"](outcomes=[1.0, 0.0], gains=[[0.5, 0.2], [0.1]], preset="igpo")
    assert [np.shape(one) for one in paid] == [(3,), (2,)]


def test_names_of_make_targets_in_the_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        typed = "".join(blocks(page, "bash"))
        said = set(re.findall(r"^make ([a-z-]+)", typed, re.MULTILINE))
        said |= set(re.findall(r"`make ([a-z-]+)[^`]*`", page.read_text()))
        assert said <= targets, page.name
