"""`igpo`: the commands around training. `doctor` and `ask` are here, the others in this folder and its two.

Before a run: `settings`, `doctor`, `estimate`, `data`, `warm-start`, `serve-retriever`. After it: `runs`,
`sql`, `schema`, `compact`, `recredit`, `counterfactual`, `profile`, `report`, `show`, `browse`, `track`,
`verify`, `ask`. Over many runs: `study`, `paper-table`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.app import make_app
from pipeline.cli.data.app import app as data_app
from pipeline.cli.data.chunk import chunk_command
from pipeline.cli.data.demonstrations import demonstrations_command, split_command
from pipeline.cli.data.index import index_command
from pipeline.cli.data.paper import paper_command, paper_table_command
from pipeline.cli.estimate import estimate_command
from pipeline.cli.log.counterfactual import counterfactual_command
from pipeline.cli.log.import_rollouts import import_command
from pipeline.cli.log.profile import profile_command
from pipeline.cli.log.recredit import recredit_command
from pipeline.cli.log.report import report_command
from pipeline.cli.log.runs import runs_command
from pipeline.cli.log.show import browse_command, show_command
from pipeline.cli.log.sql import compact_command, schema_command, sql_command
from pipeline.cli.log.track import track_command
from pipeline.cli.log.verify import verify_command
from pipeline.cli.options import (
    Checkpoint,
    CheckpointConfig,
    Set,
    Trust,
    Verbose,
    experiment_file,
)
from pipeline.cli.policy import policy_named
from pipeline.cli.serve import serve_retriever_command
from pipeline.cli.settings import settings_command
from pipeline.cli.study import study_command
from pipeline.cli.warm_start import warm_start_command
from pipeline.exit_codes import BAD_INPUT

app = make_app(
    "Look before a run, at its rollouts, and at what a policy answers. Training itself: `rllib train file`."
)


@app.command()
def doctor(
    config: Annotated[str, typer.Argument(help="Experiment file.")],
    set_: Set = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the checks that need no rollout engine.")
    ] = False,
    verbose: Verbose = 0,
) -> None:
    """Check whether an experiment is worth starting.

    Environment, Ray cluster, proxies, model, questions and corpus, memory; then retrieval of the gold
    documents, belief with and without the gold evidence, and how much of what the policy writes parses. Exit
    code 2 if a check failed.

    Example: `igpo doctor conf/igpo.yaml`
    """
    from pipeline.logging import configure_logging

    configure_logging(verbose)
    from envs.loading import without_collecting
    from pipeline.experiment.before_start import check_start
    from pipeline.experiment.experiment import load_experiment
    from pipeline.logging import configure_ray_logging, native_stderr_aside
    from pipeline.terminal import Console

    experiment = load_experiment(experiment_file(config), set_)
    check_start(experiment)
    console = Console()
    with without_collecting():
        configure_ray_logging(verbose)
        from pipeline.doctor.checks import cheap_checks
        from pipeline.doctor.findings import Subject, show
        from pipeline.doctor.machine import ray_cluster

        subject = Subject(experiment, experiment.algorithm_config())
        failed = show(cheap_checks(subject, also=[ray_cluster]), subject, console)
    if not failed and not quick:
        from pipeline.doctor.measurements import expensive_checks

        with native_stderr_aside(verbose):
            failed = show(expensive_checks(subject), subject, console)
    if failed:
        raise typer.Exit(BAD_INPUT)


@app.command()
def ask(
    policy: Checkpoint,
    question: Annotated[str, typer.Argument(help="The question.")],
    gold: Annotated[
        list[str] | None,
        typer.Option(metavar="ANSWER", help="A right answer: shows belief in it after each turn."),
    ] = None,
    config: CheckpointConfig = None,
    set_: Set = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    trust: Trust = False,
    verbose: Verbose = 0,
) -> None:
    """Answer one question, showing each turn as it is written.

    Examples:

    - `igpo ask last "trade of mother of fata ?"` (the last checkpoint of the newest run)
    - `igpo ask runs/igpo/RUN_ID/checkpoints/best "trade of mother of fata ?" --gold coach`
    """
    from pipeline.logging import configure_logging

    configure_logging(verbose)
    config = experiment_file(config) if config else None
    from pipeline.evaluation.ask import ask as answer
    from pipeline.evaluation.saved_policy import open_policy
    from pipeline.logging import configure_ray_logging, native_stderr_aside
    from pipeline.terminal import Console

    configure_ray_logging(verbose)
    console = Console()
    with native_stderr_aside(verbose):
        with console.status("opening the policy ..."):
            opened = open_policy(policy_named(policy), config, set_, trust=trust)
        answer(opened, question, console, golds=gold, temperature=temperature, seed=seed)


app.command("settings")(settings_command)
app.command("estimate")(estimate_command)
app.command("serve-retriever")(serve_retriever_command)
data_app.command("chunk")(chunk_command)
data_app.command("index")(index_command)
data_app.command("demonstrations")(demonstrations_command)
data_app.command("split")(split_command)
data_app.command("paper")(paper_command)
app.add_typer(data_app, name="data")
app.command("warm-start")(warm_start_command)
app.command("import")(import_command)
app.command("runs")(runs_command)
app.command("sql")(sql_command)
app.command("schema")(schema_command)
app.command("compact")(compact_command)
app.command("report")(report_command)
app.command("profile")(profile_command)
app.command("show")(show_command)
app.command("browse")(browse_command)
app.command("recredit")(recredit_command)
app.command("counterfactual")(counterfactual_command)
app.command("track")(track_command)
app.command("verify")(verify_command)
app.command("study")(study_command)
app.command("paper-table")(paper_table_command)

if __name__ == "__main__":
    app()
