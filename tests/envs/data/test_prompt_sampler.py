"""The prompt cursor: every prompt once per epoch, also over a save and a restore."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.data.prompt_sampler import PromptCursor
from envs.errors import InputError

FIRST_TWO_EPOCHS = [7, 0, 1, 5, 3, 4, 2, 6, 5, 7, 6, 1, 0, 2, 4, 3]


def test_the_order_is_fixed_by_definition():
    # Frozen values: another order would make resumed runs skip and repeat prompts.
    assert PromptCursor(8, seed=0).next(16) == FIRST_TWO_EPOCHS
    assert PromptCursor(8, seed=1).next(8) != FIRST_TWO_EPOCHS[:8]


@given(
    num_questions=st.integers(1, 30),
    seed=st.integers(-5, 2**40),
    draws=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    cut=st.integers(0, 8),
)
def test_nothing_is_skipped_or_repeated_over_a_restore(num_questions, seed, draws, cut):
    whole = PromptCursor(num_questions, seed, fingerprint="abc")
    expected = [index for n in draws for index in whole.next(n)]

    before = PromptCursor(num_questions, seed, fingerprint="abc")
    drawn = [index for n in draws[:cut] for index in before.next(n)]
    state = json.loads(json.dumps(before.state()))
    before.next(7)  # what the dead attempt drew beyond its checkpoint
    after = PromptCursor(num_questions, seed=seed + 1, fingerprint="abc")
    after.restore(state)
    drawn += [index for n in draws[cut:] for index in after.next(n)]

    assert drawn == expected
    for start in range(0, len(drawn), num_questions):
        epoch = drawn[start : start + num_questions]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(num_questions))
    assert after.state() == whole.state()


def test_epochs_are_shuffled_differently():
    cursor = PromptCursor(50, seed=3)
    assert cursor.next(50) != cursor.next(50)
    assert cursor.epoch == 1


@pytest.mark.parametrize(
    ("cursor", "message"),
    [
        (PromptCursor(6, seed=0, fingerprint="abc"), "made with 5 training questions, now there are 6"),
        (PromptCursor(5, seed=0, fingerprint="xyz"), "other training questions"),
    ],
)
def test_other_questions_are_refused(cursor, message):
    state = PromptCursor(5, seed=0, fingerprint="abc").state()
    with pytest.raises(InputError, match=message):
        cursor.restore(state)


def test_damaged_state_and_bad_sizes_are_refused():
    cursor = PromptCursor(5, seed=0)
    with pytest.raises(InputError, match="damaged"):
        cursor.restore(cursor.state() | {"position": 6})
    with pytest.raises(InputError, match="no questions"):
        PromptCursor(0, seed=0)
    with pytest.raises(ValueError, match="-1"):
        cursor.next(-1)
