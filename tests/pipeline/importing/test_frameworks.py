"""Rollouts in the fields of frameworks that log a conversation as one text."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.errors import InputError
from pipeline.importing.conversation import read_conversations
from pipeline.importing.fields import field_names

QUESTION = "Who wrote Dune?"
CHATML = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
LINES = f"system\nSearch.\nuser\n{QUESTION}\nassistant\n"
SEARCH_R1 = "<search> Dune </search>\n\n<information>By Herbert.</information>\n\n<answer> F </answer>"
ANSWERED = (
    "<search>Dune</search><|im_end|>\n<|im_start|>user\n\n<information>By Herbert.</information>\n"
    "<|im_end|>\n<|im_start|>assistant\n<answer> F </answer><|im_end|>"
)
SKIPPED = (
    '<tool_call>\n{"name": "search", "arguments": {"query": "Dune"}}\n</tool_call>\n'
    "user\n<tool_response>\nBy Herbert.\n</tool_response>\nassistant\n<answer> F </answer>"
)
TARGET = {"target": ["Frank Herbert", "Herbert"]}
TRL = {
    "step": 4,
    "prompt": LINES,
    "completion": "<answer>F</answer>",
    "advantage": 0.7,
    "solution": "Herbert",
}


def read(tmp_path, record, *assignments):
    file = tmp_path / "rollouts.jsonl"
    file.write_text(json.dumps(record) + "\n")
    (one,) = read_conversations(file, names=field_names(list(assignments)))
    return one


@pytest.mark.parametrize(
    ("record", "reward", "step"),
    [
        ({"input": LINES, "output": SKIPPED, "gts": TARGET, "score": 1.0, "step": 7, "acc": True}, 1.0, 7),
        ({"input_prompt": CHATML, "output_response": ANSWERED, "score": [0.0, 0.25, 0.5],
          "stop_reason": "stop", "env_class": "search",
          "env_extras": {"reward_spec": {"ground_truth": TARGET}, "max_turns": 4}},
         0.75, 1),
        ({"prompt": CHATML, "response": SEARCH_R1, "label": {"ground_truth": TARGET}, "reward": 0.5,
          "group_index": 3, "index": 17, "status": "completed"}, 0.5, 1),
        ({"prompt": [{"role": "user", "content": QUESTION}], "response": SEARCH_R1,
          "label": TARGET["target"], "reward": {"score": 0.5, "format": 1}}, 0.5, 1),
        (TRL | {"completion": SKIPPED, "golden_answers": TARGET["target"], "reward": 0.25,
                "format_reward": 1.0}, 0.25, 4),
    ],
    ids=["verl", "skyrl", "slime", "slime_messages", "trl"],
)  # fmt: skip
def test_turns_golds_and_reward(tmp_path, record, reward, step):
    one = read(tmp_path, record)
    assert (one.question.text, one.question.golds) == (QUESTION, TARGET["target"])
    assert (one.reward, one.step) == (reward, step)
    assert len(one.exchanges) == 2 and "By Herbert." in one.exchanges[0].observations[0]["content"]
    assert one.exchanges[1].decision == {"role": "assistant", "content": "<answer> F </answer>"}
    assert one.group == f"{step:06d}/3" or "group_index" not in record


def test_a_thought_that_the_prompt_begins_is_the_turns(tmp_path):
    one = read(tmp_path, {"input": LINES + "<think>\n", "output": "so\n</think>\nF", "gts": "Herbert"})
    assert one.exchanges[0].decision["content"] == "<think>\nso\n</think>\nF"


@pytest.mark.parametrize("completion", ["[1] is the novel, so Herbert.", "[Herbert]", '["a", 1'])
def test_text_that_looks_like_a_list_is_text(tmp_path, completion):
    one = read(tmp_path, {"prompt": QUESTION, "completion": completion, "answer": "Herbert"})
    assert one.exchanges[0].decision["content"] == completion


def test_the_reward_of_trl_is_its_single_function(tmp_path):
    as_gold = "golden_answers=solution"
    assert read(tmp_path, TRL | {"accuracy_reward": 0.5}, as_gold).reward == 0.5
    assert read(tmp_path, TRL | {"accuracy_reward": 0.5, "words": 12}, as_gold).reward == 0.5
    assert read(tmp_path, TRL | {"exact": 0.5}, as_gold).reward == 0.5
    assert read(tmp_path, TRL | {"accuracy_reward": None}, as_gold).reward is None
    assert read(tmp_path, TRL, as_gold).reward is None
    several = TRL | {"accuracy_reward": None, "format_reward": 1.0}
    with pytest.raises(
        InputError, match=r"\(accuracy_reward, format_reward\): say which, as --field reward="
    ):
        read(tmp_path, several, as_gold)
    assert read(tmp_path, several, as_gold, "reward=format_reward").reward == 1.0


def test_a_table_of_trl(tmp_path):
    columns = {name: [value, value] for name, value in (TRL | {"accuracy_reward": 0.5}).items()}
    columns["truth"] = columns.pop("solution")
    pq.write_table(pa.table(columns), tmp_path / "completions_00004.parquet")
    found = read_conversations(tmp_path / "completions_00004.parquet", names={"golden_answers": "truth"})
    assert [(one.step, one.reward, one.question.golds) for one in found] == [(4, 0.5, ["Herbert"])] * 2
    assert found[0].group == found[1].group
    with pytest.raises(InputError, match="or name yours with --field golden_answers=NAME"):
        read_conversations(tmp_path / "completions_00004.parquet")


MESSAGES = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "F"}]
OTHER = {
    "talk": MESSAGES,
    "info": json.dumps({"right": "Herbert", "depth": 2}),
    "reward_model": {"ground_truth": "not this"},
    "a.b": 0.5,
    "meta": {"at": {"step": 9}, "q": "Who?", "kind": "turn_limit", "name": "r1", "group": "g"},
    "schemas": [{"name": "search"}],
    "messages": [],
}


def test_every_field_can_be_named(tmp_path):
    one = read(
        tmp_path, OTHER, "messages=talk", "golden_answers=info.right", "hops=info.depth", "reward=a.b",
        "step=meta.at.step", "question=meta.q", "termination=meta.kind", "rollout_id=meta.name",
        "group=meta.group", "tools=schemas",
    )  # fmt: skip
    assert (one.question.text, one.question.golds, one.question.hops) == ("Who?", ["Herbert"], 2)
    assert (one.reward, one.step, one.termination, one.id) == (0.5, 9, "turn_limit", "r1")
    assert one.group == "000009/g" and one.tools == [{"type": "function", "function": {"name": "search"}}]
    assert one.messages(1) == MESSAGES


@pytest.mark.parametrize("path", ["reward_spec", "env_extras.reward_spec", "reward_model"])
def test_a_gold_answer_that_is_named_wins(tmp_path, path):
    *outer, last = f"{path}.ground_truth".split(".")
    written = {last: "WRONG"}
    for name in reversed(outer):
        written = {name: written}
    skyrl = {"input_prompt": CHATML, "output_response": ANSWERED, "score": [0, 1], "mine": "RIGHT"}
    assert read(tmp_path, skyrl | written).question.golds == ["WRONG"]
    assert read(tmp_path, skyrl | written, "golden_answers=mine").question.golds == ["RIGHT"]


@pytest.mark.parametrize(
    "form", [("input", "output"), ("prompt", "response"), ("input_prompt", "output_response")]
)
def test_texts_that_are_named_win_over_the_forms_own(tmp_path, form):
    record = dict(zip(form, ("Other?", "<answer>x</answer>"), strict=True))
    record |= {"q": CHATML, "a": ANSWERED, "gold": "Herbert"}
    assert read(tmp_path, record).question.text == "Other?"
    assert read(tmp_path, record, "prompt=q").question.text == QUESTION
    one = read(tmp_path, record, "completion=a")
    assert (one.question.text, len(one.exchanges)) == ("Other?", 2)
    said = record | {"a": [MESSAGES[1]], "q": [MESSAGES[0]]}
    one = read(tmp_path, said, "prompt=q", "completion=a")
    assert one.messages(1) == MESSAGES


def test_a_column_of_a_table_that_is_null_in_a_row_is_there(tmp_path):
    columns = {name: [value, value] for name, value in TRL.items()} | {"exact_reward": [1.0, None]}
    table = tmp_path / "completions_00004.parquet"
    pq.write_table(pa.table(columns), table)
    names = field_names(["golden_answers=solution", "reward=exact_reward"])
    assert [one.reward for one in read_conversations(table, names=names)] == [1.0, None]
    pq.write_table(pa.table(columns | {"format_reward": [None, 0.5]}), table)
    with pytest.raises(InputError, match=r"\(exact_reward, format_reward\): say which, as --field reward="):
        read_conversations(table)


def test_an_object_on_the_way_may_be_written_as_python_does(tmp_path):
    record = {"messages": MESSAGES, "info": "{'right': 'Herbert'}"}
    assert read(tmp_path, record, "golden_answers=info.right").question.golds == ["Herbert"]


def test_the_length_of_the_prompt_can_be_named(tmp_path):
    record = {"messages": [*MESSAGES, *MESSAGES], "shots": 3, "gold": "Herbert"}
    assert len(read(tmp_path, record).exchanges) == 2
    assert len(read(tmp_path, record, "prompt_messages=shots").exchanges) == 1


@pytest.mark.parametrize(
    ("record", "assignments", "golds", "outcome"),
    [
        (TRL | {"accuracy_reward": 0.5}, [], "solution", "accuracy_reward"),
        (
            TRL | {"accuracy_reward": 0.5},
            ["golden_answers=solution", "reward=advantage"],
            "solution",
            "advantage",
        ),
        ({"prompt": QUESTION, "response": "F", "label": "H", "reward": 1.0}, [], "label", "reward"),
        (
            {"input_prompt": QUESTION, "output_response": "F", "score": 1.0}
            | {"env_extras": {"reward_spec": {"ground_truth": "H"}}},
            [],
            "env_extras.reward_spec.ground_truth",
            "score",
        ),
    ],
)
def test_a_source_is_the_name_in_the_file(tmp_path, record, assignments, golds, outcome):
    sources = read(tmp_path, record, *assignments).sources
    assert (sources["gold answers"], sources["outcome"]) == (golds, outcome)


def test_texts_can_be_named(tmp_path):
    record = {"q": CHATML, "a": ANSWERED, "gold": "Herbert", "messages": MESSAGES}
    one = read(tmp_path, record, "prompt=q", "completion=a")
    assert len(one.exchanges) == 2 and one.question.text == QUESTION


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("golden_answers", "write OURS=THEIRS"),
        ("reward=", "write OURS=THEIRS"),
        ("rewards=score", "`rewards` is no field of a rollout; did you mean `reward`"),
        ("xyz=score", "OURS is one of messages, prompt"),
        (
            "reward=acuracy",
            "rollouts.jsonl:1: no field `acuracy` (--field reward=...), found 'step', 'prompt'",
        ),
        ("reward=advantage.x", "no field `advantage.x`"),
    ],
)
def test_a_name_that_is_none_is_refused(tmp_path, assignment, said):
    with pytest.raises(InputError) as error:
        read(tmp_path, TRL, "golden_answers=solution", assignment)
    assert said in str(error.value) and len(str(error.value)) <= 300 + len(str(tmp_path))
