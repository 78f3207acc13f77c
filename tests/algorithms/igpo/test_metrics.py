"""Metrics by agent, on three rollouts whose numbers are in `rollout_log_samples.two_agents`."""

import pytest
from rollout_log_samples import two_agents

from algorithms.igpo.metrics import agent_metrics
from envs.search.trajectory import ActionKind


def test_what_each_agent_did_and_earned():
    record = two_agents()
    record.rollouts[0].turns[1].action = ActionKind.MALFORMED
    metrics = agent_metrics(record.rollouts, record.credit, ["searcher", "reader", "critic"])
    assert metrics == {
        "agent/searcher/turns_mean": 2.0,  # 2, 3 and 1
        "agent/searcher/tokens_mean": 10.0,  # 4 + 6, 4 + 4 + 6 and 6
        "agent/searcher/gain_mean": pytest.approx(2 / 3),
        "agent/searcher/advantage_mean": -1.0,
        "agent/searcher/malformed_share": 0.0,
        "agent/reader/turns_mean": 1.0,
        "agent/reader/tokens_mean": 5.0,
        "agent/reader/gain_mean": pytest.approx(-0.25 / 3),
        "agent/reader/advantage_mean": pytest.approx(-4 / 3),
        "agent/reader/malformed_share": pytest.approx(1 / 3),
        **{f"agent/critic/{name}": 0.0 for name in ("turns_mean", "tokens_mean", "gain_mean")},
        **{f"agent/critic/{name}": 0.0 for name in ("advantage_mean", "malformed_share")},
    }


def test_one_agent_has_no_metrics_of_its_own():
    record = two_agents()
    assert agent_metrics(record.rollouts, record.credit, ["searcher"]) == {}
