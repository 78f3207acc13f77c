"""Arguments and options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pipeline.cli.complete import complete_run

if TYPE_CHECKING:
    from envs.data.sources.field_names import DocumentFieldNames, FieldNames

Names = TypeVar("Names", bound="FieldNames | DocumentFieldNames")
RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A folder, a name, a run id, or `last`.", autocompletion=complete_run),
]
RunsDir = Annotated[Path, typer.Option(help="Folder of all runs, where names, ids and `last` are looked up.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting; dots go inward. May be given several times."
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the code that the checkpoint's own experiment names, such as tools."),
]
Verbose = Annotated[
    int,
    typer.Option(
        "-v", "--verbose", count=True, show_default=False, help="Show the libraries' logs; -vv: all."
    ),
]
QuestionFields = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        metavar="PART=NAME",
        help="What the file calls question, answers, aliases, id, titles or hops. May be repeated.",
    ),
]
CorpusFields = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        metavar="PART=NAME",
        help="What the corpus calls id, title or text: `corpus_fields` of an experiment. May be repeated.",
    ),
]
Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT", help="A checkpoint; a run, for its last one; or a Hugging Face folder."
    ),
]
CheckpointConfig = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Experiment file; a checkpoint brings its own, else conf/igpo.yaml.",
    ),
]


def experiment_file(words: str) -> str:
    """The path of the experiment file that `words` name, after saying so where it is a packaged copy.

    Raises:
        InputError: there is no such file.
    """
    from pipeline.experiment.conf_files import resolve_config_path
    from pipeline.terminal import say

    path, is_packaged = resolve_config_path(words)
    if is_packaged:
        say(f"{words} is not here; using the copy that ships with the package: {path}")
    return str(path)


def make_room_for(out: Path) -> None:
    """Makes the folder of `out`, before the work whose result goes there.

    Raises:
        InputError: no file can be written there.
    """
    from envs.errors import InputError

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        is_new = not os.path.lexists(out)
        with out.open("a"):
            pass
        if is_new:
            out.unlink()
        elif out.is_file():  # a new one takes its place
            with TemporaryFile(dir=out.resolve().parent):
                pass
    except OSError as error:
        raise InputError(
            f"{out}: no file can be written there: {error.strerror}; name another place with --out."
        ) from error


def typed_names(typed: list[str] | None, given: Names) -> Names:
    """`given`, changed by the names that are typed.

    Raises:
        InputError: one has another form, or names no part.
    """
    from envs.data.sources.field_names import FieldNames
    from envs.errors import InputError
    from pipeline.experiment.keys import validated

    is_question = isinstance(given, FieldNames)
    setting, example = ("fields", "question=prompt") if is_question else ("corpus_fields", "text=content")
    changes = {}
    for assignment in typed or []:
        part, equals, name = assignment.partition("=")
        if not (equals and name):
            raise InputError(f"--field {assignment}: write PART=NAME, such as {example}")
        changes[part] = name
    return validated(type(given), given.model_dump() | changes, setting, "--field")


@contextmanager
def told_as_options(typed: list[str] | None) -> Generator[None]:
    """Tells an InputError with `--field`, which the command takes, for an experiment file's settings."""
    from envs.errors import InputError

    try:
        yield
    except InputError as error:
        raise InputError(as_options(str(error), typed)) from error


def as_options(error: str, typed: list[str] | None = None) -> str:
    """The sentence of an error with `--field` for an experiment file's `fields` and `corpus_fields`."""
    from envs.data import corpus
    from envs.data.sources import question_shapes

    error = error.replace(question_shapes.FIELDS_ADVICE, "`--field question=NAME --field answers=NAME`")
    error = error.replace(corpus.FIELDS_ADVICE, "`--field id=NAME --field title=NAME --field text=NAME`")
    for assignment in typed or []:
        part, _, name = assignment.partition("=")
        for setting in ("fields", "corpus_fields"):
            error = error.replace(f"`{setting}.{part}` is {name!r}", f"`--field {assignment}` names {name!r}")
    return error
