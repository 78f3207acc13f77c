"""How long does the engine wait for parsing, tools and tokenising?

    OMP_NUM_THREADS=1 python -m benchmarks.engine_waits

`conf/igpo.yaml` as it stands, 256 rollouts at once (32 prompts x 8), belief scored as in training, the prefix cache emptied
before each batch. The engine waits whenever it is not in a step: while rollouts are set up (prompts and answer templates), while
all of them wait for their tools, and while decisions are parsed, observations tokenised and RLlib's episodes kept.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.rollouts import arguments, forget, make_jobs, open_engine
from envs.runner.rollout_loop import RolloutLoop
from envs.search.task import SearchTask
from pipeline.experiment import load_experiments


def main() -> None:
    args = arguments(__doc__, prompts=32, repeats=5).parse_args()
    [experiment] = load_experiments("conf/igpo.yaml")
    task = SearchTask(experiment.algorithm_config().env_settings())
    engine = open_engine(args, task)
    loop = RolloutLoop(task, {"default_policy": engine})
    jobs = make_jobs(args, task, score_beliefs=True)
    loop.run(jobs)  # the first batch after a start is slower than the rest
    waits = []
    for seed in range(args.repeats):
        jobs = make_jobs(args, task, score_beliefs=True, seed=seed)
        forget(engine)
        started = time.perf_counter()
        episodes, seconds = loop.run(jobs)
        total = time.perf_counter() - started
        parts = {"tools": seconds.tools, "host": seconds.host, "set-up": total - sum(vars(seconds).values())}
        waits.append(sum(parts.values()) / total)
        turns = sum(episode.custom_data["rollout"].num_turns for episode in episodes)
        listed = "   ".join(f"{name} {1e3 * value:5.1f} ms" for name, value in parts.items())
        print(f"{total:5.2f} s, {turns} turns: the engine waits {waits[-1]:.1%}   {listed}", flush=True)
    print(f"{len(jobs)} rollouts at once: the engine waits {statistics.median(waits):.1%} of sampling (median of {len(waits)})")


if __name__ == "__main__":
    main()
