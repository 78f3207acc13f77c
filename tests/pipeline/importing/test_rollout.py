"""What the turns of a conversation did."""

import pytest

from envs.data.question import Question
from envs.search.trajectory import ActionKind, Termination
from pipeline.importing.conversation import Conversation, Exchange
from pipeline.importing.rollout import make_rollout, uses_answer_tags

QUESTION = Question("q", "Who wrote Dune?", ["Frank Herbert"])


def say(content, **others):
    return {"role": "assistant", "content": content, **others}


def conversation(*turns, reward=None, termination=None):
    exchanges = [Exchange(decision, list(observations)) for decision, *observations in turns]
    prompt = [{"role": "user", "content": "Who wrote Dune?"}]
    return Conversation("here", "a", "g", 1, QUESTION, prompt, exchanges, None, reward, termination)


def made(*turns, **others):
    return make_rollout(conversation(*turns, **others), len)


def test_a_search_in_tags_and_an_answer():
    rollout = made(
        (say("I search. <search>Dune</search>"), {"role": "user", "content": "By Frank Herbert."}),
        (say("<think>Herbert.</think><answer>Frank Herbert</answer>"),),
    )
    first, last = rollout.turns
    assert (first.action, first.query, first.observation_text) == (
        ActionKind.TOOL,
        "Dune",
        "By Frank Herbert.",
    )
    assert (first.tool_calls[0].tool, first.tool_calls[0].result_text) == ("search", "By Frank Herbert.")
    assert (first.num_decision_tokens, first.num_observation_tokens) == (31, 17)
    assert (last.action, last.answer, rollout.answer) == (ActionKind.ANSWER, "Frank Herbert", "Frank Herbert")
    assert (rollout.termination, rollout.outcome, rollout.metrics["em_squad"]) == (
        Termination.ANSWERED,
        1.0,
        1.0,
    )


def test_calls_beside_the_text():
    """Each result belongs to its call."""
    calls = [
        {"type": "function", "function": {"name": "search", "arguments": {"query": "Dune"}}},
        {"type": "function", "function": {"name": "open", "arguments": {"page": 3}}},
    ]
    results = [{"role": "tool", "content": "found"}, {"role": "tool", "content": "page three"}]
    turn, _ = made((say("", tool_calls=calls), *results), (say("Frank Herbert"),)).turns
    assert [(c.tool, c.arguments, c.result_text) for c in turn.tool_calls] == [
        ("search", {"query": "Dune"}, "found"),
        ("open", {"page": 3}, "page three"),
    ]
    assert turn.query == "Dune" and turn.observation_text == "found\npage three"
    first = '<tool_call>{"name": "search", "arguments": {"query": "Dune"}}</tool_call>'
    assert turn.decision_text == first + '\n<tool_call>{"name": "open", "arguments": {"page": 3}}</tool_call>'


@pytest.mark.parametrize(
    ("written", "tool", "query"),
    [
        ('<tool_call>{"name": "search", "arguments": {"queries": ["a", "b"]}}</tool_call>', "search", "a; b"),
        ('<tool_call>{"name": "wiki", "arguments": {"title": "Dune"}}</tool_call>', "wiki", "Dune"),
        ("<tool_call>Dune</tool_call>", "tool", "Dune"),
        ("<search> Dune </search>", "search", "Dune"),
    ],
)
def test_calls_in_the_text(written, tool, query):
    turn, _ = made((say(written), {"role": "tool", "content": "x"}), (say("y"),)).turns
    assert (turn.tool_calls[0].tool, turn.query, turn.action) == (tool, query, ActionKind.TOOL)


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<answer>A</answer> or <answer> B </answer>", "B"),
        (r"so \boxed{B}", "B"),
        (r"\boxed{A} no, \boxed{\text{B} {C}}", "B {C}"),
        ("<think>hm</think>\nB", "B"),
        ("<answer></answer>", None),
        ("<think>maybe <answer>A</answer></think> B", "B"),
        (r"<think>maybe \boxed{A}</think> B", "B"),
        ("<think>I could <search>A</search></think><answer>B</answer>", "B"),
        ("<think>B</think>", None),
    ],
)
def test_the_answer(written, answer):
    rollout = made((say(written),))
    assert rollout.answer == answer
    assert rollout.termination is (Termination.TURN_LIMIT if answer is None else Termination.ANSWERED)


@pytest.mark.parametrize(
    "written",
    ["<think>It may be that", "<think>hm</think><answer>Mal", "a <search>Du", '<tool_call>{"name": "sea'],
)
def test_a_last_turn_with_an_open_tag_was_cut_off(written):
    rollout = made((say(written),))
    assert (rollout.answer, rollout.outcome, rollout.termination) == (None, 0.0, Termination.TOKEN_LIMIT)
    assert rollout.turns[0].is_cut_off


def test_what_is_said_to_be_an_answer_may_lack_its_closing_tag():
    """It was the stop string."""
    assert made((say("<answer>Dune"),), termination=Termination.ANSWERED).answer == "Dune"


@pytest.mark.parametrize("tool", ["finish", "submit", "final_answer"])
@pytest.mark.parametrize("observations", [(), ({"role": "tool", "content": "done"},)])
@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"answer": "Malmö", "why": "It says so."}, "Malmö"),
        ({"text": "Malmö", "confidence": 3}, "Malmö"),
        ({"answer": 1967}, "1967"),
        ({"a": "Malmö", "b": "Oslo"}, None),
    ],
)
def test_a_last_call_may_hand_over_the_answer(tool, observations, arguments, answer):
    call = {"type": "function", "function": {"name": tool, "arguments": arguments}}
    rollout = made((say("", tool_calls=[call]), *observations))
    assert (rollout.answer, rollout.turns[0].answer) == (answer, answer)
    assert rollout.termination is (Termination.TURN_LIMIT if answer is None else Termination.ANSWERED)


def test_a_call_within_a_thought_counts_where_it_was_answered():
    turn, _ = made(
        (say("<think><search>Dune</search></think>"), {"role": "user", "content": "x"}), (say("y"),)
    ).turns
    assert (turn.action, turn.query) == (ActionKind.TOOL, "Dune")


def test_words_after_the_answer_do_not_take_it_away():
    rollout = made((say("<answer>Frank Herbert</answer>"), {"role": "user", "content": "Correct!"}))
    assert (rollout.answer, rollout.termination) == ("Frank Herbert", Termination.ANSWERED)


def test_a_result_belongs_to_the_call_that_it_names():
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": {}}} for name in "ab"]
    results = [{"role": "tool", "content": f"of {name}", "tool_call_id": name} for name in "ba"]
    turn, _ = made(
        (say("", tool_calls=calls), *results, {"role": "user", "content": "Go on."}), (say("y"),)
    ).turns
    assert [(call.tool, call.result_text) for call in turn.tool_calls] == [("a", "of a"), ("b", "of b")]
    assert turn.observation_text == "of b\nof a\nGo on."


def test_a_thought_beside_the_text_is_part_of_the_decision():
    rollout = made((say("Frank Herbert", reasoning_content="It is his."),))
    assert rollout.turns[0].decision_text == "<think>\nIt is his.\n</think>\nFrank Herbert"
    assert rollout.answer == "Frank Herbert"


def test_a_rollout_that_ends_in_a_call_has_no_answer():
    rollout = made((say("<search>Dune</search>"),))
    assert (rollout.answer, rollout.termination, rollout.outcome) == (None, Termination.TURN_LIMIT, 0.0)


def test_words_to_a_user_are_a_message():
    rollout = made((say("Which Dune?"), {"role": "user", "content": "The novel."}), (say("Frank Herbert"),))
    assert [turn.action for turn in rollout.turns] == [ActionKind.MESSAGE, ActionKind.ANSWER]


def test_what_the_record_says_counts():
    rollout = made((say("<answer>Frank Herbert</answer>"),), reward=-0.5, termination=Termination.MALFORMED)
    assert (rollout.outcome, rollout.answer, rollout.turns[0].action) == (-0.5, None, ActionKind.MALFORMED)
    cut = made((say("I think that"),), termination=Termination.TOKEN_LIMIT)
    assert cut.turns[0].is_cut_off


def test_answer_tags_anywhere_count():
    assert uses_answer_tags([conversation((say("A"),)), conversation((say("<answer>A</answer>"),))])
    assert not uses_answer_tags([conversation((say("A"),))])
    assert not uses_answer_tags([conversation((say("<think>in <answer>A</answer>?</think>A"),))])


def test_several_results_of_one_id_are_told_apart_by_their_places():
    calls = [{"id": "1", "function": {"name": name, "arguments": {}}} for name in "ab"]
    results = [{"role": "tool", "content": f"of {name}", "tool_call_id": "1"} for name in "ab"]
    turn, _ = made((say("", tool_calls=calls), *results), (say("y"),)).turns
    assert [call.result_text for call in turn.tool_calls] == ["of a", "of b"]


def test_a_call_without_a_result_has_none():
    calls = [{"id": name, "function": {"name": name, "arguments": {}}} for name in "abc"]
    results = [{"role": "tool", "content": f"of {name}", "tool_call_id": name} for name in "cb"]
    turn, _ = made((say("", tool_calls=calls), *results), (say("y"),)).turns
    assert [call.result_text for call in turn.tool_calls] == ["", "of b", "of c"]


@pytest.mark.parametrize(
    ("seen", "results"),
    [
        ("<tool_response>\nA\n</tool_response>\n<tool_response>\n\n</tool_response>", ["A", ""]),
        ("<tool_response>\nA and B\n</tool_response>", ["<tool_response>\nA and B\n</tool_response>", ""]),
    ],
)
def test_one_message_may_answer_several_calls(seen, results):
    text = '<tool_call>{"name": "a"}</tool_call><tool_call>{"name": "b"}</tool_call>'
    turn, _ = made((say(text), {"role": "user", "content": seen}), (say("y"),)).turns
    assert [(call.tool, call.result_text) for call in turn.tool_calls] == list(
        zip("ab", results, strict=True)
    )
