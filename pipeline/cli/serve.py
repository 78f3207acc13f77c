"""`igpo serve-retriever`: serves a corpus over HTTP, for the `http` retriever and for other clients of
Search-R1's format. `igpo` mounts this function.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import CorpusFields, told_as_options, typed_names

if TYPE_CHECKING:
    from envs.data.corpus import Corpus
    from envs.retrieval.config import DenseSettings
    from pipeline.terminal import Console


class Kind(StrEnum):
    """Retrievers that search a corpus of their own."""

    BM25 = "bm25"
    DENSE = "dense"
    HYBRID = "hybrid"


KEPT_ALIVE = 75
"""Seconds that a connection may idle. uvicorn's 5 cut busy clients off, whose next request then failed."""


class IndexKind(StrEnum):
    FLAT = "flat"
    HNSW = "hnsw"


Encoder = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="Sentence encoder, for `dense` and `hybrid`.")
]
Index = Annotated[IndexKind, typer.Option(help="Exact, or approximate for millions of passages.")]
PassagePrefix = Annotated[str, typer.Option(help="Prefix that the encoder expects before a passage.")]
Device = Annotated[str, typer.Option(help="Where the encoder runs.")]


def dense_settings(kind: Kind, encoder: str | None, **further: str) -> DenseSettings | None:
    """The settings of the encoder and its index; None where no encoder is given.

    Raises:
        InputError: none is given, and `kind` needs one.
    """
    from envs.errors import InputError
    from envs.retrieval.config import DenseSettings

    if encoder is not None:
        return DenseSettings.model_validate({"encoder": encoder, **further})
    if kind is not Kind.BM25:
        raise InputError(f"--kind {kind} needs an encoder: --encoder FOLDER")
    return None


def read_corpus(corpus: str, fields: list[str] | None, console: Console) -> Corpus:
    """Reads a corpus whose fields `--field` names, and lets the building of its index say what it does."""
    from envs.data.corpus import load_corpus
    from envs.data.sources.field_names import STANDARD_DOCUMENTS

    names = typed_names(fields, STANDARD_DOCUMENTS)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger().handlers[0].setLevel(logging.INFO)  # bm25s sets its own logger to debug
    logging.getLogger("envs").setLevel(logging.INFO)
    with console.status(f"reading {corpus} ..."), told_as_options(fields):
        return load_corpus(corpus, names)


def serve_retriever_command(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS", help='JSONL of `{"id", "contents": "\\"Title\\"\\ntext"}`, or any other corpus.'
        ),
    ],
    fields: CorpusFields = None,
    kind: Annotated[Kind, typer.Option(help="How to search.")] = Kind.BM25,
    encoder: Encoder = None,
    index: Index = IndexKind.FLAT,
    query_prefix: Annotated[str, typer.Option(help="Prefix that the encoder expects before a query.")] = "",
    passage_prefix: PassagePrefix = "",
    device: Device = "cpu",
    top_k: Annotated[int, typer.Option(min=1, help="Documents per query where a request does not say.")] = 3,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the server has no password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Serve a corpus over HTTP in Search-R1's wire format, on this machine only unless `--host` says
    otherwise.

    The index is built once and cached. `GET /health` answers when the server is ready.

    Examples:

    - `igpo serve-retriever passages.jsonl`
    - `igpo serve-retriever wiki.csv --field id=key --field title=page --field text=content`
    - `igpo serve-retriever passages.jsonl
      --kind hybrid --encoder intfloat/e5-base-v2 --query-prefix "query: "
      --passage-prefix "passage: " --index hnsw --device cuda`
    """
    import socket

    from envs.errors import InputError
    from envs.retrieval.config import RetrieverSettings
    from pipeline.terminal import Console

    dense = dense_settings(
        kind,
        encoder,
        index=index.value,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        device=device,
    )
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"can't listen on {host} port {port} ({error.strerror}): choose another with --port"
            ) from error
    console = Console(stderr=True)
    documents = read_corpus(corpus, fields, console)

    import uvicorn

    from envs.retrieval.build import build_retriever
    from envs.retrieval.serving.server import retrieval_app

    retriever = build_retriever(RetrieverSettings(kind=kind.value, top_k=top_k, dense=dense), documents)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    console.print(
        f"{len(documents):,} documents, {kind}: POST {address}/retrieve (Ctrl-C ends)",
        soft_wrap=True,
    )
    uvicorn.run(
        retrieval_app(retriever, top_k),
        host=host,
        port=port,
        log_level="warning",
        timeout_keep_alive=KEPT_ALIVE,
    )
