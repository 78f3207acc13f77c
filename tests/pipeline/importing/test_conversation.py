"""Rollouts of other frameworks, as they write them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.errors import InputError
from envs.search.trajectory import Termination
from pipeline.importing.conversation import read_conversations

ASK = {"role": "user", "content": "Who wrote Dune?"}
SEARCH = {"role": "assistant", "content": "<search>Dune</search>"}
PAGE = {"role": "user", "content": "Dune is a novel by Frank Herbert."}
ANSWER = {"role": "assistant", "content": "<answer>Frank Herbert</answer>"}
MESSAGES = [ASK, SEARCH, PAGE, ANSWER]
PLAIN = {"messages": MESSAGES, "golden_answers": ["Frank Herbert"]}


def read(tmp_path, *records):
    file = tmp_path / "rollouts.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_conversations(file)


def test_a_conversation_is_a_prompt_and_its_turns(tmp_path):
    (one,) = read(tmp_path, PLAIN)
    assert one.prompt == [ASK]
    assert [(e.decision, e.observations) for e in one.exchanges] == [(SEARCH, [PAGE]), (ANSWER, [])]
    assert [one.messages(turns) for turns in range(3)] == [[ASK], MESSAGES[:3], MESSAGES]
    assert (one.question.text, one.question.golds) == ("Who wrote Dune?", ["Frank Herbert"])
    assert (one.step, one.reward, one.termination, one.tools) == (1, None, None, None)
    assert one.group == f"000001/{one.question.id}" and one.id == f"{one.group}/0"


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [ASK], "completion": MESSAGES[1:], "answer": "Frank Herbert"},
        {"messages": MESSAGES, "reward_model": {"ground_truth": {"target": ["Frank Herbert"]}}},
        {"messages": MESSAGES, "ground_truth": ["Frank Herbert"]},
        {"messages": MESSAGES, "gts": "Frank Herbert", "question": "Who wrote Dune?"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ASK["content"]}]}, *MESSAGES[1:]],
         "golds": ["Frank Herbert"]},
        {"messages": json.dumps(MESSAGES), "golds": ["Frank Herbert"]},
    ],
    ids=["trl", "verl", "ground_truth", "gts", "parts", "table"],
)  # fmt: skip
def test_forms_of_other_frameworks(tmp_path, record):
    (one,) = read(tmp_path, record)
    assert (one.prompt, len(one.exchanges)) == ([ASK], 2)
    assert (one.question.text, one.question.golds) == ("Who wrote Dune?", ["Frank Herbert"])


@pytest.mark.parametrize(
    "call",
    [
        {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query": "Dune"}'}},
        {"id": "1", "function": {"name": "search", "arguments": {"query": "Dune"}}},
        {"id": "1", "name": "search", "arguments": '{"query": "Dune"}'},
        '{"id": "1", "name": "search", "arguments": "{\\"query\\": \\"Dune\\"}"}',
    ],
    ids=["openai", "object", "bare", "verifiers"],
)
def test_tool_calls_become_what_chat_templates_take(tmp_path, call):
    """The arguments as an object: a template would quote a text once more."""
    calls = [ASK, {"role": "assistant", "content": None, "tool_calls": [call]}, PAGE, ANSWER]
    (one,) = read(tmp_path, PLAIN | {"messages": calls, "tool_defs": [{"name": "search", "parameters": {}}]})
    function = {"name": "search", "arguments": {"query": "Dune"}}
    expected = {"id": "1", "type": "function", "function": function}
    assert one.exchanges[0].decision == {"role": "assistant", "content": "", "tool_calls": [expected]}
    assert one.tools == [{"type": "function", "function": {"name": "search", "parameters": {}}}]


def test_parquet(tmp_path):
    """A struct has all fields of all messages, null where one has none."""
    pq.write_table(pa.Table.from_pylist([PLAIN]), tmp_path / "rollouts.parquet")
    (one,) = read_conversations(tmp_path / "rollouts.parquet")
    assert one.messages(2) == MESSAGES


def test_groups_and_steps(tmp_path):
    """Steps that count from 0 are counted from 1; a group is of one step."""
    first, second, third = read(
        tmp_path,
        PLAIN | {"step": 0, "group": "q"},
        PLAIN | {"step": 0, "group": "q"},
        PLAIN | {"step": 4, "group": "q"},
    )
    assert [one.step for one in (first, second, third)] == [1, 1, 5]
    assert [one.id for one in (first, second, third)] == ["000001/q/0", "000001/q/1", "000005/q/0"]
    assert first.group == second.group != third.group


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": None}, "`messages` .* is not among the fields"),
        ({"messages": "hello"}, "`messages` must be a list, found 'hello'"),
        ({"messages": "[hello"}, "`messages` must be a list, found .*hello"),
        (
            {"messages": [ASK, {"role": "assistant", "content": [{"type": "tool_use", "name": "a"}]}]},
            "a part of its",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
            "message 0: a part of its content is of type 'image_url', and only text is scored",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "content": "\ud800"}]},
            "message 1: its content is not valid",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "tool_calls": "x"}]},
            "`tool_calls` must be a list, found 'x'",
        ),
        ({"messages": [ASK]}, "the conversation has no message of the assistant"),
        ({"messages": [ANSWER]}, "the conversation begins with the assistant: give its prompt"),
        (
            {"messages": [{"role": "human", "content": "?"}]},
            "message 0 must have a `role` of system, developer",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "content": 3}]},
            "message 1: `content` must be text, found 3",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "tool_calls": [3]}]},
            "a tool call must have a `name`, found 3",
        ),
        ({"golden_answers": []}, "no gold answer: give one as `golden_answers`"),
        ({"reward": "high"}, "`reward` must be a finite number, found 'high'"),
        ({"step": -1}, "`step` must be a whole number from 0, found -1"),
        ({"step": 10**20}, "`step` must be a whole number from 0, found 1000"),
        ({"uid": ["q"]}, "`uid` must be a text or a number"),
        ({"group": "\ud800"}, "`group` is not valid Unicode"),
        ({"golden_answers": [True]}, "`golden_answers` must be a text or a list of texts"),
        ({"question": 3}, "the question must be text, found 3"),
        ({"hops": "two"}, "`hops` must be a whole number from 1, found 'two'"),
        (
            {"termination": "done"},
            "`termination` must be one of answered, malformed, turn_limit, token_limit",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=f"rollouts.jsonl.*{message}"):
        read(tmp_path, PLAIN | changes)


def test_examples_in_the_prompt_are_no_turns(tmp_path):
    """All of `prompt` is the prompt, and so are as many messages as the record says."""
    shot = [{"role": "user", "content": "Who wrote Emma?"}, {"role": "assistant", "content": "Jane Austen"}]
    golds = {"golden_answers": ["Frank Herbert"]}
    one, two = read(
        tmp_path,
        golds | {"prompt": [*shot, ASK], "completion": MESSAGES[1:]},
        golds | {"messages": [*shot, *MESSAGES], "prompt_messages": 3},
    )
    for read_one in (one, two):
        assert read_one.prompt == [*shot, ASK]
        assert [exchange.decision for exchange in read_one.exchanges] == [SEARCH, ANSWER]
        assert read_one.question.text == "Who wrote Dune?"


@pytest.mark.parametrize("number", [0, 4, 1.5, "2", True])
def test_the_prompts_length_must_leave_a_turn(tmp_path, number):
    with pytest.raises(InputError, match="`prompt_messages` must be a whole number from 1 to 3, found"):
        read(tmp_path, PLAIN | {"prompt_messages": number})


def test_openais_older_calls(tmp_path):
    call = {"name": "search", "arguments": '{"query": "Dune"}'}
    older = [
        ASK,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "search", "content": "By Frank Herbert."},
        ANSWER,
    ]
    (one,) = read(tmp_path, PLAIN | {"messages": older})
    function = {"name": "search", "arguments": {"query": "Dune"}}
    calls = [{"type": "function", "function": function}]
    assert one.exchanges[0].decision == {"role": "assistant", "content": "", "tool_calls": calls}
    assert [message["role"] for message in one.exchanges[0].observations] == ["tool"]


def test_an_empty_turn_is_refused_unless_it_is_the_last(tmp_path):
    nothing = {"role": "assistant", "content": "", "calls": ["search"]}
    with pytest.raises(InputError, match="message 1 of the assistant has neither text nor `tool_calls`"):
        read(tmp_path, PLAIN | {"messages": [ASK, nothing, PAGE, ANSWER]})
    thought = nothing | {"reasoning_content": "I search."}
    for messages in ([ASK, nothing], [ASK, thought, PAGE, ANSWER]):
        assert len(read(tmp_path, PLAIN | {"messages": messages})) == 1


def test_text_parts_of_openais_responses(tmp_path):
    ask = {"role": "user", "content": [{"type": "input_text", "text": "Who wrote Dune?"}]}
    answer = {"role": "assistant", "content": [{"type": "output_text", "text": "Frank Herbert"}]}
    (one,) = read(tmp_path, PLAIN | {"messages": [ask, answer]})
    assert (one.question.text, one.exchanges[0].decision["content"]) == ("Who wrote Dune?", "Frank Herbert")


@pytest.mark.parametrize(
    ("field", "value", "termination"),
    [
        ("finish_reason", "length", Termination.TOKEN_LIMIT),
        ("stop_reason", "max_tokens", Termination.TOKEN_LIMIT),
        ("status", "truncated", Termination.TOKEN_LIMIT),
        ("is_truncated", True, Termination.TOKEN_LIMIT),
        ("stop_condition", "prompt_too_long", Termination.TOKEN_LIMIT),
        ("finish_reason", "stop", None),
        ("is_truncated", False, None),
        ("stop_condition", "max_turns_reached", None),
    ],
)
def test_what_frameworks_say_of_the_end(tmp_path, field, value, termination):
    (one,) = read(tmp_path, PLAIN | {field: value})
    assert (one.termination, one.sources["end"]) == (termination, field if termination else "")
    (one,) = read(tmp_path, PLAIN | {field: value, "termination": "malformed"})
    assert one.termination is Termination.MALFORMED


def test_bad_records_are_counted_or_left_out(tmp_path):
    bad = PLAIN | {"reward": "high"}
    with pytest.raises(InputError, match=r"jsonl:2: `reward` .* \(2 of 3 records .*: `--skip-bad` reads the"):
        read(tmp_path, PLAIN, bad, bad)
    left_out = []
    (one,) = read_conversations(tmp_path / "rollouts.jsonl", left_out.append)
    assert one.where.endswith("rollouts.jsonl:1")
    assert [str(error).partition(": ")[0][-2:] for error in left_out] == [":2", ":3"]
    with pytest.raises(InputError, match=r"jsonl:1: `reward` .* \(all 2 records are bad\)"):
        read(tmp_path, bad, bad)


@pytest.mark.parametrize(
    ("record", "golds"),
    [
        ({"answer": "Isaac Asimov", "ground_truth": ["Frank Herbert"]}, ["Frank Herbert"]),
        ({"golden_answers": None, "answer": "Frank Herbert"}, ["Frank Herbert"]),
        ({"ground_truth": [1965, "1965", " in 1965 "]}, ["1965", "in 1965"]),
        ({"reward_model": "rule", "reward_model.ground_truth": "Frank Herbert"}, ["Frank Herbert"]),
        ({"golden_answers": '["a", "b"]'}, ["a", "b"]),
    ],
    ids=["prediction", "null", "year", "flat", "cell"],
)
def test_which_answer_is_gold(tmp_path, record, golds):
    (one,) = read(tmp_path, {"messages": MESSAGES} | record)
    assert one.question.golds == golds


def test_what_pandas_writes_for_missing_values(tmp_path):
    nan = float("nan")
    first, second = read(
        tmp_path,
        PLAIN | {"uid": 1.0, "reward": 1, "step": 2.0},
        PLAIN | {"uid": nan, "reward": nan, "question": nan, "step": 2},
    )
    assert (first.group, first.reward, first.step) == ("000002/1", 1.0, 2)
    assert (second.group, second.reward) == (f"000002/{second.question.id}", None)
    missing = {
        "data_source": nan, "extra_info": {"question": nan}, "metadata": {"hops": nan},
        "reward_model": {"ground_truth": nan}, "golden_answers": ["Frank Herbert", nan],
        "messages": [message | {"name": nan, "tool_calls": nan} for message in MESSAGES],
    }  # fmt: skip
    (third,) = read(tmp_path, PLAIN | missing)
    question = third.question
    assert (question.text, question.golds, question.hops) == ("Who wrote Dune?", ["Frank Herbert"], None)
    assert question.data_source == first.question.data_source and third.messages(2) == MESSAGES


def test_a_rollout_without_a_group_is_of_its_question(tmp_path):
    """A row's own id, or verl's row without an index, makes no group of its own."""
    verl = {"messages": MESSAGES, "data_source": "nq", "reward_model": {"ground_truth": ["Frank Herbert"]}}
    assert len({one.group for one in read(tmp_path, PLAIN | {"id": "r0"}, PLAIN | {"id": "r1"}, verl)}) == 1


def test_a_group_is_of_one_question(tmp_path):
    with pytest.raises(
        InputError,
        match="rollouts.jsonl:2: its group 'g' has another question or gold answer at .*rollouts.jsonl:1",
    ):
        read(tmp_path, PLAIN | {"group": "g"}, PLAIN | {"group": "g", "golden_answers": ["Herbert"]})


def test_steps_of_some_rollouts_alone_are_refused(tmp_path):
    with pytest.raises(InputError, match="some rollouts have a step and some none"):
        read(tmp_path, PLAIN, PLAIN | {"step": 0})


def test_roles_contents_and_hops(tmp_path):
    messages = [
        {"role": "developer", "content": "Search."},
        ASK,
        {"role": "assistant", "content": "I search.", "tool_calls": []},
        {"role": "tool", "content": {"found": "Dune"}},
        ANSWER,
    ]
    (one,) = read(tmp_path, PLAIN | {"messages": messages, "hops": 2})
    assert one.prompt[0]["role"] == "system"
    assert one.exchanges[0].decision == {"role": "assistant", "content": "I search."}
    assert one.exchanges[0].observations[0]["content"] == '{"found": "Dune"}'
    assert one.question.hops == 2


def test_two_rollouts_of_a_step_have_different_ids(tmp_path):
    with pytest.raises(InputError, match="2 rollouts of step 1 have the id 'a'"):
        read(tmp_path, PLAIN | {"rollout_id": "a"}, PLAIN | {"rollout_id": "a"})


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="it holds no rollout"):
        read(tmp_path)
