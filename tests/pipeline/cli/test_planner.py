"""A planner and a searcher through the real command lines: the policy is made, evaluated and trained."""

import json
from pathlib import Path

import pytest
from command import Command

from envs.world.words import ATTRIBUTES
from pipeline.analysis import open_run

pytestmark = pytest.mark.slow

MINUTES = 60
ROLES = [{"name": "planner", "actions": ["message"], "to": "searcher"}, {"name": "searcher"}]
SMALL = [
    f"--set={assignment}"
    for assignment in (
        "storage_path=runs", "model_path=./policy", "engine.kind=transformers", "prompts_per_iteration=4",
        "group_size=4", "evaluation_interval=1", "evaluation_questions=20",
        f"env_config.roles={json.dumps(ROLES)}",
        "env_config.max_turns=5", "env_config.world.unordered=1.0", "env_config.world.side_chains=1",
        "env_config.world.hops={3: 1.0}", "env_config.world.heldout_questions=40",
    )
]  # fmt: skip


def in_order(question: str) -> str:
    """The hops from the goal back to the person, worked out from the question's text."""
    hops = dict(hop.split() for hop in question.removesuffix(" ?").split(" . "))
    words = [key for key in hops if key in ATTRIBUTES]
    while words[-1] in hops:
        words.append(hops[words[-1]])
    return " ".join(words)


@pytest.mark.timeout(60 * MINUTES)
def test_a_policy_that_was_taught_to_plan_plans_and_searches_by_it(tmp_path: Path):
    made = Command(
        tmp_path, "--out", "policy", "--start", "tiny", "--planning", "--threads", "1",
        module="algorithms.embedded_policy",
    )  # fmt: skip
    assert made.end(30 * MINUTES) == 0, made.output.read_text()
    assert "planned_greedy_em" in (tmp_path / "policy" / "README.md").read_text()
    trained = Command(
        tmp_path, "train", "file", "presets/igpo.yaml", *SMALL, "--stop", '{"training_iteration": 1}'
    )
    assert trained.end(20 * MINUTES) == 0, trained.output.read_text()
    (run,) = [path.parent for path in (tmp_path / "runs").glob("*/*/run.json")]
    with open_run(run) as log:
        turns = log.sql(
            "SELECT question, turn_index, agent, action, decision_text FROM turns "
            "JOIN episodes USING (run_id, iteration, split, episode_id) WHERE split = 'heldout'"
        ).fetchall()  # greedy, before and after the one iteration
    first = [turn for turn in turns if turn[1] == 0]
    assert first and all(agent == "planner" for _, _, agent, _, _ in first)
    plans = [(question, said) for question, _, _, action, said in first if action == "message"]
    right = [said == f"<message> {in_order(question)} <end>" for question, said in plans]
    assert len(plans) > 0.9 * len(first) and sum(right) > 0.7 * len(right), (
        len(first),
        len(plans),
        sum(right),
    )
    assert {agent for _, turn, agent, action, _ in turns if turn > 0 and action == "tool"} == {"searcher"}
