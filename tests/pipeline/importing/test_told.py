"""What an import says of what it read."""

import json

from envs.errors import InputError
from pipeline.importing.conversation import read_conversations
from pipeline.importing.told import what_was_left_out, what_was_read

MESSAGES = [{"role": "user", "content": "Who wrote Dune?"}, {"role": "assistant", "content": "Frank Herbert"}]


def told(tmp_path, *records):
    file = tmp_path / "rollouts.jsonl"
    file.write_text("".join(json.dumps({"messages": MESSAGES} | record) + "\n" for record in records))
    return what_was_read(read_conversations(file))


def test_a_line_says_which_fields_gave_what(tmp_path):
    first = {"gts": "Frank Herbert", "score": 1, "uid": "a", "global_step": 1, "finish_reason": "length"}
    second = {"answer": "Frank Herbert", "score": 0, "global_step": 1}
    assert told(tmp_path, first, second) == (
        "2 rollouts read; gold answers: `gts` (1), `answer` (1); group: `uid` (1), equal questions (1); "
        "step: `global_step` (2); end: `finish_reason` (1), the last turn (1); outcome: `score` (2)"
    )


def test_a_reward_of_another_name_is_seen_among_the_fields(tmp_path):
    record = {"golds": ["Frank Herbert"], "rewards": 0.5}
    assert told(tmp_path, record, record).endswith(
        "step: none, so all are of step 1 (2); end: the last turn (2); outcome: F1 of the answer (2); no "
        "`reward`, `score` or `outcome` among the fields `messages`, `golds`, `rewards`"
    )


def test_a_field_without_a_value_is_none(tmp_path):
    record = {"golds": ["Frank Herbert"], "reward": None, "score": float("nan"), "step": 1}
    assert told(tmp_path, record).endswith("among the fields `messages`, `golds`, `step`")


def test_the_first_that_are_left_out_are_named():
    errors = [InputError(f"a:{k}: bad") for k in range(5)]
    said = "left out, with the reason: 5\n  a:0: bad\n  a:1: bad\n  a:2: bad\n  and 2 more"
    assert what_was_left_out(errors) == said
