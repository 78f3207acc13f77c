"""Text from outside is printed as it is written: brackets are no markup, control characters do nothing."""

import ast
import dataclasses
import io
import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.padding import Padding
from rich.progress import Progress as Bars
from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text
from rollout_log_samples import Q1, answer, gain, rollout, write_run

from algorithms.igpo.iteration_record import IterationRecord
from pipeline.cli.igpo import app
from pipeline.terminal import Console, visible

TOP = Path(__file__).parents[2]
NASTY = "run[/x] [v2] [bold]b[/] :smile: \x1b[31mred\x07 \x9b2J \u202eback \udcff"
SHOWN = r"run[/x] [v2] [bold]b[/] :smile: \x1b[31mred\x07 \x9b2J \u202eback \udcff"
HOSTILE = set("\x1b\x07\x9b\u202e\udcff")


def printed(say, **options):
    out = io.StringIO()
    say(Console(file=out, width=400, **options))
    text = out.getvalue()
    assert not HOSTILE & set(text), repr(text)
    return " ".join(text.split())


def titled(text):
    table = Table(text, title=text)
    table.add_row(text)
    table.add_row(Text(text))
    return table


@pytest.mark.parametrize(
    ("times", "say"),
    [
        (1, lambda console: console.print(NASTY)),
        (1, lambda console: console.print(NASTY, style="red", soft_wrap=True)),
        (1, lambda console: console.print(Text(NASTY))),
        (2, lambda console: console.print(NASTY, Text(NASTY))),
        (1, lambda console: console.print(Text.assemble("a ", (NASTY, "bold")))),
        (1, lambda console: console.print(Padding(Text(NASTY), 1))),
        (4, lambda console: console.print(titled(NASTY))),
        (1, lambda console: console.rule(NASTY, align="left")),
    ],
)
def test_whatever_way_text_is_printed(times, say):
    said = printed(say)
    # Rich itself drops the bell of a `Text`.
    assert said.count(SHOWN) + said.count(SHOWN.replace(r"\x07", "")) == times


def test_styles_stay_on_their_words():
    console = Console(width=80)
    segments = console.render(Text.assemble("\x1b ", ("wo\x1brd", "bold"), " z\x1b", end=""))
    drawn = [(segment.text, bool(segment.style and segment.style.bold)) for segment in segments]
    assert "".join(text for text, bold in drawn if bold) == "word"
    assert "".join(text for text, _ in drawn) == r"\x1b wo\x1brd z\x1b"


def test_live_lines():
    def spin(console):
        with console.status(f"reading {NASTY}") as status:
            status.update(f"still {NASTY}")

    printed_alive = io.StringIO()
    spin(Console(file=printed_alive, width=400, force_terminal=True))
    assert SHOWN.replace(r"\x07", "") in printed_alive.getvalue().replace(r"\x07", "")
    assert "\x1b[31mred" not in printed_alive.getvalue()

    out = io.StringIO()
    with Bars(TextColumn("{task.description}", markup=False), console=Console(file=out, width=400)) as bars:
        bars.add_task(NASTY)
    assert "[/x] [v2] [bold]b[/]" in out.getvalue() and "\x1b" not in out.getvalue()


def test_programs_get_the_bytes_and_terminals_do_not():
    pipe, terminal = io.StringIO(), io.StringIO()
    Console(file=pipe).out("a\x1b[31m", end="")
    Console(file=terminal, force_terminal=True).out("a\x1b[31m", end="")
    assert (pipe.getvalue(), terminal.getvalue()) == ("a\x1b[31m", r"a\x1b[31m")


def test_ordinary_text_is_left_alone():
    text = "Zürich\t東京　q\u00a0x\r\nnext 👩‍🚀"
    assert visible(text) == text


def test_errors_and_log_lines(refused, run, capsys, monkeypatch):
    from pipeline.logging import _Terminal

    said = refused("show", f"no[/x]{NASTY}", app=app)
    assert "[/x]" in said and not HOSTILE & set(said)
    code, said = run("sql", "last", "--no[/x]\x1b[31m", app=app)
    assert code == 2 and "[/x]" in said
    _Terminal().emit(logging.makeLogRecord({"msg": NASTY}))
    assert capsys.readouterr().err == SHOWN + "\n"
    assert "[/x]" in refused("train", "file", "no[/x].yaml")


def nasty_run(folder):
    text = NASTY.replace("\udcff", "")
    question = dataclasses.replace(Q1, text=text, golds=[text])
    record = IterationRecord(1, "train", 0, [rollout(text, "g", question, [answer(0, text)], text=text)])
    record.credit |= {(text, 0): gain(0.1, 0.5, 1.0, 1.0)}
    return write_run(folder, written=[record])


@pytest.mark.parametrize("command", [["show"], ["show", "--best"], ["sql", "SELECT * FROM turns"]])
def test_ids_and_texts_of_a_log(tmp_path, run, command):
    folder = nasty_run(tmp_path / "run[/x]")
    name, *rest = command
    code, said = run(name, folder, *rest, app=app)
    assert code == 0, said
    assert r"\x1b[31mred" in said and "run[/x] [v2] [bold]b[/]" in said
    assert not HOSTILE & set(said)


def test_everything_else_that_prints(tmp_path):
    """Names of policies, data sets, methods, machines, experiments; messages of checks."""
    from envs.data.describe import Description
    from envs.search.config import SearchEnvSettings
    from pipeline.cli.data.app import _show
    from pipeline.cli.log.recredit import _report
    from pipeline.doctor.findings import Finding
    from pipeline.doctor.findings import show as show_findings
    from pipeline.evaluation.benchmark_table import benchmark_row, benchmark_table
    from pipeline.training.launch import _print_lines
    from pipeline.training.progress import Progress

    table = benchmark_table({"em": benchmark_row({NASTY: [0.0, 1.0]})}, NASTY, 200)
    assert printed(lambda console: console.print(table)).count(SHOWN) == 2
    findings = [Finding("model", "ok", NASTY), Finding("corpus", "warn", NASTY)]
    assert "[/x] [v2] [bold]b[/]" in printed(
        lambda console: show_findings(iter(findings), SimpleNamespace(), console)
    )
    assert SHOWN in printed(lambda console: _print_lines(console, ("run directory", NASTY)))
    for alive in (False, True):
        out = io.StringIO()
        with Progress(Console(file=out, width=400, force_terminal=alive), 3) as progress:
            progress.busy(NASTY)
            progress.message(NASTY, style="yellow")
            progress.evaluation(NASTY, {"em_squad": 0.5, "f1_squad": 0.5}, best=True)
        assert out.getvalue().count("run[/x] [v2] [bold]b[/]") >= 2 and "best so far" in out.getvalue()
        assert "\x1b[31mred" not in out.getvalue()
    changes = SimpleNamespace(
        rank_correlation=None, rank_correlation_quantiles=None, groups=1, turns=1, ranked_groups=0,
        sign_flips=0.0, collapsed_logged=0.0, collapsed=0.0, largest_difference=0.0,
    )  # fmt: skip
    assert printed(lambda console: _report(changes, NASTY, console)).count(SHOWN) == 2
    described = Description(NASTY, refused=[NASTY], left_out=Counter([NASTY]))
    assert printed(lambda console: _show(described, SearchEnvSettings(), console)).count(SHOWN) == 3


def calls(tree, name):
    return [
        node for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == name
    ]  # fmt: skip


@pytest.mark.parametrize("top", ["pipeline", "benchmarks"])
def test_nobody_prints_past_the_console(top):
    """Rich's own console, its markup and Typer's `echo` are for `pipeline/terminal.py` alone."""
    found = []
    for path in sorted((TOP / top).rglob("*.py")):
        place, tree = path.relative_to(TOP).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
        if place == "pipeline/terminal.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
                names = {alias.name for alias in node.names}
                if names & {"Console", "print", "escape", "status"} or node.module == "rich.markup":
                    found.append(f"{place}:{node.lineno} imports {sorted(names)} of {node.module}")
        for name in ("from_markup", "echo", "secho"):
            found += [f"{place}:{call.lineno} calls {name}" for call in calls(tree, name)]
        for call in calls(tree, "TextColumn"):
            if not any(word.arg == "markup" and word.value.value is False for word in call.keywords):
                found.append(f"{place}:{call.lineno} TextColumn without markup=False")
        if top == "pipeline" and place != "pipeline/logging.py":
            found += [
                f"{place}:{call.lineno} calls print"
                for call in calls(tree, "print")
                if isinstance(call.func, ast.Name)
            ]
    assert not found, "\n".join(found)
