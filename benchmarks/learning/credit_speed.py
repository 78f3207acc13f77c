"""Compares the speed of credit by turns with the usual loop over tokens.

    python -m benchmarks.learning.credit_speed

The baseline does what trainers built on padded token matrices do: rewards on the last token of each turn,
masked z-scores over the matrix, one reverse loop over all token positions (vectorised over rollouts, torch on
the CPU). Both sides compute the same igpo advantages, which is checked. The default size is the paper's
batch: 512 rollouts of 10 turns of 2,000 tokens.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

import numpy as np

from algorithms.credit import EPS, TurnBatch, assign_credit, get_preset


def make_batch(rollouts: int, turns: int, group: int, long_turns: int | None = None) -> TurnBatch:
    """`rollouts` of `turns` turns, in groups of `group`; the last one has `long_turns` if that is given."""
    rng = np.random.default_rng(0)
    turns_N = np.full(rollouts, turns)
    if long_turns is not None:
        turns_N[-1] = long_turns
    bearing_M = np.ones(turns_N.sum(), dtype=bool)
    bearing_M[np.cumsum(turns_N) - 1] = False
    return TurnBatch(
        group_N=np.arange(rollouts) // group,
        turns_N=turns_N,
        outcome_N=rng.random(rollouts),
        gains_M=rng.normal(size=bearing_M.size),
        gain_bearing_M=bearing_M,
    )


def padded_inputs(batch: TurnBatch, tokens: int):
    """Token matrices as a padded trainer holds them: gains and outcomes on the last token of their turn, and
    the two masks."""
    import torch

    width = int(batch.turns_N.max()) * tokens
    shape = (batch.num_rollouts, width)
    gains, outcomes = torch.zeros(shape), torch.zeros(shape)
    gain_mask, outcome_mask = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    turn_M = np.arange(batch.rollout_M.size) - (batch.last_N - batch.turns_N + 1)[batch.rollout_M]
    column_M = (turn_M + 1) * tokens - 1
    row, column = batch.rollout_M[batch.gain_bearing_M], column_M[batch.gain_bearing_M]
    gains[row, column] = torch.as_tensor(batch.gains_M[batch.gain_bearing_M], dtype=torch.float32)
    gain_mask[row, column] = True
    rows = np.arange(batch.num_rollouts)
    outcomes[rows, column_M[batch.last_N]] = torch.as_tensor(batch.outcome_N, dtype=torch.float32)
    outcome_mask[rows, column_M[batch.last_N]] = True
    return gains, outcomes, gain_mask, outcome_mask, torch.as_tensor(batch.group_N)


def per_token_loop(gains, outcomes, gain_mask, outcome_mask, group, gamma: float = 1.0):
    """The baseline: igpo over the padded matrix. gamma acts where a turn begins, so that exponents count
    turns.
    """
    import torch

    rewards = torch.zeros_like(gains)
    for label in group.unique():
        rows = group == label
        for values, mask in ((gains, gain_mask), (outcomes, outcome_mask)):
            members = values[rows][mask[rows]]
            normal = (values[rows] - members.mean()) / (members.std(correction=0) + EPS)
            rewards[rows] += torch.where(mask[rows], normal, 0.0)
    boundary = gain_mask | outcome_mask
    advantages = torch.zeros_like(rewards)
    running = torch.zeros(rewards.shape[0])
    for token in reversed(range(rewards.shape[1])):
        running = torch.where(boundary[:, token], rewards[:, token] + gamma * running, running)
        advantages[:, token] = running
    return advantages


def best_seconds(function, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def peak_bytes(function) -> int:
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, default=512)
    parser.add_argument("--turns", type=int, default=10, help="turns per rollout")
    parser.add_argument("--tokens", type=int, default=2000, help="tokens per turn")
    parser.add_argument("--group", type=int, default=16, help="rollouts per prompt")
    parser.add_argument(
        "--repeats", type=int, default=20, help="runs of the fast side; the baseline runs 3 times"
    )
    args = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    config = get_preset("igpo").credit
    batch = make_batch(args.rollouts, args.turns, args.group)
    matrices = padded_inputs(batch, args.tokens)
    expected = per_token_loop(*matrices)
    advantages_M = assign_credit(batch, config).advantages_M
    by_token = torch.as_tensor(np.repeat(advantages_M, args.tokens).reshape(expected.shape))
    gap = float((by_token - expected).abs().max())
    if gap > 1e-3:
        raise SystemExit(f"the two sides disagree by {gap:.1e}: the benchmark compares different things")

    def credit(turns: TurnBatch = batch) -> np.ndarray:
        """Does what a training step does: checks and flattens the rewards, then assigns."""
        fresh = TurnBatch(turns.group_N, turns.turns_N, turns.outcome_N, turns.gains_M, turns.gain_bearing_M)
        return assign_credit(fresh, config).advantages_M

    fast = best_seconds(credit, args.repeats)
    spread = best_seconds(lambda: np.repeat(credit().astype(np.float32), args.tokens), min(args.repeats, 5))
    loop = best_seconds(lambda: per_token_loop(*matrices), 3)
    longer = make_batch(args.rollouts, args.turns, args.group, long_turns=20 * args.turns)
    peak, longer_peak = peak_bytes(credit), peak_bytes(lambda: credit(longer))
    matrix = expected.numel() * expected.element_size()

    size = f"{args.rollouts} rollouts x {args.turns} turns x {args.tokens} tokens"
    longest = f"the same with one rollout of {20 * args.turns} turns"
    growth = f"turns x {longer.rollout_M.size / batch.rollout_M.size:.2f}, a padded matrix x 20"
    print(f"{size}, igpo, one thread; largest difference {gap:.0e}")
    print(f"{'per-token loop over the padded matrix':42}{loop * 1e3:10.2f} ms")
    print(f"{'credit by turns':42}{fast * 1e3:10.2f} ms   {loop / fast:6.0f} x faster")
    print(f"{'credit, then one float per token':42}{spread * 1e3:10.2f} ms   {loop / spread:6.0f} x faster")
    print(f"{'one padded float32 matrix':42}{matrix / 2**20:10.2f} MiB")
    print(f"{'peak memory of credit':42}{peak / 2**20:10.2f} MiB")
    print(f"{longest:42}{longer_peak / 2**20:10.2f} MiB  ({growth})")


if __name__ == "__main__":
    main()
