"""A head start for the env runners: Ray and their processes start while this process imports and checks.

Importing RLlib, transformers and vLLM takes an env runner longer than all else of its start.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from envs.runner import ahead
from pipeline.training.ray_cluster import RayOptions, start_ray

if TYPE_CHECKING:
    from pipeline.experiment.experiment import Experiment

PRELOAD = "RAY_preload_python_modules"
"""Ray's setting for modules that its processes import as they start."""


def head_start(experiments: Sequence[Experiment], options: RayOptions, verbosity: int) -> bool:
    """Starts Ray, whose first processes import what the first experiment's env runners need.

    Nothing is done for a cluster that is joined, which runs already; on GPUs, which a process sees only once
    it is an env runner's; and for a Python experiment, which has imported RLlib by now.

    Args:
        experiments: what will be trained; their files are read and their keys are right.
        options: which Ray is used.
        verbosity: 0 is quiet.

    Returns:
        Whether Ray was started.

    Raises:
        InputError: Ray does not start.
    """
    if options.cluster or not experiments or experiments[0].base is not None:
        return False
    config = experiments[0].config
    runners, cpus = config.get("num_env_runners", 1), config.get("num_cpus_per_env_runner", 1)
    engine = (config.get("engine") or {}).get("kind", "vllm")
    on_gpu = config.get("num_gpus_per_env_runner", 0)
    if on_gpu or not (isinstance(runners, int) and isinstance(cpus, int | float) and runners > 0):
        return False
    folder = tempfile.mkdtemp(prefix="igpo-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[ahead.VARIABLE] = ahead.settings(folder, runners, cpus, engine)
    os.environ[PRELOAD] = ahead.__name__
    start_ray(options, verbosity)
    return True
