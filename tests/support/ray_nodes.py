"""Ray nodes on this machine, in a network of their own that has no interface but `lo`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PORT = 6379


class Network:
    """A network namespace with `lo` alone. `prefix` before a command runs it there."""

    def __init__(self):
        command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 36000"]
        try:
            self._holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except FileNotFoundError:
            pytest.skip("no unshare on PATH")
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            pytest.skip("this machine gives no network namespace")
        self.prefix = ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


class Node:
    """A node of a Ray cluster: what `ray start` begins, until `kill`.

    Args:
        network: where it runs.
        folder: for its output.
        address: its own, of 127.0.0.0/8. The head is 127.0.0.1.
        resources: custom ones; None begins a cluster, on a head node without CPUs.
        environment: of the node and what it starts.
        unseen: a folder of which the node sees an empty one of its own.
    """

    def __init__(
        self,
        network: Network,
        folder: Path,
        address: str,
        resources: dict[str, int] | None,
        environment: dict[str, str],
        unseen: Path | None = None,
    ):
        role = ["--address", f"127.0.0.1:{PORT}", "--num-cpus", "2", "--resources", json.dumps(resources)]
        if resources is None:
            role = ["--head", "--port", str(PORT), "--num-cpus", "0", "--include-dashboard", "false"]
        output = folder / f"node_{address}.txt"
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [*network.prefix, *_without(unseen)]
                + [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
                + [*role, "--node-ip-address", address, "--disable-usage-stats"],
                stdout=file, stderr=file, start_new_session=True, env=os.environ | environment,
            )  # fmt: skip
        deadline = time.monotonic() + 240
        while "Ray runtime started" not in output.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)

    @property
    def processes(self) -> list[psutil.Process]:
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    @property
    def actors(self) -> list[str]:
        """Names of Ray's actors on the node, as their processes' titles say them."""
        titles = []
        for process in self.processes:
            try:
                titles.append(" ".join(process.cmdline()))
            except psutil.NoSuchProcess:
                continue
        names = [title.removeprefix("ray::").split(".")[0] for title in titles if title.startswith("ray::")]
        return [name for name in names if not name.startswith(("IDLE", "DashboardAgent", "RuntimeEnvAgent"))]

    def kill(self) -> None:
        """The power of the node goes off."""
        if self.process.poll() is not None:
            return
        processes = self.processes
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=30)
        self.process.wait()


def _without(folder: Path | None) -> list[str]:
    """A prefix: the command after it sees an empty folder in place of `folder`."""
    if folder is None:
        return []
    return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{folder}" && exec "$@"', "sh"]
