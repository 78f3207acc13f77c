"""What `igpo doctor` says of samples that cannot teach anything."""

from scripted_engine import ScriptedEngine, tiny_task

from algorithms.igpo.config import IGPOConfig
from envs.data.question import Question
from envs.runner.rollout_loop import RolloutLoop
from envs.search.trajectory import ActionKind, Rollout, Turn
from pipeline.doctor.variety import GROUPS, Variety, judge, variety, variety_of
from pipeline.evaluation.saved_policy import Policy


def rollout(group: str, *texts: str, em: float, hops: int | None = 2) -> Rollout:
    """A rollout that searches with every text but the last, and answers with that."""
    kinds = [ActionKind.TOOL] * (len(texts) - 1) + [ActionKind.ANSWER]
    turns = [
        Turn(n, "agent", "default_policy", text, kind)
        for n, (kind, text) in enumerate(zip(kinds, texts, strict=True))
    ]
    question = Question("q", "Who?", ["red"], hops=hops)
    return Rollout("r", group, question, turns=turns, outcome=em, metrics={"em_squad": em})


def test_counts_by_hand():
    first = [rollout("a", "s", "red", em=1.0), rollout("a", "s", "blue", em=0.0)]
    second = [rollout("b", "s", "t", "red", em=1.0), rollout("b", "s", "t", "red", em=1.0)]
    third = [rollout("c", "s", "blue", em=0.0), rollout("c", "s", "blue", em=0.0)]
    found = variety_of([first, second, third])
    assert found == Variety({1: (4, 0.25), 2: (2, 1.0)}, groups=3, identical=2, differing=1, needed=2)
    assert found.rollouts == 6 and found.exact_match == 0.5


def test_each_way_of_having_nothing_to_learn_is_said():
    sound = {1: (100, 0.1), 2: (28, 0.5)}
    assert judge(Variety(sound, 16, 2, 9, 2)).status == "ok"
    assert (
        "1 search 78.1% (EM 0.10), 2 searches 21.9% (EM 0.50)" in judge(Variety(sound, 16, 2, 9, 2)).message
    )
    for found, what in (
        (Variety({1: (128, 0.0)}, 16, 2, 0, 2), "no sample is right"),
        (Variety({1: (128, 0.1)}, 16, 2, 3, 2), "need up to 2 searches and no sample makes more than 1"),
        (Variety(sound, 16, 9, 3, 2), "identical rollouts have nothing to compare"),
        (Variety(sound, 16, 2, 0, 2), "no group has outcomes to compare"),
    ):
        finding = judge(found)
        assert finding.status == "warn" and what in finding.message


def test_it_samples_training_questions_in_groups(tmp_path):
    task = tiny_task(tmp_path, world={"train_questions": 20, "heldout_questions": 4})
    engine = ScriptedEngine(task, lambda context, turn: "<answer> red <end>")
    policy = Policy("scripted", IGPOConfig(), task, {}, RolloutLoop(task, {"default_policy": engine}))
    policy.config.group_size = 3
    finding = variety(policy)
    assert f"{3 * GROUPS} samples of {GROUPS} training questions: 0 searches 100.0%" in finding.message
    assert f"rollouts are identical in {GROUPS}" in finding.message
    task.train_questions[:] = []
    assert "no training prompt leaves room" in variety(policy).message
