"""Brings a folder from another node of the cluster: a learner's part of a checkpoint, there and back.

RLlib's own way packs the folder in memory and refuses more than 1 GiB, which is a learner's state at 90
million parameters. Here it comes in pieces.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.rllib.utils import checkpoints
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

PIECE_BYTES = 2**26
"""Largest piece. The object store holds a few of them at once."""


@contextmanager
def folders_of_any_size() -> Generator[None]:
    """A block in which RLlib saves or restores, and brings folders between nodes by `bring_folder`."""
    module: Any = checkpoints
    own, module.sync_dir_between_nodes = module.sync_dir_between_nodes, bring_folder
    try:
        yield
    finally:
        module.sync_dir_between_nodes = own


def bring_folder(source_ip: str, source: str | Path, target_ip: str, target: str | Path) -> None:
    """Copies a folder of another node into one of this process's node. Takes what RLlib gives.

    Args:
        source_ip: address of the node to read on.
        source: the folder there, which is left as it is.
        target_ip: address of this process's node.
        target: the folder here; made where it is missing.

    Raises:
        RuntimeError: no living node has `source_ip`.
        ray.exceptions.RayTaskError: it could not be read there.
    """
    assert target_ip == ray.util.get_node_ip_address()
    read: Any = ray.remote(_pieces).options(
        num_cpus=0,
        num_returns="streaming",
        scheduling_strategy=NodeAffinitySchedulingStrategy(_node_with(source_ip), soft=False),
        _generator_backpressure_num_objects=2,
    )
    Path(target).mkdir(parents=True, exist_ok=True)
    for reference in read.remote(str(source), PIECE_BYTES):
        name, begins, piece = ray.get(reference)
        path = Path(target, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb" if begins else "ab") as file:
            file.write(piece)


def _pieces(folder: str, size: int) -> Generator[tuple[str, bool, bytes]]:
    """Yields the files of `folder` in pieces: name, whether the file begins, bytes. Empty files have one."""
    for path in sorted(Path(folder).rglob("*")):
        if not path.is_file():
            continue
        name, begins = str(path.relative_to(folder)), True
        with path.open("rb") as file:
            while (piece := file.read(size)) or begins:
                yield name, begins, piece
                begins = False


def _node_with(ip: str) -> str:
    for node in ray.nodes():
        if node["Alive"] and node["NodeManagerAddress"] == ip:
            return node["NodeID"]
    raise RuntimeError(f"no node of the Ray cluster has the address {ip}: it has left the cluster")
