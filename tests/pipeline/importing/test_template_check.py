"""What a chat template leaves out of a conversation."""

import pytest
from chat_tokenizers import CHATML, chat_tokenizer

from envs.search.protocols.rendering import TemplateRenderer
from pipeline.importing.template_check import what_is_lost

ASK = {"role": "user", "content": "Who?"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\nI search."}
REASONED = {"role": "assistant", "content": "I search.", "reasoning_content": "hm"}
CALLS = {
    "role": "assistant",
    "content": "I search.",
    "tool_calls": [
        {"type": "function", "function": {"name": "search", "arguments": {"query": "a"}}},
        {"type": "function", "function": {"name": "search", "arguments": {"query": "b"}}},
    ],
}
RESULT = {"role": "tool", "content": "found"}
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {}}}]
BARE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
FIRST_CALL = BARE.replace(
    "{{ m.content }}",
    "{% if m.tool_calls %}{{ m.tool_calls[0].function|tojson }}{% else %}{{ m.content }}{% endif %}",
)
ALL_CALLS = BARE.replace(
    "{{ m.content }}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function|tojson }}{% endfor %}",
)
NO_THOUGHTS = BARE.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
NO_RESULTS = BARE.replace("in messages %}", "in messages if m.role != 'tool' %}")


def lost(template, *messages, tools=None):
    render = TemplateRenderer(chat_tokenizer(template)).render
    return what_is_lost([ASK, *messages, ASK], tools, render, {})


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (BARE, [THOUGHT, RESULT], []),
        (BARE, [CALLS, RESULT], ["calls of tools"]),
        (ALL_CALLS, [CALLS, RESULT], []),
        (FIRST_CALL, [CALLS, RESULT], ["words of the assistant", "calls of tools"]),
        (NO_THOUGHTS, [THOUGHT, RESULT], ["earlier thoughts"]),
        (BARE, [REASONED, RESULT], ["earlier thoughts"]),
        (NO_RESULTS, [THOUGHT, RESULT], ["a message of role tool"]),
    ],
)
def test_what_is_lost(template, messages, expected):
    assert lost(template, *messages) == expected


def test_tools_that_are_not_shown():
    assert lost(BARE, THOUGHT, tools=TOOLS) == ["the tools that it is given"]
    assert lost("{{ tools|tojson }}" + BARE, THOUGHT, tools=TOOLS) == []


def test_one_rendering_for_each_form():
    """Two conversations differ in their words, the third in having none."""
    renderer, rendered = TemplateRenderer(chat_tokenizer(CHATML)), []

    def render(messages, tools):
        rendered.append(messages)
        return renderer.render(messages, tools)

    known = {}
    for content in ("a", "b", ""):
        what_is_lost([ASK, {"role": "assistant", "content": content}], None, render, known)
    assert len(rendered) == 2
