"""Parts of rows become padded columns: by hand."""

import numpy as np
import pytest
import torch

from algorithms.igpo.learner.token_batch import Row, pad_rows


def test_columns_by_hand():
    one, two = Row(weight=0.5, sequence_id=0), Row(weight=0.25, sequence_id=1)
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
    one.append([3, 3, 3], decision=False)  # seen by nobody who writes again
    two.append([6], decision=False)
    two.append([2], decision=True, advantage=3.0, turn_id=2)
    columns = pad_rows([one, two])
    expected = {
        "token_ids": [[7, 8, 9, 4, 5], [6, 2, 0, 0, 0]],
        "decision_mask": [[False, False, True, True, True], [False, True, False, False, False]],
        "advantages": [[0, 0, 2, -1, -1], [0, 3, 0, 0, 0]],
        "sampler_logp": [[0, 0, -1.5, -0.5, -0.25], [0, 0, 0, 0, 0]],
        "clip_scale": [[1, 1, 1.5, 0.5, 0.5], [1, 1, 1, 1, 1]],
        "turn_id": [[-1, -1, 0, 1, 1], [-1, 2, -1, -1, -1]],
        "loss_weight": [[0, 0, 0.5, 0.5, 0.5], [0, 0.25, 0, 0, 0]],
        "lengths": [5, 2],
        "sequence_id": [0, 1],
    }
    assert {name: column.tolist() for name, column in columns.items()} == expected
    dtypes = dict.fromkeys(["advantages", "sampler_logp", "clip_scale", "loss_weight"], torch.float32)
    dtypes |= {
        "token_ids": torch.int64,
        "lengths": torch.int64,
        "turn_id": torch.int32,
        "sequence_id": torch.int32,
    }
    assert {name: column.dtype for name, column in columns.items()} == dtypes | {"decision_mask": torch.bool}


def test_a_row_without_a_decision_is_refused():
    row = Row()
    row.append([1, 2], decision=False)
    with pytest.raises(ValueError, match="row 0 has no decision token"):
        pad_rows([row])


def test_every_token_has_its_own_log_prob():
    with pytest.raises(ValueError, match="2 tokens have 1 sampler log-probs"):
        Row().append([1, 2], decision=True, sampler_logp=np.float32([-1]))
