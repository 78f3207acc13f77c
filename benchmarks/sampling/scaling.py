"""Measures sampling as groups, turns and tokens grow, and with a second env runner.

    OMP_NUM_THREADS=1 python -m benchmarks.sampling.scaling
    OMP_NUM_THREADS=1 python -m benchmarks.sampling.scaling --model smollm2 --prompts 2 --group-size 4 \\
        --repeats 1 --svg scaling.svg
    OMP_NUM_THREADS=1 python -m benchmarks.sampling.scaling --runners

Without `--runners`, one engine in this process samples and scores belief; one setting changes at a time. The
table shows processor seconds, the shortest of the repeats, beside the estimate of `igpo estimate --device
cpu` for the rollouts that came out. `--svg` draws both.

With `--runners`, algorithms of the embedded policy with 1 and 2 env runners sample the same prompts in turn,
with a retriever that answers at once and with one that takes 0.5 s a call. Seconds are wall-clock, because
runners are processes of their own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

from benchmarks.sampling.rollouts import arguments, forget, make_jobs, open_engine, open_task
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
        records, _ = loop.run(jobs)
        seconds.append(time.process_time() - started)
    return min(seconds), [record.rollout for record in records]


def expected_seconds(device, args: argparse.Namespace, task: SearchTask, rollouts: list) -> float:
    """Returns the capacity model's seconds for rollouts of these lengths."""
    from algorithms.igpo.config import IGPOConfig
    from pipeline.estimate.capacity import estimate
    from pipeline.estimate.model import model_of
    from pipeline.estimate.workload import Expected, workload_of

    config = IGPOConfig().environment("search", env_config=task.settings.model_dump(exclude={"tokenizer"}))
    config.training(
        model_path=args.model,
        model_dtype=args.dtype,
        prompts_per_iteration=args.prompts,
        group_size=args.group_size,
        engine={"max_num_seqs": args.max_num_seqs},
    )
    turns = [turn for rollout in rollouts for turn in rollout.turns]
    expected = Expected(
        turns=len(turns) / len(rollouts),
        turn_tokens=float(np.mean([turn.num_decision_tokens for turn in turns])),
        observation_tokens=float(np.mean([turn.num_observation_tokens for turn in turns])),
        prompt_tokens=float(
            np.mean([len(task.protocol.prompt("", r.question.text, ["search", "answer"])) for r in rollouts])
        ),
        answer_tokens=float(
            np.mean([len(task.protocol.scoring_suffix(r.question.golds[0]).ids) for r in rollouts])
        ),
    )
    found = estimate(model_of(config), workload_of(config, expected, on_cpu=True), device)
    return sum(found.seconds[phase] for phase in ("generate", "prefill", "score"))


def grow(args: argparse.Namespace) -> None:
    import torch

    from pipeline.estimate.machines import this_cpu

    task = open_task(args)
    engine = open_engine(args, task)
    measure(engine, task, args)  # the first batch after a start is slower than the rest
    device = this_cpu(torch.get_num_threads(), args.dtype)
    print(
        "| what grows | rollouts | turns | written tokens | processor s | ms a turn | estimate s |",
        "|---" * 7 + "|",
        sep="\n",
    )

    points: list[dict[str, Any]] = []

    def row(knob: str, value: int, task: SearchTask, **changes: int) -> None:
        changed = argparse.Namespace(**{**vars(args), **changes})
        seconds, rollouts = measure(engine, task, changed)
        turns = [turn for rollout in rollouts for turn in rollout.turns]
        written = sum(turn.num_decision_tokens for turn in turns)
        guess = expected_seconds(device, changed, task, rollouts)
        print(
            f"| {knob} {value} | {len(rollouts)} | {len(turns)} | {written:,} | {seconds:.2f} | "
            f"{1000 * seconds / len(turns):.1f} | {guess:.2f} |",
            flush=True,
        )
        for kind, amount in (("measured", seconds), ("estimated", guess)):
            points.append({"knob": knob, "value": value, "seconds": amount, "kind": kind})

    for size in GROUP_SIZES:
        row("group size", size, task, group_size=size)
    for turns in range(1, task.settings.max_turns + 1):
        row("turns, at most", turns, SearchTask(task.settings.model_copy(update={"max_turns": turns})))
    for tokens in TURN_TOKENS[args.model]:
        row(
            "tokens a turn, at most",
            tokens,
            SearchTask(task.settings.model_copy(update={"max_turn_tokens": tokens})),
        )
    if args.svg is not None:
        draw(points, args.svg)


def draw(points: list[dict[str, Any]], path: str) -> None:
    """A panel for each knob: processor seconds, measured and estimated."""
    import altair as alt

    panels = []
    for knob in dict.fromkeys(point["knob"] for point in points):
        own = alt.Data(values=[point for point in points if point["knob"] == knob])
        lines: Any = alt.Chart(own, width=220, height=200).mark_line(point=True)
        panels.append(
            lines.encode(
                x=alt.X("value:Q", title=knob, axis=alt.Axis(tickMinStep=1)),
                y=alt.Y("seconds:Q", title="processor seconds"),
                color=alt.Color(
                    "kind:N", title=None, sort=["measured", "estimated"], legend=alt.Legend(orient="top")
                ),
                strokeDash=alt.StrokeDash("kind:N", sort=["measured", "estimated"], legend=None),
            )
        )
    alt.hconcat(*panels, background="white").save(path)


def compare_runners(args: argparse.Namespace) -> None:
    import logging

    import ray

    from algorithms.igpo.sampling import sample_batch
    from benchmarks.sampling.weight_lag import LATENCY, build, far_away_retriever

    def sampling_seconds(algorithm: Any, iteration: int) -> float:
        started = time.perf_counter()
        parts = (algorithm.config, algorithm.task, algorithm.prompt_sampler, algorithm.sampler)
        sample_batch(*parts, algorithm.weights_version, iteration)
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
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    local = ratio(None)
    with far_away_retriever(LATENCY) as url:
        remote = ratio(url)
    ray.shutdown()
    print(
        f"{args.prompts} x 8 rollouts, 2 runners: {local:.2f} x as fast with local tools, {remote:.2f} x "
        f"with {LATENCY} s a call"
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--svg", help="file to draw the curves to")
    parser.add_argument("--runners", action="store_true", help="compare 1 and 2 env runners instead")
    args = parser.parse_args()
    (compare_runners if args.runners else grow)(args)


if __name__ == "__main__":
    main()
