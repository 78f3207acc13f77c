"""`igpo data demonstrations` invents questions with searches and answers over a corpus; `igpo data split`
splits such a file into parts that share no evidence.

`igpo` mounts these functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import CorpusFields, QuestionFields, experiment_file, told_as_options, typed_names


def demonstrations_command(
    corpus: Annotated[
        str,
        typer.Argument(metavar="CORPUS", help="English encyclopedic passages: a file, a folder, or hf:NAME."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (JSONL); must not exist.")],
    fields: CorpusFields = None,
    number: Annotated[int, typer.Option(min=1, help="How many, at most.")] = 300,
    two_hop_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share that needs two searches.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Questions whose supporting passages are left alone; may be given several times.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Experiment whose retriever must find them, and whose names of fields are read.  [default: "
            "BM25, top 1]",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of it.")
    ] = None,
) -> None:
    """Invent questions over a corpus, with the searches that find the answer: for `igpo warm-start`, or to
    train and test on.

    They ask for a fact that a passage states literally (who directed a film, when someone was born), or for a
    fact of a passage that another one names. A question is kept if the real retriever finds its passages by
    its searches.

    Examples:

    - `igpo data demonstrations passages.jsonl --out demos.jsonl --number 300 --exclude test.jsonl`
    - `igpo data demonstrations
      passages.jsonl --out train.jsonl --number 600 --seed 1 --exclude test.jsonl --exclude demos.jsonl`
    """
    from envs.data.corpus import load_corpus
    from envs.data.questions import load_questions
    from envs.data.sources.field_names import STANDARD, STANDARD_DOCUMENTS
    from envs.demonstrations.demonstration import save_demonstrations
    from envs.demonstrations.make import make_demonstrations
    from envs.errors import InputError
    from envs.retrieval.build import build_retriever
    from envs.retrieval.config import RetrieverSettings
    from pipeline.experiment.experiment import load_experiment
    from pipeline.terminal import Console

    if out.exists():
        raise InputError(f"{out} exists: give a file that does not")
    if set_ and not config:
        raise InputError("--set changes a setting of an experiment: name one with --config")
    retriever, question_names, given = RetrieverSettings(), STANDARD, STANDARD_DOCUMENTS
    if config:
        settings = load_experiment(experiment_file(config), set_).env_settings
        retriever, question_names, given = settings.retriever, settings.fields, settings.corpus_fields
    names = typed_names(fields, given)
    console = Console()
    with console.status(f"reading {corpus} ..."):
        excluded = [
            question for source in exclude or [] for question in load_questions(source, question_names)
        ]
        with told_as_options(fields):
            passages = load_corpus(corpus, names)
        made, dropped = make_demonstrations(
            passages,
            build_retriever(retriever, passages),
            number=number,
            seed=seed,
            top_k=retriever.top_k,
            two_hop_share=two_hop_share,
            excluded=excluded,
        )
        save_demonstrations(made, out)
    one_hop = sum(demonstration.question.hops == 1 for demonstration in made)
    console.print(
        f"{len(made)} demonstrations ({one_hop} of one hop, {len(made) - one_hop} of two) written to {out}"
        + (f"; {number} were wanted: the corpus has no more" if len(made) < number else ""),
        soft_wrap=True,
    )
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    console.print(f"dropped: {reasons or 'none'}", soft_wrap=True)
    for demonstration in made[:3]:
        words = [demonstration.question.text, *demonstration.searches, demonstration.question.golds[0]]
        console.print("  " + "  ->  ".join(words), soft_wrap=True)


def split_command(
    source: Annotated[
        Path, typer.Argument(metavar="PATH", help="Questions (JSONL) that name their supporting passages.")
    ],
    part: Annotated[
        list[str],
        typer.Option(
            metavar="FILE[=N]",
            help="A part to write (JSONL, must not exist), and how many questions it gets; the last may "
            "leave out =N and takes the rest. Give it once for each part.",
        ),
    ],
    fields: QuestionFields = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Split questions into parts of which no two rest on the same passage: to train, to hold out.

    Questions that share a supporting passage, also by a chain of others, stay together.

    Examples:

    - `igpo data split two_hops.jsonl --part heldout.jsonl=400 --part train.jsonl`
    - `igpo data split questions.jsonl --part test.jsonl=400 --part demos.jsonl=60 --part train.jsonl`
    - `igpo data split mine.jsonl --field titles=pages --part heldout.jsonl=400 --part train.jsonl`
    """
    from envs.data.jsonl import read_jsonl, write_jsonl
    from envs.data.sources.field_names import STANDARD, NamesSeen
    from envs.data.split import evidence_titles, split_by_evidence
    from envs.errors import InputError
    from pipeline.terminal import Console

    files, numbers = [], []
    for place, text in enumerate(part):
        name, _, number = text.partition("=")
        if number and not (number.isdigit() and int(number)):
            raise InputError(f"--part {text}: {number!r} is no number of questions; write {name}=400")
        if not number and place < len(part) - 1:
            raise InputError(f"--part {text}: only the last part may leave out its number; write {name}=400")
        if Path(name).exists() or Path(name) in files:
            raise InputError(f"{name} exists or is named twice: give a file that does not")
        files.append(Path(name))
        numbers.append(int(number) if number else None)
    names = typed_names(fields, STANDARD)
    records = [record for _, record in read_jsonl(source, "questions")]
    seen = NamesSeen(names)
    for record in records:
        seen.look_at(record)
    with told_as_options(fields):
        seen.refuse_unseen("fields", source)
    parts = split_by_evidence(records, numbers, seed, names)
    console = Console()
    for file, some in zip(files, parts, strict=True):
        write_jsonl(file, some)
        console.print(f"{len(some)} questions written to {file}")
    alone = sum(not evidence_titles(record, names) for record in records)
    if alone:
        console.print(
            f"{alone} of {len(records)} questions name no supporting passage: each counts as resting on none "
            "that another rests on"
        )
    left_out = len(records) - sum(map(len, parts))
    if left_out:
        console.print(f"{left_out} left out, which hang together with those of a part that is full")
