"""`igpo estimate`: estimates memory and hours of an experiment. `igpo` mounts this function."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.common import Set


def estimate_command(
    config: Annotated[str, typer.Argument(help="Experiment file.")],
    set_: Set = None,
    device: Annotated[
        str | None, typer.Option(help="One machine in detail: h200, h100, a100, l40s, rtx4090, cpu.")
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
    prompt_tokens: Annotated[float, typer.Option(min=1, help="Tokens of an average prompt.")] = 200,
    answer_tokens: Annotated[
        float, typer.Option(min=1, help="Tokens of a gold answer in its template, all aliases.")
    ] = 24,
) -> None:
    """Estimate memory, tokens per second and hours of an experiment on kinds of GPUs and on this CPU, before
    it starts.

    A model of capacity, not a measurement; not yet run on a GPU.

    Examples:

    - `igpo estimate conf/qwen2.5_7b.yaml`
    - `igpo estimate conf/igpo.yaml --device cpu --turns 3 --turn-tokens 5`
    """
    from pipeline.cli.output import make_console
    from pipeline.estimate.estimate import show
    from pipeline.estimate.workload import Expected
    from pipeline.experiment.experiment import load_experiment
    from pipeline.logging import configure_logging, configure_ray_logging

    configure_logging(0)
    experiment = load_experiment(config, set_)
    configure_ray_logging(0)
    expected = Expected(turns, turn_tokens, observation_tokens, prompt_tokens, answer_tokens)
    show(experiment, device, expected, make_console())
