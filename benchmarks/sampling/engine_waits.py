"""Measures how long the engine waits for parsing, tools and tokenising.

    OMP_NUM_THREADS=1 python -m benchmarks.sampling.engine_waits

The rollouts are those of `conf/igpo.yaml`, 256 at once (32 prompts x 8). Belief is scored as in training, and
the prefix cache is empty before each batch. Until its last request is answered, the engine waits whenever it
is not in a call of its own: while rollouts are set up (prompts, answer templates), while all of them wait for
their tools, while decisions are parsed and observations tokenised. The output also names the share of this
that episodes and tools take (to parse, call, tokenise); the rest is the loop's bookkeeping. RLlib's episodes
are made later, on the driver, and are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.sampling.rollouts import arguments, forget, make_jobs, open_engine
from envs.engine.vllm import VLLMEngine
from envs.runner.rollout_loop import RolloutLoop
from envs.search.episode import SearchEpisode
from envs.search.task import SearchTask
from envs.search.tools.base import Toolbox
from pipeline.experiment.experiment import load_experiments


class Clocked:
    """An engine whose calls are timed.

    Wall-clock: asking for processor time takes microseconds, as much as what is measured.
    """

    def __init__(self, engine: VLLMEngine):
        self._engine = engine
        self.begin()

    def begin(self) -> None:
        self.busy = 0.0
        """Seconds in the engine's calls."""
        self.worked = 0.0
        """Seconds in which episodes and tools parsed, called and tokenised."""
        self.started = self.ended = time.perf_counter()
        """When the batch began, and when the last call returned."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, request) -> None:
        self._timed(self._engine.submit, request)

    def step(self) -> list:
        return self._timed(self._engine.step)

    def _timed(self, call: Callable, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = call(*arguments)
        self.ended = time.perf_counter()
        self.busy += self.ended - started
        return result


def clock_work(engine: Clocked) -> None:
    """From here on the methods that parse, call and tokenise add their time to `engine.worked`."""
    methods = [(SearchEpisode, name) for name in ("__init__", "start", "decide", "observe")]
    for owner, name in [*methods, (Toolbox, "call_at_once")]:
        setattr(owner, name, _adding(getattr(owner, name), engine))


def _adding(method: Callable, engine: Clocked) -> Callable:
    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = method(*arguments, **named)
        engine.worked += time.perf_counter() - started
        return result

    return timed


def main() -> None:
    args = arguments(__doc__, prompts=32, repeats=5).parse_args()
    [experiment] = load_experiments("conf/igpo.yaml")
    task = SearchTask(experiment.algorithm_config().env_settings())
    engine: Any = Clocked(open_engine(args, task))
    loop = RolloutLoop(task, {"default_policy": engine})
    loop.run(
        make_jobs(args, task, score_beliefs=True)
    )  # the first batch after a start is slower than the rest
    clock_work(engine)
    shares = []
    for seed in range(args.repeats):
        jobs = make_jobs(args, task, score_beliefs=True, seed=seed)
        forget(engine)
        engine.begin()
        records, seconds = loop.run(jobs)
        total = engine.ended - engine.started
        waits = total - engine.busy
        shares.append((waits / total, engine.worked / total))
        turns = sum(record.rollout.num_turns for record in records)
        print(
            f"{total:5.2f} s, {turns} turns: the engine waits {1e3 * waits:.0f} ms, {shares[-1][0]:.1%}, "
            f"{1e3 * engine.worked:.0f} ms of it to parse, call and tokenise, {1e3 * seconds.tools:.0f} ms "
            "for slow tools",
            flush=True,
        )
    waits, worked = np.median(shares, axis=0)
    print(
        f"{len(jobs)} rollouts at once: the engine waits {waits:.1%} of sampling, {worked:.1%} to parse, "
        f"call and tokenise; medians of {len(shares)}"
    )


if __name__ == "__main__":
    main()
