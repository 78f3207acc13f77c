"""`igpo data paper` and `igpo paper-table`: the paper's data and its tables. `igpo` mounts them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envs.data.jsonl import PAPER_FOLDER

if TYPE_CHECKING:
    from pipeline.paper.manifest import PublicFile
    from pipeline.terminal import Console


def paper_command(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help=f"Folder of the files; conf/paper reads {PAPER_FOLDER}."),
    ] = Path(PAPER_FOLDER),
    list_: Annotated[
        bool, typer.Option("--list", help="Say what is here and what is missing, and end.")
    ] = False,
    questions_only: Annotated[
        bool, typer.Option("--questions-only", help="Leave the corpus (5.1 GB) and its index out.")
    ] = False,
    index: Annotated[bool, typer.Option(help="Build the corpus's BM25 index.")] = True,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another list of files, such as of a mirror.")
    ] = None,
) -> None:
    """Fetch the paper's questions and corpus, check them, and make what conf/paper reads.

    A file that is here is not fetched again, and half a file goes on where it stopped. What is published of
    size and hash is checked; where no hash is published, the first one seen holds (`fetched.json`). Without a
    network it says what is missing: put the files into the folder yourself, and give the command again.

    Examples:

    - `igpo data paper --list`
    - `igpo data paper --out paper_data`
    - `igpo data paper --questions-only` (for a retriever that has the corpus elsewhere)
    """
    import logging

    from envs.errors import InputError
    from pipeline.paper.fetch import State, check, fetch, look
    from pipeline.paper.manifest import load_manifest
    from pipeline.paper.prepare import build_index, prepare_questions
    from pipeline.terminal import Console

    console = Console()
    wanted = [file for file in load_manifest(manifest) if not (file.is_corpus and questions_only)]
    if list_:
        _list(wanted, out, console)
        return
    out.mkdir(parents=True, exist_ok=True)
    failure = None
    for file in wanted:
        state = look(file, out).state
        if state is State.UNCHECKED:
            check(file, out / file.name, out)
        if state in (State.HERE, State.UNCHECKED):
            console.print(f"{file.name}: here", soft_wrap=True)
        elif failure is None:
            console.print(f"{file.name}: {file.what}", soft_wrap=True)
            try:
                fetch(file, out)
            except InputError as error:
                failure = error
            else:
                _say_what_came(file, out, console)
    here = {file.name for file in wanted if look(file, out).state is State.HERE}
    for file in wanted:
        if file.questions and {file.name, file.without or file.name} <= here:
            made = prepare_questions(file, out)
            console.print(made or f"{out / file.questions}: here", soft_wrap=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("envs").setLevel(logging.INFO)
    for file in wanted:
        if file.is_corpus and index and file.name in here:
            console.print(build_index(file, out), soft_wrap=True)
    if failure is not None:
        missing = ", ".join(file.name for file in wanted if file.name not in here)
        raise InputError(f"{failure}. Missing in {out}: {missing}.")


def _list(wanted: list[PublicFile], out: Path, console: Console) -> None:
    from rich.table import Table

    from pipeline.paper.fetch import look

    table = Table("file", "here", "bytes", "hash", "what", header_style="bold")
    for file in wanted:
        here = look(file, out)
        size = f"{file.size:,}" if file.size is not None else "unknown"
        shown = f"{here.bytes:,} of {size}" if here.bytes else size
        known = "published" if file.sha256 or file.git_blob else "unknown"
        table.add_row(file.name, str(here.state), shown, known, file.what)
    console.print(table)
    for file in wanted:
        console.print(f"{file.name}: {file.url}", soft_wrap=True, highlight=False)


def _say_what_came(file: PublicFile, out: Path, console: Console) -> None:
    from pipeline.paper.fetch import record_of

    seen = record_of(out)[file.name]
    known = "as published" if file.sha256 or file.git_blob else "seen first, and holds from now on"
    console.print(f"{file.name}: {seen['size']:,} bytes, sha256 {seen['sha256']} ({known})", soft_wrap=True)


def paper_table_command(
    evaluations: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE...]", help="What `rllib evaluate --out FILE` wrote."),
    ] = None,
    model: Annotated[str, typer.Option(help="Whose published rows are shown: 7b or 3b.")] = "7b",
) -> None:
    """Show evaluations in the layout of the paper's tables, beside its numbers and those of others.

    F1 as the paper computes it, in percent; one column a data set, the average last.

    Examples:

    - `igpo paper-table`
    - `igpo paper-table igpo.json grpo.json --model 3b`
    """
    from envs.errors import InputError
    from pipeline.cli.output import make_console
    from pipeline.paper.table import MODELS, paper_tables

    if model not in MODELS:
        raise InputError(f"--model {model}: it must be one of {', '.join(MODELS)}.")
    console = make_console()
    for shown in paper_tables(evaluations or [], model):
        console.print(shown)
