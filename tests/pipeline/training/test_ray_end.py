"""A Ray that a run started: SIGTERM is the run's, and the end comes at once, with all that Ray started."""

import subprocess
import sys

ENDS = """
import signal, subprocess
import psutil, ray
from pipeline.training.ray_processes import end as ray_end
from pipeline.training.ray_processes.cluster import RayOptions, starting_ray
from pipeline.training.ray_processes.processes import is_alive

with starting_ray(RayOptions(num_cpus=1)):
    pass
try:
    signal.raise_signal(signal.SIGTERM)
    raise AssertionError("SIGTERM is not heard")
except KeyboardInterrupt:
    pass
ray_end.GRACE = 0.2

@ray.remote
class Worker:
    def start(self):
        subprocess.Popen(["sleep", "60"], start_new_session=True)

worker = Worker.remote()
ray.get(worker.start.remote())
processes = psutil.Process().children(recursive=True)
names = {process.name() for process in processes}
assert {"gcs_server", "raylet", "ray::Worker", "sleep"} <= names, names
ray.shutdown()
print([process.name() for process in processes if is_alive(process)])
"""


def test_nothing_of_a_run_s_own_ray_is_left_when_its_shutdown_returns():
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
