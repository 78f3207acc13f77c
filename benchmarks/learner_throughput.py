"""Compares the learner's speed with bare PyTorch loops.

    python -m benchmarks.learner_throughput
    python -m benchmarks.learner_throughput --model smollm2 --rows 16 --longest 600

One update of the learner (loss with ratio, clipping, mismatch weight, metrics; no reference, no entropy
gradient) runs against a bare PyTorch loop over the same packed micro-batches: backbone, cross-entropy of the
same tokens, backward, clipping, AdamW. Then it runs against the same bare loop over rows padded to the
longest of each micro-batch. All use one thread; speed is tokens per second of processor time. Ratios are
medians over pairs of runs that follow each other.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from torch.nn.utils.rnn import pad_sequence

from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.learner.learner import IGPOTorchLearner
from algorithms.igpo.learner.token_batch import (
    Row,
    TokenBatch,
    TokenLayout,
    join_rows,
    row_lengths,
    take_rows,
)
from algorithms.igpo.learner.update_plan import split_micro_batches
from algorithms.igpo.model.packing import PackedRows, padded_size

TURN_TOKENS = 12
OBSERVATION_TOKENS = 30


def make_batch(rows: int, longest: int, vocabulary: int, seed: int = 0) -> tuple[TokenBatch, TokenLayout]:
    """Returns rows of turns and observations with lengths like those of searching rollouts: a third of
    `longest` to `longest`.
    """
    rng = np.random.default_rng(seed)
    layout, made = TokenLayout(num_sequences=rows), []
    for n in range(rows):
        row = Row(weight=1 / rows, sequence_id=n)
        length = int(rng.integers(longest // 3, longest))
        used = 0
        while used + OBSERVATION_TOKENS + TURN_TOKENS <= length:
            row.append(rng.integers(4, vocabulary, OBSERVATION_TOKENS), decision=False)
            ids, logp = (
                rng.integers(4, vocabulary, TURN_TOKENS),
                rng.uniform(-6, -4, TURN_TOKENS).astype(np.float32),
            )
            row.append(
                ids,
                decision=True,
                sampler_logp=logp,
                advantage=float(rng.normal()),
                turn_id=len(layout.turn_keys),
            )
            layout.turn_keys.append((str(n), used))
            used += OBSERVATION_TOKENS + TURN_TOKENS
        layout.rollout_ids_R.append(str(n))
        made.append(row)
    return join_rows(made), layout


def bare_update(
    model, optimizer, batch: TokenBatch, micro_batches: list[np.ndarray], *, packed: bool
) -> None:
    """Forward, backward and a step over the micro-batches, and nothing else."""
    optimizer.zero_grad(set_to_none=True)
    lengths_R = row_lengths(batch)
    for rows in micro_batches:
        micro = take_rows(batch, lengths_R, rows)
        lengths = lengths_R[rows].tolist()
        target = micro["token_ids"][micro[Columns.LOSS_MASK]]
        # A row's last token predicts nothing; any other predicts a target where the next one is a decision.
        ids = [row_ids[:-1] for row_ids in micro["token_ids"].split(lengths)]
        predicts = [row_mask[1:] for row_mask in micro[Columns.LOSS_MASK].split(lengths)]
        if packed:
            packed_rows = PackedRows(torch.cat(ids), lengths_R[rows] - 1)  # random rows share no beginning
            hidden = model.model(**packed_rows.inputs()).last_hidden_state[0]
            hidden = hidden[torch.from_numpy(packed_rows.token_of_F)[torch.cat(predicts)]]
        else:
            padded, mask = (pad_sequence(part, batch_first=True) for part in (ids, predicts))
            hidden = model.model(input_ids=padded, use_cache=False).last_hidden_state[mask]
        torch.nn.functional.cross_entropy(model.lm_head(hidden).float(), target, reduction="sum").backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def seconds(function) -> float:
    """Processor seconds: one thread computes, so they are what it takes where nothing else runs."""
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="tiny")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--longest", type=int, default=220, help="tokens of the longest row, at most")
    parser.add_argument("--tokens-per-micro-batch", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)

    config = IGPOConfig().environment("search", env_config={"protocol": "tiny"})
    config.training(
        model_path=args.model,
        loss={"kl_coeff": 0.0},
        tokens_per_micro_batch=args.tokens_per_micro_batch,
        lr=1e-5,
    )
    config.validate()
    learner = IGPOTorchLearner(
        config=config, module_spec=config.get_multi_rl_module_spec(spaces=spaces(config))
    )
    learner.build()
    model = learner._hugging_face("default_policy").hf
    batch, layout = make_batch(args.rows, args.longest, model.config.vocab_size)
    learner.notes.layouts = {"default_policy": layout}
    lengths_R, rows = row_lengths(batch), np.arange(args.rows)
    micro_batches = split_micro_batches(rows, lengths_R, rows, config.tokens_per_micro_batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def ours() -> None:
        learner._uncompiled_update({"default_policy": batch})

    def bare(packed: bool) -> None:
        bare_update(model, optimizer, batch, micro_batches, packed=packed)

    for warm_up in (ours, lambda: bare(True), lambda: bare(False)):
        warm_up()
    ratios, padded_ratios = [], []
    tokens = int(lengths_R.sum())
    for _ in range(args.repeats):
        mine, theirs, padded = seconds(ours), seconds(lambda: bare(True)), seconds(lambda: bare(False))
        ratios.append(theirs / mine)
        padded_ratios.append(padded / mine)
        print(
            f"learner {tokens / mine:8,.0f} tokens/s   bare {tokens / theirs:8,.0f}   bare, padded "
            f"{tokens / padded:8,.0f}",
            flush=True,
        )
    widths = sum(len(rows) * lengths_R[rows].max() for rows in micro_batches)
    against_bare, against_padded = statistics.median(ratios), statistics.median(padded_ratios)
    print(
        f"{args.model}, {args.rows} rows, {tokens} tokens in {len(micro_batches)} micro-batches: "
        f"{against_bare:.2f} of the bare "
        f"packed loop, {against_padded:.2f} times the padded one; padding {1 - tokens / widths:.1%} of "
        "padded rows, "
        f"{1 - tokens / padded_size(lengths_R):.1%} of attention here, none elsewhere"
    )


def spaces(config: IGPOConfig) -> dict:
    from envs.search.environment import TOKENS

    return dict.fromkeys(config.policies, (TOKENS, TOKENS))


if __name__ == "__main__":
    main()
