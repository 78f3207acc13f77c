"""What does sampling cost as groups, turns and tokens grow, and what does a second env runner bring?

    OMP_NUM_THREADS=1 python -m benchmarks.scaling
    OMP_NUM_THREADS=1 python -m benchmarks.scaling --model smollm2 --prompts 2 --group-size 4
    OMP_NUM_THREADS=1 python -m benchmarks.scaling --runners

Without `--runners`: one engine in this process, scores taken, one knob changed at a time, processor seconds; beside them what
`igpo estimate --device cpu` would say of the rollouts that came out. The shortest of the repeats counts.

With `--runners`: whole algorithms of the embedded policy with 1 and 2 env runners sample the same prompts in turn, with a
retriever that answers at once and with one that takes 0.5 s a call; wall-clock, as runners are processes of their own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

from benchmarks.rollouts import arguments, forget, make_jobs, open_engine, open_task
from envs.runner.rollout_loop import RolloutLoop
from envs.search.task import SearchTask

GROUP_SIZES = (2, 4, 8, 16, 32)
TURN_TOKENS = {"tiny": (), "smollm2": (16, 32, 64)}
"""The embedded policy's turns are as short as its protocol is."""


def measure(engine, task: SearchTask, args: argparse.Namespace) -> tuple[float, list]:
    """Processor seconds of sampling, and the rollouts."""
    loop = RolloutLoop(task, {"default_policy": engine})
    jobs = make_jobs(args, task, score_beliefs=True)
    seconds = []
    for _ in range(args.repeats):
        forget(engine)
        started = time.process_time()
        episodes, _ = loop.run(jobs)
        seconds.append(time.process_time() - started)
    loop.close()
    return min(seconds), [episode.custom_data["rollout"] for episode in episodes]


def expected_seconds(device, args: argparse.Namespace, task: SearchTask, rollouts: list) -> float:
    """The capacity model's seconds for rollouts of these lengths."""
    from algorithms.igpo.config import IGPOConfig
    from pipeline.capacity import estimate
    from pipeline.estimate import Expected, model_of, workload_of

    config = IGPOConfig().environment("search", env_config=task.settings.model_dump(exclude={"tokenizer"}))
    config.training(
        model_path=args.model,
        model_dtype="float32" if args.model == "tiny" else "bfloat16",
        prompts_per_iteration=args.prompts,
        group_size=args.group_size,
        engine={"max_num_seqs": args.max_num_seqs},
    )
    turns = [turn for rollout in rollouts for turn in rollout.turns]
    expected = Expected(
        turns=len(turns) / len(rollouts),
        turn_tokens=float(np.mean([turn.num_decision_tokens for turn in turns])),
        observation_tokens=float(np.mean([turn.num_observation_tokens for turn in turns])),
        prompt_tokens=float(np.mean([len(task.protocol.prompt("", r.question.text, ["search", "answer"])) for r in rollouts])),
    )
    found = estimate(model_of(config), workload_of(config, expected, on_cpu=True), device)
    return sum(found.seconds[phase] for phase in ("generate", "prefill", "score"))


def grow(args: argparse.Namespace) -> None:
    import torch

    from pipeline.capacity import this_cpu

    task = open_task(args)
    engine = open_engine(args, task)
    measure(engine, task, args)  # the first batch after a start is slower than the rest
    device = this_cpu(torch.get_num_threads())
    print("| what grows | rollouts | turns | written tokens | processor s | ms a turn | estimate s |", "|---" * 7 + "|", sep="\n")

    def row(label: str, task: SearchTask, **changes: int) -> None:
        changed = argparse.Namespace(**{**vars(args), **changes})
        seconds, rollouts = measure(engine, task, changed)
        turns = [turn for rollout in rollouts for turn in rollout.turns]
        written = sum(turn.num_decision_tokens for turn in turns)
        guess = expected_seconds(device, changed, task, rollouts)
        print(
            f"| {label} | {len(rollouts)} | {len(turns)} | {written:,} | {seconds:.2f} | {1000 * seconds / len(turns):.1f} | "
            f"{guess:.2f} |",
            flush=True,
        )

    for size in GROUP_SIZES:
        row(f"group size {size}", task, group_size=size)
    for turns in range(1, task.settings.max_turns + 1):
        row(f"at most {turns} turns", SearchTask(task.settings.model_copy(update={"max_turns": turns})))
    for tokens in TURN_TOKENS[args.model]:
        row(f"at most {tokens} tokens a turn", SearchTask(task.settings.model_copy(update={"max_turn_tokens": tokens})))


def compare_runners(args: argparse.Namespace) -> None:
    import logging

    import ray

    from benchmarks.weight_lag import LATENCY, build, far_away_retriever

    def sampling_seconds(algorithm: Any, iteration: int) -> float:
        started = time.perf_counter()
        algorithm._sample_batch(iteration)
        return time.perf_counter() - started

    def ratio(url: str | None) -> float:
        one, two = (build(0, url, args.prompts, runners=runners) for runners in (1, 2))
        ratios = []
        for iteration in range(args.repeats + 1):
            seconds = [sampling_seconds(algorithm, iteration) for algorithm in (one, two)]
            print(f"1 runner {seconds[0]:6.2f} s   2 runners {seconds[1]:6.2f} s", flush=True)
            if iteration:
                ratios.append(seconds[0] / seconds[1])
        one.stop()
        two.stop()
        return statistics.median(ratios)

    logging.disable(logging.WARNING)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    local = ratio(None)
    with far_away_retriever(LATENCY) as url:
        remote = ratio(url)
    ray.shutdown()
    print(
        f"{args.prompts} x 8 rollouts, 2 runners: {local:.2f} x as fast with local tools, {remote:.2f} x with {LATENCY} s a call"
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runners", action="store_true", help="compare 1 and 2 env runners instead")
    args = parser.parse_args()
    (compare_runners if args.runners else grow)(args)


if __name__ == "__main__":
    main()
