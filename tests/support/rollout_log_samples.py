"""A log small enough to compute every answer by hand: three groups of two rollouts in two iterations, two
evaluations.

Group g1 (question q1, two hops): r1 finds both documents and is right, r2 asks one thing twice and is wrong.
Group g2 (question q2, one hop): r3 and r4 both fail, so the outcome alone collapses; r3 hit gold evidence.
Group g3 (iteration 2, q1 again): r5 ends malformed, r6 is cut off.
"""

import numpy as np

from algorithms.igpo.iteration_record import GroupCredit, IterationRecord, TurnCredit
from envs.data.question import Question
from envs.search.trajectory import ActionKind, Rollout, Termination, ToolCall, Turn
from pipeline.rollout_log.rows import RunInfo
from pipeline.rollout_log.writer import RolloutLogWriter

Q1 = Question(
    "q1",
    "Where was the author of Foo born?",
    ["Rome", "Roma"],
    "toy",
    2,
    ["foo", "author"],
    {"type": "bridge"},
)
Q2 = Question("q2", "Who is the mayor of Bar?", ["Ann Lee"], "toy", 1, ["bar"])


def search(
    index,
    query,
    gold_hit,
    *,
    documents=("d",),
    agent="searcher",
    error=None,
    seconds=0.1,
    scores=(-1.0,),
    gap_tokens=4,
):
    text, found = ("", []) if error else ("a document", list(documents))
    call = ToolCall("search", {"query": query}, text, found, error=error, seconds=seconds)
    call.document_scores = [2.5] * len(call.document_ids)
    return Turn(
        index,
        agent,
        "default_policy",
        f"<search>{query}</search>",
        ActionKind.TOOL,
        query=query,
        tool_calls=[call],
        observation_text=call.result_text,
        num_decision_tokens=gap_tokens,
        num_observation_tokens=10,
        gold_hit=gold_hit,
        scores_K=np.array(scores),
        weights_version=7,
        seconds_tool=seconds,
    )


def answer(index, text):
    return Turn(
        index,
        "searcher",
        "default_policy",
        text,
        ActionKind.ANSWER,
        answer=text,
        num_decision_tokens=6,
        gold_hit=None,
    )


def rollout(
    id,
    group,
    question,
    turns,
    *,
    text=None,
    em=0.0,
    f1=0.0,
    outcome=0.0,
    termination=Termination.ANSWERED,
    split="train",
):
    return Rollout(
        id,
        group,
        question,
        split,
        turns,
        question.golds,
        np.array([-2.0] * len(question.golds)),
        answer=text,
        termination=termination,
        outcome=outcome,
        metrics={"em_squad": em, "f1_squad": f1, "em_paper": em, "f1_paper": f1, "politeness": 0.5},
        seconds=1.5,
    )


def gain(before, after, value, advantage, gap=1e-6):
    return TurnCredit(before, after, value, value / 2, advantage, gap)


def paid(advantage, gap=1e-6):
    return TurnCredit(None, None, None, None, advantage, gap)


def train_1():
    bridge, last = (
        search(0, "author of foo", True, documents=["foo"]),
        search(1, "Jane birthplace", True, documents=["author"]),
    )
    last.scores_K = np.array([-0.125])
    r1 = [bridge, last, answer(2, "Rome")]
    r2 = [search(0, "foo", False), search(1, "FOO ", False), answer(2, "Paris")]
    r3 = [search(0, "mayor of bar", True, documents=["x", "bar"], seconds=0.3), answer(1, "Bob")]
    r4 = [search(0, "bar mayr", False, error="timeout", seconds=2.0), answer(1, "Bob")]
    credit = {
        ("r1", 0): gain(0.1, 0.05, -0.5, 0.5),
        ("r1", 1): gain(0.05, 0.9, 2.5, 2.0),
        ("r1", 2): paid(1.0),
        ("r2", 0): gain(0.1, 0.1, 0.0, -1.5),
        ("r2", 1): gain(0.1, 0.2, 0.5, -1.0),
        ("r2", 2): paid(-1.0),
        ("r3", 0): gain(0.1, 0.4, 1.0, 1.0, gap=5e-6),
        ("r3", 1): paid(0.0),
        ("r4", 0): gain(0.1, 0.05, -1.0, -1.0),
        ("r4", 1): paid(0.0),
    }
    rollouts = [
        rollout("r1", "g1", Q1, r1, text="Rome", em=1.0, f1=1.0, outcome=1.0),
        rollout("r2", "g1", Q1, r2, text="Paris"),
        rollout("r3", "g2", Q2, r3, text="Bob"),
        rollout("r4", "g2", Q2, r4, text="Bob", f1=0.5),
    ]
    groups = [
        GroupCredit("g1", "q1", 2, 0.5, 0.5, 4, 0.625, 1.1388041973930374, False, False, False, False),
        GroupCredit("g2", "q2", 2, 0.0, 0.0, 2, 0.0, 1.0, True, False, False, False),
    ]
    return IterationRecord(
        1, "train", 7, rollouts, credit, groups, {"generate": 3.0, "learn": 1.0, "total": 4.5}
    )


def train_2():
    malformed = Turn(
        1,
        "searcher",
        "default_policy",
        "<search>",
        ActionKind.MALFORMED,
        parse_error="unclosed tag",
        num_decision_tokens=3,
    )
    cut_off = Turn(0, "searcher", "default_policy", "so", ActionKind.CUT_OFF, num_decision_tokens=8)
    credit = {("r5", 0): gain(0.1, 0.1, 0.0, 0.0), ("r5", 1): paid(0.0), ("r6", 0): paid(0.0)}
    rollouts = [
        rollout(
            "r5",
            "g3",
            Q1,
            [search(0, "foo", False), malformed],
            outcome=-1.0,
            termination=Termination.MALFORMED,
        ),
        rollout("r6", "g3", Q1, [cut_off], outcome=-1.0, termination=Termination.TOKEN_LIMIT),
    ]
    groups = [GroupCredit("g3", "q1", 2, -1.0, 0.0, 1, 0.0, 0.0, True, True, True, True)]
    return IterationRecord(
        2, "train", 8, rollouts, credit, groups, {"generate": 1.0, "learn": 1.0, "total": 2.5}
    )


def heldout(iteration, *, q1_right, q2_right):
    rollouts = []
    for question, right in ((Q1, q1_right), (Q2, q2_right)):
        text = question.golds[0] if right else "Nowhere"
        turns = [answer(0, text)]
        name = f"e{question.id}"
        em = float(right)
        rollouts.append(
            rollout(name, question.id, question, turns, text=text, em=em, f1=em, outcome=em, split="heldout")
        )
    return IterationRecord(iteration, "heldout", 7, rollouts, seconds={"evaluate": 2.0})


def records():
    return [
        train_1(),
        heldout(1, q1_right=True, q2_right=False),
        train_2(),
        heldout(2, q1_right=False, q2_right=True),
    ]


def message(index, text, agent="reader"):
    return Turn(
        index, agent, "default_policy", text, ActionKind.MESSAGE, observation_text=text, num_decision_tokens=5
    )  # fmt: skip


def two_agents():
    """A searcher and its reader. The reader passes the answer on in t1, loses it in t2 and is silent in t3.

    Decision tokens: 4 a search, 5 a message, 6 an answer; 45 in all.
    """
    found = [search(0, "bar", True, documents=["bar"]) for _ in range(2)]
    for turn in found:
        turn.observation_text = "the mayor of bar : ann  lee ."
    again = search(2, "foo", False)
    again.observation_text = "nothing about joann leeds here"
    lost = [found[1], message(1, "bar has a mayor"), again, message(3, "nothing"), answer(4, "Bob")]
    rollouts = [
        rollout("t1", "g", Q2, [found[0], message(1, "It is Ann Lee."), answer(2, "Ann Lee")],
                text="Ann Lee", em=1.0, f1=1.0, outcome=1.0),
        rollout("t2", "g", Q2, lost, text="Bob"),
        rollout("t3", "g", Q2, [answer(0, "Bob")], text="Bob"),
    ]  # fmt: skip
    credit = {
        ("t1", 0): gain(0.1, 0.4, 1.0, 1.0),
        ("t1", 1): gain(0.4, 0.6, 0.5, 2.0),
        ("t1", 2): paid(3.0),
        ("t2", 0): gain(0.1, 0.4, 1.0, -1.0),
        ("t2", 1): gain(0.4, 0.2, -1.0, -2.0),
        ("t2", 2): gain(0.2, 0.2, 0.0, -3.0),
        ("t2", 3): gain(0.2, 0.205, 0.25, -4.0),
        ("t2", 4): paid(-3.0),
        ("t3", 0): paid(-3.0),
    }
    return IterationRecord(1, "train", 7, rollouts, credit)


TEAM = {"config": {"env_config": {"roles": [{"name": name} for name in ("searcher", "reader", "critic")]}}}
"""The settings of the run of `two_agents`; nobody reached the critic."""


def write_run(folder, run_id="run-1", written=None, **info):
    """A run's folder with `written` (default: `records()`) in its log."""
    with RolloutLogWriter(
        folder / run_id / "rollouts", run_id, info.pop("attempt", 1), info=RunInfo(**info)
    ) as writer:
        for record in records() if written is None else written:
            writer.write(record, {"kl": 0.5})
    return folder / run_id
