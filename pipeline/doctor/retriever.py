"""Looks whether the retriever answers, and finds anything."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

from envs.proxies import is_loopback, proxy_for
from envs.retrieval.base import RetrieverError
from envs.retrieval.config import HTTPSettings, RetrieverSettings
from pipeline.doctor.findings import Finding, Subject

SAMPLE = 64
"""Held-out questions that are asked."""
BY_WORDS = ("bm25", "http")
"""Retrievers that may find nothing, and take no money for a search."""


def retriever(subject: Subject) -> Finding:
    """Opens the retriever and asks it one question, and where words decide the first held-out questions too.

    A missing index is built here, where a person sees the progress.
    """
    assert subject.task is not None
    opened, question = subject.task.retriever, subject.task.train_questions[0].text
    settings = subject.task.settings.retriever
    kind, top_k, started = settings.kind, settings.top_k, time.perf_counter()
    heldout = [q.text for q in subject.task.heldout_questions[:SAMPLE]] if kind in BY_WORDS else []
    if refused := _refused(settings):
        return Finding("retriever", "fail", refused)
    try:
        found = opened.search([question], top_k)[0]
        took = time.perf_counter() - started
        hits = opened.search(heldout, top_k) if heldout else []
        _ = opened.identity  # which a run logs: a server is asked for its own
    except RetrieverError as error:
        hint = "start or repair the server, or change env_config.retriever"
        return Finding("retriever", "fail", f"retriever `{kind}` does not work: {error}; {hint}")
    text = f"{kind}: {len(found)} documents in {took:.2g} s for the first training question"
    fruitless = [asked for asked, of_one in zip(heldout, hits, strict=True) if not of_one]
    if fruitless:
        share = f"{len(fruitless)} of {len(heldout)} held-out questions find 0 documents"
        advice = "check that questions and corpus belong together and are in one language"
        return Finding("retriever", "warn", f"{text}; {share} (first: {fruitless[0]!r:.80}): {advice}")
    return Finding("retriever", "ok" if found else "warn", text)


def _refused(settings: RetrieverSettings) -> str | None:
    """Says that nothing listens at the retriever's server, where no proxy is between; a search would be tried
    again for `retry_for` seconds first.
    """
    remote = {"http": settings.http or HTTPSettings(), "web": settings.web}.get(settings.kind)
    if remote is None or proxy_for(remote.url) is not None:
        return None
    url = urlsplit(remote.url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=2).close()
    except ConnectionRefusedError:
        begin = f"retriever `{settings.kind}` does not work: the server {url.netloc}: Connection refused"
        start = "start or repair the server"
        if is_loopback(host) and settings.kind == "http":
            start = f"start it with `igpo serve-retriever PASSAGES --port {port}`"
        return f"{begin}; {start}, or change env_config.retriever"
    except OSError:  # a search says more of it
        pass
    return None
