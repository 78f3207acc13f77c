"""Chat templates that take less than they are given: no system message, roles by turns, a clock."""

import logging

import jinja2
import pytest
from chat_tokenizers import CHATML, DEAF, GEMMA, LLAMA3, QWEN2, SCHEMAS, chat_tokenizer
from transformers.utils import chat_template_utils

from envs.errors import InputError
from envs.search.config import SearchEnvSettings
from envs.search.protocols.build import build_protocol
from envs.search.protocols.chat import ChatProtocol
from envs.search.protocols.chat_short import ChatShortProtocol
from envs.search.protocols.igpo import IGPOProtocol
from envs.search.protocols.rendering import TemplateRenderer
from envs.search.protocols.search_r1 import SearchR1Protocol

BOTH = ["search", "answer"]
MAKE = {
    "igpo": lambda tokenizer: IGPOProtocol(tokenizer, SCHEMAS),
    "search_r1": SearchR1Protocol,
    "chat_short": ChatShortProtocol,
    "chat_short, no examples": lambda tokenizer: ChatShortProtocol(tokenizer, worked_examples=False),
}


@pytest.mark.parametrize("template", [GEMMA, DEAF])
@pytest.mark.parametrize("name", MAKE)
def test_system_words_go_before_the_first_user_message(name, template):
    """The same words in the same order; only the roles around the system's are gone."""
    protocol = MAKE[name](chat_tokenizer(template))
    plain = MAKE[name](chat_tokenizer(CHATML))
    whole, expected = (p.text(p.prompt("Be {brief}.", "Who {question}?", BOTH)) for p in (protocol, plain))
    expected = expected.replace("<|im_start|>system\n", "<|im_start|>user\n")
    expected = expected.replace("<|im_end|>\n<|im_start|>user\n", "\n\n", 1 if name != "search_r1" else 0)
    assert whole.replace("<|im_start|>model\n", "<|im_start|>assistant\n") == expected
    decision = plain.tokenizer("<answer>a</answer><|im_end|>")["input_ids"]
    seen = protocol.text(protocol.observation("x", decision_ids=decision, sender="tool", max_tokens=9).ids)
    assert "x" in seen and "Be" not in seen


def test_a_question_stays_in_its_message():
    """`{question}` in an instruction is the role's word, also where that is no message of its own."""
    protocol = IGPOProtocol(chat_tokenizer(GEMMA), SCHEMAS)
    text = protocol.text(protocol.prompt("Repeat {question}.", "Who?", BOTH))
    assert (
        text.startswith("<|im_start|>user\nRepeat {question}.\n") and "\n\nQuestion: Who?<|im_end|>" in text
    )


def test_the_change_is_said_once(caplog):
    with caplog.at_level(logging.WARNING):
        protocol = IGPOProtocol(chat_tokenizer(GEMMA), SCHEMAS)
        for question in ("Who?", "What?"):
            protocol.prompt("", question, BOTH)
        SearchR1Protocol(chat_tokenizer(GEMMA)).prompt("", "Who?", BOTH)  # has no system words
    assert [r.getMessage() for r in caplog.records].count(
        "the chat template of  shows no system message: the instruction goes before the first user message"
    ) == 1


def test_messages_of_one_role_in_a_row_become_one():
    renderer = TemplateRenderer(chat_tokenizer(GEMMA))
    roles = ["system", "user", "user", "assistant", "assistant", "user"]
    text = renderer.render([{"role": role, "content": f"{k}"} for k, role in enumerate(roles)])
    assert text == (
        "<|im_start|>user\n0\n\n1\n\n2<|im_end|>\n<|im_start|>model\n3\n\n4<|im_end|>\n"
        "<|im_start|>user\n5<|im_end|>\n<|im_start|>model\n"
    )


def settings(folder, protocol, **more):
    return SearchEnvSettings(
        protocol=protocol, tokenizer=str(folder), corpus="c", questions="q", retriever={}, **more
    )


NO_TOOL_ROLE = QWEN2.replace("m.role == 'tool'", "m.role == 'function'")
REFUSED = [
    (NO_TOOL_ROLE, "chat", "drops a message of role tool: .* or use protocol `igpo`"),
    (
        QWEN2.replace(
            "{%- if m.role == 'user' %}",
            "{%- if m.role == 'tool' %}{{ raise_exception('No tools') }}{% elif m.role == 'user' %}",
        ),
        "chat",
        "protocol `chat`: the chat template of .* used .No tools.: mend it.*; or use protocol `igpo`",
    ),
    (GEMMA, "chat", "shows no tools: use protocol `igpo`"),
    (CHATML.replace("m.content }}", "m.content + 1 }}"), "igpo", "used .can only concatenate str"),
    ("{% if %}", "igpo", "can't be used"),
    ("{{ now() }}" + CHATML, "igpo", "can't be used .'now' is undefined"),
    (
        "{% if messages|length == 2 and messages[0].role == 'system' %}{{ messages[1].content }}{% endif %}"
        + CHATML,
        "igpo",
        "shows the question 2 times",
    ),
    (
        "{% if 'tags' in messages[0].content %}{{ raise_exception('Too long') }}{% endif %}" + CHATML,
        "igpo",
        "can't be used .Too long",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("template", "protocol", "message"), REFUSED)
def test_what_can_not_be_met_is_refused_when_the_protocol_is_built(tmp_path, template, protocol, message):
    chat_tokenizer(template).save_pretrained(tmp_path)
    roles = [{"name": "searcher", "instruction": "Mind the tags."}]
    with pytest.raises(InputError, match=message):
        build_protocol(settings(tmp_path, protocol, roles=roles), SCHEMAS)


@pytest.mark.parametrize(
    ("head", "shown"),
    [
        ("{{ strftime_now('%d %B %Y, %H:%M') }}", "26 July 2024, 00:00"),
        ("{% macro day() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ day() }}", "2024-07-26"),
        ("{% set f = strftime_now %}{{ f('%d %b %Y') }}", "26 Jul 2024"),
        ("{{ date_string }}", "26 Jul 2024"),
        ("{% if strftime_now is defined %}{{ strftime_now('%A') }}{% endif %}", "Friday"),
    ],
)
@pytest.mark.parametrize("name", MAKE)
def test_the_clock_of_a_template_stands_still(name, head, shown):
    protocol = MAKE[name](chat_tokenizer(head + CHATML))
    assert protocol.text(protocol.prompt("", "Who?", BOTH)).startswith(f"{shown}<|im_start|>")


def test_transformers_offers_templates_no_other_clock():
    """A new global there may be a clock: then it belongs into `rendering.CLOCK`."""
    offered = chat_template_utils._compile_jinja_template("{{ 1 }}").environment.globals
    assert offered.keys() - jinja2.Environment().globals.keys() == {"raise_exception", "strftime_now"}


def test_llama_s_date_is_what_it_was():
    protocol = ChatProtocol(chat_tokenizer(LLAMA3), SCHEMAS)
    assert "Today Date: 26 Jul 2024" in protocol.text(protocol.prompt("", "Who?", BOTH))
