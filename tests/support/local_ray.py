"""A Ray of the test's own, whose processes find the tests' helpers too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def local_ray(num_cpus: int, num_gpus: int = 0) -> Iterator:
    """Yields the module `ray`. Workers have one thread. GPUs are counted by Ray alone: none need be here."""
    import ray

    support = Path(__file__).resolve().parent
    known = filter(None, [os.environ.get("PYTHONPATH")])
    path = os.pathsep.join([str(support), str(support.parents[1]), *known])
    ray.init(
        address="local",
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    )
    try:
        yield ray
    finally:
        ray.shutdown()
