"""Measures what belief scoring adds to sampling.

    python -m benchmarks.sampling.scoring_share
    python -m benchmarks.sampling.scoring_share --model smollm2 --prompts 1 --max-num-seqs 8 --turns 3 \\
        --turn-tokens 400 --full-turns
    python -m benchmarks.sampling.scoring_share --device cuda --dtype bfloat16 --model FOLDER --prompts 32 \\
        --turn-tokens 200 --turns 4 --context 4096 --full-turns

The same rollouts (same prompts and seeds) are made in turn without scores and with scores as training takes
them: requests of the running engine, the prompt of a group scored once, contexts out of the prefix cache,
which is empty at the start. The naive scores of most implementations are taken after sampling, every context
and answer in full. The cost is the additional time as a share of sampling with scores: wall-clock, and in
square brackets processor time.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.sampling.rollouts import arguments, forget, full_turns, make_jobs, open_engine, open_task
from envs.engine.base import ScoreAnswer
from envs.runner.episode_record import EpisodeRecord
from envs.runner.rollout_loop import RolloutLoop


def now() -> np.ndarray:
    """Wall-clock and this process's processor time."""
    return np.array([time.perf_counter(), time.process_time()])


def seconds_of(loop: RolloutLoop, engine, jobs) -> tuple[np.ndarray, list[EpisodeRecord]]:
    forget(engine)
    started = now()
    records, _ = loop.run(jobs)
    return now() - started, records


def turn_tokens(records: list[EpisodeRecord]) -> list[int]:
    return [turn.num_decision_tokens for record in records for turn in record.rollout.turns]


def naive_seconds(loop: RolloutLoop, engine, records: list[EpisodeRecord]) -> np.ndarray:
    """Scores every context of every rollout with each alias, nothing shared and nothing cached."""
    contexts, suffixes = [], []
    for record in records:
        rollout = record.rollout
        agent = next(iter(record.episode(loop.task.policy_of).agent_episodes.values()))
        observations, decisions = agent.get_observations(), agent.get_actions()
        history = observations[0].tolist()
        for turn in range(len(rollout.gain_bearing_turns) + 1):
            if turn:
                history = [*history, *decisions[turn - 1].tolist(), *observations[turn].tolist()]
            for suffix in loop.task.answer_templates(rollout.question).suffixes_K:
                contexts.append(history)
                suffixes.append(suffix)
    started = now()
    for k, (context, suffix) in enumerate(zip(contexts, suffixes, strict=True)):
        engine._submit_score(ScoreAnswer(str(k), context, suffix.ids, suffix.gold_mask_L), read_cache=False)
    while engine.is_busy:
        engine.step()
    return now() - started


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--full-turns", action="store_true", help="every turn takes all its tokens, and searches"
    )
    args = parser.parse_args()
    task = open_task(args)
    if args.full_turns:
        full_turns(task)
    engine = open_engine(args, task)
    plain, scored = (make_jobs(args, task, score_beliefs=scores) for scores in (False, True))
    loop = RolloutLoop(task, {"default_policy": engine})
    _, records = seconds_of(loop, engine, scored[:1])  # the first batch after a start is slower than the rest
    naive_seconds(loop, engine, records)
    shares, naive_shares = [], []
    for _ in range(args.repeats):
        without, records = seconds_of(loop, engine, plain)
        with_scores, scored_records = seconds_of(loop, engine, scored)
        naive = naive_seconds(loop, engine, records)
        shares.append(1 - without / with_scores)
        naive_shares.append(naive / (without + naive))
        print(
            f"without {without[0]:6.2f} s   with scores {with_scores[0]:6.2f} s ({told(shares[-1])})   naive "
            f"{naive[0]:6.2f} s more ({told(naive_shares[-1])})   {sum(turn_tokens(records))} and "
            f"{sum(turn_tokens(scored_records))} tokens",
            flush=True,
        )
    turns = turn_tokens(scored_records)
    print(
        f"{args.model}, {len(scored)} rollouts, {len(turns)} turns of {np.mean(turns):.1f} tokens: scores "
        f"are {told(np.median(shares, axis=0))} of sampling, naive scores "
        f"{told(np.median(naive_shares, axis=0))}"
    )


def told(share: np.ndarray) -> str:
    return f"{share[0]:.1%} [{share[1]:.1%}]"


if __name__ == "__main__":
    main()
