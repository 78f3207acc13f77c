"""Reads what vLLM returns: sampled turns with their log-probs, and scores out of prompt log-probs."""

from __future__ import annotations

import numpy as np

from envs.engine.base import Generated, ScoreAnswer


def read_generated(output) -> Generated:
    completion = output.outputs[0]
    ids = list(completion.token_ids)
    flat = completion.logprobs
    logprobs_L = np.asarray([flat.logprobs[start] for start in flat.start_indices], dtype=np.float32)
    sampled = [flat.token_ids[start] for start in flat.start_indices]
    if sampled != ids:
        raise RuntimeError(
            f"vLLM returned log-probs of other tokens than it sampled: {sampled} against {ids}"
        )
    return Generated(
        output.request_id, ids, logprobs_L, "stop" if completion.finish_reason == "stop" else "length"
    )


def read_score(request: ScoreAnswer, flat, num_cached_tokens: int) -> float | None:
    """Computes s_t(a) from vLLM's prompt log-probs; None where the prefix cache made them invalid.

    The log-prob of the token at position p is computed from position p - 1, so a row is valid only where
    position p - 1 was computed and not read from the prefix cache. vLLM's two model runners tell cached rows
    apart. For a prompt of six tokens a b c d e f, of which a b c d were cached:

        the older one (CPUs)    none ? ? ? e f    six entries; ? is uninitialised memory, and so is e: it
                                                  comes from d
        the newer one (GPUs)    none f            one entry less for each cached token

    The token ids of uninitialised rows are not the prompt's, which is checked as well.

    Args:
        request: the request that was scored.
        flat: vLLM's `FlatLogprobs` of the whole prompt.
        num_cached_tokens: the number of prompt tokens read from the prefix cache.
    """
    start = len(request.context_ids)
    positions = [start + int(offset) for offset in np.flatnonzero(request.gold_mask_L)]
    left_out = start + len(request.suffix_ids) - len(flat.start_indices)
    if max(num_cached_tokens, left_out) >= positions[0]:
        return None
    rows = [flat.start_indices[position - left_out] for position in positions]
    expected = [request.suffix_ids[position - start] for position in positions]
    if [flat.token_ids[row] for row in rows] != expected:
        return None
    return float(np.mean([flat.logprobs[row] for row in rows], dtype=np.float64))
