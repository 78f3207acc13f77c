"""Parts of rows become flat columns, and rows are taken out of them: by hand."""

import numpy as np
import pytest
import torch

from algorithms.igpo.learner.token_batch import Row, dummy_batch, join_rows, row_lengths, take_rows

INTEGERS = {"token_ids": torch.int64, **dict.fromkeys(["row_id", "sequence_id", "turn_id"], torch.int32)}


def two_rows():
    one, two = Row(weight=0.5, sequence_id=4), Row(weight=0.25, sequence_id=1)
    one.append([7, 8], decision=False)
    one.append([9], decision=True, sampler_logp=np.float32([-1.5]), advantage=2.0, clip_scale=1.5, turn_id=0)
    one.append([], decision=False)
    one.append(
        [4, 5],
        decision=True,
        sampler_logp=np.float32([-0.5, -0.25]),
        advantage=-1.0,
        clip_scale=0.5,
        turn_id=1,
    )
    one.append([3, 3, 3], decision=False)  # no decision follows
    two.append([6], decision=False)
    two.append([2], decision=True, advantage=3.0, turn_id=2)
    return [one, two]


def test_columns_by_hand():
    columns = join_rows(two_rows())
    expected = {
        "token_ids": [7, 8, 9, 4, 5, 6, 2],
        "row_id": [0, 0, 0, 0, 0, 1, 1],
        "sequence_id": [4, 4, 4, 4, 4, 1, 1],
        "loss_mask": [False, False, True, True, True, False, True],
        "advantages": [0, 0, 2, -1, -1, 0, 3],
        "action_logp": [0, 0, -1.5, -0.5, -0.25, 0, 0],
        "loss_weight": [0, 0, 0.5, 0.5, 0.5, 0, 0.25],
        "clip_scale": [1, 1, 1.5, 0.5, 0.5, 1, 1],
        "turn_id": [-1, -1, 0, 1, 1, -1, 2],
    }
    assert {name: column.tolist() for name, column in columns.items()} == expected
    dtypes = dict.fromkeys(["advantages", "action_logp", "clip_scale", "loss_weight"], torch.float32)
    dtypes |= INTEGERS | {"loss_mask": torch.bool}
    assert {name: column.dtype for name, column in columns.items()} == dtypes
    assert row_lengths(columns).tolist() == [5, 2]


def test_rows_are_taken_in_the_order_asked_for():
    columns = join_rows(two_rows())
    columns["old_logp"] = torch.arange(7.0)
    taken = take_rows(columns, row_lengths(columns), np.array([1, 0]))
    assert taken["token_ids"].tolist() == [6, 2, 7, 8, 9, 4, 5]
    assert taken["row_id"].tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert taken["old_logp"].tolist() == [5, 6, 0, 1, 2, 3, 4]
    assert {name: column.dtype for name, column in taken.items()} == {
        name: column.dtype for name, column in columns.items()
    }


def test_a_dummy_batch_has_no_weight():
    columns = join_rows(two_rows())
    columns["old_logp"] = torch.arange(7.0)
    expected = {
        "token_ids": [0, 0],
        "row_id": [0, 0],
        "sequence_id": [-1, -1],
        "loss_mask": [False, True],
        "advantages": [0, 0],
        "action_logp": [0, 0],
        "loss_weight": [0, 0],
        "clip_scale": [1, 1],
        "turn_id": [-1, -1],
        "old_logp": [0, 0],
    }
    assert {name: column.tolist() for name, column in dummy_batch(columns).items()} == expected


def test_a_row_without_a_decision_is_refused():
    row = Row()
    row.append([1, 2], decision=False)
    with pytest.raises(ValueError, match="row 1 has no decision token"):
        join_rows([two_rows()[0], row])


def test_every_token_has_its_own_log_prob():
    with pytest.raises(ValueError, match="2 tokens have 1 sampler log-probs"):
        Row().append([1, 2], decision=True, sampler_logp=np.float32([-1]))
