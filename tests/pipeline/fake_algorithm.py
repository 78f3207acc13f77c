"""A small stand-in for `IGPO`: counts its calls, makes records, saves and restores its iteration."""

import json
import os

from algorithms.igpo.record import IterationRecord
from envs.search.trajectory import Question, Rollout, Termination


class FakeAlgorithm:
    """Held-out EM is `em_of(iteration)` of the questions; `on_train(algorithm)` runs inside each train()."""

    def __init__(self, em_of=lambda iteration: min(iteration, 10) / 10, interval=2, on_train=None, questions=10):
        self.iteration = 0
        self.records = []
        self.em_of, self.interval, self.on_train, self.questions = em_of, interval, on_train, questions
        self.calls = []

    def train(self):
        if self.on_train:
            self.on_train(self)
        self.iteration += 1
        self.calls.append(f"train {self.iteration}")
        self.records = [self._record("train")]
        result = {"training_iteration": self.iteration, "igpo": {"em": 0.5, "f1": 0.6, "gain_mean": 0.01}}
        if self.interval and self.iteration % self.interval == 0:
            self.records.append(self._record("heldout"))
            result["evaluation"] = self._scores()
        return result

    def evaluate(self):
        self.calls.append(f"evaluate {self.iteration}")
        self.records = [self._record("heldout")]
        return self._scores()

    def save_to_path(self, path):
        self.calls.append(f"save {self.iteration}")
        os.makedirs(path)
        with open(os.path.join(path, "state.json"), "w") as file:
            json.dump({"iteration": self.iteration}, file)
        return path

    def restore_from_path(self, path):
        with open(os.path.join(path, "state.json")) as file:
            self.iteration = json.load(file)["iteration"]

    def stop(self):
        self.calls.append("stop")

    def _scores(self):
        em = self.em_of(self.iteration)
        return {"em_squad": em, "f1_squad": em, "questions": float(self.questions), "em_squad_hops_1": em}

    def _record(self, split):
        right = round(self.em_of(self.iteration) * self.questions)
        rollouts = [
            Rollout(
                id=f"{split}-{self.iteration}-{n}",
                group_id=f"{split}-{self.iteration}-{n}",
                question=Question(id=f"q{n}", text="?", golds=["a"], hops=1 + n % 2),
                split=split,
                termination=Termination.ANSWERED,
                metrics={name: float(n < right) for name in ("f1_paper", "em_paper", "f1_squad", "em_squad")},
            )
            for n in range(self.questions)
        ]
        return IterationRecord(iteration=self.iteration, split=split, weights_version=self.iteration, rollouts=rollouts)


class FakeTracker:
    def __init__(self):
        self.logged, self.committed = [], []

    def log(self, iteration, metrics):
        self.logged.append((iteration, sorted(metrics)))

    def commit(self, iteration):
        self.committed.append(iteration)
