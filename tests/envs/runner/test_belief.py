"""The engine's scorer against those of the learner's side, on the same weights and trajectories."""

import numpy as np
import pytest
import torch
from random_llama import random_llama

from envs.data.question import Question
from envs.errors import InputError
from envs.runner.belief import BeliefQuery, PrefixScorer, enter_scores
from envs.search.protocols.base import ScoringSuffix
from envs.search.trajectory import ActionKind, Rollout, Turn

BLOCK = 32


def suffix(text: str, prefix: str = "<answer>", end: str = "</answer>") -> ScoringSuffix:
    """A template around `text`, a token per byte: a character of several bytes is several gold tokens."""
    parts = [[1 + byte for byte in part.encode()] for part in (prefix, text, end)]
    mask = np.concatenate([np.full(len(part), part is parts[1]) for part in parts])
    return ScoringSuffix([token for part in parts for token in part], mask)


def trajectories():
    """Growing contexts, one whose last block is full, one that shrinks; answers of 1 and 30 tokens and of
    several scripts.
    """
    rng = np.random.default_rng(0)
    aliases = [suffix("x"), suffix("a" * 30), suffix("Malmö 東京 🏔"), suffix("y", prefix="")]
    for ends in ([9, 40, 90], [BLOCK, 2 * BLOCK, 4 * BLOCK], [7], [120, 50, 51, 20]):
        history = rng.integers(1, 257, 200).astype(np.int32)
        yield BeliefQuery([history[:end] for end in ends], aliases)


@pytest.mark.slow
def test_all_scorers_agree(tmp_path):
    from algorithms.igpo.belief.naive import NaiveScorer
    from algorithms.igpo.belief.tree import TreeScorer
    from algorithms.igpo.model.causal_lm import load_causal_lm
    from envs.engine.base import EngineSettings, Generate
    from envs.engine.vllm import VLLMEngine

    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    random_llama(vocab_size=257, tie_word_embeddings=False, **special).save_pretrained(tmp_path)
    model = load_causal_lm(str(tmp_path), torch.float32)
    engine = VLLMEngine(
        str(tmp_path), EngineSettings(kv_cache_gib=0.25, block_size=BLOCK), max_model_len=512, dtype="float32"
    )
    engine.load_weights({name: tensor.clone() for name, tensor in model.state_dict().items()}, version=0)
    queries = list(trajectories())
    expected = NaiveScorer(model).score(queries)
    assert np.ptp(np.concatenate(expected)) > 1
    for scores, got in zip(expected, TreeScorer(model).score(queries), strict=True):
        np.testing.assert_allclose(got, scores, atol=1e-4)
    # Cold; with every context in the prefix cache, as decoding leaves it; and with the answers' own blocks
    # there too.
    for round in range(3):
        if round == 1:
            for n, query in enumerate(queries):
                engine.submit(Generate(f"fill{n}", max(query.contexts_T1, key=len).tolist(), 1, [], 0.0, 0))
            while engine.is_busy:
                engine.step()
        for scores, got in zip(expected, PrefixScorer(engine).score(queries), strict=True):
            np.testing.assert_allclose(got, scores, atol=1e-4)


def scored_rollout():
    turns = [Turn(k, "s", "p", "", ActionKind.TOOL) for k in range(2)] + [
        Turn(2, "s", "p", "", ActionKind.ANSWER)
    ]
    question = Question("q", "?", ["a", "b"])
    return Rollout("r", "g", question, turns=turns, scored_golds_K=question.golds)


def test_scores_go_to_the_prompt_and_to_the_gain_bearing_turns():
    rollout = scored_rollout()
    enter_scores(rollout, np.array([[-3.0, -4.0], [-2.0, -2.5], [-1.0, -5.0]]), "reference")
    assert rollout.initial_scores_K.tolist() == [-3.0, -4.0] and rollout.scorer == "reference"
    assert [None if turn.scores_K is None else turn.scores_K.tolist() for turn in rollout.turns] == [
        [-2.0, -2.5],
        [-1.0, -5.0],
        None,
    ]
    with pytest.raises(ValueError):
        enter_scores(rollout, np.zeros((2, 2)), "current")


@pytest.mark.parametrize(("moment", "where"), [(0, "after the prompt"), (2, "after turn 1")])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_score_that_is_not_finite_names_rollout_turn_and_alias(moment, where, value):
    scores_T1K = np.full((3, 2), -1.0)
    scores_T1K[moment, 1] = value
    with pytest.raises(RuntimeError, match=f"rollout r, {where}: the score of alias 1 is {value}"):
        enter_scores(scored_rollout(), scores_T1K, "current")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"belief_policy": "frozen"}, "belief_policy is 'frozen'; use one of current, reference"),
        ({"belief_method": "fast"}, "belief_method is 'fast'; use one of vllm_prefix, tree, naive"),
        (
            {"preset": "trace", "belief_method": "vllm_prefix"},
            "scored on the learner's side: set belief_method to tree or naive",
        ),
        ({"reference_refresh_interval": -1}, "reference_refresh_interval is -1"),
        (
            {"reference_refresh_interval": 5, "loss": {"kl_coeff": 0.0}},
            "needs a reference: set belief_policy: reference",
        ),
    ],
)
def test_scoring_that_cannot_be_is_refused(settings, message):
    from algorithms.igpo.config import IGPOConfig

    with pytest.raises(InputError, match=message):
        IGPOConfig().training(model_path="tiny", **settings).validate()


def test_who_scores_how_by_default():
    from algorithms.igpo.config import IGPOConfig

    current, reference = (IGPOConfig().training(model_path="tiny", preset=name) for name in ("igpo", "trace"))
    assert current.belief_scoring.on_engine and current.reference_scored_policy is None
    assert (reference.belief_scoring.policy, reference.belief_scoring.method) == ("reference", "tree")
    assert not reference.belief_scoring.on_engine and reference.reference_scored_policy == "default_policy"
    assert current.training(belief_method="tree").belief_scoring.policy == "current"
