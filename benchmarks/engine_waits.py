"""How long does the engine wait for parsing, tools and tokenising?

    OMP_NUM_THREADS=1 python -m benchmarks.engine_waits

`conf/igpo.yaml` as it stands, 256 rollouts at once (32 prompts x 8), belief scored as in training, the prefix cache emptied
before each batch. Whatever part of a batch is not spent in the engine's own calls it waits: while rollouts are set up (prompts,
answer templates), while all of them wait for their tools, and while decisions are parsed, observations tokenised and RLlib's
episodes kept. Wall-clock; in brackets processor time of the thread that does all this, which other work hardly touches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.rollouts import arguments, forget, make_jobs, open_engine
from envs.runner.rollout_loop import RolloutLoop
from envs.runner.vllm_engine import VLLMEngine
from envs.search.task import SearchTask
from pipeline.experiment import load_experiments


class Clocked:
    """An engine whose calls are timed; `seconds` is wall-clock and processor time."""

    def __init__(self, engine: VLLMEngine):
        self._engine = engine
        self.seconds = np.zeros(2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, request) -> None:
        self._timed(self._engine.submit, request)

    def step(self) -> list:
        return self._timed(self._engine.step)

    def _timed(self, call: Callable, *arguments: Any) -> Any:
        started = now()
        result = call(*arguments)
        self.seconds += now() - started
        return result


def now() -> np.ndarray:
    """Wall-clock and this thread's processor time."""
    return np.array([time.perf_counter(), time.thread_time()])


def main() -> None:
    args = arguments(__doc__, prompts=32, repeats=5).parse_args()
    [experiment] = load_experiments("conf/igpo.yaml")
    task = SearchTask(experiment.algorithm_config().env_settings())
    engine: Any = Clocked(open_engine(args, task))
    loop = RolloutLoop(task, {"default_policy": engine})
    loop.run(make_jobs(args, task, score_beliefs=True))  # the first batch after a start is slower than the rest
    shares = []
    for seed in range(args.repeats):
        jobs = make_jobs(args, task, score_beliefs=True, seed=seed)
        forget(engine)
        engine.seconds, started = np.zeros(2), now()
        episodes, seconds = loop.run(jobs)
        totals = now() - started
        waits = totals - engine.seconds
        shares.append(waits / totals)
        turns = sum(episode.custom_data["rollout"].num_turns for episode in episodes)
        print(
            f"{totals[0]:5.2f} s ({totals[1]:.2f}), {turns} turns: the engine waits {1e3 * waits[0]:.0f} ms "
            f"({1e3 * waits[1]:.0f}), {shares[-1][0]:.1%} ({shares[-1][1]:.1%}); {1e3 * seconds.tools:.0f} ms of it for tools",
            flush=True,
        )
    wall, cpu = np.median(shares, axis=0)
    print(f"{len(jobs)} rollouts at once: the engine waits {wall:.1%} ({cpu:.1%}) of sampling, median of {len(shares)}")


if __name__ == "__main__":
    main()
