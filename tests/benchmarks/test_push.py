"""What an estimator pays for a decision, by hand."""

import json

import numpy as np
import pytest

from benchmarks.real_text.push import advantages_of, decisions, paid, push_by_group, read, rows_of


def rollout(group, number, actions, names_gold, em):
    turns = len(actions)
    return {
        "id": f"{group}/{number}",
        "group": group,
        "outcome": em,
        "em": em,
        "initial_scores_K": [-3.0],
        "scores_T1K": [[-3.0 + 2.5 * sum(names_gold[: t + 1])] for t in range(turns - 1)] + [None],
        "bears_gain_T": [True] * (turns - 1) + [False],
        "agents_T": ["searcher"] * turns,
        "malformed": False,
        "turn_limit": False,
        "answered": True,
        "without_belief": False,
        "actions_T": actions,
        "names_gold_T": names_gold,
    }


ROWS = [
    rollout("a", 0, ["tool", "tool", "answer"], [False, True, False], 1.0),
    rollout("a", 1, ["tool", "answer"], [False, False], 0.0),
    rollout("b", 0, ["tool", "answer"], [False, False], 0.0),
    rollout("b", 1, ["tool", "answer"], [False, False], 0.0),
]


def test_a_decision_counts_the_rollouts_that_reach_it():
    """All four reach turn 2, one of them searches there; it alone reaches turn 3, and has read the answer."""
    found = {decision.name: decision for decision in decisions(ROWS)}
    assert list(found) == [
        "1: finds the answer's page", "1: searches", "2: finds the answer's page", "2: searches",
        "3: answers right", "3: searches",
    ]  # fmt: skip
    assert found["2: searches"].turn_D.tolist() == [1, 4, 6, 8]
    assert found["2: searches"].above_share_D.tolist() == [0.5, -0.5, 0.0, 0.0]
    assert found["2: searches"].gained_em == 1.0
    assert found["3: answers right"].made_D.tolist() == [1]


def test_grpo_pays_a_second_search_by_its_outcome():
    """Advantages are 1 on three turns, -1 on two and 0 on four: a root mean square of (5/9)^0.5. Group a pays
    (0.5 + 0.5) / (5/9)^0.5, group b nothing: mean 0.67 and spread 0.67 of one group."""
    second = next(decision for decision in decisions(ROWS) if decision.name == "2: searches")
    push_P = push_by_group(advantages_of(ROWS, "grpo"), second, groups=2)
    found = paid(push_P, push_P, second.gained_em, groups_per_update=2)
    assert found.push == pytest.approx((9 / 5) ** 0.5, abs=1e-5)
    assert found.signal == pytest.approx(2**0.5)
    assert (found.rollouts, found.right_way) == (1.0, 1.0)


def test_the_rollouts_that_give_as_much_signal():
    """Mean 2 and spread 1, against mean 1 and spread 1: half of the signal takes four times the rollouts."""
    strong_P, weak_P = np.array([1.0, 3.0]), np.array([0.0, 2.0])
    assert paid(weak_P, strong_P, 1.0, groups_per_update=8).rollouts == pytest.approx(4.0)
    assert paid(strong_P, weak_P, 1.0, groups_per_update=8).rollouts == pytest.approx(0.25)
    assert paid(-strong_P, weak_P, 1.0, groups_per_update=8).rollouts == 1000.0
    assert paid(-strong_P, weak_P, 1.0, groups_per_update=8).right_way == 0.0


def test_decisions_without_a_choice_are_left_out():
    ((decision, (found,)),) = rows_of(ROWS, ["igpo_returns"], groups_per_update=1)
    assert decision.name == "2: searches"
    assert found.push > 0


def test_an_estimator_that_pays_nothing_has_no_way():
    found = paid(np.zeros(2), np.zeros(2), 1.0, groups_per_update=8)
    assert (found.push, found.signal) == (0.0, 0.0)
    assert np.isnan(found.right_way)


def test_a_preset_takes_changes_of_its_settings():
    """The one gain of 2.5 nats is that of the second search. Without the gains igpo is grpo."""
    assert advantages_of(ROWS, "igpo,ig_weight=0").tolist() == advantages_of(ROWS, "grpo").tolist()
    apart = advantages_of(ROWS, "igpo,normalisation=none,outcome_weight=0,gamma=0,outcome_gamma=1")
    assert apart.tolist() == [0.0, 2.5, *[0.0] * 7]


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ("igpo,std_flor=1", "unknown credit setting 'std_flor'; did you mean 'std_floor'"),
        ("igpo,std_floor=much", "std_floor='much': Input should be a valid number"),
        ("igpoo", "did you mean 'igpo'"),
        ("algorithms.credit.controls:CENTRED_GAINS", "reads the facts of each rollout.*sample again"),
    ],
)
def test_an_estimator_that_is_none_is_refused(estimator, message):
    with pytest.raises(ValueError, match=message):
        advantages_of(ROWS, estimator)


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"id": "a/0"}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "samples.jsonl").write_text(text)
    with pytest.raises(
        ValueError, match=r"samples\.jsonl is no file that benchmarks\.real_text\.sample writes"
    ):
        read(tmp_path / "samples.jsonl")


def test_samples_are_read_as_they_were_written(tmp_path):
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert read(tmp_path / "samples.jsonl") == ROWS
