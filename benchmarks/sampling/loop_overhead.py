"""Measures the processor time of a turn beside the engine.

    OMP_NUM_THREADS=1 python -m benchmarks.sampling.loop_overhead
    OMP_NUM_THREADS=1 python -m benchmarks.sampling.loop_overhead --profile
    OMP_NUM_THREADS=1 python -m benchmarks.sampling.loop_overhead --transport

The rollouts are those of `conf/igpo.yaml`, 256 at once (32 prompts x 8), with an engine that answers at once.
Two thirds of the turns search, for one of a few things that the group asks about. What is left is the loop's
own work: prompts, parsing, tools, tokenising, requests. Processor time hardly depends on other work on the
machine.

`--transport` measures the way of the rollouts from the env runner to the driver, as records and as RLlib's
episodes. In both cases the driver ends with episodes.
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import pickle
import pstats
import time
from typing import Any

import numpy as np

from envs.engine.base import Generate, Generated, ScoreAnswer, Scored
from envs.runner.episode_record import EpisodeRecord
from envs.runner.job import RolloutJob
from envs.runner.rollout_loop import RolloutLoop
from envs.search.protocols.base import Action
from envs.search.task import SearchTask
from envs.search.trajectory import ActionKind
from pipeline.experiment.experiment import load_experiments

PROMPTS, GROUP_SIZE, BATCHES = 32, 8, 12
DECISIONS_A_STEP = 64
LARGEST = 25


class InstantEngine:
    """Turns end a few at a time, as they come about; `seconds` is processor time spent here."""

    weights_version = 0

    def __init__(self, task: SearchTask):
        titles = [document.title for document in task.corpus or ()]
        self._searches = [
            task.protocol.decision(
                Action(ActionKind.TOOL, tool="search", arguments={"query": f"{title} mother"})
            )
            for title in titles
        ]
        self._answer = task.protocol.decision(Action(ActionKind.ANSWER, text="red"))
        self._requests: list[Any] = []
        self.seconds = 0.0

    def submit(self, request) -> None:
        self._requests.append(request)

    @property
    def is_busy(self) -> bool:
        return bool(self._requests)

    def step(self) -> list[Generated | Scored]:
        started = time.thread_time()
        results: list[Generated | Scored] = [
            Scored(request.request_id, -1.0) for request in self._requests if isinstance(request, ScoreAnswer)
        ]
        turns = [request for request in self._requests if isinstance(request, Generate)]
        results += [self._decide(request) for request in turns[:DECISIONS_A_STEP]]
        self._requests = turns[DECISIONS_A_STEP:]
        self.seconds += time.thread_time() - started
        return results

    def _decide(self, request: Generate) -> Generated:
        _, prompt, _, turn = request.request_id.split("/")
        draw = request.seed % 3
        ids = (
            self._answer
            if draw == 0
            else self._searches[(5 * int(prompt) + int(turn) + draw) % len(self._searches)]
        )
        return Generated(request.request_id, list(ids), np.zeros(len(ids), np.float32), "stop")


def jobs_of(task: SearchTask, seed: int) -> list[RolloutJob]:
    questions = task.train_questions
    return [
        RolloutJob(questions[(seed * PROMPTS + k) % len(questions)], f"{k}/{g}", str(k), (seed, 0, k, g))
        for k in range(PROMPTS)
        for g in range(GROUP_SIZE)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--profile", action="store_true", help="the loop's functions that take longest, in its own thread"
    )
    parser.add_argument(
        "--transport", action="store_true", help="measure the way from env runner to driver instead"
    )
    args = parser.parse_args()
    [experiment] = load_experiments("conf/igpo.yaml")
    task = SearchTask(experiment.algorithm_config().env_settings())
    engine: Any = InstantEngine(task)
    loop = RolloutLoop(task, {"default_policy": engine})
    records, _ = loop.run(jobs_of(task, 0))
    if args.transport:
        compare_transport(records, task)
        return
    profile = cProfile.Profile(time.thread_time)
    microseconds = []
    for seed in range(1, BATCHES):
        engine.seconds, started = 0.0, np.array([time.thread_time(), time.process_time()])
        if args.profile:
            profile.enable()
        records, _ = loop.run(jobs_of(task, seed))
        profile.disable()
        spent = np.array([time.thread_time(), time.process_time()]) - started - engine.seconds
        turns = sum(record.rollout.num_turns for record in records)
        microseconds.append(1e6 * spent / turns)
    if args.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(r"envs|rllib", LARGEST)
    own, all_threads = np.median(microseconds, axis=0)
    print(
        f"{own:.0f} us a turn in the loop's thread, {all_threads:.0f} us in all threads, median of "
        f"{len(microseconds)} batches"
    )


def compare_transport(records: list[EpisodeRecord], task: SearchTask) -> None:
    """Prints the milliseconds of both ways, medians of alternating repeats."""
    import ray

    def as_records() -> None:
        reference = ray.put(pickle.dumps(records, pickle.HIGHEST_PROTOCOL))
        _ = [record.episode(task.policy_of) for record in pickle.loads(ray.get(reference))]

    def as_episodes() -> None:
        ray.get(ray.put([record.episode(task.policy_of) for record in records]))

    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    ways = {"as records": as_records, "as episodes": as_episodes}
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(BATCHES):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            milliseconds[name].append(1e3 * (time.perf_counter() - started))
    ray.shutdown()
    told = ", ".join(f"{name} {np.median(taken):.0f} ms" for name, taken in milliseconds.items())
    print(
        f"{len(records)} rollouts of {sum(record.rollout.num_turns for record in records)} turns to the "
        f"driver: {told}"
    )


if __name__ == "__main__":
    main()
