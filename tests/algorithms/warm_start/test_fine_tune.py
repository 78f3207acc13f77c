"""Supervised fine-tuning on a tiny random Llama: the loss is Hugging Face's, however it is cut, and
it falls."""

import numpy as np
import pytest
import torch
from igpo_learner_setup import TOKENS, VOCAB, save_tiny_llama
from torch.nn.utils.rnn import pad_sequence

from algorithms.igpo.learner.token_batch import Row, join_rows, row_lengths
from algorithms.igpo.model.causal_lm import HFCausalLM
from algorithms.warm_start.fine_tune import FineTuner, FineTuneSettings


def rows(count, seed=0):
    """Prompt, decision, observation, decision, of different lengths."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        row = Row(sequence_id=number, weight=1.0)
        for part, low in enumerate((4, 2, 3, 2)):
            row.append(rng.integers(0, VOCAB, low + int(rng.integers(5))), decision=part % 2 == 1)
        made.append(row)
    return made


@pytest.fixture
def tuner(tmp_path):
    path = save_tiny_llama(tmp_path)

    def make(columns, **settings):
        module = HFCausalLM(observation_space=TOKENS, action_space=TOKENS, model_config={"path": path})
        return FineTuner(module, columns, FineTuneSettings(**settings))

    return make


def hugging_face_loss(model, columns):
    """The model's own loss with everything but decisions and padding masked: mean over the tokens of all
    rows.
    """
    lengths = row_lengths(columns).tolist()
    ids, mask = (
        pad_sequence(columns[name].split(lengths), batch_first=True) for name in ("token_ids", "loss_mask")
    )
    attention = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    model.set_attn_implementation("eager")
    labels = ids.masked_fill(~mask, -100)
    return model(input_ids=ids, attention_mask=attention.long(), labels=labels).loss


@pytest.mark.parametrize("tokens_per_micro_batch", [8, 40, 4096])
def test_loss_and_step_are_those_of_hugging_face(tuner, tokens_per_micro_batch):
    columns = join_rows(rows(6))
    ours = tuner(columns, epochs=1, batch_size=6, lr=1e-3, tokens_per_micro_batch=tokens_per_micro_batch)
    other = tuner(columns).module.hf
    expected = hugging_face_loss(other, columns)
    assert ours.loss(columns) == pytest.approx(expected.item(), abs=1e-5)
    seen = []
    assert ours.epoch(lambda update, loss: seen.append((update, loss)))
    assert seen == [(1, pytest.approx(expected.item(), abs=1e-5))]
    expected.backward()
    torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
    torch.optim.AdamW(other.parameters(), lr=1e-3).step()
    for mine, theirs in zip(ours.module.hf.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=0)


def test_it_learns_the_decisions_and_nothing_else(tuner):
    columns = join_rows(rows(8))
    ours = tuner(columns, epochs=60, batch_size=4, lr=1e-2)
    before = ours.loss(columns)
    for _ in range(60):
        ours.epoch(lambda update, loss: None)
    assert ours.loss(columns) < 0.05 < 3.0 < before
    flipped = columns | {"loss_mask": ~columns["loss_mask"]}
    flipped["loss_mask"][np.cumsum([0, *row_lengths(columns)[:-1]])] = False  # nothing is before these
    assert ours.loss(flipped) > 3.0


def test_every_row_is_seen_once_an_epoch_in_an_order_of_its_seed(tuner, monkeypatch):
    columns = join_rows(rows(10))
    orders = {}
    for seed in (0, 0, 1):
        ours = tuner(columns, epochs=2, batch_size=4, seed=seed)
        seen = []
        monkeypatch.setattr(ours, "_update", lambda batch, ours=ours, seen=seen: seen.append(batch) or 0.0)
        ours.epoch(lambda update, loss: None)
        order = np.concatenate(seen).tolist()
        assert sorted(order) == list(range(10)) and [len(batch) for batch in seen] == [4, 3, 3]
        assert orders.setdefault(seed, order) == order
    assert orders[0] != orders[1]


def test_the_rate_warms_up_and_falls_to_nothing(tuner):
    ours = tuner(join_rows(rows(20)), epochs=1, batch_size=1, lr=1.0)
    rates = []
    for update in range(20):
        ours._updates = update
        rates.append(ours._rate())
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[-1] == pytest.approx(1 / 18)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_it_stops_where_it_is_told(tuner):
    ours = tuner(join_rows(rows(6)), epochs=1, batch_size=2)
    seen = []
    assert not ours.epoch(lambda update, loss: seen.append(update), lambda: len(seen) == 2)
    assert seen == [1, 2]


def test_a_gradient_that_is_not_finite_ends_it(tuner):
    ours = tuner(join_rows(rows(4)), epochs=1)
    with torch.no_grad():
        next(ours.module.parameters()).fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="the norm of the gradient is .* in update 1"):
        ours.epoch(lambda update, loss: None)
