"""The bootstrap: its draws, to the last digit, and its memory."""

import tracemalloc

import numpy as np
import pytest

from pipeline.evaluation import intervals
from pipeline.evaluation.intervals import RESAMPLES, bootstrap_means


@pytest.mark.parametrize("values_at_once", [1, 30, 1000, 10**9])
@pytest.mark.parametrize("questions", [1, 7, 30, 129])
def test_blocks_of_any_size_draw_the_same(monkeypatch, questions, values_at_once):
    values_Q = np.random.default_rng(5).random(questions)
    rows_XQ = np.random.default_rng(3).integers(0, questions, size=(RESAMPLES, questions))
    monkeypatch.setattr(intervals, "VALUES_AT_ONCE", values_at_once)
    assert (bootstrap_means(values_Q, seed=3) == values_Q[rows_XQ].mean(axis=1)).all()


def test_memory_does_not_grow_with_the_questions():
    """5,000 questions: 1,000 resamples at a time would be 80 MB."""
    tracemalloc.start()
    try:
        bootstrap_means([0.0, 1.0] * 2500)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
