"""Compares the learner's speed with bare PyTorch loops.

    python -m benchmarks.learning.learner_throughput
    python -m benchmarks.learning.learner_throughput --model smollm2 --rows 16 --longest 600
    python -m benchmarks.learning.learner_throughput --device cuda --dtype bfloat16 --model FOLDER \\
        --rows 48 --longest 4096 --turn-tokens 200 --observation-tokens 200 --tokens-per-micro-batch 32768

One update of the learner (loss with ratio, clipping, mismatch weight, metrics; no reference, no entropy
gradient) runs against a bare PyTorch loop over the same packed micro-batches: backbone, cross-entropy of the
same tokens, backward, clipping, AdamW. Then it runs against the same bare loop over rows padded to the
longest of each micro-batch. `--without-bare` leaves both out; they need memory for all logits.

On a CPU all use one thread, and speed is tokens per second of processor time; on a GPU by the clock. Ratios
are medians over pairs of runs that follow each other. MFU is the share of the GPU's peak that the model's own
operations take (`benchmarks.devices.update_flops`).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from typing import Any

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
from algorithms.igpo.model.device import on_device
from algorithms.igpo.model.packing import PackedRows, padded_size
from benchmarks.devices import (
    Shape,
    add_device,
    device_name,
    device_of,
    peak_flops,
    seconds_on,
    update_flops,
)
from envs.engine.peak_memory import peak_memory_gib


def make_batch(
    rows: int,
    longest: int,
    vocabulary: int,
    *,
    turn_tokens: int = 12,
    observation_tokens: int = 30,
    seed: int = 0,
) -> tuple[TokenBatch, TokenLayout]:
    """Returns rows of turns and observations with lengths like those of searching rollouts: a third of
    `longest` to `longest`.
    """
    rng = np.random.default_rng(seed)
    layout, made = TokenLayout(num_sequences=rows), []
    for n in range(rows):
        row = Row(weight=1 / rows, sequence_id=n)
        length = int(rng.integers(longest // 3, longest))
        used = 0
        while used + observation_tokens + turn_tokens <= length:
            row.append(rng.integers(4, vocabulary, observation_tokens), decision=False)
            ids, logp = (
                rng.integers(4, vocabulary, turn_tokens),
                rng.uniform(-6, -4, turn_tokens).astype(np.float32),
            )
            row.append(
                ids,
                decision=True,
                sampler_logp=logp,
                advantage=float(rng.normal()),
                turn_id=len(layout.turn_keys),
            )
            layout.turn_keys.append((str(n), used))
            used += observation_tokens + turn_tokens
        layout.rollout_ids_R.append(str(n))
        made.append(row)
    return join_rows(made), layout


def batch_of(args: argparse.Namespace, vocabulary: int) -> tuple[TokenBatch, TokenLayout]:
    """The rows that the command line asks for."""
    return make_batch(
        args.rows,
        args.longest,
        vocabulary,
        turn_tokens=args.turn_tokens,
        observation_tokens=args.observation_tokens,
    )


def bare_update(
    model,
    optimizer,
    batch: TokenBatch,
    micro_batches: list[np.ndarray],
    device: torch.device,
    *,
    packed: bool,
) -> None:
    """Forward, backward and a step over the micro-batches, and nothing else."""
    optimizer.zero_grad(set_to_none=True)
    lengths_R = row_lengths(batch)
    for rows in micro_batches:
        micro = take_rows(batch, lengths_R, rows)
        lengths = lengths_R[rows].tolist()
        target = micro["token_ids"][micro[Columns.LOSS_MASK]].to(device, non_blocking=True)
        # A row's last token predicts nothing; any other predicts a target where the next one is a decision.
        ids = [row_ids[:-1] for row_ids in micro["token_ids"].split(lengths)]
        predicts = [row_mask[1:] for row_mask in micro[Columns.LOSS_MASK].split(lengths)]
        if packed:
            # Random rows share no beginning.
            packed_rows = PackedRows(torch.cat(ids).numpy(), lengths_R[rows] - 1, device)
            hidden = model.model(**packed_rows.inputs()).last_hidden_state[0]
            hidden = hidden[on_device(packed_rows.token_of_F[torch.cat(predicts).numpy()], device)]
        else:
            padded, mask = (pad_sequence(part, batch_first=True).to(device) for part in (ids, predicts))
            hidden = model.model(input_ids=padded, use_cache=False).last_hidden_state[mask]
        torch.nn.functional.cross_entropy(model.lm_head(hidden).float(), target, reduction="sum").backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def options(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="tiny, smollm2 or a Hugging Face folder")
    add_device(parser)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--turn-tokens", type=int, default=12)
    parser.add_argument("--observation-tokens", type=int, default=30)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--longest", type=int, default=220, help="tokens of the longest row, at most")
    parser.add_argument("--tokens-per-micro-batch", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--without-bare", action="store_true", help="the learner alone")
    return parser


def main() -> None:
    print(told(measure(options(__doc__).parse_args())[0]))


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], IGPOConfig]:
    """Runs learner and bare loops in turn; prints each round. Returns the numbers and the configuration."""
    if args.longest // 3 < args.turn_tokens + args.observation_tokens:
        raise SystemExit("--longest is less than three turns with their observations")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    device = device_of(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    learner = make_learner(args, device)
    model = learner._hugging_face("default_policy").hf
    batch, layout = batch_of(args, model.config.vocab_size)
    learner.notes.layouts = {"default_policy": layout}
    lengths_R, rows = row_lengths(batch), np.arange(args.rows)
    micro_batches = split_micro_batches(rows, lengths_R, rows, args.tokens_per_micro_batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def ours() -> None:
        learner._weights_seq_no += 1  # as `Learner.update`: batches count from 1
        learner._uncompiled_update({"default_policy": batch})

    def bare(packed: bool) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.dtype == "bfloat16"):
            bare_update(model, optimizer, batch, micro_batches, device, packed=packed)

    ways = {"learner": ours}
    if not args.without_bare:
        ways |= {"bare": lambda: bare(True), "padded": lambda: bare(False)}
    for warm_up in ways.values():
        warm_up()
    took: dict[str, list[float]] = {name: [] for name in ways}
    tokens, peak = int(lengths_R.sum()), 0.0
    for _ in range(args.repeats):
        for name, way in ways.items():
            took[name].append(seconds_on(device, way))
            peak = max(peak, peak_memory_gib()) if name == "learner" else peak
        print(
            "   ".join(f"{name} {tokens / times[-1]:8,.0f} tokens/s" for name, times in took.items()),
            flush=True,
        )
    flops = update_flops(Shape.of(model), lengths_R, int(batch[Columns.LOSS_MASK].sum()))
    best, widths = min(took["learner"]), sum(len(rows) * lengths_R[rows].max() for rows in micro_batches)
    possible = peak_flops(device)
    found = {
        "model": args.model,
        "device": device_name(device),
        "dtype": args.dtype,
        "rows": args.rows,
        "tokens": tokens,
        "micro_batches": len(micro_batches),
        "tokens_per_second": tokens / best,
        "against_bare": None if args.without_bare else ratio(took["bare"], took["learner"]),
        "against_padded": None if args.without_bare else ratio(took["padded"], took["learner"]),
        "flops_per_second": flops / best,
        "mfu": None if possible is None else flops / best / possible,
        "peak_gib": peak,
        "padding_of_rows": 1 - tokens / widths,
        "padding_of_attention": 1 - tokens / padded_size(lengths_R),
    }
    config: Any = learner.config
    return found, config


def ratio(one: list[float], other: list[float]) -> float:
    """Median over pairs that ran one after the other."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def told(found: dict[str, Any]) -> str:
    bare = ""
    if found["against_bare"] is not None:
        bare = (
            f"{found['against_bare']:.2f} of the bare packed loop, {found['against_padded']:.2f} times the "
            "padded one; "
        )
    mfu = "" if found["mfu"] is None else f", MFU {found['mfu']:.1%}"
    return (
        f"{found['model']} on {found['device']}, {found['dtype']}, {found['rows']} rows, {found['tokens']} "
        f"tokens in {found['micro_batches']} micro-batches: {bare}{found['tokens_per_second']:,.0f} "
        f"tokens/s, {found['flops_per_second'] / 1e12:.2f} TFLOP/s{mfu}, {found['peak_gib']:.1f} GiB; "
        f"padding {found['padding_of_rows']:.1%} of padded rows, {found['padding_of_attention']:.1%} of "
        "attention here, none elsewhere"
    )


def make_learner(args: argparse.Namespace, device: torch.device) -> IGPOTorchLearner:
    """The learner of an experiment, in this process."""
    config = IGPOConfig().environment("search", env_config={"protocol": "tiny"})
    config.training(
        model_path=args.model,
        model_dtype=args.dtype,
        gradient_checkpointing=args.gradient_checkpointing,
        loss={"kl_coeff": 0.0},
        tokens_per_micro_batch=args.tokens_per_micro_batch,
        lr=1e-5,
    )
    config.learners(num_gpus_per_learner=int(device.type == "cuda"))
    config.validate()
    learner = IGPOTorchLearner(
        config=config, module_spec=config.get_multi_rl_module_spec(spaces=spaces(config))
    )
    learner.build()
    return learner


def spaces(config: IGPOConfig) -> dict:
    from envs.search.environment import TOKENS

    return dict.fromkeys(config.policies, (TOKENS, TOKENS))


if __name__ == "__main__":
    main()
