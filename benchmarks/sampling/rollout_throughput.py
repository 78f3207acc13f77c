"""Compares the rollout loop with the bare engine, and with a loop in which rollouts wait for each other.

    python -m benchmarks.sampling.rollout_throughput
    python -m benchmarks.sampling.rollout_throughput --model smollm2 --prompts 4 --group-size 8 \\
        --max-num-seqs 32
    python -m benchmarks.sampling.rollout_throughput --prompts 128 --varying
    python -m benchmarks.sampling.rollout_throughput --device cuda --dtype bfloat16 --model FOLDER \\
        --prompts 32 --turn-tokens 200 --turns 4 --context 4096 --full-turns

Three ways over the same rollouts (same prompts and seeds), in turn, the prefix cache emptied before each:

- `loop`: the rollout loop, local tools;
- `replay`: the same requests (ids and numbers of tokens), all given to `LLM.generate` at once, which never
  waits;
- `loop` against `barrier` with tools that take 0.5 s a call: the barrier writes all turns, then calls all
  tools at once. No loop is faster than the calls of the rollout that makes most of them, nor than the replay:
  a loop as fast as the slower of these two would reach the ratio called `limit`. With `--varying` a call
  takes 0.5 s on average, as calls over a network vary (exponentially distributed), and the calls of a rollout
  give no bound.

Ratios are medians of pairs that ran one after the other.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from benchmarks.sampling.rollouts import (
    BarrierLoop,
    Recorder,
    arguments,
    forget,
    full_turns,
    make_jobs,
    open_engine,
    open_task,
    slow_tools,
)
from envs.runner.rollout_loop import RolloutLoop
from envs.search.trajectory import Rollout

LATENCY = 0.5


def run_loop(loop: RolloutLoop, engine, jobs) -> tuple[float, int, list[Rollout]]:
    """Written tokens per second, their number, and the rollouts."""
    forget(engine)
    started = time.perf_counter()
    records, _ = loop.run(jobs)
    seconds = time.perf_counter() - started
    rollouts = [record.rollout for record in records]
    tokens = sum(turn.num_decision_tokens for rollout in rollouts for turn in rollout.turns)
    return tokens / seconds, tokens, rollouts


def replay(engine, recorder: Recorder) -> float:
    """Written tokens per second of the recorded turns, all at once, each exactly as long as it was."""
    from vllm import SamplingParams, TokensPrompt

    prompts, params = [], []
    for name, request in recorder.requests.items():
        length = len(recorder.results[name].ids)
        prompts.append(TokensPrompt(prompt_token_ids=request.context_ids))
        sampling = SamplingParams(
            temperature=request.temperature,
            seed=request.seed,
            max_tokens=length,
            min_tokens=length,
            ignore_eos=True,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
        )
        params.append(sampling)
    forget(engine)
    started = time.perf_counter()
    outputs = engine._llm.generate(prompts, params, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs) / (time.perf_counter() - started)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--varying", action="store_true", help="tools take 0.5 s on average, each call another time"
    )
    parser.add_argument(
        "--full-turns", action="store_true", help="every turn takes all its tokens, and searches"
    )
    args = parser.parse_args()
    task = open_task(args)
    if args.full_turns:
        full_turns(task)
    engine = open_engine(args, task)
    jobs = make_jobs(args, task, score_beliefs=False)
    recorder: Any = Recorder(engine)
    loop = RolloutLoop(task, {"default_policy": recorder})
    run_loop(loop, engine, jobs)  # the first batch after a start is slower than the rest
    replay(engine, recorder)

    against_replay, replays = [], []
    for _ in range(args.repeats):
        recorder.requests, recorder.results = {}, {}
        speed, tokens, rollouts = run_loop(loop, engine, jobs)
        replayed = replay(engine, recorder)
        replays.append(replayed)
        against_replay.append(speed / replayed)
        print(
            f"loop {speed:8,.0f} tokens/s   replay {replayed:8,.0f}   ratio {speed / replayed:.2f}   "
            f"({tokens} tokens)",
            flush=True,
        )

    slow_tools(task, lambda: random.expovariate(1 / LATENCY) if args.varying else LATENCY)
    barrier = BarrierLoop(task, {"default_policy": engine})
    most_calls = max(sum(len(turn.tool_calls) for turn in rollout.turns) for rollout in rollouts)
    floor = max(0.0 if args.varying else most_calls * LATENCY, tokens / statistics.median(replays))
    against_barrier, limits = [], []
    told = f"tools of {LATENCY} s" + (" on average" if args.varying else "")
    for _ in range(args.repeats):
        speed, *_ = run_loop(loop, engine, jobs)
        waiting, *_ = run_loop(barrier, engine, jobs)
        against_barrier.append(speed / waiting)
        limits.append(tokens / waiting / floor)
        print(
            f"{told}: loop {speed:8,.0f} tokens/s   barrier {waiting:8,.0f}   ratio {speed / waiting:.2f} "
            f"(limit {limits[-1]:.2f})",
            flush=True,
        )

    turns = len(recorder.requests)
    print(
        f"{args.model}, {len(jobs)} rollouts, {turns} turns of {tokens / turns:.1f} tokens, max_num_seqs "
        f"{args.max_num_seqs}: {statistics.median(against_replay):.2f} of the replay, "
        f"{statistics.median(against_barrier):.2f} times the barrier (limit {statistics.median(limits):.2f}, "
        f"up to {most_calls} calls a rollout)"
    )


if __name__ == "__main__":
    main()
