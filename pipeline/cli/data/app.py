"""`igpo data`: describes questions, and a generated world, before a run uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import (
    QuestionFields,
    Set,
    as_options,
    experiment_file,
    told_as_options,
    typed_names,
)
from pipeline.exit_codes import BAD_INPUT

if TYPE_CHECKING:
    from envs.data.describe import Description
    from envs.search.config import SearchEnvSettings
    from envs.world.difficulty import Difficulty
    from pipeline.terminal import Console

app = typer.Typer(
    help="Look at questions or the generated world; make demonstrations.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
Config = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="Experiment file whose filter and limits are applied."),
]


@app.command("describe")
def describe_command(
    source: Annotated[
        str,
        typer.Argument(metavar="PATH", help="A file, a folder, FOLDER@SPLIT, or hf:NAME[:CONFIG][@SPLIT]."),
    ],
    config: Config = None,
    set_: Set = None,
    fields: QuestionFields = None,
) -> None:
    """Name the shape; count questions, answers, aliases and hops; say what a run refuses or drops, and why.

    A run refuses a file with a bad line or record: the first few are shown, and the exit code is 2.

    Examples:

    - `igpo data describe questions.jsonl`
    - `igpo data describe hf:owner/name:nq@dev`
    - `igpo data describe mine.csv --field question=prompt --field answers=label`
    - `igpo data describe questions.jsonl --config my.yaml` (with that experiment's filter and answer limit)
    """
    from envs.data.describe import describe
    from envs.search.config import SearchEnvSettings
    from pipeline.terminal import Console

    settings = _settings(config, set_) if config else SearchEnvSettings()
    console = Console()
    with console.status(f"reading {source} ..."), told_as_options(fields):
        found = describe(source, settings.question_filter, typed_names(fields, settings.fields))
    _show(found, settings, console)
    if found.refused:
        raise typer.Exit(BAD_INPUT)


@app.command("world")
def world_command(
    config: Config = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the world, such as noise=3."),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Print so many documents and questions.")] = 1,
) -> None:
    """Say how hard the generated world is: without searching, for an expert, and for a random searcher.

    Belief is that of an ideal reader in the right answer, hop by hop.

    Examples:

    - `igpo data world`
    - `igpo data world --set graded_evidence=0.8 --set noise=2 --set distractors=50`
    - `igpo data world --config conf/igpo.yaml` (the world of that experiment)
    """
    from envs.data.corpus import Corpus
    from envs.errors import InputError
    from envs.retrieval.build import build_retriever
    from envs.retrieval.config import RetrieverSettings
    from envs.search.config import SearchEnvSettings
    from envs.world.config import WorldSettings
    from envs.world.difficulty import difficulty
    from envs.world.world import build_world
    from pipeline.experiment.file import parse_yaml
    from pipeline.experiment.keys import validated
    from pipeline.terminal import Console

    settings = _settings(config, None) if config else SearchEnvSettings()
    changes = {}
    for assignment in set_ or []:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: write KEY=VALUE, such as noise=3")
        changes[key.removeprefix("env_config.world.")] = parse_yaml(value, f"--set {assignment}")
    wanted = validated(WorldSettings, settings.world.model_dump() | changes, "world", "--set")
    console = Console()
    with console.status("playing the held-out questions ..."):
        try:
            world = build_world(wanted)
            questions = world.questions("heldout")
        except ValueError as error:
            raise InputError(str(error)) from error
        corpus = Corpus(world.documents, source="world")
        retriever = build_retriever(RetrieverSettings(), corpus)
        found = difficulty(world, lambda query: corpus.by_id(retriever.search([query], 1)[0][0].document_id))
    _show_difficulty(found, len(corpus), console)
    for document, question in list(zip(world.documents, questions, strict=False))[:show]:
        console.print(document.contents, soft_wrap=True)
        console.print(f"{question.text}  ->  {' / '.join(question.golds)}", style="bold")


def _show_difficulty(found: Difficulty, documents: int, console: Console) -> None:
    from rich.table import Table

    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.questions.most_common())
    table = Table(title=f"world of {documents:,} documents; held out: {kinds}", title_justify="left")
    table.add_column("")
    table.add_column("EM", justify="right")
    table.add_row("closed book (the commonest training answer)", f"{found.closed_book:.3f}")
    table.add_row("expert (a search per hop)", f"{found.expert:.3f}")
    if found.as_told is not None and found.without_plan is not None:
        table.add_row("expert, hops as told, as many searches", f"{found.as_told:.3f}")
        table.add_row("expert, any hop it can take, as many searches", f"{found.without_plan:.3f}")
    table.add_row("random searcher", f"{found.random_searcher:.3f}")
    console.print(table)
    for hops, beliefs in found.belief_by_hops.items():
        path = " -> ".join(f"{belief:.3f}" for belief in beliefs)
        console.print(f"belief of an ideal reader, {hops} hops: {path}")


def _settings(config: str, overrides: list[str] | None) -> SearchEnvSettings:
    from pipeline.experiment.experiment import load_experiment

    return load_experiment(experiment_file(config), overrides).env_settings


def _show(found: Description, settings: SearchEnvSettings, console: Console) -> None:
    import numpy as np
    from rich.table import Table

    from envs.data.describe import MAX_EXAMPLES
    from envs.data.odd_answers import odd_answers
    from envs.data.questions import named, told

    total = len(found.questions)
    console.print(f"{found.source}: {total:,} questions", soft_wrap=True)
    table = Table(show_header=False)
    table.add_row("shape", ", ".join(f"{shape} {count:,}" for shape, count in found.shapes.most_common()))
    if found.left_out:
        table.add_row("left out", told(found.left_out))
    if found.hashed:
        table.add_row("ids", f"{found.hashed:,} made by hash: their records have none")
    if total:
        words, aliases = found.answer_words, found.aliases
        quantiles = np.quantile(words, [0.5, 0.9], method="inverted_cdf")
        limit = settings.max_answer_tokens
        long, hopeless = found.long_answers(limit)
        table.add_row(
            "data sources", ", ".join(f"{name} {count:,}" for name, count in found.by_source.most_common())
        )
        table.add_row(
            "hops", ", ".join(f"{hops}: {count:,} ({count / total:.0%})" for hops, count in found.by_hops)
        )
        table.add_row(
            "answers", f"words: median {quantiles[0]}, 90% up to {quantiles[1]}, longest {words.max()}"
        )
        if long and settings.alias_rule != "first":
            only = f"{hopeless:,} questions have only such"
            table.add_row(
                "", f"at least {long:,} are longer than max_answer_tokens ({limit}) and not scored; {only}"
            )
        if bare := found.without_belief(settings.alias_rule, limit):
            table.add_row(
                "",
                f"at least {bare:,} questions are played without belief: no answer is short enough to score",
            )
        for sentence in odd_answers(found.questions, settings.outcome):
            table.add_row("", sentence)
        several = float((aliases > 1).mean())
        table.add_row(
            "aliases",
            f"{several:.0%} of questions have several; {aliases.mean():.2f} on average, at most "
            f"{aliases.max()}",
        )
        table.add_row("yes/no questions", f"{found.closed_answers:,}")
        table.add_row("with evidence named", f"{found.with_evidence:,}")
        table.add_row("repeated texts", f"{found.repeated:,}")
        table.add_row("dropped by the filter", told(found.dropped) or "none")
    table.add_row(
        "refused",
        f"{len(found.refused):,}"
        + (": a run refuses the file until they are corrected" if found.refused else ""),
    )
    console.print(table)
    refusals = found.refusals
    for refusal, others in refusals[:MAX_EXAMPLES]:
        also = f" (also {named(others)})" if others else ""
        console.print(f"  {as_options(refusal)}{also}", soft_wrap=True)
    if rest := refusals[MAX_EXAMPLES:]:
        console.print(f"  and {sum(1 + len(others) for _, others in rest):,} more for other reasons")
