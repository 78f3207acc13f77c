"""`igpo warm-start`: teaches a model the protocol before reinforcement learning.

`igpo` mounts this function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import Set, Verbose, experiment_file
from pipeline.exit_codes import INTERRUPTED


def warm_start_command(
    config: Annotated[
        str, typer.Argument(help="Experiment file: model, protocol, corpus, retriever, limits.")
    ],
    demonstrations: Annotated[
        str,
        typer.Option(
            "--demonstrations", "-d", metavar="PATH", help="Questions with `metadata.searches` (JSONL)."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new model; must not exist.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the demonstrations.")] = 3,
    lr: Annotated[
        float, typer.Option(min=1e-8, help="Highest learning rate; warms up over a tenth, then falls to 0.")
    ] = 1e-4,
    batch_size: Annotated[int, typer.Option(min=1, help="Demonstrations per update.")] = 16,
    heldout_share: Annotated[
        float, typer.Option(help="Share of the demonstrations that only measures.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of split and order.")] = 0,
    set_: Set = None,
    verbose: Verbose = 0,
) -> None:
    """Fine-tune an experiment's model on demonstrations, played through its own environment; only decisions
    are learned.

    The result is a Hugging Face folder, to be used as `model_path`. Ctrl-C ends the training after the update
    under way and keeps what was learned.

    Examples:

    - `igpo data demonstrations passages.jsonl --out demos.jsonl --exclude test.jsonl`
    - `igpo warm-start my.yaml --demonstrations demos.jsonl --out warm --set env_config.worked_examples=false`
    - `rllib train file my.yaml --set model_path=warm --set env_config.worked_examples=false`
    """
    from pipeline.logging import configure_logging

    configure_logging(verbose)
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from pipeline.experiment.experiment import load_experiment
    from pipeline.logging import configure_ray_logging
    from pipeline.terminal import Console, say
    from pipeline.training.interrupts import Interrupts
    from pipeline.warm_start import check_folder, prepare

    check_folder(out)
    experiment = load_experiment(experiment_file(config), set_)
    configure_ray_logging(verbose)
    from algorithms.warm_start.fine_tune import FineTuneSettings

    console = Console()
    tokens = experiment.algorithm_config().tokens_per_micro_batch
    settings = FineTuneSettings(epochs, batch_size, lr, seed=seed, tokens_per_micro_batch=tokens)
    with console.status("") as status:
        start = prepare(
            experiment, demonstrations, settings, heldout_share=heldout_share, status=status.update
        )
    note = start.note
    dropped = "".join(f"; dropped {count}: {reason}" for reason, count in note["dropped"].items())
    console.print(
        f"{note['played']} demonstrations, {note['heldout']} held out{dropped}",
        soft_wrap=True,
    )
    done = 0
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        Interrupts(
            lambda name: progress.console.print(f"{name}: saving after this update; again to stop at once")
        ) as interrupts,
    ):
        bar = progress.add_task("measuring", total=start.num_updates)

        def show(update: int, loss: float) -> None:
            nonlocal done
            done = update
            said = f"update {update}/{start.num_updates}, loss {loss:.3f}"
            progress.update(bar, completed=update, description=said)
            if not console.is_terminal and update % 10 == 0:
                console.print(said)

        progress.console.print(f"before: held-out loss {start.measure():.3f} nats per token")
        for epoch in range(1, epochs + 1):
            if not start.tuner.epoch(show, lambda: bool(interrupts.requested)):
                break
            progress.console.print(f"epoch {epoch}/{epochs}: held-out loss {start.measure():.3f}")
        start.save(out, done)
    if done < start.num_updates:
        console.print(f"stopped after {done} of {start.num_updates} updates; what was learned is in {out}")
        raise typer.Exit(INTERRUPTED)
    say(f"{out}: use it as model_path")
