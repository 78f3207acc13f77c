"""An env runner or a learner that does not start is told by its cause."""

import pytest
from ray.exceptions import RayTaskError

from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.remote import StartError, last_exception, starting, with_traceback
from envs.errors import InputError

TRACEBACK = """ray::Runner.__init__() (pid=1, ip=127.0.0.1)
  File "a.py", line 1, in f
    import fast
    ^^^^^^^^^^^
ModuleNotFoundError: No module named 'fast'

The above exception was the direct cause of the following exception:

ray::Runner.__init__() (pid=1, ip=127.0.0.1)
  File "b.py", line 2, in g
    raise RuntimeError(
RuntimeError: 2 faults
  the first
    deeper
"""


@pytest.mark.parametrize(
    "text, expected",
    [
        (TRACEBACK, "RuntimeError: 2 faults the first deeper"),
        (TRACEBACK[: TRACEBACK.index("The above")], "ModuleNotFoundError: No module named 'fast'"),
        ("KeyError: 'a'", "KeyError: 'a'"),
        ("out of memory\nsee the log", "out of memory see the log"),
    ],
)
def test_the_last_exception_of_a_traceback(text, expected):
    assert last_exception(text) == expected


def test_a_traceback_is_kept_beside_the_sentence():
    error = with_traceback("an env runner failed", TRACEBACK)
    assert str(error) == "an env runner failed: RuntimeError: 2 faults the first deeper"
    assert error.__notes__ == [TRACEBACK]


@pytest.mark.parametrize(
    "raised, expected, kind",
    [
        ("ImportError: no kernels", "a learner did not start: ImportError: no kernels", StartError),
        ("envs.errors.InputError: no folder", "a learner did not start: no folder", InputError),
    ],
)
def test_a_learner_in_another_process(raised, expected, kind):
    text = f'Traceback\n  File "x.py", line 1, in build\n    load()\n{raised}'
    failure = RayTaskError("build", text, ImportError("no kernels"), "ray::build()", 1, "127.0.0.1")
    with pytest.raises(kind) as failed, starting(None):
        raise failure.as_instanceof_cause()
    assert str(failed.value) == expected


def make_config(*, runners: int = 0, learners: int = 0, runner=None, learner=None) -> IGPOConfig:
    world = {"train_questions": 40, "heldout_questions": 5}
    config = (
        IGPOConfig()
        .environment("search", env_config={"world": world, "max_turns": 3})
        .training(model_path="tiny", prompts_per_iteration=2, group_size=2, engine={"kind": "transformers"})
        .env_runners(num_env_runners=runners)
        .learners(num_learners=learners)
    )
    if runner:
        config.env_runners(env_runner_cls=runner)
    if learner:
        config.learners(learner_class=learner)
    return config


@pytest.mark.slow
def test_what_does_not_start_is_told_by_its_cause():
    import ray

    from algorithms.igpo.learner.learner import IGPOTorchLearner
    from envs.runner.env_runner import IGPOEnvRunner

    def broken(error: Exception, index: int | None = None):
        """An env runner whose number `index` does not start; None: none does. A local is pickled by value."""

        class Broken(IGPOEnvRunner):
            def _build_loop(self):
                if index in (None, self.worker_index):
                    raise error
                return super()._build_loop()

        return Broken

    class BrokenLearner(IGPOTorchLearner):
        def build(self):
            raise ImportError("no kernels for this machine")

    no_kernels = "ImportError: no kernels for this machine"
    failures = [
        ((1, 0), broken(ImportError("no vllm")), None, "env runner 1 did not start: ImportError: no vllm"),
        ((1, 0), broken(InputError("no folder")), None, "env runner 1 did not start: no folder"),
        ((2, 0), broken(RuntimeError("no GPU"), 2), None, "env runner 2 did not start: RuntimeError: no GPU"),
        ((0, 0), broken(ImportError("no vllm")), None, "no vllm"),
        ((0, 1), None, BrokenLearner, f"a learner did not start: {no_kernels}"),
        ((0, 0), None, BrokenLearner, "no kernels for this machine"),
    ]
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        for (runners, learners), runner, learner, message in failures:
            config = make_config(runners=runners, learners=learners, runner=runner, learner=learner)
            with pytest.raises((StartError, InputError, ImportError)) as failed:
                config.build_algo()
            assert str(failed.value) == message
    finally:
        ray.shutdown()
