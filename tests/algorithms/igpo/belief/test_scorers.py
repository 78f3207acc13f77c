"""The scorers against a forward of one sequence at a time, on random trajectories."""

import numpy as np
import pytest
import torch
from igpo_learner_setup import VOCAB, save_tiny_llama
from transformers import MistralConfig, MistralForCausalLM

from algorithms.igpo.belief.naive import NaiveScorer
from algorithms.igpo.belief.token_tree import TokenTree
from algorithms.igpo.belief.tree import TreeScorer
from algorithms.igpo.model.causal_lm import load_causal_lm
from envs.runner.belief import BeliefQuery
from envs.search.protocols.base import ScoringSuffix


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_causal_lm(save_tiny_llama(tmp_path_factory.mktemp("llama")), torch.float32)


@torch.no_grad()
def expected_scores(model, query):
    """Each answer alone, through the whole model."""
    scores = np.empty((len(query.contexts_T1), len(query.suffixes_K)))
    for t, context in enumerate(query.contexts_T1):
        for k, suffix in enumerate(query.suffixes_K):
            ids = torch.tensor([[*context.tolist(), *suffix.ids]])
            logp = model(input_ids=ids).logits[0].float().log_softmax(-1)
            gold = len(context) + np.flatnonzero(suffix.gold_mask_L)
            scores[t, k] = logp[gold - 1, ids[0, gold]].double().mean().item()
    return scores


def make_suffix(rng, length, *, prefix=(7, 8, 9), end=(10,)):
    """A template around `length` gold tokens; aliases share its prefix."""
    ids = [*prefix, *rng.integers(0, VOCAB, length).tolist(), *end]
    mask = np.zeros(len(ids), dtype=bool)
    mask[len(prefix) : len(prefix) + length] = True
    return ScoringSuffix(ids, mask)


def make_query(rng, *, turns=4, answers=(1, 30, 3), step=(1, 25), **template):
    history = rng.integers(0, VOCAB, 200).astype(np.int32)
    ends = np.cumsum(rng.integers(*step, turns + 1))
    return BeliefQuery(
        [history[:end] for end in ends], [make_suffix(rng, length, **template) for length in answers]
    )


def scorers(model):
    return {
        "naive": NaiveScorer(model),
        "tree": TreeScorer(model),
        "tree alone": TreeScorer(model, tokens_per_batch=1),
    }


@pytest.mark.parametrize("name", ["naive", "tree", "tree alone"])
def test_ragged_trajectories_together_are_scored_as_each_answer_alone(model, name):
    rng = np.random.default_rng(0)
    queries = [
        make_query(rng, turns=turns, answers=answers)
        for turns in (0, 1, 5)
        for answers in ((1,), (30,), (1, 30, 3, 3))
    ]
    got = scorers(model)[name].score(queries)
    for query, scores in zip(queries, got, strict=True):
        assert scores.shape == (len(query.contexts_T1), len(query.suffixes_K)) and scores.dtype == np.float64
        np.testing.assert_allclose(scores, expected_scores(model, query), atol=1e-4)


@pytest.mark.parametrize("name", ["naive", "tree"])
def test_contexts_that_do_not_grow(model, name):
    """A history that shrinks, one that is rewritten in the middle, the same one twice, and one
    token alone.
    """
    rng = np.random.default_rng(1)
    long = rng.integers(0, VOCAB, 60).astype(np.int32)
    rewritten = long.copy()
    rewritten[20:25] = (rewritten[20:25] + 1) % VOCAB
    query = BeliefQuery(
        [long, long[:30], rewritten, rewritten[:40], long, long[:1]],
        [make_suffix(rng, 2), make_suffix(rng, 5)],
    )
    (got,) = scorers(model)[name].score([query])
    np.testing.assert_allclose(got, expected_scores(model, query), atol=1e-4)


@pytest.mark.parametrize("name", ["naive", "tree"])
def test_templates_without_prefix_and_answers_that_continue_the_context(model, name):
    rng = np.random.default_rng(2)
    query = make_query(rng, prefix=(), end=())
    observed = query.contexts_T1[-1][len(query.contexts_T1[0]) :][
        :6
    ].tolist()  # the trunk itself holds this answer
    query.suffixes_K.append(ScoringSuffix(observed, np.ones(len(observed), dtype=bool)))
    (got,) = scorers(model)[name].score([query])
    np.testing.assert_allclose(got, expected_scores(model, query), atol=1e-4)


def test_a_left_padded_batch_says_the_same(model):
    """Padding as batched generation does it: rows end together, and positions count real tokens."""
    rng = np.random.default_rng(3)
    queries = [make_query(rng, turns=turns, answers=(4,)) for turns in (1, 3, 5)]
    rows = [np.concatenate([context, q.suffixes_K[0].ids]) for q in queries for context in q.contexts_T1]
    width = max(map(len, rows))
    ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for n, row in enumerate(rows):
        ids[n, width - len(row) :], mask[n, width - len(row) :] = row, 1
    ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0))
    logp = output.logits.float().log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    expected = logp[:, -5:-1].double().mean(1).numpy()  # four gold tokens, then the template's end
    for name, scorer in scorers(model).items():
        np.testing.assert_allclose(
            np.concatenate(scorer.score(queries)).ravel(), expected, atol=1e-4, err_msg=name
        )


def test_a_score_does_not_depend_on_later_turns_nor_on_other_rollouts(model):
    rng = np.random.default_rng(4)
    query = make_query(rng)
    first = TreeScorer(model).score([query])[0]
    edited = BeliefQuery(
        [*query.contexts_T1[:3], *(context[::-1] for context in query.contexts_T1[3:])], query.suffixes_K
    )
    np.testing.assert_allclose(
        TreeScorer(model).score([make_query(rng), edited])[1][:3], first[:3], atol=1e-5
    )


def test_bfloat16_and_the_training_mode_of_checkpointing(model):
    rng = np.random.default_rng(5)
    query = make_query(rng)
    expected = expected_scores(model, query)
    got = TreeScorer(model, torch.bfloat16).score([query])[0]
    assert 0 < np.abs(got - expected).max() < 0.1
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    try:
        np.testing.assert_allclose(TreeScorer(model).score([query])[0], expected, atol=1e-4)
        assert model.training
    finally:
        model.gradient_checkpointing_disable()
        model.eval()


def test_a_tree_by_hand():
    tree = TokenTree(np.array([1, 2, 3, 4]))
    assert tree.add(np.array([1, 2, 7, 8])).tolist() == [0, 1, 4, 5]
    assert tree.add(np.array([1, 2, 7, 9])).tolist() == [0, 1, 4, 6], "shared with the sequence before"
    assert tree.add(np.array([1, 2, 3])).tolist() == [0, 1, 2], "part of the trunk"
    assert tree.add(np.array([5])).tolist() == [7]
    ids_Y, position_Y, sees_YX = tree.branches()
    assert ids_Y.tolist() == [7, 8, 9, 5] and position_Y.tolist() == [2, 3, 3, 0]
    ancestors = [np.flatnonzero(row).tolist() for row in sees_YX]
    assert ancestors == [[0, 1, 4], [0, 1, 4, 5], [0, 1, 4, 6], [7]]


def test_a_sliding_window_that_the_mask_does_not_know_is_refused(model, monkeypatch):
    query = make_query(np.random.default_rng(6), answers=(1,), prefix=(7,))
    longest = (
        max(map(len, query.contexts_T1)) + 1
    )  # the template's first token; the gold one is only predicted
    monkeypatch.setattr(model.config, "sliding_window", longest, raising=False)
    TreeScorer(model).score([query])
    monkeypatch.setattr(model.config, "sliding_window", longest - 1)
    cure = f"sliding window of {longest - 1}: lower env_config.max_context_tokens to {longest - 1}$"
    with pytest.raises(ValueError, match=cure):
        TreeScorer(model).score([query])
    monkeypatch.setattr(model.config, "layer_types", ["full_attention"] * 2, raising=False)
    TreeScorer(model).score([query])  # no layer has the window


def test_the_scorer_that_is_slower_has_the_same_window(tmp_path):
    config = MistralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    mistral = load_causal_lm(str(tmp_path), torch.float32)
    query = make_query(np.random.default_rng(6), answers=(1,), prefix=(7,))
    for scorer in (NaiveScorer(mistral), TreeScorer(mistral)):
        with pytest.raises(ValueError, match="lower env_config.max_context_tokens to 8$"):
            scorer.score([query])
