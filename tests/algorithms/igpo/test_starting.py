"""An env runner or a learner that does not start is told by its cause."""

from types import SimpleNamespace

import pytest
from ray.exceptions import RayTaskError
from ray.rllib.utils.actor_manager import FaultTolerantActorManager, RemoteCallResults, ResultOrError
from ray.rllib.utils.checkpoints import Checkpointable

from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.remote import (
    StartError,
    failures_raised,
    last_exception,
    on_runners,
    starting,
    with_traceback,
)
from algorithms.igpo.weights.push import WeightPush
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


class Runners:
    """RLlib's group of env runners in other processes; one that dies is left out of the results."""

    local_env_runner = None

    def __init__(self, *runners, dead=0):
        self.runners, self.dead = runners, dead

    def num_healthy_env_runners(self):
        return len(self.runners) + self.dead

    def foreach_env_runner(self, function, *, local_env_runner, remote_worker_ids):
        return [function(runner) for runner in self.runners]


def test_what_a_runner_raises_is_raised_here():
    assert on_runners(Runners(1, 2), lambda runner: runner + 1) == [2, 3]
    with pytest.raises(RuntimeError, match="an env runner failed: ZeroDivisionError") as failure:
        on_runners(Runners(1, 0), lambda runner: 1 / runner)
    assert "Traceback" in failure.value.__notes__[0]


def test_a_runner_may_die_unless_every_one_must_answer():
    assert on_runners(Runners(1, dead=1), lambda runner: runner) == [1]
    with pytest.raises(RuntimeError, match="1 of 2 env runners failed"):
        on_runners(Runners(1, dead=1), lambda runner: runner, every=True)


def test_an_engine_that_does_not_sleep_ends_the_run_before_the_learner_takes_the_device():
    """RLlib would end the runner and go on, and the cause would be in its log alone."""
    config = IGPOConfig().env_runners(engine={"kind": "transformers", "placement": "colocated"})

    class Runner:
        def sleep(self):
            raise RuntimeError("the engine was put to sleep while requests were running")

    push = WeightPush(config, None, Runners(Runner()))  # without learners: none is asked
    with pytest.raises(RuntimeError, match="an env runner failed: .* while requests were running"):
        push.give_device_to_learner()


def test_weights_that_an_engine_refuses_end_the_run(monkeypatch):
    class Runner:
        def begin_run(self, config, run): ...

        def load_weights(self, modules, version):
            raise ValueError("weights do not fit the engine's model")

    class Learner:
        _learner_index = 0

        def get_state(self, **kwargs):
            return {"rl_module": {"policy": {}}}

    learners = SimpleNamespace(foreach_learner=lambda f, **_: [SimpleNamespace(get=lambda: f(Learner()))])
    monkeypatch.setattr("algorithms.igpo.weights.push.ray", SimpleNamespace(put=lambda x: x, get=lambda x: x))
    with pytest.raises(RuntimeError, match="weights do not fit the engine's model"):
        WeightPush(IGPOConfig(), learners, Runners(Runner())).push(1)


class Learners(FaultTolerantActorManager):
    """RLlib's manager, of a learner in this process: an exception is a result, which RLlib ignores."""

    def __init__(self, learner):
        self.learner = learner

    def healthy_actor_ids(self):
        return [0]

    def foreach_actor(self, function, **kwargs):
        results = RemoteCallResults()
        try:
            results.add_result(0, ResultOrError(result=function(self.learner)), None)
        except Exception as error:
            results.add_result(0, ResultOrError(error=error), None)
        return results


class Group(Checkpointable):
    """As RLlib's `LearnerGroup`: its one component is the manager."""

    def __init__(self, learner):
        self._worker_manager = learner and Learners(learner)

    def get_state(self, components=None, *, not_components=None, **kwargs):
        return {}

    def set_state(self, state):
        pass

    def get_ctor_args_and_kwargs(self):
        return (), {}

    def get_checkpointable_components(self):
        return [("learner", self._worker_manager)] if self._worker_manager else []


class Learner:
    error: Exception | None = None

    def get_state(self):
        return {}

    def save_to_path(self, path, **kwargs):
        if self.error:
            raise self.error
        path.mkdir()

    def restore_from_path(self, path, **kwargs):
        if self.error:
            raise self.error


@pytest.mark.parametrize("act", ["save_to_path", "restore_from_path"])
def test_a_learner_that_cannot_be_saved_or_restored_says_so(tmp_path, act):
    """RLlib goes on: with a checkpoint without the learner, or with other weights than the checkpoint's."""
    learner = Learner()
    group = Group(learner)
    with failures_raised(group):
        group.save_to_path(tmp_path / "good")
        group.restore_from_path(tmp_path / "good")
    learner.error = OSError(28, "No space left on device")
    path = tmp_path / ("bad" if act == "save_to_path" else "good")
    getattr(group, act)(path)  # by itself
    with pytest.raises(OSError, match="No space left"), failures_raised(group):
        getattr(group, act)(path)
    getattr(group, act)(path)  # and again by itself
    with failures_raised(Group(None)):  # the learner in this process raises anyway
        pass
