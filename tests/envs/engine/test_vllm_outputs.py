"""Scores out of vLLM's prompt log-probs, as its two model runners return them."""

from types import SimpleNamespace

import numpy as np
import pytest

from envs.engine.base import ScoreAnswer
from envs.engine.vllm_outputs import read_score

CONTEXT, SUFFIX = [10, 11, 12, 13], [20, 21, 22]
GOLD = np.array([False, True, True])
LOGP = {position: -float(position) for position in range(1, 7)}


def request():
    return ScoreAnswer("s", CONTEXT, SUFFIX, GOLD)


def flat(entries):
    """vLLM's flat log-probs: position 0 has none."""
    ids, values = zip(*entries, strict=True) if entries else ((), ())
    return SimpleNamespace(
        start_indices=[0, *range(len(entries))], token_ids=list(ids), logprobs=list(values)
    )


def on_a_cpu(cached):
    """One entry for every position; those that come from cached positions are garbage."""
    prompt = CONTEXT + SUFFIX
    return flat([(prompt[p], LOGP[p]) if p > cached else (987654, 0.5) for p in range(1, 7)])


def on_a_gpu(cached):
    """Entries for positions behind the computed ones only (vLLM 0.32, v1/worker/gpu/prompt_logprob.py)."""
    prompt = CONTEXT + SUFFIX
    return flat([(prompt[p], LOGP[p]) for p in range(cached + 1, 7)])


@pytest.mark.parametrize("runner", [on_a_cpu, on_a_gpu])
@pytest.mark.parametrize("cached", range(7))
def test_a_score_is_of_computed_rows_or_none(runner, cached):
    # Gold tokens are at 5 and 6: the first comes from position 4, so at most 4 tokens may be cached.
    expected = -5.5 if cached <= 4 else None
    assert read_score(request(), runner(cached), cached) == expected


def test_a_number_of_cached_tokens_that_is_out_of_date_does_not_mislead():
    """A request that was preempted and resumed reads more from the cache than it did at first."""
    assert read_score(request(), on_a_gpu(4), 0) == -5.5
    assert read_score(request(), on_a_gpu(5), 0) is None
