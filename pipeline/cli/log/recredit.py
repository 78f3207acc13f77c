"""`igpo recredit`: computes a run's credit under another estimator. `igpo` mounts this function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.complete import complete_preset
from pipeline.cli.options import RunName, RunsDir, make_room_for

if TYPE_CHECKING:
    from pipeline.analysis import Run
    from pipeline.analysis.offline.credit_changes import CreditChanges
    from pipeline.analysis.offline.recredit import Estimator
    from pipeline.terminal import Console


def recredit_command(
    run: RunName,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Estimator.  [default: the run's own settings]",
            autocompletion=complete_preset,
        ),
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="Discount per turn of later gains.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of credit.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Parquet file to write.  [default: recredit/NAME.parquet in the run]"
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Run the run's own estimator where it is code (`module:function`)."),
    ] = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Compute a run's advantages again under another estimator, and report how credit would have moved.

    Nothing is trained: the rollouts and beliefs are those of the log, only the credit changes. What belongs
    to the loss (ratios, clips, aggregation, resampling) is named, not replayed.

    Examples:

    - `igpo recredit last --preset a2tgpo`
    - `igpo recredit last --gamma 0.95` (the run's own estimator, discounted)
    - `igpo recredit runs/igpo/RUN_ID --preset igpo --set gain_basis=prob --set ig_weight=0.5`
    - `igpo recredit last --preset my_credit:my_estimator` (one of your own)
    - `igpo recredit last` (a check: the run's own settings reproduce the logged advantages)
    """
    from rich.progress import Progress

    from envs.errors import InputError
    from pipeline.analysis import open_run
    from pipeline.analysis.offline.credit_changes import credit_changes
    from pipeline.analysis.offline.recredit import choose_estimator, iterations, recredit
    from pipeline.cli.output import make_console
    from pipeline.experiment.file import parse_yaml

    changes = {} if gamma is None else {"gamma": gamma}
    for assignment in set_ or []:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: write KEY=VALUE, for instance --set ig_weight=0.5.")
        changes[key] = parse_yaml(text, f"--set {key}")
    console = make_console()
    with open_run(run, runs_dir=runs_dir) as opened:
        estimator = choose_estimator(opened, preset, changes, trust=trust)
        changed_code = [] if preset else _changed_code(opened, estimator)
        file = estimator.name.replace(":", ".")  # of an estimator of one's own: `module:function`
        target = out or opened.locations[0].folder / "recredit" / f"{file}.parquet"
        make_room_for(target)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("crediting", total=len(iterations(opened)))
            recredit(opened, estimator, target, on_done=lambda iteration: progress.advance(task))
        changed = credit_changes(target)
        _report(changed, estimator.words, console)
        for path in changed_code:
            console.print(
                f"the file of `{path}`, or one that it imports, has changed since the run began",
                style="yellow",
                soft_wrap=True,
            )
        if changed.most_changed:
            _most_changed(changed, opened, console)
    if estimator.not_replayed:
        settings = ", ".join(f"{name}={value}" for name, value in estimator.not_replayed.items())
        console.print(f"not replayed, as it belongs to the loss or to sampling: {settings}")
    console.print(f"{changed.turns} turns to {target}", soft_wrap=True)


def _changed_code(run: Run, estimator: Estimator) -> list[str]:
    """The run's own estimator, where its code is another now and the run's metadata is there."""
    from envs.user_code import code_hash
    from pipeline.experiment.own_code import changed_parts
    from pipeline.run_directory.directory import metadata_in

    path = estimator.preset.name
    if ":" not in path:
        return []
    ((run_id,),) = run.sql("SELECT DISTINCT run_id FROM runs").fetchall()
    return changed_parts(metadata_in(run.locations[0].folder, run_id), {path: code_hash(path)})


def _report(changed: CreditChanges, name: str, console: Console) -> None:
    from rich.table import Table

    table = Table(title=f"credit under {name} against the log", title_justify="left", show_header=False)
    correlation = "none: in no group do both vary"
    if changed.rank_correlation is not None and changed.rank_correlation_quantiles is not None:
        low, median, high = changed.rank_correlation_quantiles
        correlation = f"{changed.rank_correlation:.3f}   (10% {low:.3f}, median {median:.3f}, 90% {high:.3f})"
    rows = {
        "groups, turns": f"{changed.groups}, {changed.turns}",
        f"rank correlation in a group (of {changed.ranked_groups})": correlation,
        "turns whose sign flips": f"{changed.sign_flips:.1%}",
        "collapsed groups, logged": f"{changed.collapsed_logged:.1%}",
        f"collapsed groups, {name}": f"{changed.collapsed:.1%}",
        "largest difference of a turn": f"{changed.largest_difference:.3g}",
    }
    for label, value in rows.items():
        table.add_row(label, value)
    console.print(table)


def _most_changed(changed: CreditChanges, run: Run, console: Console) -> None:
    from rich.text import Text

    from pipeline.analysis.sandbox import sql_text
    from pipeline.cli.output import cell
    from pipeline.fitted_table import Column, print_fitted

    rows = []
    for row in changed.most_changed:
        ((decision,),) = run.sql(
            f"SELECT decision_text FROM turns WHERE split = 'train' AND iteration = {row['iteration']} "
            f"AND episode_id = {sql_text(row['episode_id'])} AND turn_index = {row['turn_index']}"
        ).fetchall()
        rows.append([Text(cell(value, None)) for value in row.values()] + [Text(cell(decision))])
    names = ("iteration", "episode", "turn_index", "agent", "logged", "new", "gain", "decision")
    words = ("episode", "agent", "decision")
    columns = [
        Column(name, [row[k] for row in rows], is_number=name not in words) for k, name in enumerate(names)
    ]
    print_fitted(console, columns, title="turns that differ most")
