"""`igpo data index`: builds the index of a corpus ahead of a run. `igpo data` mounts this function."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.options import CorpusFields
from pipeline.cli.serve import (
    Device,
    Encoder,
    Index,
    IndexKind,
    Kind,
    PassagePrefix,
    dense_settings,
    read_corpus,
)


def index_command(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="A file, a folder, or hf:NAME.")],
    fields: CorpusFields = None,
    kind: Annotated[Kind, typer.Option(help="How it will be searched.")] = Kind.BM25,
    encoder: Encoder = None,
    index: Index = IndexKind.FLAT,
    passage_prefix: PassagePrefix = "",
    device: Device = "cpu",
) -> None:
    """Build the index of a corpus and keep it, so that runs and servers open it at once.

    It lies in the cache (`IGPO_CACHE`), under the hash of corpus, encoder and parameters. Says what it took.

    Examples:

    - `igpo data index passages.jsonl`
    - `igpo data index wiki.csv --field id=key --field title=page --field text=content`
    - `igpo data index passages.jsonl --kind dense --encoder intfloat/e5-base-v2 --passage-prefix "passage: "
      --index hnsw --device cuda`
    """
    import resource
    import time

    from envs.cache_folder import cache_directory
    from envs.retrieval.bm25 import CACHED_FROM_DOCUMENTS
    from envs.retrieval.build import build_retriever
    from envs.retrieval.config import RetrieverSettings
    from pipeline.terminal import Console

    dense = dense_settings(kind, encoder, index=index.value, passage_prefix=passage_prefix, device=device)
    console = Console(stderr=True)
    started = time.perf_counter()
    documents = read_corpus(corpus, fields, console)
    build_retriever(RetrieverSettings(kind=kind.value, dense=dense), documents)
    took = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if kind is Kind.BM25 and len(documents) < CACHED_FROM_DOCUMENTS:
        where = (
            f"nothing is kept: a corpus of fewer than {CACHED_FROM_DOCUMENTS:,} documents is indexed in "
            "memory each time, in a fraction of a second"
        )
    else:
        where = f"kept in {cache_directory()}"
    console.print(
        f"{len(documents):,} documents, {kind}: built in {took:.1f} s, peak memory {peak:.2f} GiB; {where}",
        soft_wrap=True,
    )
