"""Two env runners and two learners (gloo) in four processes take turns: no engine is awake while a learner is
on its device, also where a runner dies meanwhile; and what is learnt is what `separate` learns.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from colocated_config import pairs_config
from local_ray import local_ray

from algorithms.igpo.learner.learner import IGPOTorchLearner
from algorithms.igpo.weights.colocation import check_pairs, gpus_here
from envs.engine.base import NO_WEIGHTS
from envs.errors import InputError
from envs.runner.env_runner import IGPOEnvRunner

PAIRS = 2


class Notes:
    """Lines that several processes add to one file, in the order in which they happen."""

    def __init__(self, path: Path):
        self.path = str(path)

    def add(self, who: str, what: str) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{who} {what}\n")

    def take(self) -> list[tuple[str, str]]:
        path = Path(self.path)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.write_text("", encoding="utf-8")
        return [(who, what) for who, what in (line.split() for line in lines)]


def noting(notes: Notes):
    """An env runner and a learner that note their turns: what takes a device before it does, what frees one
    after it has. Locals are pickled by value.
    """

    class Runner(IGPOEnvRunner):
        def load_weights(self, modules, version):
            notes.add(f"engine{self.worker_index}", "wakes")
            return super().load_weights(modules, version)

        def sleep(self):
            super().sleep()
            notes.add(f"engine{self.worker_index}", "sleeps")

    class Learner(IGPOTorchLearner):
        def enter_device(self):
            notes.add(f"learner{self._learner_index}", "enters")
            super().enter_device()

        def leave_device(self):
            super().leave_device()
            notes.add(f"learner{self._learner_index}", "leaves")

        def _uncompiled_update(self, *args, **kwargs):
            notes.add(f"learner{self._learner_index}", "updates")
            return super()._uncompiled_update(*args, **kwargs)

        def _set_optimizer_state(self, state):
            notes.add(f"learner{self._learner_index}", "restores")
            super()._set_optimizer_state(state)

    return Runner, Learner


def make_config(placement: str, notes: Notes):
    runner, learner = noting(notes)
    config = pairs_config(PAIRS, placement=placement)
    return config.env_runners(env_runner_cls=runner).learners(learner_class=learner)


def phases(noted: list[tuple[str, str]]) -> list[tuple[str, set[str]]]:
    """What happened, one after the other, each with all who did it: the order among these is free."""
    found: list[tuple[str, set[str]]] = []
    for who, what in noted:
        if not found or found[-1][0] != what:
            found.append((what, set()))
        assert who not in found[-1][1], f"{who} {what} twice"
        found[-1][1].add(who)
    return found


ENGINES, LEARNERS = {"engine1", "engine2"}, {"learner0", "learner1"}
TURN = [
    ("sleeps", ENGINES),
    ("enters", LEARNERS),
    ("updates", LEARNERS),
    ("leaves", LEARNERS),
    ("wakes", ENGINES),
]
RESTORED = [("restores", who) if what == "updates" else (what, who) for what, who in TURN]


def moments_of(learner) -> np.ndarray:
    (optimizer,) = learner._named_optimizers.values()
    return np.concatenate([slots["exp_avg"].flatten().numpy() for slots in optimizer.state.values()])


@pytest.mark.slow
def test_the_pairs_that_ray_makes_on_two_gpus():
    """Ray's own bookkeeping of GPUs, which needs none."""
    with local_ray(num_cpus=1, num_gpus=2) as ray:

        def placed(share: float, number: int = PAIRS):
            """Actors with their share of a GPU each, and their GPUs."""
            kind = ray.remote(num_cpus=0, num_gpus=share)(Placed)
            actors = [kind.remote() for _ in range(number)]
            return actors, dict(enumerate(ray.get([actor.gpus.remote() for actor in actors])))

        runners, of_runners = placed(0.6)
        learners, of_learners = placed(0.4)
        check_pairs(of_runners, of_learners)
        for actor in runners + learners:
            ray.kill(actor)
        _, of_halves = placed(0.5, PAIRS + 1)  # so that two of them are on one GPU
        with pytest.raises(InputError, match="env runners . and . are both on GPU"):
            check_pairs(of_halves, of_learners)


class Placed:
    def gpus(self):
        return gpus_here()


@pytest.mark.slow
def test_pairs_take_turns_and_learn_what_separate_ones_learn(tmp_path):
    with local_ray(num_cpus=2 * PAIRS) as ray:
        _compare_placements(ray, tmp_path)


def _compare_placements(ray, tmp_path) -> None:
    moments, decisions, metrics = {}, {}, {}
    for placement in ("separate", "colocated"):
        notes = Notes(tmp_path / placement)
        algorithm = make_config(placement, notes).build_algo()
        try:
            started = phases(notes.take())
            assert started == ([("leaves", LEARNERS)] if placement == "colocated" else []) + TURN[-1:]
            for _ in range(2):
                metrics[placement] = algorithm.train()["igpo"]
                turn = phases(notes.take())
                assert turn == (TURN if placement == "colocated" else [TURN[2], TURN[4]])
            of_each = [result.get() for result in algorithm.learner_group.foreach_learner(moments_of)]
            np.testing.assert_array_equal(*of_each)
            moments[placement] = of_each[0]
            decisions[placement] = [
                turn.decision_text for rollout in algorithm.records[0].rollouts for turn in rollout.turns
            ]
            if placement == "colocated":
                _restored_in_turns(algorithm, notes, tmp_path / "checkpoint")
                _lost_runner_stays_asleep(ray, algorithm, notes)
        finally:
            algorithm.stop()
    # Mean gradients, not weights: `test_placement.py` says why.
    np.testing.assert_allclose(
        moments["colocated"], moments["separate"], atol=1e-3 * np.abs(moments["separate"]).max()
    )
    assert decisions["colocated"] == decisions["separate"]
    for name in ("outcome_mean", "loss", "kl", "tokens_sampled", "weights_version"):
        assert metrics["colocated"][name] == pytest.approx(metrics["separate"][name], rel=1e-4, abs=1e-6), (
            name
        )


def _restored_in_turns(algorithm, notes, folder) -> None:
    algorithm.save_to_path(str(folder))
    assert notes.take() == []
    algorithm.restore_from_path(str(folder))
    assert phases(notes.take()) == RESTORED
    algorithm.set_state(algorithm.get_state())
    assert phases(notes.take()) == RESTORED


def _lost_runner_stays_asleep(ray, algorithm, notes) -> None:
    """A runner that dies while the learners have their devices comes back without engine until the push."""
    runner = algorithm.env_runner_group._worker_manager.actors()[2]
    pid, learn = ray.get(runner.apply.remote(lambda _: os.getpid())), algorithm._learn
    held = []

    def learn_without_runner(episodes):
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 240
        while (found := _look(ray, runner)) is None or found[0] == pid:
            assert time.monotonic() < deadline, "Ray did not start the runner anew"
            time.sleep(0.5)
        held.append(found[1:])
        return learn(episodes)

    algorithm._learn = learn_without_runner
    algorithm.train()
    assert held == [(True, NO_WEIGHTS)]
    assert phases(notes.take()) == TURN
    algorithm._learn = learn
    assert algorithm.train()["igpo"]["rollouts_sampled"] == 8
    assert phases(notes.take()) == TURN


def _look(ray, runner) -> tuple[int, bool, int] | None:
    """Process of a runner, whether it has no engine, and its version; None where it does not answer."""
    try:
        return ray.get(
            runner.apply.remote(lambda self: (os.getpid(), self.loop is None, self.weights_version)),
            timeout=60,
        )
    except ray.exceptions.RayActorError:
        return None
