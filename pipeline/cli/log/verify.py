"""`igpo verify`: runs iterations of a run again and compares them with its log.

`igpo` mounts this function.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import RunName, RunsDir, Verbose
from pipeline.exit_codes import BAD_INPUT, FAILED, INTERRUPTED

if TYPE_CHECKING:
    from pipeline.terminal import Console
    from pipeline.verification.rerun import Verdict
    from pipeline.verification.starting_points import Rerun


def verify_command(
    run: RunName,
    after: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Start from the checkpoint of iteration N; 0: from the run's first weights.  [default: the "
            "last one that the log goes on from]",
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Iterations to run.  [default: 1; with max_weight_lag 2]"),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    verbose: Verbose = 0,
) -> None:
    """Run an iteration of a run again from its checkpoint, and compare every value with the log.

    Texts, tokens, rewards, scores, gains, advantages and metrics, and the weights where the checkpoint after
    the iteration is kept; not what takes time. The run itself is not changed. Exit code 0: equal to the last
    bit. 1: different; the first difference is shown. 2: it cannot be verified; the reason is shown.

    A run keeps its last and its best checkpoint. A finished run whose best is its last is run again from its
    first weights, its first iteration; `--keep-checkpoints-num 2` of `rllib train file` keeps one before the
    last.

    Bits change with the number of threads (`OMP_NUM_THREADS`, cores), another processor or GPU, other
    versions of torch or vLLM, and a server that finds other documents. On a GPU they may change by
    themselves. As `--resume`, this runs the code that the run's configuration names, and loads its pickled
    checkpoint.

    Examples:

    - `igpo verify last`
    - `igpo verify runs/igpo/RUN_ID --after 0 --iterations 3` (its first three iterations)
    """
    from pipeline.logging import configure_logging

    configure_logging(verbose)
    import tempfile

    from envs.errors import InputError
    from pipeline.analysis.locate import locate_folder
    from pipeline.logging import configure_ray_logging, native_stderr_aside
    from pipeline.run_directory.directory import RunDirectory
    from pipeline.terminal import Console, say
    from pipeline.training.failures import cause_of, in_words
    from pipeline.training.plan import check_plan, check_resources
    from pipeline.training.ray_processes.cluster import RayOptions, starting_ray
    from pipeline.training.ray_processes.watch import RayLostError, leave_lost_ray, watched_ray
    from pipeline.verification.rerun import rerun
    from pipeline.verification.starting_points import plan_rerun

    location = locate_folder(run, runs_dir, what="holds its settings and checkpoints")
    directory, console, ray = RunDirectory(location.folder), Console(), RayOptions()
    configure_ray_logging(verbose)
    joins_cluster = ray.cluster is not None
    path = str(directory.path).replace("{", "{{").replace("}", "}}")
    lost = f"error: {path} cannot be verified: {{}}; give the same command again."
    try:
        with directory.lock(), tempfile.TemporaryDirectory() as folder, watched_ray(BAD_INPUT, lost):
            found = plan_rerun(directory, after, iterations)
            with starting_ray(ray, verbose) as ray_start:
                check_plan(found.plan, console, joins_cluster=joins_cluster)
                with console.status("starting Ray ..."):
                    ray_start.wait()
            check_resources(found.plan, console, may_grow=joins_cluster)
            with console.status("...") as status, native_stderr_aside(verbose):
                verdict = rerun(found, Path(folder), status.update)
    except KeyboardInterrupt:
        say("stopped", error=True)
        raise typer.Exit(INTERRUPTED) from None
    except RayLostError as error:
        say(lost.format(error), error=True)
        leave_lost_ray(BAD_INPUT)
        raise typer.Exit(BAD_INPUT) from None
    except Exception as error:
        if isinstance(cause := cause_of(error), InputError):
            raise cause from error
        if verbose:
            console.print_exception()
        told = in_words(error, directory.path)
        say(f"error: {directory.path} cannot be verified: {told}; -v shows the traceback.", error=True)
        raise typer.Exit(BAD_INPUT) from None
    _report(found, verdict, console)
    if not verdict.is_equal:
        raise typer.Exit(FAILED)


def _report(found: Rerun, verdict: Verdict, console: Console) -> None:
    from rich.table import Table

    from pipeline.verification.what_changed import what_changed

    which = (
        f"iteration {found.last}"
        if found.iterations == 1
        else f"iterations {found.start + 1} to {found.last}"
    )
    origin = found.checkpoint or "its first weights"
    console.print(f"{which} of {found.run.path}, run again from {origin}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in ("values", "different"):
        table.add_column(title, justify="right")
    counts = [(name, n, verdict.rows.differ[name]) for name, n in verdict.rows.values.items()]
    if verdict.weights is not None:
        counts.append(("weights", *verdict.weights))
    for name, values, different in counts:
        if values or different:
            table.add_row(name.replace("_", " "), f"{values:,}", f"{different:,}")
    console.print(table)
    if verdict.weights is None:
        console.print(
            f"weights: not compared, as no checkpoint of iteration {found.last} is kept; the metrics of the "
            "update are",
            soft_wrap=True,
        )
    if verdict.is_equal:
        console.print("equal to the last bit", style="green")
        return
    first = verdict.rows.first or "the rows are equal, the weights after the update are not"
    console.print(f"different: {first}", style="red", soft_wrap=True)
    changed = what_changed(found.run, found.plan.config)
    for fact in changed or [
        "nothing that is known to change bits: processor, cores, threads, versions, commit"
    ]:
        console.print(f"changed since the run began: {fact}", soft_wrap=True)
