"""Episodes to credit to token columns, and the sharding of both over learners."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from igpo_learner_setup import make_batch, make_episode, stamp

from algorithms.credit import CreditConfig, advantages, get_preset
from algorithms.igpo.learner.connectors import BatchNotes, BuildTokenBatch, TurnLevelAdvantages
from algorithms.igpo.learner.groups import batch_wide_numbers, shard_groups
from algorithms.igpo.learner.token_batch import row_lengths, turn_tokens
from algorithms.igpo.metrics import training_metrics
from envs.search.trajectory import ActionKind, Termination


class Modules(dict):
    """Stands for the MultiRLModule, of which only the keys are read."""


ONE = Modules(default_policy=None)


def run(
    episodes,
    *,
    credit=None,
    modules=ONE,
    aggregation="seq_mean_token_mean",
    is_shard=False,
    alias_rule="max",
):
    """The pieces' notes and batch; `is_shard`: the episodes hold the numbers of a larger batch already."""
    if not is_shard:
        stamp(episodes)
    notes, shared, batch = BatchNotes(), {}, {}
    pieces = [
        TurnLevelAdvantages(credit or CreditConfig(), notes, alias_rule=alias_rule),
        BuildTokenBatch(aggregation, notes),
    ]
    for piece in pieces:
        batch = piece(rl_module=modules, batch=batch, episodes=episodes, shared_data=shared)
    return notes, batch


def sequences_of_rows(batch):
    return [int(batch["sequence_id"][batch["row_id"] == row][0]) for row in range(len(row_lengths(batch)))]


def two_rollouts(**kwargs):
    rng = np.random.default_rng(0)
    return [
        make_episode("a", "g", ["s", "s"], outcome=1.0, scores=[-2.0, -1.0], rng=rng, **kwargs),
        make_episode("b", "g", ["s"], outcome=0.0, scores=[-2.0], rng=rng),
    ]


def test_columns_of_a_row():
    episodes = two_rollouts(tokens=[[7, 8], [9, 10, 11]])
    agent = episodes[0].agent_episodes["s"]
    prompt, observation = agent.get_observations()[:2]
    notes, batch = run(episodes)
    p, o = len(prompt), len(observation)
    length = p + 2 + o + 3
    assert row_lengths(batch["default_policy"])[0] == length
    columns = {name: column[:length].numpy() for name, column in batch["default_policy"].items()}
    assert columns["token_ids"].tolist() == [*prompt, 7, 8, *observation, 9, 10, 11]
    decision = np.flatnonzero(columns["loss_mask"])
    assert decision.tolist() == [p, p + 1, p + 2 + o, p + 3 + o, p + 4 + o]
    assert columns["action_logp"][decision].tolist() == pytest.approx(
        np.concatenate(agent.get_extra_model_outputs("action_logp")).tolist()
    )
    expected = advantages(outcomes=[1.0, 0.0], gains=[[1.0], []], preset="igpo")[0]
    assert columns["advantages"][decision].tolist() == pytest.approx(np.repeat(expected, [2, 3]).tolist())
    assert columns["turn_id"][decision].tolist() == [0, 0, 1, 1, 1]
    assert notes.layouts["default_policy"].turn_keys == [("a", 0), ("a", 1), ("b", 0)]
    assert columns["loss_weight"][decision].tolist() == pytest.approx([1 / (2 * 5)] * 5)
    off = ~columns["loss_mask"]
    assert not columns["advantages"][off].any() and not columns["loss_weight"][off].any()
    assert (columns["turn_id"][off] == -1).all() and (columns["clip_scale"] == 1).all()


def test_tokens_of_two_agents_for_the_log():
    episode = make_episode(
        "a", "g", ["s", "r", "s"], outcome=1.0, scores=[-3.0, -2.0, -1.0], rng=np.random.default_rng(0)
    )
    tokens = turn_tokens([episode])
    assert list(tokens) == [("a", 0), ("a", 2), ("a", 1)]
    agent = episode.agent_episodes["s"]
    assert tokens["a", 2].context_ids_C.tolist() == agent.get_observations()[1].tolist()
    assert tokens["a", 2].decision_ids_L.tolist() == agent.get_actions()[1].tolist()
    assert tokens["a", 2].sampler_logp_L.tolist() == agent.get_extra_model_outputs("action_logp")[1].tolist()


def test_credit_is_kept_for_the_log():
    notes, _ = run(two_rollouts())
    first, last = notes.credit["a", 0], notes.credit["a", 1]
    assert first.belief_before == pytest.approx(np.exp(-2)) and first.belief_after == pytest.approx(
        np.exp(-1)
    )
    assert first.gain == pytest.approx(1.0) and first.normalised_gain == 0.0, "a single gain has no spread"
    assert last.belief_before == pytest.approx(np.exp(-1))
    assert (last.belief_after, last.gain, last.normalised_gain) == (None, None, None)
    (group,) = notes.groups
    assert (group.group_id, group.question_id, group.size, group.gain_count) == ("g", "q-g", 2, 1)
    assert group.outcome_mean == 0.5 and not group.collapsed


@pytest.mark.parametrize("identical", [True, False])
def test_a_group_of_identical_rollouts_counts_as_collapsed_the_third_time(identical):
    """Equal tokens in every turn: the gains rank the turns of one rollout, and no rollout above another."""

    def episode(name):
        rng = np.random.default_rng(0)  # the same prompt and observations
        tokens = [[1, 2], [3, 4], [5, 6 if identical or name == "a" else 7]]
        return make_episode(
            name, "g", ["s"] * 3, outcome=0.0, scores=[-3.0, -2.0, -1.5], rng=rng, tokens=tokens
        )

    notes, _ = run([episode("a"), episode("b")])
    (group,) = notes.groups
    assert group.collapsed_outcome and not group.collapsed and not group.collapsed_or_faint
    assert group.collapsed_or_identical is identical


def test_what_was_read_counts_among_the_tokens_of_a_rollout():
    episodes = [
        make_episode(
            name,
            "g",
            ["s"] * 2,
            outcome=0.0,
            scores=[-3.0, score],
            rng=np.random.default_rng(seed),
            tokens=[[1, 2], [3]],
        )
        for seed, (name, score) in enumerate((("a", -2.0), ("b", -1.0)))
    ]
    notes, _ = run(episodes)
    assert not notes.groups[0].collapsed_or_identical


def test_clip_scale_of_a2tgpo_reaches_its_tokens():
    episodes = make_batch()
    notes, batch = run(episodes, credit=get_preset("a2tgpo").credit)
    columns, layout = batch["default_policy"], notes.layouts["default_policy"]
    for k, key in enumerate(layout.turn_keys):
        normalised = notes.credit[key].normalised_gain
        expected = 1 if normalised is None else 1 + 0.3 * (2 / (1 + np.exp(-normalised)) - 1)
        assert columns["clip_scale"][columns["turn_id"] == k].numpy() == pytest.approx(expected)


def test_two_agents_of_one_policy_are_two_rows_of_one_sequence():
    agents = ["searcher", "reader", "searcher"]
    rng = np.random.default_rng(0)
    episodes = [
        make_episode(name, "g", agents, outcome=outcome, scores=[-3.0, -2.0, -2.5], rng=rng)
        for name, outcome in (("a", 1.0), ("b", 0.0))
    ]
    notes, batch = run(episodes)
    columns = batch["default_policy"]
    assert sequences_of_rows(columns) == [0, 0, 1, 1]
    assert notes.layouts["default_policy"].turn_keys[:3] == [("a", 0), ("a", 2), ("a", 1)]
    for sequence in (0, 1):
        rows = columns["sequence_id"] == sequence
        assert columns["loss_weight"][rows].sum().item() == pytest.approx(0.5), (
            "a mean over both rows' tokens"
        )
    for k, (rollout_id, turn) in enumerate(notes.layouts["default_policy"].turn_keys):
        values = columns["advantages"][columns["turn_id"] == k]
        assert values.numpy() == pytest.approx(notes.credit[rollout_id, turn].advantage)


def test_an_agent_that_wrote_nothing_has_no_row():
    rng = np.random.default_rng(0)
    episodes = [
        make_episode(
            name, "g", ["searcher", "reader"], outcome=outcome, scores=[-3.0, -2.0], rng=rng, tokens=tokens
        )
        for name, outcome, tokens in (("a", 1.0, [[5, 6], []]), ("b", 0.0, [[5], [6, 7, 8]]))
    ]
    notes, batch = run(episodes)
    assert sequences_of_rows(batch["default_policy"]) == [0, 1, 1]
    assert notes.layouts["default_policy"].turn_keys == [("a", 0), ("b", 0), ("b", 1)]


def test_two_policies_are_two_batches():
    def policy(agent):
        return f"{agent}_policy"

    modules = Modules(searcher_policy=None, reader_policy=None, idle_policy=None)
    episodes = make_batch(agents=("searcher", "reader"), policy=policy)
    notes, batch = run(episodes, modules=modules)
    spoke = {
        name: sum(f"{name}_policy" in {t.policy for t in e.custom_data["rollout"].turns} for e in episodes)
        for name in ("searcher", "reader")
    }
    for name, count in spoke.items():
        columns = batch[f"{name}_policy"]
        assert len(row_lengths(columns)) == count, "a rollout in which an agent never spoke gives it no row"
        assert columns["loss_weight"].sum().item() == pytest.approx(1.0)
    idle = batch["idle_policy"]
    assert idle["loss_weight"].sum() == 0 and idle["loss_mask"].sum() == 1 and sequences_of_rows(idle) == [-1]


@pytest.mark.parametrize(("aggregation", "total"), [("token_mean", 1.0), ("seq_mean_token_sum", None)])
def test_aggregation_weights(aggregation, total):
    _, batch = run(make_batch(), aggregation=aggregation)
    columns = batch["default_policy"]
    tokens = columns["loss_mask"].sum().item()
    assert columns["loss_weight"].sum().item() == pytest.approx(total or tokens / 9)


def test_malformed_and_truncated_rollouts():
    rng = np.random.default_rng(0)
    episodes = [
        make_episode(name, "g", ["s"] * 3, outcome=outcome, scores=[-3.0, -2.0, -1.0], rng=rng)
        for name, outcome in (("fine", 1.0), ("malformed", -1.0), ("limit", 0.0))
    ]
    malformed, limit = (episode.custom_data["rollout"] for episode in episodes[1:])
    malformed.termination = Termination.MALFORMED
    limit.termination = Termination.TURN_LIMIT
    malformed.turns[1].scores_K += 0.7  # or all gains would be equal
    plain = run(episodes)[0].credit
    gated = run(episodes, credit=CreditConfig(ig_gate="valid_format"))[0].credit
    official = run(episodes, credit=get_preset("igpo_official").credit)[0].credit
    assert plain["malformed", 0].normalised_gain != 0 and gated["malformed", 0].normalised_gain == 0
    assert plain["limit", 0].normalised_gain != 0 and official["limit", 0].normalised_gain == 0
    # A turn that was cut off has neither observation nor gain; it can only be the last.
    limit.turns[2].action = ActionKind.CUT_OFF
    assert run(episodes)[0].credit["limit", 2].gain is None


def test_alias_rules():
    episodes = two_rollouts()
    for episode in episodes:
        rollout = episode.custom_data["rollout"]
        rollout.initial_scores_K = np.array([-4.0, -2.0])
        for turn in rollout.gain_bearing_turns:
            turn.scores_K = np.array([-1.0, -3.0])
    assert run(episodes, alias_rule="max")[0].credit["a", 0].gain == pytest.approx(1.0)
    assert run(episodes, alias_rule="mean")[0].credit["a", 0].gain == pytest.approx(1.0)
    assert run(episodes, alias_rule="first")[0].credit["a", 0].gain == pytest.approx(3.0)


def test_order_of_arrival_and_episode_ids_do_not_matter():
    episodes = make_batch()
    expected = run(episodes)[0].credit
    for k, episode in enumerate(episodes):
        episode.id_ = f"same_{k % 2}"
    shuffled = [episodes[k] for k in np.random.default_rng(1).permutation(len(episodes))]
    got = run(shuffled)[0].credit
    assert got.keys() == expected.keys()
    for key, credit in expected.items():
        assert got[key].advantage == pytest.approx(credit.advantage, abs=1e-12)


def test_incomplete_groups():
    episodes = make_batch(groups=3, size=3)
    left = [episodes[0], *episodes[3:5], *episodes[6:]]  # 1, 2 and 3 rollouts are left
    notes, batch = run(left)
    assert [(group.group_id, group.size) for group in notes.groups] == [("g1", 2), ("g2", 3)]
    assert not any(rollout_id.startswith("0-") for rollout_id, _ in notes.credit)
    assert batch["default_policy"]["loss_weight"].sum().item() == pytest.approx(1.0), (
        "S counts what is trained on"
    )
    assert notes.layouts["default_policy"].num_sequences == 5
    rollouts = [episode.custom_data["rollout"] for episode in left]
    for rollout in rollouts:
        rollout.metrics = {"em_squad": 0.0, "f1_paper": 0.0}
    assert training_metrics(rollouts, notes.credit, notes.groups)["groups_dropped"] == 1


def test_a_rollout_without_turns_counts_as_missing():
    episodes = make_batch(groups=1, size=3)
    empty = make_episode("empty", "g0", [], outcome=0.0, scores=[-1.0], rng=np.random.default_rng(0))
    notes, batch = run([*episodes, empty])
    assert notes.groups[0].size == 3 and len(row_lengths(batch["default_policy"])) == 3


@pytest.mark.parametrize("preset", ["igpo", "reinforce_pp", "a2tgpo"])
def test_shards_give_the_credit_and_weights_of_the_whole_batch(preset):
    credit = get_preset(preset).credit
    episodes = make_batch(groups=5, size=3)
    whole_notes, whole = run(episodes, credit=credit)
    shards = shard_groups([episodes[k] for k in np.random.default_rng(1).permutation(len(episodes))], 2)
    groups = [{episode.custom_data["rollout"].group_id for episode in shard} for shard in shards]
    assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 5
    got, weights = {}, 0.0
    for shard in shards:
        notes, batch = run(shard, credit=credit, is_shard=True)
        got |= notes.credit
        weights += batch["default_policy"]["loss_weight"].sum().item()
    assert got.keys() == whole_notes.credit.keys()
    for key, one in whole_notes.credit.items():
        assert got[key].advantage == pytest.approx(one.advantage, abs=1e-12)
    assert weights == pytest.approx(whole["default_policy"]["loss_weight"].sum().item())


def test_an_empty_shard_still_has_a_row_for_every_module():
    shards = shard_groups(make_batch(groups=1), 2)
    assert [len(shard) for shard in shards] == [3, 0]
    _, batch = run(shards[1], is_shard=True)
    assert batch["default_policy"]["loss_weight"].sum() == 0


def test_episodes_without_the_numbers_of_the_batch_are_refused():
    with pytest.raises(ValueError, match="shard_groups"):
        run(make_batch(), is_shard=True)


def test_missing_scores_are_refused_where_the_estimator_reads_belief():
    episodes = two_rollouts()
    episodes[0].custom_data["rollout"].turns[0].scores_K = None
    with pytest.raises(ValueError, match=r"rollout a: a completed turn has no belief score"):
        run(episodes)
    episodes[0].custom_data["rollout"].initial_scores_K = None
    with pytest.raises(ValueError, match=r"rollout a: the prompt has no belief score"):
        run(episodes)
    assert run(episodes, credit=get_preset("grpo").credit)[0].credit["a", 0].gain is None
    for change in ({"outcome_baseline": "belief"}, {"normalisation": "joint"}, {"turn_clip_scale": 0.3}):
        with pytest.raises(ValueError, match=r"rollout a: the prompt has no belief score"):
            run(episodes, credit=replace(get_preset("grpo").credit, **change))


def test_rollouts_without_belief_are_counted_and_get_the_outcome_s_part():
    episodes = two_rollouts()
    rollouts = [episode.custom_data["rollout"] for episode in episodes]
    for rollout in rollouts:
        rollout.scored_golds_K, rollout.initial_scores_K, rollout.turns[0].scores_K = [], None, None
        rollout.metrics = {"em_squad": 0.0, "f1_paper": 0.0}
    for preset in ("igpo", "igpo_v1", "a2tgpo", "belief_critic"):
        notes, _ = run(episodes, credit=get_preset(preset).credit)
        assert notes.credit["a", 0].gain is None and notes.credit["a", 0].belief_before is None
        expected = 1.0 if preset == "belief_critic" else pytest.approx(1.0, abs=1e-5)
        assert notes.credit["a", 0].advantage == notes.credit["a", 1].advantage == expected
        assert training_metrics(rollouts, notes.credit, notes.groups)["no_belief"] == 2
    rollouts[0].scored_golds_K = ["a"]
    assert training_metrics(rollouts, {}, [])["no_belief"] == 1


def test_a_score_that_is_not_finite_names_rollout_and_turn():
    episodes = two_rollouts()
    episodes[0].custom_data["rollout"].turns[0].scores_K = np.array([np.nan])
    with pytest.raises(ValueError, match=r"episode a, after gain-bearing turn 0"):
        run(episodes)


def test_turns_and_actions_of_different_number_are_refused():
    episodes = two_rollouts()
    episodes[0].custom_data["rollout"].turns[1].agent = "someone else"
    with pytest.raises(ValueError, match=r"agent s has 1 turns in the rollout, but 2 actions"):
        run(episodes)


def test_tokens_and_log_probs_of_different_number_are_refused():
    episodes = two_rollouts()
    episodes[1].agent_episodes["s"].actions.data[0] = np.zeros(9, np.int32)
    with pytest.raises(ValueError, match=r"rollout b: turn 0 of agent s has 9 decision tokens"):
        run(episodes)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        batch_wide_numbers(make_batch(groups=2, size=1))


def test_a_rollout_must_not_come_twice():
    episodes = make_batch()
    with pytest.raises(ValueError, match="twice"):
        run([*episodes, episodes[0]])


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match="policy_mapping_fn"):
        run(make_batch(), modules=Modules(other=None))


def test_numbers_are_float32_and_ids_integers():
    _, batch = run(make_batch())
    types = {name: column.dtype for name, column in batch["default_policy"].items()}
    assert types["token_ids"] == torch.int64 and types["loss_mask"] == torch.bool
    assert {types[name] for name in ("advantages", "action_logp", "loss_weight", "clip_scale")} == {
        torch.float32
    }
