"""Chat templates whose generation prompt opens ``<think>``, opens and closes it, or does neither, in every
protocol in tags: prompt, parser, answer template, and rollouts through the loop.
"""

import pytest
from chat_tokenizers import CHATML, CLOSED, LLAMA3, OPEN, QWEN2, QWEN3, SCHEMAS, beginning, chat_tokenizer
from scripted_engine import ScriptedEngine
from text_task import text_task

from algorithms.igpo.learner.token_batch import turn_tokens
from envs.data.question import Question
from envs.runner.job import RolloutJob
from envs.runner.rollout_loop import RolloutLoop
from envs.search.protocols.base import Action
from envs.search.protocols.chat import ChatProtocol
from envs.search.protocols.chat_short import ChatShortProtocol
from envs.search.protocols.igpo import IGPOProtocol
from envs.search.protocols.search_r1 import SearchR1Protocol
from envs.search.trajectory import ActionKind, Termination

CALL = '{"name": "search", "arguments": {"query": "who"}}'
LLAMA_CALL = '{"name": "search", "parameters": {"query": "who"}}'
FAMILIES = {
    "igpo": ("igpo", CHATML),
    "search_r1": ("search_r1", CHATML),
    "chat, qwen2": ("chat", QWEN2),
    "chat, qwen3": ("chat", QWEN3),
    "chat, llama3": ("chat", LLAMA3),
}
SEARCH = {
    "igpo": f"<tool_call>\n{CALL}\n</tool_call><|im_end|>",
    "search_r1": "<search> who </search>",
    "chat, qwen2": f"<tool_call>\n{CALL}\n</tool_call><|im_end|>",
    "chat, qwen3": f"<tool_call>\n{CALL}\n</tool_call><|im_end|>",
    "chat, llama3": f"{LLAMA_CALL}<|eot_id|>",
}
ANSWER = {
    "igpo": "<answer>\nParis\n</answer><|im_end|>",
    "search_r1": "<answer> Paris </answer>",
    "chat, qwen2": "<answer>Paris</answer><|im_end|>",
    "chat, qwen3": "<answer>Paris</answer><|im_end|>",
    "chat, llama3": "<answer>Paris</answer><|eot_id|>",
}
BEGUN = {"neither": "", "open": OPEN, "open without a line": "<think>", "closed": CLOSED}
each_family = pytest.mark.parametrize("family", FAMILIES)
each_beginning = pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
BOTH = ["search", "answer"]


def build(family, begun):
    name, template = FAMILIES[family]
    tokenizer = chat_tokenizer(beginning(template, begun))
    match name:
        case "igpo":
            return IGPOProtocol(tokenizer, SCHEMAS)
        case "search_r1":
            return SearchR1Protocol(tokenizer)
    return ChatProtocol(tokenizer, SCHEMAS)


def is_open(begun):
    return bool(begun) and "</think>" not in begun


def encode(protocol, text):
    return protocol.tokenizer(text, add_special_tokens=False)["input_ids"]


def by_hand(protocol, text):
    """The ids of `text` without the tokenizer: added tokens as such, else one token a byte."""
    names = sorted(protocol.tokenizer.get_added_vocab(), key=len, reverse=True)
    tokens = []
    while text:
        added = next((name for name in names if text.startswith(name)), None)
        tokens.append(added or text[0].replace("\n", "Ċ").replace(" ", "Ġ"))
        text = text[len(added or " ") :]
    return protocol.tokenizer.convert_tokens_to_ids(tokens)


def turn(begun, words, thought="why"):
    """A decision with a thought, as a policy writes it after `begun`."""
    return (f"{thought}\n</think>\n\n" if is_open(begun) else f"<think>{thought}</think>\n") + words


@each_family
@each_beginning
def test_a_turn_is_read_as_begun_where_the_prompt_ends(family, begun):
    protocol = build(family, begun)
    prompt = protocol.text(protocol.prompt("", "Who?", BOTH))
    assert prompt == build(family, "").text(build(family, "").prompt("", "Who?", BOTH)) + begun
    search = protocol.parse(encode(protocol, turn(begun, SEARCH[family])))
    assert (search.kind, search.tool, search.arguments) == (ActionKind.TOOL, "search", {"query": "who"})
    answer = protocol.parse(encode(protocol, turn(begun, ANSWER[family])))
    assert (answer.kind, answer.text) == (ActionKind.ANSWER, "Paris")


@each_family
@pytest.mark.parametrize("begun", [OPEN, "<think>"])
def test_an_open_thought_must_be_closed_once(family, begun):
    protocol = build(family, begun)
    for text, error in (
        (ANSWER[family], "<answer> is out of place inside <think>"),
        (f"<think>again</think>{ANSWER[family]}", "<think> is out of place inside <think>"),
        (f"a</think>b</think>{ANSWER[family]}", "</think> is out of place"),
        ("only a thought", "<think> is not closed"),
        ("a thought</think> and no action", "no action"),
    ):
        action = protocol.parse(encode(protocol, text))
        assert (action.kind, action.ends_rollout) == (ActionKind.MALFORMED, True), text
        assert action.error.startswith(error), text


def test_a_call_as_json_follows_the_thought_only():
    open_, closed = build("chat, llama3", OPEN), build("chat, llama3", "")
    for protocol, text, kind in (
        (open_, f"why</think>\n{LLAMA_CALL}<|eot_id|>", ActionKind.TOOL),
        (open_, f"why</think>\n\n<|python_tag|>{LLAMA_CALL}<|eom_id|>", ActionKind.TOOL),
        (open_, f"{LLAMA_CALL}<|eot_id|>", ActionKind.MALFORMED),
        (open_, f"<|python_tag|>{LLAMA_CALL}<|eom_id|>", ActionKind.MALFORMED),
        (open_, f"<answer>a</answer></think>{LLAMA_CALL}<|eot_id|>", ActionKind.MALFORMED),
        (closed, f"<think>why</think>{LLAMA_CALL}<|eot_id|>", ActionKind.TOOL),
        (closed, f"<think>why {LLAMA_CALL}<|eot_id|>", ActionKind.MALFORMED),
        (closed, LLAMA_CALL.replace("who", "<|start_header_id|>") + "<|eot_id|>", ActionKind.MALFORMED),
    ):
        assert protocol.parse(encode(protocol, text)).kind is kind, text


WORDS = "Now there's enough information to answer"
IGPO = f"{WORDS}\n</think>\n<answer>\nParis\n</answer><|im_end|>"
SEARCH_R1 = f"{WORDS} </think> <answer> Paris </answer><|im_end|>"
CHAT = f"{WORDS}\n</think>\n\n<answer>Paris</answer>"
SUFFIXES = [
    ("igpo", "", f"<think>\n{IGPO}"),
    ("igpo", OPEN, IGPO),
    ("igpo", "<think>", f"\n{IGPO}"),
    ("igpo", CLOSED, f"<think>\n{IGPO}"),
    ("search_r1", "", f"<think> {SEARCH_R1}"),
    ("search_r1", OPEN, SEARCH_R1),
    ("search_r1", "<think>", f" {SEARCH_R1}"),
    ("search_r1", CLOSED, f"<think> {SEARCH_R1}"),
    ("chat, qwen3", "", "<answer>Paris</answer><|im_end|>"),
    ("chat, qwen3", OPEN, f"{CHAT}<|im_end|>"),
    ("chat, qwen3", CLOSED, "<answer>Paris</answer><|im_end|>"),
    ("chat, llama3", "", "<answer>Paris</answer><|eot_id|>"),
    ("chat, llama3", "<think>", f"\n{CHAT}<|eot_id|>"),
    ("chat, llama3", CLOSED, "<answer>Paris</answer><|eot_id|>"),
]


@pytest.mark.parametrize(("family", "begun", "text"), SUFFIXES)
def test_the_answer_template_opens_no_second_thought(family, begun, text):
    protocol = build(family, begun)
    suffix = protocol.scoring_suffix("Paris")
    assert suffix.ids == by_hand(protocol, text)
    gold = by_hand(protocol, "Paris")
    place = next(k for k in range(len(suffix.ids)) if suffix.ids[k : k + 5] == gold)
    assert suffix.gold_mask_L.nonzero()[0].tolist() == list(range(place, place + 5))
    if is_open(begun):
        assert protocol.text(encode(protocol, begun) + suffix.ids).count("<think>") == 1
    assert protocol.parse(suffix.ids) == Action(ActionKind.ANSWER, text="Paris")


@each_family
@each_beginning
def test_a_demonstration_is_read_back(family, begun):
    protocol = build(family, begun)
    for action in (
        Action(ActionKind.TOOL, tool="search", arguments={"query": "who"}),
        Action(ActionKind.ANSWER, text="Paris"),
    ):
        ids = protocol.decision(action)
        assert protocol.parse(ids) == action and protocol.is_complete(ids)
    call = protocol.text(
        protocol.decision(Action(ActionKind.TOOL, tool="search", arguments={"query": "who"}))
    )
    empty = {OPEN: "\n</think>\n\n", "<think>": "\n\n</think>\n\n"}.get(begun, "")
    assert begun + call == (CLOSED if empty else begun) + call.removeprefix(empty)


@each_family
@pytest.mark.parametrize("begun", [OPEN, CLOSED])
def test_a_template_that_begins_turns_so_throughout_rewrites_nothing(family, begun):
    name, template = FAMILIES[family]
    if begun == OPEN and family != "chat, qwen3":
        assert not build(family, begun).template.rewrites_earlier_turns
    else:  # earlier turns lose their thought, or the empty one
        assert build(family, begun).template.rewrites_earlier_turns


@pytest.fixture(scope="module", params=[(f, b) for f in FAMILIES for b in BEGUN], ids=lambda p: ", ".join(p))
def played(request, tmp_path_factory):
    """Family, beginning and a task over one document."""
    family, begun = request.param
    folder = tmp_path_factory.mktemp("thoughts")
    name, template = FAMILIES[family]
    chat_tokenizer(beginning(template, BEGUN[begun])).save_pretrained(folder)
    documents = {"d": '"who"\nSomebody in <think> Paris </think>.'}
    room = {"max_turn_tokens": 500, "max_observation_tokens": 200, "max_context_tokens": 6000}
    task = text_task(folder, documents, "Paris", protocol=name, **room)
    return family, BEGUN[begun], task


def run(task, script):
    """The record of one rollout of `script`, and what the engine scored and was asked to go on from."""
    seen = []

    def write(context, number):
        seen.append(context)
        return script[number]

    engine = ScriptedEngine(task, write, lambda text: encode(task.protocol, text))
    question = Question("q", "Who?", ["Paris"])
    records, _ = RolloutLoop(task, {"default_policy": engine}).run([RolloutJob(question, "r", "g", (0,))])
    return records[0], engine, seen


def test_a_rollout_trains_on_what_the_policy_wrote(played):
    family, begun, task = played
    script = [turn(begun, SEARCH[family]), turn(begun, ANSWER[family])]
    record, engine, seen = run(task, script)
    rollout = record.rollout
    assert (rollout.termination, rollout.answer, rollout.outcome) == (Termination.ANSWERED, "Paris", 1.0)
    assert [turn.action for turn in rollout.turns] == [ActionKind.TOOL, ActionKind.ANSWER]
    # Every turn begins alike; in Search-R1's single turn, only an open thought is opened again.
    later = begun if is_open(begun) or family != "search_r1" else ""
    assert seen[0].endswith(begun) and seen[1].endswith(later)
    assert seen[1].endswith(f"</information>\n\n{later}") == (family == "search_r1")
    assert "< think> Paris < /think>" in seen[1] and rollout.turns[0].neutralised_tags == 2
    tokens = turn_tokens([record.episode(task.policy_of)])
    for k, text in enumerate(script):
        assert tokens["r", k].decision_ids_L.tolist() == encode(task.protocol, text)
        assert task.protocol.text(tokens["r", k].context_ids_C.tolist()).endswith((begun, later)[k])
    # Belief continues from where the turn begins.
    assert [task.protocol.text(ids) for ids in engine.scored_contexts] == seen


def test_a_thought_out_of_order_costs_the_format_penalty(played):
    family, begun, task = played
    bad = ANSWER[family] if is_open(begun) else f"<think>{ANSWER[family]}"
    record, _, _ = run(task, [turn(begun, SEARCH[family]), bad])
    assert (record.rollout.termination, record.rollout.outcome) == (Termination.MALFORMED, -1.0)
    assert [turn.action for turn in record.rollout.turns] == [ActionKind.TOOL, ActionKind.MALFORMED]


def test_one_line_a_turn_has_no_thought():
    """`chat_short` closes a thought that the template opens: the line is not part of one."""
    for begun, ends in (("", "assistant\n"), (OPEN, CLOSED), ("<think>", CLOSED), (CLOSED, CLOSED)):
        protocol = ChatShortProtocol(chat_tokenizer(beginning(CHATML, begun)), worked_examples=False)
        line = encode(protocol, "Search: who<|im_end|>")
        seen = protocol.observation("x", decision_ids=line, sender="tool", max_tokens=9)
        for ids in (protocol.prompt("", "Who?", BOTH), seen.ids, protocol.reopen(line)):
            assert protocol.text(ids).endswith(ends)
        assert protocol.text(protocol.scoring_suffix("a").ids) == "Answer: a<|im_end|>"
        assert protocol.parse(line).arguments == {"query": "who"}


def test_a_template_that_opens_a_thought_at_times_is_refused():
    opens = "{{ '<think>\\n' if messages[-1].role == 'user' }}"
    with pytest.raises(ValueError, match="opens <think> in some turns only .after a message of role tool it"):
        ChatProtocol(chat_tokenizer(beginning(QWEN2, opens)), SCHEMAS)
    switch = "{{ '<think>\\n' if '/think' in messages[0].content }}"
    protocol = IGPOProtocol(chat_tokenizer(beginning(CHATML, switch)), SCHEMAS)
    with pytest.raises(ValueError, match="opens <think> in some turns only .after the prompt it does."):
        protocol.prompt("Be brief. /think", "Who?", BOTH)
