"""`igpo data chunk`: makes a corpus of documents. `igpo data` mounts this function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import make_room_for


def chunk_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Plain text, Markdown, HTML or PDF; or a folder with such files."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The corpus to write.")] = Path("passages.jsonl"),
    words: Annotated[int, typer.Option(min=10, help="Longest passage; sentences stay whole.")] = 100,
    language: Annotated[str, typer.Option(help="Whose rules end a sentence: en, de, zh, ...")] = "en",
) -> None:
    """Cut documents into passages of whole sentences, with titles: a corpus to search.

    Needs the extra `documents` (trafilatura, pypdf, markdown-it-py, pysbd). Says what is left out, and why.

    Examples:

    - `igpo data chunk handbook/ --out passages.jsonl`
    - `igpo data chunk papers/ --words 150`
    - `igpo data chunk guide.md`
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from envs.data.chunk.folder import chunk, files_of
    from pipeline.terminal import Console

    console = Console()
    make_room_for(out)
    total = len(files_of(source))
    columns = (TextColumn("reading", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("files", total=total)
        made = chunk(source, out, max_words=words, language=language, on_file=lambda: progress.advance(task))
    console.print(f"{out}: {made.passages:,} passages of {made.documents:,} documents", soft_wrap=True)
    for reason, count in made.left_out.most_common():
        console.print(f"left out: {count:,} {reason} (first: {made.examples[reason]})", soft_wrap=True)
