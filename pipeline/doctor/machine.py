"""Cheap checks of what stands around a run: the Ray cluster and the proxies that the environment names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from envs.errors import InputError
from envs.proxies import check_httpx, proxy_for
from envs.retrieval.config import HTTPSettings, WebSettings
from pipeline.doctor.findings import Finding, Subject
from pipeline.ray_address import OPTION, VARIABLE, knock, named_cluster


def ray_cluster(subject: Subject) -> Finding:
    """Knocks at the cluster that RAY_ADDRESS names. What it has is seen where a run joins it."""
    cluster = named_cluster(None)
    if cluster is None:
        text = f"{VARIABLE} names no cluster, so a run starts a Ray of its own"
        return Finding("ray", "ok", f"{text}; not looked at: a cluster of {OPTION}")
    knock(cluster)
    text = f"a run joins {cluster}, which answers"
    return Finding("ray", "ok", f"{text}; not looked at: its version, CPUs, GPUs and memory")


def proxies(subject: Subject) -> Finding:
    """Looks for proxies before the servers that a run asks: retriever, MLflow, model hub.

    Fails where one can't be used. MLflow's only warns, because training goes on without it.
    """
    passed, warnings = [], []
    for what, url in _servers(subject):
        proxy = proxy_for(url)
        if proxy is None:
            continue
        passed.append(f"{what} {proxy.host} through {proxy}")
        if what != "MLflow":
            check_httpx(proxy)
        elif proxy.kind.startswith("socks") and find_spec("socks") is None:
            warnings.append(
                f"MLflow can't use it: SOCKS needs a package that is not installed: pip install "
                f"'requests[socks]'; or {proxy.way_around}"
            )
    if not passed:
        text = "none stands before the servers that this run asks"
        return Finding("proxies", "ok", f"{text}; not looked at: {_UNSEEN}")
    text = "; ".join([*passed, *warnings])
    return Finding("proxies", "warn" if warnings else "ok", f"{text}; not looked at: {_UNSEEN}")


_UNSEEN = "whether a proxy lets requests pass, and the rollout log's and data sets' own servers"


def _servers(subject: Subject) -> Iterator[tuple[str, str]]:
    """(name, address) of the servers that a run asks by HTTP."""
    retriever = subject.config.env_settings().retriever
    if retriever.kind == "http":
        yield "retriever", (retriever.http or HTTPSettings()).url
    elif retriever.kind == "web":
        yield "retriever", (retriever.web or WebSettings()).url
    store = os.environ.get("MLFLOW_TRACKING_URI", "")
    if store.startswith(("http://", "https://")):
        yield "MLflow", store
    if _is_hub_name(subject.config.model_path):
        yield "model hub", os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _is_hub_name(model: str | None) -> bool:
    from envs.engine.models import resolve_model

    try:
        return not Path(resolve_model(model)).is_dir()
    except InputError:  # the check of the model says why
        return False
