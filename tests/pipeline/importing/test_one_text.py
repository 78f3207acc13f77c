"""Conversations that were logged as one text."""

import pytest

from envs.errors import InputError
from pipeline.importing.one_text import prompt_messages, response_messages

CALL = (
    "<think>\nI look.\n</think>\n\n"
    '<tool_call>\n{"name": "search", "arguments": {"query": "Dune"}}\n</tool_call>'
)
PAGE = "<tool_response>\nDune is a novel.\n\nIts user\nis a reader.\n</tool_response>"
ANSWER = "<think>\nDone.\n</think>\n\n<answer>Frank Herbert</answer>"
TURNS = [("assistant", CALL), ("user", PAGE), ("assistant", ANSWER)]
SYSTEM = "Search.\n\n# Tools\n\n<tools>\n{}\n</tools>"


@pytest.mark.parametrize(
    "text",
    [
        f"{CALL}<|im_end|>\n<|im_start|>user\n{PAGE}<|im_end|>\n<|im_start|>assistant\n{ANSWER}",
        f"{CALL}<|im_end|>\n<|im_start|>user\n{PAGE}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>\n",
        f"{CALL}<|im_end|>\n<|im_start|>user\n{PAGE}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|><|endoftext|>",
        f"{CALL}\nuser\n{PAGE}\nassistant\n{ANSWER}",
        f"{CALL}\nuser\n{PAGE}\nassistant\n{ANSWER}\n",
    ],
    ids=["tokens", "closed", "padded", "lines", "lines_closed"],
)
def test_turns_of_a_chat_template(text):
    assert response_messages(text, "here") == TURNS


def test_what_is_no_tool_response_ends_at_the_next_line_of_the_assistant():
    text = "Which one?\nuser\nThe novel.\nassistant\nFrank Herbert"
    assert response_messages(text, "here") == [
        ("assistant", "Which one?"), ("user", "The novel."), ("assistant", "Frank Herbert"),
    ]  # fmt: skip


def test_messages_of_tools():
    text = f"{CALL}<|im_end|>\n<|im_start|>tool\nDune is a novel.<|im_end|>\n<|im_start|>assistant\nb"
    assert response_messages(text, "here")[1] == ("tool", "Dune is a novel.")
    text = f"{CALL}\ntool\nDune is a novel.\nassistant\nb"
    assert response_messages(text, "here") == [
        ("assistant", CALL), ("tool", "Dune is a novel."), ("assistant", "b"),
    ]  # fmt: skip


def test_a_role_inside_of_an_observation_is_text():
    page = "<tool_response>\nuser\nasks\nassistant\nanswers\n</tool_response>"
    assert response_messages(f"{CALL}\nuser\n{page}\nassistant\nb", "here")[1] == ("user", page)


@pytest.mark.parametrize(
    "end",
    [
        f"\nuser\n{PAGE}\nassistant\n",
        f"\nuser\n{PAGE}",
        f"<|im_end|>\n<|im_start|>user\n{PAGE}<|im_end|>\n<|im_start|>assistant\n",
        f"<|im_end|>\n<|im_start|>user\n{PAGE}<|im_end|>\n",
    ],
)
def test_a_rollout_that_ends_on_an_observation(end):
    assert response_messages(CALL + end, "here") == TURNS[:2]


def test_an_observation_that_was_cut_short():
    assert response_messages(f"{CALL}\nuser\n<tool_response>\nDune is", "here") == [
        ("assistant", CALL),
        ("user", "<tool_response>\nDune is"),
    ]


def test_turns_of_search_r1():
    one, two = "<think> a </think>\n<search> Dune </search>", "<search> Herbert </search>"
    pages = [f"<information>Doc 1(Title: {k}) Text.</information>" for k in range(2)]
    text = f"{one}\n\n{pages[0]}\n\n{two}\n{pages[1]}\n<answer> F </answer>"
    assert response_messages(text, "here") == [
        ("assistant", one), ("user", pages[0]), ("assistant", two), ("user", pages[1]),
        ("assistant", "<answer> F </answer>"),
    ]  # fmt: skip
    assert response_messages(f"{one}\n\n{pages[0]}\n\n", "here") == [("assistant", one), ("user", pages[0])]
    assert response_messages(f"{one}\n<information>Doc", "here")[1] == ("user", "<information>Doc")


@pytest.mark.parametrize(
    "text",
    [
        "<answer> F </answer>",
        "<think>The <information> it has</information></think> F",
        "a\nuser\nwithout an end",
        "",
    ],
)
def test_text_without_a_boundary_is_one_turn(text):
    assert response_messages(text, "here") == [("assistant", text)]


@pytest.mark.parametrize(
    "text",
    [
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
        f"<s><|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
        f"<|endoftext|><|endoftext|><|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n",
        f"system\n{SYSTEM}\nuser\nWho?\nassistant\n",
        f"system\n{SYSTEM}\nuser\nWho?\nassistant",
    ],
)
def test_a_prompt_of_a_chat_template(text):
    assert prompt_messages(text, "here") == ([("system", SYSTEM), ("user", "Who?")], "")


def test_what_the_prompt_begins_of_the_answer():
    tokens = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    for text in (tokens, "user\nWho?\nassistant\n<think>\n"):
        assert prompt_messages(text, "here") == ([("user", "Who?")], "<think>\n")


def test_examples_in_a_prompt():
    text = "user\nWho?\nassistant\nHe.\nuser\nWhere?\nassistant\n"
    pieces = [("user", "Who?"), ("assistant", "He."), ("user", "Where?")]
    assert prompt_messages(text, "here") == (pieces, "")


@pytest.mark.parametrize("text", ["Who wrote Dune?", "A user\nuser\nasks", "Question: the user\nassistant\n"])
def test_a_prompt_without_a_template(text):
    assert prompt_messages(text, "here") == ([("user", text)], "")
    assert prompt_messages(" ", "here") == ([], "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a<|im_end|> stray <|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\nc",
         "is not the sum of its turns"),
        ("a<|im_end|>\n<|im_start|>critic\nb<|im_end|>\n<|im_start|>assistant\nc",
         "is not the sum of its turns"),
        ("a<|im_end|>\n<|im_start|>user\nb<|im_start|>assistant\nc", "is not the sum of its turns"),
        ("a<|im_start|>critic\nb", "is not the sum of its turns"),
        ("a<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nb", "holds <|eot_id|>"),
        ("a<end_of_turn>\n<start_of_turn>user\nb", "holds <end_of_turn>"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_apart_is_refused(text, said):
    with pytest.raises(InputError) as error:
        response_messages(text, "file:1: `output`")
    assert str(error.value).startswith("file:1: `output` ") and said in str(error.value)
    assert len(str(error.value)) <= 300
