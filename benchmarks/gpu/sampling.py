"""Phase `sampling`: the rollout loop against the same requests at once, and what scores cost.

Every turn has all its tokens, whatever they say. The requests are written for `benchmarks.gpu.bare_vllm`,
which gives them to a vLLM as a user would start it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.devices import device_name, device_of
from benchmarks.gpu.results import add_result, write_result
from benchmarks.sampling.rollout_throughput import replay, run_loop
from benchmarks.sampling.rollouts import Recorder, arguments, full_turns, make_jobs, open_engine, open_task
from benchmarks.sampling.scoring_share import naive_seconds, seconds_of
from envs.runner.rollout_loop import RolloutLoop


def measure(args: argparse.Namespace) -> dict[str, Any]:
    task = open_task(args)
    full_turns(task)
    started = time.perf_counter()
    engine = open_engine(args, task)
    start_seconds = time.perf_counter() - started
    recorder: Any = Recorder(engine)
    loop = RolloutLoop(task, {"default_policy": recorder})
    plain, scored = (make_jobs(args, task, score_beliefs=scores) for scores in (False, True))
    few = max(1, len(plain) // 8)
    run_loop(loop, engine, scored[:few])  # the first batch after a start is slower than the rest
    replay(engine, recorder)
    rounds = []
    for _ in range(args.repeats):
        recorder.requests, recorder.results = {}, {}
        speed, tokens, _ = run_loop(loop, engine, plain)
        replayed = replay(engine, recorder)
        without, records = seconds_of(loop, engine, plain)
        with_scores, _ = seconds_of(loop, engine, scored)
        rounds.append(
            {
                "loop_tokens_per_second": speed,
                "replay_tokens_per_second": replayed,
                "against_replay": speed / replayed,
                "sampling_seconds": without[0],
                "score_share": 1 - without[0] / with_scores[0],
            }
        )
        print(rounds[-1], flush=True)
    if args.requests is not None:
        requests = [
            {"ids": request.context_ids, "tokens": len(recorder.results[name].ids), "seed": request.seed}
            for name, request in recorder.requests.items()
        ]
        args.requests.write_text(json.dumps(requests))
    naive, _ = naive_seconds(loop, engine, records)
    return {
        "device": device_name(device_of(args.device)),
        "model": args.model,
        "graphs": not args.eager,
        "engine_start_seconds": start_seconds,
        "rollouts": len(plain),
        "turns": len(recorder.requests),
        "tokens": tokens,
        **{name: max(found[name] for found in rounds) for name in rounds[0] if "per_second" in name},
        "against_replay": max(found["against_replay"] for found in rounds),
        "score_share": min(found["score_share"] for found in rounds),
        "naive_score_share": naive / (naive + rounds[-1]["sampling_seconds"]),
        "rounds": rounds,
    }


def main() -> None:
    parser = arguments(__doc__, repeats=2)
    parser.add_argument("--requests", type=Path, help="write the requests there")
    add_result(parser)
    args = parser.parse_args()
    write_result(args.result, measure(args))


if __name__ == "__main__":
    main()
