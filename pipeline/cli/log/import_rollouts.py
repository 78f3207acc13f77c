"""`igpo import`: rollouts of another framework as a run. `igpo` mounts this function."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.cli.complete import complete_preset
from pipeline.cli.options import RunsDir, Verbose

if TYPE_CHECKING:
    from collections.abc import Callable

    from envs.engine.base import EngineSettings
    from pipeline.importing.run import Imported
    from pipeline.terminal import Console


def import_command(
    rollouts: Annotated[
        str, typer.Argument(metavar="ROLLOUTS", help="JSONL, JSON or Parquet: a rollout a record.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Whose belief is scored: the policy that wrote the rollouts, or another Hugging Face model.",
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the run.")] = "imported",
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="Estimator of credit.", autocompletion=complete_preset)
    ] = "igpo",
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field", metavar="OURS=THEIRS", help="Which field of a record is ours; a path as a.b.c may be."
        ),
    ] = None,
    answer_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text around {answer} in which a gold answer is scored.  [default: the paper's where "
            "rollouts answer in answer tags, else the answer alone]",
        ),
    ] = None,
    tool_calls: Annotated[
        Literal["template", "text"],
        typer.Option(help="Show tool calls as the chat template does, or as text in the messages."),
    ] = "template",
    engine: Annotated[Literal["vllm", "transformers"], typer.Option(help="Which engine scores.")] = "vllm",
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Precision of the model.")
    ] = "float32",
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave out rollouts that can't be read, that the chat template refuses, or that are too "
            "long, and name the first three.",
        ),
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code that the model's repository ships, if it has some.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="engine.KEY=VALUE", help="Change one setting of the engine."),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    verbose: Verbose = 0,
) -> None:
    """Take rollouts of another framework into a run: score belief after each turn, and credit the turns.

    A record has `messages` (or `prompt` and `completion`) as chat models take them, gold answers
    (`golden_answers`, `answer`, `ground_truth`, verl's `reward_model`), and if it likes `question`, `reward`
    (else: F1), `group` (else: equal questions), `step`, `tools` and `termination`. What verl, TRL, slime and
    SkyRL save as one text is taken apart; other names: `--field`. A line says which fields gave what. Nothing
    is trained.

    Examples:

    - `igpo import rollouts.jsonl --model Qwen/Qwen2.5-3B-Instruct`
    - `igpo import rollouts.parquet -m ./policy --name verl --preset igpo_returns --dtype bfloat16`
    - `igpo import completions -m ./policy --field golden_answers=solution --field reward=accuracy_reward`
    - `igpo import rollouts.jsonl -m smollm2 --answer-template "The answer is {answer}."`
    - `igpo import rollouts.jsonl -m ./policy --set engine.gpu_memory_utilization=0.4` (beside a trainer)
    """
    from pipeline.logging import configure_logging

    configure_logging(verbose)
    from rich.progress import Progress

    from algorithms.credit import find_preset
    from envs.errors import InputError
    from pipeline.importing.fields import field_names
    from pipeline.importing.run import SCORING, Scoring, import_rollouts
    from pipeline.terminal import Console, say

    try:
        chosen = find_preset(preset)
    except ValueError as error:
        raise InputError(str(error)) from error
    fields = field_names(field or [])
    scoring = Scoring(
        model,
        _engine(engine, set_ or []),
        dtype,
        answer_template,
        trust_remote_code=trust,
        tools_as_text=tool_calls == "text",
    )
    console = Console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        begun: list[str] = []

        def begin(phase: str, total: int) -> Callable[[int], None]:
            begun.append(phase)
            progress.reset(task, description=phase, total=total or None)
            return lambda number: progress.advance(task, number)

        try:
            done = import_rollouts(
                rollouts,
                scoring,
                chosen,
                name=name,
                runs_dir=runs_dir,
                skip_bad=skip_bad,
                fields=fields,
                begin=begin,
                tell=lambda line: console.print(line, soft_wrap=True),
            )
        except KeyboardInterrupt:
            if SCORING in begun:
                say(f"interrupted: the steps that were done are in the newest run of {runs_dir / name}")
            raise
    _report(done, console, runs_dir)


def _engine(kind: str, assignments: list[str]) -> EngineSettings:
    from envs.engine.base import EngineSettings
    from envs.errors import InputError
    from pipeline.experiment.file import apply_override
    from pipeline.experiment.keys import validated

    keys: dict[str, Any] = {"engine": {"kind": kind}}
    for assignment in assignments:
        if not assignment.startswith("engine."):
            raise InputError(
                f"--set {assignment}: an import takes settings of its engine alone, such as --set "
                "engine.kv_cache_gib=4 (`igpo settings engine`); credit: `igpo recredit RUN --set ...`."
            )
        apply_override(keys, assignment, {"engine"})
    return validated(EngineSettings, keys["engine"], "engine", "--set")


def _report(done: Imported, console: Console, runs_dir: Path) -> None:
    from pipeline.analysis import open_run

    run = done.run
    with open_run(run.path) as opened:
        ((rollouts, groups, alone, without),) = opened.sql(
            "SELECT count(*), count(DISTINCT group_id), count(*) FILTER (of_group = 1), "
            "count(*) FILTER (len(scored_golds) = 0) FROM (SELECT *, count(*) OVER (PARTITION BY group_id) "
            "AS of_group FROM episodes)"
        ).fetchall()
        rows = opened.sql(
            "SELECT turn_index, count(*), avg(gain), avg(advantage) FROM turns GROUP BY 1 ORDER BY 1"
        ).fetchall()
    from rich.table import Table

    table = Table("turn", "turns", "mean gain", "mean advantage")
    for turn, turns, gain, advantage in rows:
        table.add_row(str(turn), str(turns), "" if gain is None else f"{gain:+z.3f}", f"{advantage:+z.3f}")
    console.print(table)
    console.print(f"{rollouts} rollouts and {groups} prompts to {run.path}", soft_wrap=True)
    console.print(f"gold answers were scored as {done.words!r}", soft_wrap=True)
    for count, what in (
        (alone, "the only rollout of its prompt, so that no outcome is there to compare"),
        (without, "without a gain, because no gold answer is short enough to score"),
        (done.without_thoughts, "scored without earlier thoughts, which the chat template leaves out"),
    ):
        if count:
            console.print(f"{what}: {count}", soft_wrap=True)
    console.print("look at them:")
    named = run.name if runs_dir == Path("runs") else shlex.quote(str(run.path))
    for command in ("report {}", "show {} --best", "recredit {} --preset grpo"):
        console.print(f"  igpo {command.format(named)}", soft_wrap=True)
