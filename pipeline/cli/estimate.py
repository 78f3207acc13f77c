"""`igpo estimate`: estimates memory and hours of an experiment. `igpo` mounts this function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.complete import complete_run
from pipeline.cli.options import RunsDir, Set, experiment_file

if TYPE_CHECKING:
    from pipeline.estimate.workload import Expected


def estimate_command(
    config: Annotated[str, typer.Argument(help="Experiment file.")],
    set_: Set = None,
    device: Annotated[
        str | None, typer.Option(help="One machine in detail: h200, h100, a100, l40s, rtx4090, cpu.")
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(min=1, help="Propose a placement on so many GPUs, and the lines to write."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Take turns and tokens of an average rollout from this run's log.",
            autocompletion=complete_run,
        ),
    ] = None,
    turns: Annotated[
        float | None, typer.Option(min=1, help="Turns of an average rollout; else the most there may be.")
    ] = None,
    turn_tokens: Annotated[
        float | None, typer.Option(min=1, help="Tokens written in an average turn.")
    ] = None,
    observation_tokens: Annotated[
        float | None, typer.Option(min=0, help="Tokens of an average observation.")
    ] = None,
    prompt_tokens: Annotated[
        float | None, typer.Option(min=1, help="Tokens of an average prompt; else 200.")
    ] = None,
    answer_tokens: Annotated[
        float, typer.Option(min=1, help="Tokens of a gold answer in its template, all aliases.")
    ] = 24,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Estimate memory, tokens per second and hours of an experiment on kinds of GPUs and on this CPU, before
    it starts.

    A model of capacity, not a measurement.

    Examples:

    - `igpo estimate conf/qwen2.5_7b.yaml`
    - `igpo estimate conf/qwen2.5_7b.yaml --gpus 8 --device h100`
    - `igpo estimate conf/igpo.yaml --device cpu --like last`
    - `igpo estimate conf/igpo.yaml --device cpu --turns 3 --turn-tokens 5`
    """
    from dataclasses import replace

    from envs.loading import without_collecting
    from pipeline.estimate.estimate import WIDTH, show
    from pipeline.estimate.workload import Expected
    from pipeline.experiment.experiment import load_experiment
    from pipeline.logging import configure_logging, configure_ray_logging
    from pipeline.terminal import Console

    configure_logging(0)
    experiment = load_experiment(experiment_file(config), set_)
    with without_collecting():
        configure_ray_logging(0)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    expected = Expected(answer_tokens=answer_tokens)
    if like is not None:
        expected = replace(_lengths_of(like, runs_dir), answer_tokens=answer_tokens)
        console.print(
            f"rollouts like those of {like}: {expected.turns:.3g} turns, {expected.turn_tokens:.3g} tokens "
            f"written and {expected.observation_tokens:.3g} observed in each, prompts of "
            f"{expected.prompt_tokens:.4g} tokens"
        )
    typed = {
        "turns": turns,
        "turn_tokens": turn_tokens,
        "observation_tokens": observation_tokens,
        "prompt_tokens": prompt_tokens,
    }
    expected = replace(expected, **{name: value for name, value in typed.items() if value is not None})
    with without_collecting():
        show(experiment, device, expected, console, gpus=gpus)


def _lengths_of(run: str, runs_dir: Path) -> Expected:
    """An average training rollout of a run, from its log. Prompts are there only under `log_tokens`."""
    from envs.errors import InputError
    from pipeline.analysis import open_run
    from pipeline.estimate.workload import Expected

    opened = open_run(run, runs_dir=runs_dir)
    query = """
        SELECT avg(turns), sum(decision_tokens) / sum(turns), sum(observation_tokens) / sum(turns)
        FROM episodes WHERE split = 'train'"""
    (lengths,) = opened.sql(query).fetchall()
    if lengths[0] is None:
        raise InputError(f"--like {run}: its log holds no training rollout yet")
    query = """
        SELECT avg(prompt) FROM (
            SELECT min(position) FILTER (is_decision) AS prompt
            FROM tokens GROUP BY iteration, episode_id, agent)"""
    ((prompt,),) = opened.sql(query).fetchall()
    return Expected(*lengths, **({} if prompt is None else {"prompt_tokens": prompt}))
