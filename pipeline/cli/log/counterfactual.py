"""`igpo counterfactual`: computes what logged turns were worth. `igpo` mounts this function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import RunName, RunsDir, Set, Trust, Verbose, experiment_file, make_room_for
from pipeline.cli.policy import policy_named

if TYPE_CHECKING:
    from pipeline.run_directory.checkpoints import Checkpoints

AGREEMENTS = 50
"""Rows of the agreement that are printed."""


def counterfactual_command(
    run: RunName,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Whose belief: a checkpoint; a run, for its last one; or a Hugging Face folder.  [default: "
            "the run's last checkpoint]",
        ),
    ] = None,
    iteration: Annotated[
        int | None, typer.Option(min=1, help="Training iteration; default: the newest with token ids.")
    ] = None,
    rollouts: Annotated[int, typer.Option(min=1, help="At most so many rollouts.")] = 256,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="Experiment file; a checkpoint brings its own."),
    ] = None,
    set_: Set = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Parquet file to write; default: in the run, in the folder counterfactual.",
        ),
    ] = None,
    trust: Trust = False,
    verbose: Verbose = 0,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Compute what each logged turn was worth: belief at the end of its rollout with and without the turn.

    The yardstick for credit between agents. Nothing is trained or sampled; the run needs `log_tokens: true`.
    Ctrl-C leaves no file.

    Examples:

    - `igpo counterfactual last`
    - `igpo counterfactual last --iteration 20 --rollouts 64 --set engine.kind=transformers`
    - `igpo sql last --named counterfactual_agreement` (afterwards: which credit agrees with it)
    """
    from pipeline.logging import configure_logging

    configure_logging(verbose)
    config = experiment_file(config) if config else None
    from rich.progress import Progress

    from pipeline.analysis import open_run
    from pipeline.analysis.named_queries import named_query
    from pipeline.analysis.offline.counterfactual import (
        iteration_with_tokens,
        logged_rollouts,
        write_counterfactuals,
    )
    from pipeline.analysis.partial_recredits import partial_recredits
    from pipeline.analysis.tables_beside import COUNTERFACTUALS
    from pipeline.cli.output import make_console, write_result
    from pipeline.evaluation.saved_policy import open_policy
    from pipeline.logging import configure_ray_logging, native_stderr_aside

    console = make_console()
    checkpoints = None if policy else _checkpoints_of(run, runs_dir)
    with open_run(run, runs_dir=runs_dir) as opened:
        scored = iteration_with_tokens(opened, iteration)
        found = logged_rollouts(opened, scored, rollouts)
        folder = opened.locations[0].folder
    source = _last_of(checkpoints) if checkpoints else policy_named(str(policy), runs_dir)
    target = out or folder / COUNTERFACTUALS.folder / f"{_name_of(source)}-{scored:06d}.parquet"
    make_room_for(target)
    configure_ray_logging(verbose)
    with native_stderr_aside(verbose):
        with console.status("opening the policy ..."):
            scorer = open_policy(source, config, set_, trust=trust)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("scoring", total=len(found))
            turns = write_counterfactuals(
                scorer.task, scorer.scores, found, target, lambda n: progress.advance(task, n)
            )
    if out is None:  # the view holds what lies beside the run
        with open_run(run, runs_dir=runs_dir) as opened:
            asked = named_query("counterfactual_agreement").sql
            write_result(opened.sql(asked), "table", None, AGREEMENTS, console)
            for sentence in partial_recredits(opened, asked):
                console.print(sentence, style="red", soft_wrap=True)
    console.print(f"{turns} turns of {len(found)} rollouts of iteration {scored} to {target}", soft_wrap=True)


def _name_of(policy: str) -> str:
    """The folder's name; with that of the folder above it for `hf`, as every checkpoint has one."""
    folder = Path(policy).resolve()
    return f"{folder.parent.name}-{folder.name}" if folder.name == "hf" else folder.name


def _checkpoints_of(run: str, runs_dir: Path) -> Checkpoints:
    """Raises InputError where the run's folder is not known."""
    from pipeline.analysis.locate import locate_folder
    from pipeline.run_directory.checkpoints import Checkpoints

    folder = locate_folder(run, runs_dir, what="holds its checkpoints, or name a policy with --policy").folder
    return Checkpoints(folder / "checkpoints")


def _last_of(checkpoints: Checkpoints) -> str:
    """Raises InputError where there is none."""
    from envs.errors import InputError

    if checkpoints.last is None:
        raise InputError(f"{checkpoints.folder.parent} has no checkpoint: name a policy with --policy.")
    return str(checkpoints.last)
