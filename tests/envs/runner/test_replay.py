"""A logged rollout, played again: the views that come out are those that were scored, turn by turn."""

import pytest
from chat_tokenizers import QWEN2, chat_tokenizer
from scripted_engine import ScriptedEngine, ids, tiny_task
from two_roles import PAIR, in_turn, logged_turns

from algorithms.igpo.learner.token_batch import turn_tokens
from envs.runner.job import RolloutJob
from envs.runner.replay import PROMPT, ReplayError, replay, without
from envs.runner.rollout_loop import RolloutLoop
from envs.search.config import SearchEnvSettings
from envs.search.task import SearchTask


def logged(task, record):
    return logged_turns(record.rollout, turn_tokens([record.episode(task.policy_of)]))


def rolled_out(task, engine):
    job = RolloutJob(task.train_questions[0], "r", "g", (0, 1, 0, 0))
    [record], _ = RolloutLoop(task, {"default_policy": engine}).run([job])
    return record


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        (in_turn(4), {"roles": PAIR, "max_turns": 8}),
        (in_turn(4), {"roles": PAIR, "max_turns": 3}),
        (lambda context, turn: "<search> mother <end>" if turn < 2 else "<answer> red <end>", {}),
        (lambda context, turn: "<search> mother <end>" if turn else "<search> <bos> <end>", {"max_turns": 3}),
    ],
    ids=["two roles", "turn limit", "one role", "an error that may be tried again"],
)
def test_the_history_is_the_context_that_was_scored_last(tmp_path, script, settings):
    task = tiny_task(tmp_path, **settings)
    engine = ScriptedEngine(task, script)
    record = rolled_out(task, engine)
    turns = record.rollout.gain_bearing_turns
    again = replay(task, record.rollout.question, logged(task, record))
    assert without(again.history) == max(engine.scored_contexts, key=len)
    assert [part.turn for part in again.history] == [PROMPT, *(turn.index for turn in turns)]


def test_the_parts_of_both_views(tmp_path):
    task = tiny_task(tmp_path, roles=PAIR, max_turns=8)
    record = rolled_out(task, ScriptedEngine(task, in_turn(4)))
    again = replay(task, record.rollout.question, logged(task, record))
    search, message, note = (
        ids(task, f"{text}")
        for text in ("<search> mother <end>", "<message> mother <end>", "<note> mother </note>")
    )
    prompt = task.prompt(task.answering_role, record.rollout.question)
    documents = [again.history[k].ids[len(search) :] for k in (1, 3)]
    assert task.protocol.text(documents[0]).startswith("<doc>")
    assert [part.ids for part in again.history] == [
        prompt, search + documents[0], message, search + documents[1], message,
    ]  # fmt: skip
    # The searcher wrote turns 0 and 2; it saw of them what it wrote, and the notes of turns 1 and 3.
    assert [(part.turn, part.ids) for part in again.told] == [
        (PROMPT, prompt), (0, search), (1, note), (2, search), (3, note),
    ]  # fmt: skip
    assert again.written == {0, 2} and again.heard == [1, 3]
    assert without(again.told, 1) == prompt + search + search + note
    assert without(again.history, 4) == without(again.history)  # no such turn


def test_a_chat_template_stays_whole_where_a_message_is_left_out(tmp_path):
    """The answerer hears of the searcher twice. Without a message its own turn is opened all the same."""
    tokenizer = chat_tokenizer(QWEN2)
    tokenizer.save_pretrained(tmp_path)
    limits = {
        "max_turn_tokens": 500,
        "max_observation_tokens": 500,
        "max_context_tokens": 9000,
        "max_turns": 9,
    }
    roles = [
        {"name": "searcher", "actions": ["search", "message"], "to": "answerer"},
        {"name": "answerer", "actions": ["answer", "message"], "to": "searcher"},
    ]
    world = {"train_questions": 20, "heldout_questions": 10}
    settings = SearchEnvSettings(protocol="igpo", tokenizer=str(tmp_path), roles=roles, world=world, **limits)
    task = SearchTask(settings)
    script = iter(["<message>alpha</message>", "<message>more</message>", "<message>omega</message>",
                   "<answer>red</answer>"])  # fmt: skip
    engine = ScriptedEngine(
        task, lambda *_: next(script), lambda text: tokenizer(text + "<|im_end|>")["input_ids"]
    )
    record = rolled_out(task, engine)
    again = replay(task, record.rollout.question, logged(task, record))
    question = "?<|im_end|>\n<|im_start|>assistant\n"
    more = "<message>more</message>"
    opened = "</message><|im_end|>\n<|im_start|>assistant\n"
    told = {word: f"<|im_end|>\n<|im_start|>user\n<message>\n{word}\n{opened}" for word in ("alpha", "omega")}
    nothing = "<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"

    def seen(turn=None):
        text = task.protocol.text(without(again.told, turn))
        return text[text.index(question) :]

    assert seen() == question + told["alpha"] + more + told["omega"]
    assert seen(0) == question + more + told["omega"]  # the prompt had opened the turn
    assert seen(2) == question + told["alpha"] + more + nothing


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"roles": [PAIR[0]]}, "turn 1 is reader's, but searcher would speak"),
        ({"max_observation_tokens": 5}, "turn 1: reader would have seen other tokens"),
        ({"max_turns": 3}, "turn 3 is reader's, but nobody would speak"),
    ],
)
def test_another_task_is_refused(tmp_path, changed, message):
    task = tiny_task(tmp_path, roles=PAIR, max_turns=8)
    record = rolled_out(task, ScriptedEngine(task, in_turn(4)))
    other = tiny_task(tmp_path, **({"roles": PAIR, "max_turns": 8} | changed))
    with pytest.raises(ReplayError, match=message):
        replay(other, record.rollout.question, logged(task, record))


def test_a_turn_with_another_number_of_calls_is_refused(tmp_path):
    task = tiny_task(tmp_path, roles=PAIR, max_turns=8)
    record = rolled_out(task, ScriptedEngine(task, in_turn(4)))
    turns = logged(task, record)
    turns[0].calls.clear()
    with pytest.raises(ReplayError, match="turn 0 has 0 tool calls in the log, not 1"):
        replay(task, record.rollout.question, turns)
