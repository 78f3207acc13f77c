"""`rllib train file` and `rllib evaluate`: the command line that RLlib once had, for IGPO experiments."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from pipeline.cli.app import make_app
from pipeline.cli.options import (
    Checkpoint,
    CheckpointConfig,
    Set,
    Trust,
    Verbose,
    experiment_file,
    make_room_for,
)
from pipeline.cli.policy import policy_named
from pipeline.terminal import Console, say

app = make_app("Train and evaluate search agents with IGPO on RLlib.")


class _TrainGroup(TyperGroup):
    """`rllib train`, which says what to write where someone forgot the word `file`."""

    def resolve_command(self, ctx, args: list[str]):
        if args and Path(args[0]).suffix in (".yaml", ".yml", ".py"):
            ctx.fail(f"Write: rllib train file {shlex.join(args)}")
        return super().resolve_command(ctx, args)


train_app = typer.Typer(
    help="Train: `rllib train file conf/igpo.yaml`.", no_args_is_help=True, cls=_TrainGroup
)
app.add_typer(train_app, name="train")


@train_app.callback()
def train() -> None:
    pass


@train_app.command("file")
def train_file(
    config: Annotated[str, typer.Argument(help="Experiment file: YAML, or Python with a variable `config`.")],
    set_: Set = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Name of the experiment: its runs are in runs/NAME.  [default: the file's, and the method "
            "that --set changes: igpo-grpo]",
        ),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop",
            "-s",
            metavar="JSON",
            help="Stop criteria, merged over the file's: METRIC=VALUE, or several as JSON. May be given "
            "several times.",
        ),
    ] = None,
    checkpoint_freq: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Iterations between checkpoints; 0: only at the end.  [default: 1]"
        ),
    ] = None,
    checkpoint_at_end: Annotated[
        bool,
        typer.Option(
            "--checkpoint-at-end", help="Save after the last iteration, even where the file says not to."
        ),
    ] = False,
    keep_checkpoints_num: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Newest checkpoints to keep besides the best.  [default: 1]"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the newest unfinished run; if all are finished, the newest, to a later --stop.",
        ),
    ] = False,
    restore: Annotated[
        str | None, typer.Option(metavar="PATH", help="Start a new run from this checkpoint.")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR", help="Join this Ray cluster instead of starting one.  [default: RAY_ADDRESS]"
        ),
    ] = None,
    ray_num_cpus: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="CPUs that Ray may use.")
    ] = None,
    ray_num_gpus: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="GPUs that Ray may use.")
    ] = None,
    verbose: Verbose = 0,
) -> None:
    """Train the experiments of a file, one after another, each in `runs/NAME/RUN_ID/`.

    Examples:

    - `rllib train file conf/igpo.yaml`
    - `rllib train file conf/igpo.yaml --set seed=1 --set stop.training_iteration=20`
    - `rllib train file conf/igpo.yaml --resume` (after Ctrl-C or a crash)
    - `rllib train file conf/igpo.yaml --resume --stop training_iteration=100` (a finished run, further)
    - `rllib train file conf/igpo.yaml --set preset=grpo` (the outcome alone, to compare: in runs/igpo-grpo)
    - `rllib train file conf/igpo.yaml --set seed=1 --name second-seed` (in runs/second-seed)
    """
    from pipeline.logging import configure_logging

    configure_logging(verbose)
    from envs.errors import InputError
    from envs.loading import without_collecting
    from pipeline.experiment.before_start import check_start
    from pipeline.experiment.experiment import load_experiments

    if resume and restore is not None:
        raise InputError(
            "--resume continues a run in its own directory and --restore starts a new one: give one of them."
        )
    from pipeline.training.ray_processes.cluster import RayOptions

    ray = RayOptions(ray_address, ray_num_cpus, ray_num_gpus)
    path = experiment_file(config)
    overrides = list(set_ or [])
    flags = {
        "checkpoint_config.checkpoint_frequency": checkpoint_freq,
        "checkpoint_config.checkpoint_at_end": checkpoint_at_end or None,
        "checkpoint_config.num_to_keep": keep_checkpoints_num,
        "restore": restore,
    }
    overrides += [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    criteria: dict = {}
    for text in stop or []:
        criteria |= _json_object(text)
    experiments = load_experiments(path, overrides, criteria, name)
    for experiment in experiments:
        check_start(experiment)

    with without_collecting():
        from pipeline.training.launch import LaunchOptions, launch
        from pipeline.training.ray_processes.watch import leave_lost_ray

    options = LaunchOptions(
        command=("rllib", *sys.argv[1:]),
        resume=resume,
        ray=ray,
        verbosity=verbose,
    )
    code = launch(experiments, options, Console())
    leave_lost_ray(code)
    raise typer.Exit(code)


@app.command()
def evaluate(
    policy: Checkpoint,
    config: CheckpointConfig = None,
    set_: Set = None,
    questions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Questions to ask instead of the experiment's held-out ones; may be given several times.",
        ),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Number of questions, of each source.  [default: all]"),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            metavar="K",
            min=1,
            help="Answers per question; above 1 sampled at temperature 1: avg@k and pass@k.",
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write summary and every episode as JSON.")
    ] = None,
    trust: Trust = False,
    verbose: Verbose = 0,
) -> None:
    """Answer held-out questions with a trained or untrained policy, greedily, and report EM and F1.

    Examples:

    - `rllib evaluate runs/igpo/RUN_ID/checkpoints/best`
    - `rllib evaluate last` (the last checkpoint of the newest run)
    - `rllib evaluate tiny` (the policy before training)
    - `rllib evaluate ./my-model --config conf/smollm2_wikipedia.yaml --questions dev.jsonl --episodes 200`
    - `rllib evaluate ./my-model --questions nq.jsonl --questions hotpotqa.jsonl` (a table with a column for
      each data set)
    - `rllib evaluate runs/igpo/RUN_ID/checkpoints/best --samples 8 --out scores.json`
    """
    from pipeline.logging import configure_logging

    configure_logging(verbose)
    if out:
        make_room_for(out)
    config = experiment_file(config) if config else None
    from pipeline.evaluation import evaluation
    from pipeline.evaluation.saved_policy import open_policy
    from pipeline.logging import configure_ray_logging, native_stderr_aside

    configure_ray_logging(verbose)
    console = Console()
    with native_stderr_aside(verbose), console.status("opening the policy ...") as status:
        opened = open_policy(policy_named(policy), config, set_, trust=trust)
        chosen = evaluation.select_questions(opened, questions or [], episodes)
        done = evaluation.evaluate(
            opened,
            chosen,
            samples=samples,
            seed=seed,
            on_done=lambda count: status.update(f"{count} of {len(chosen)} questions"),
        )
    if out:
        done.save(out)  # at once: the answers may have taken hours
        say(f"written to {out}")
    evaluation.report(done, console)


def _json_object(text: str) -> dict:
    from envs.errors import InputError
    from pipeline.experiment.file import parse_yaml

    shown = text if len(text) <= 60 else f"{text[:60]}..."
    key, equals, value = text.partition("=")
    if equals and not text.lstrip().startswith("{"):
        return {key.strip(): parse_yaml(value, f"--stop {shown}")}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"--stop {shown}: this is not JSON: {error.msg}. Write --stop training_iteration=20."
        ) from error
    except (RecursionError, ValueError) as error:
        raise InputError(
            f"--stop {shown}: this JSON is nested too deeply, or a number in it has too many digits. "
            "Write --stop '{\"training_iteration\": 20}'."
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            f"--stop {shown}: write metric and value, for instance --stop training_iteration=20."
        )
    return value


if __name__ == "__main__":
    app()
