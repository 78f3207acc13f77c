"""The prompt sampler: every prompt once per epoch, also over a save and a restore."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.data.prompt_sampler import PromptSampler, Share, by_growing_hops
from envs.errors import InputError

FIRST_TWO_EPOCHS = [7, 0, 1, 5, 3, 4, 2, 6, 5, 7, 6, 1, 0, 2, 4, 3]


def test_the_order_is_fixed_by_definition():
    # Frozen values: another order would make resumed runs skip and repeat prompts.
    assert PromptSampler(8, seed=0).next(16) == FIRST_TWO_EPOCHS
    assert PromptSampler(8, seed=1).next(8) != FIRST_TWO_EPOCHS[:8]


@given(
    num_questions=st.integers(1, 30),
    seed=st.integers(-5, 2**40),
    draws=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    cut=st.integers(0, 8),
)
def test_nothing_is_skipped_or_repeated_over_a_restore(num_questions, seed, draws, cut):
    whole = PromptSampler(num_questions, seed, fingerprint="abc")
    expected = [index for n in draws for index in whole.next(n)]

    before = PromptSampler(num_questions, seed, fingerprint="abc")
    drawn = [index for n in draws[:cut] for index in before.next(n)]
    state = json.loads(json.dumps(before.state()))
    before.next(7)  # what the dead attempt drew beyond its checkpoint
    after = PromptSampler(num_questions, seed=seed + 1, fingerprint="abc")
    after.restore(state)
    drawn += [index for n in draws[cut:] for index in after.next(n)]

    assert drawn == expected
    for start in range(0, len(drawn), num_questions):
        epoch = drawn[start : start + num_questions]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(num_questions))
    assert after.state() == whole.state()


def test_epochs_are_shuffled_differently():
    sampler = PromptSampler(50, seed=3)
    assert sampler.next(50) != sampler.next(50)
    assert sampler.epoch == 1


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (PromptSampler(6, seed=0, fingerprint="abc"), "made with 5 training questions, now there are 6"),
        (PromptSampler(5, seed=0, fingerprint="xyz"), "other training questions"),
    ],
)
def test_other_questions_are_refused(sampler, message):
    state = PromptSampler(5, seed=0, fingerprint="abc").state()
    assert sampler.differs_from(state) == "other training questions"
    with pytest.raises(InputError, match=message):
        sampler.restore(state)


def test_another_order_is_told_apart():
    sampler, state = PromptSampler(5, seed=1), PromptSampler(5, seed=0).state()
    assert sampler.differs_from(state) == "them in the order of seed 0"
    assert sampler.differs_from(sampler.state()) == ""
    sampler.restore(state)
    assert sampler.differs_from(state) == "" and sampler.state() == state


def test_damaged_state_and_bad_sizes_are_refused():
    sampler = PromptSampler(5, seed=0)
    with pytest.raises(InputError, match="damaged"):
        sampler.restore(sampler.state() | {"position": 6})
    with pytest.raises(InputError, match="no questions"):
        PromptSampler(0, seed=0)
    with pytest.raises(ValueError, match="-1"):
        sampler.next(-1)


def test_draws_follow_the_weights_and_every_source_goes_round():
    sampler = PromptSampler(10, seed=0, shares=[Share(8, 3.0), Share(2, 1.0)])
    drawn = sampler.next(32)
    assert [index >= 8 for index in drawn[:8]] == [False, False, True, False] * 2
    assert Counter(index >= 8 for index in drawn) == {False: 24, True: 8}
    assert set(Counter(drawn).values()) == {3, 4}  # 24 draws over 8 questions, 8 draws over 2


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    data=st.data(),
    cut=st.integers(0, 40),
    curriculum=st.integers(0, 30),
)
def test_a_mixture_survives_a_restore_and_keeps_to_its_weights(sizes, data, cut, curriculum):
    weights = data.draw(st.lists(st.floats(0.1, 5), min_size=len(sizes), max_size=len(sizes)))
    options = {
        "shares": [Share(size, weight) for size, weight in zip(sizes, weights, strict=True)],
        "hops_Q": data.draw(
            st.lists(st.sampled_from([None, 1, 2, 3]), min_size=sum(sizes), max_size=sum(sizes))
        ),
        "curriculum_prompts": curriculum,
    }
    whole = PromptSampler(sum(sizes), 5, **options).next(60)
    before = PromptSampler(sum(sizes), 5, **options)
    start = before.next(cut)
    after = PromptSampler(sum(sizes), 5, **options)
    after.restore(json.loads(json.dumps(before.state())))
    assert start + after.next(60 - cut) == whole
    first = 0
    for size, weight in zip(sizes, weights, strict=True):
        of_source = [index for index in whole if first <= index < first + size]
        assert abs(len(of_source) - 60 * weight / sum(weights)) < len(sizes)
        for epoch in range(0, len(of_source), size):
            assert len(set(of_source[epoch : epoch + size])) == len(of_source[epoch : epoch + size])
        first += size


def test_hops_grow():
    order, hops = [10, 11, 12, 13, 14, 15], [3, 1, 2, 1, 2, 3]
    # Two positions for each of the three levels; within what is allowed the order stays.
    assert by_growing_hops(order, hops, prompts=6) == [11, 13, 12, 14, 10, 15]
    assert by_growing_hops(order, hops, prompts=2) == [11, 12, 10, 13, 14, 15]
    assert by_growing_hops(order, [2] * 6, prompts=6) == order
    first = PromptSampler(6, 0, hops_Q=[3, 1, 2, 1, 2, 3], curriculum_prompts=6).next(6)
    assert sorted(first[:2]) == [1, 3] and sorted(first[2:4]) == [2, 4]


def test_questions_that_cannot_be_played_are_passed_over_and_keep_the_order():
    without = PromptSampler(8, seed=0, plays=lambda index: index not in (0, 5))
    assert without.next(9) == [7, 1, 3, 4, 2, 6, 7, 6, 1]
    widened = PromptSampler(8, seed=0)
    widened.restore(without.state())
    assert widened.next(4) == [0, 2, 4, 3], "the state counts what was passed over"


def test_a_set_without_a_question_that_can_be_played_is_refused():
    with pytest.raises(InputError, match="no training question leaves room"):
        PromptSampler(8, seed=0, plays=lambda index: False).next(1)
