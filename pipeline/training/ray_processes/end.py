"""Ends the Ray that this process started in a moment, and its workers with it.

Ray sends SIGTERM to its five processes, one after the other, and gives each a second before it kills it. A
run's own Ray keeps SIGTERM blocked (`cluster.RayStart`), so each took its second; workers and agents ended
when they noticed.
"""

from __future__ import annotations

import time

import psutil

from pipeline.training.ray_processes.processes import is_alive, kill

GRACE = 2.0
"""Seconds in which what a worker started, as the processes of an engine over several GPUs, may end by itself
once the worker is gone.
"""
INTERVAL = 0.02
"""Seconds between two looks."""


def end_at_once() -> None:
    """Lets `ray.shutdown` kill the processes of the Ray that was just started here; they are gone when it
    returns.

    What it does before that, it does as ever: it disconnects, and removes what Ray spilled to disk. Nothing
    changes where Ray has no processes of this one's, as after joining a cluster.
    """
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return
    end = node.kill_all_processes

    def kill_all(check_alive: bool = True, allow_graceful: bool = False, wait: bool = False) -> None:
        own = {info.process.pid for infos in node.all_processes.values() for info in infos}
        processes = [child for child in psutil.Process().children() if child.pid in own]
        workers = [child for process in processes for child in process.children()]
        below = [child for process in processes for child in process.children(recursive=True)]
        end(check_alive=check_alive, allow_graceful=False, wait=wait)
        kill(workers)
        deadline = time.monotonic() + GRACE
        while (left := [process for process in below if is_alive(process)]) and time.monotonic() < deadline:
            time.sleep(INTERVAL)
        kill(left)

    node.kill_all_processes = kill_all
