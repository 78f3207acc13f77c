"""What differs between a run's beginning and now, and is known to change bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.run_directory import provenance
from pipeline.run_directory.directory import RunDirectory

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


def what_changed(run: RunDirectory, config: IGPOConfig) -> list[str]:
    """What differs between the machine and code that began `run` and this process, and is known to change
    bits.
    """
    then, now = run.metadata, provenance.facts()
    watched = ("processor", "cores", "omp_num_threads", "gpus")
    facts = [
        *(
            (name, _get(then, "versions", name), _get(now, "versions", name))
            for name in provenance.PACKAGES
            if name in then.get("versions", {})
        ),
        *(
            (name, _get(then, "hardware", name), _get(now, "hardware", name))
            for name in watched
            if name in then.get("hardware", {})  # an earlier version noted fewer
        ),
        ("commit of the code", then.get("git_commit"), now["git_commit"]),
    ]
    found = [f"{name}: {old}, now {new}" for name, old, new in facts if old != new]
    if "+changes" in str(then.get("git_commit")):
        found.append("the code had changes then that its commit does not have")
    if config.env_settings().retriever.kind in ("http", "web"):
        found.append("documents came from a server, which may answer differently now")
    if _get(now, "hardware", "gpus"):
        found.append("on a GPU, kernels may add in another order each time")
    return found


def _get(facts: Mapping[str, Any], group: str, name: str) -> Any:
    return facts.get(group, {}).get(name)
