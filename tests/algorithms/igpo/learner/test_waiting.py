"""An update leaves the device to work: more micro-batches do not make the process wait for it more often."""

from collections import Counter

import pytest
import torch
from igpo_learner_setup import make_batch, make_learner, save_tiny_llama, update
from torch.utils._python_dispatch import TorchDispatchMode

from algorithms.igpo.loss_settings import LossSettings

WAITS = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"),
    *("aten::_unique2", "aten::bincount"),
}
"""Operations whose result decides what runs next, on a GPU after all that was asked of it before."""


class Waits(TorchDispatchMode):
    """Counts them, and indexing by a mask, which is one."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        by_mask = name in ("aten::index", "aten::index_put_") and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        if by_mask or name in WAITS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kl_coeff", [0.0, 0.1])
@pytest.mark.parametrize("num_epochs, level", [(1, "token"), (2, "token"), (2, "turn"), (2, "sequence")])
def test_more_micro_batches_do_not_wait_more(tmp_path, kl_coeff, num_epochs, level):
    model, found = save_tiny_llama(tmp_path), []
    for tokens in (10**6, 1):  # one micro-batch, and one for each row
        learner = make_learner(
            model,
            loss=LossSettings(kl_coeff=kl_coeff, ratio_level=level),
            num_epochs=num_epochs,
            tokens_per_micro_batch=tokens,
        )
        with Waits() as waits:
            metrics = update(learner, make_batch())["default_policy"]
        found.append((metrics["micro_batches"].peek(), waits.found))
    (few, once), (many, often) = found
    assert many >= 9 * num_epochs and few == num_epochs
    assert once == often


def test_what_waits_is_counted():
    values = torch.arange(4.0)
    with Waits() as waits:
        values[values > 1]
        values.max().item()
        values[torch.tensor([0, 1])]
        values.index_select(0, torch.tensor([2]))
    assert waits.found == {"aten::index": 1, "aten::_local_scalar_dense": 1}
