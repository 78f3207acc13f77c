"""Packed rows give the values and gradients of each row alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from igpo_learner_setup import random_rows, save_tiny_llama
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from algorithms.igpo.learner.token_batch import dummy_batch
from algorithms.igpo.model.causal_lm import load_causal_lm
from algorithms.igpo.model.packing import (
    MAX_PADDING,
    PackedRows,
    group_by_length,
    merge_beginnings,
    padded_size,
)
from algorithms.igpo.model.token_logp import token_logp
from envs.engine.models import resolve_model

LENGTHS = (9, 2, 12, 5, 12, 3)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.set_num_threads(1)
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def test_groups_by_hand():
    # 10 + 9 is 19 of 20 padded tokens; with the row of 8, 27 of 30 (10% padding); 5 would make 32 of 40.
    assert [group.tolist() for group in group_by_length(np.array([5, 10, 8, 9]))] == [[1, 3, 2], [0]]
    assert padded_size(np.array([5, 10, 8, 9])) == 35


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=60))
def test_no_group_is_padded_by_more_than_a_tenth(lengths):
    lengths_R = np.array(lengths)
    groups = group_by_length(lengths_R)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        assert lengths_R[group].sum() >= (1 - MAX_PADDING) * len(group) * lengths_R[group].max()


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_side_by_side_and_back(lengths):
    """Rows that have nothing in common lie end to end as they are."""
    rows = PackedRows(np.arange(sum(lengths)), lengths)
    token_E = torch.arange(sum(lengths))
    assert torch.equal(token_E[rows.token_of_Z][rows.place_of_E], token_E)
    assert rows.position_E.tolist() == [j for length in lengths for j in range(length)]
    assert torch.equal(rows.token_ids_E, token_E)
    assert (
        len(rows.token_of_Z) == padded_size(np.array(lengths)) == sum(n * width for n, width in rows.shapes)
    )
    assert not rows.shares_tokens


def test_beginnings_by_hand():
    """The docstring's example: [a b c], [a b], [a d]."""
    first_E, token_of_F = merge_beginnings(np.array([10, 11, 12, 10, 11, 10, 13]), np.array([3, 2, 2]))
    assert first_E.tolist() == [2, 3, 4, 6]
    assert token_of_F.tolist() == [1, 2, 0, 1, 2, 1, 3]


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), min_size=1, max_size=12))
def test_equal_beginnings_are_the_same_tokens(contents):
    """Two positions are one token exactly where the rows are equal up to there; attention sees
    every token.
    """
    lengths = [len(row) for row in contents]
    rows = PackedRows(np.array([token for row in contents for token in row]), lengths)
    token_of_rows = np.split(rows.token_of_F, np.cumsum(lengths)[:-1])
    tokens = {
        tuple(row[: j + 1]): int(token_of_rows[n][j])
        for n, row in enumerate(contents)
        for j in range(len(row))
    }
    assert len(set(tokens.values())) == len(tokens) == len(rows.token_ids_E)
    for n, row in enumerate(contents):
        assert token_of_rows[n].tolist() == [tokens[tuple(row[: j + 1])] for j in range(len(row))]
    for beginning, token in tokens.items():
        assert (int(rows.token_ids_E[token]), int(rows.position_E[token])) == (
            beginning[-1],
            len(beginning) - 1,
        )
    assert set(rows.token_of_Z.tolist()) == set(tokens.values())
    ends = {beginning for beginning in tokens if not any(beginning == other[:-1] for other in tokens)}
    assert sum(count for count, _ in rows.shapes) == len(ends)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_equal_rows_alone(llama, checkpointing):
    packed = load_causal_lm(llama, torch.float32).train()
    alone = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    if checkpointing:
        packed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    token_ids, mask, row_id = random_rows(LENGTHS)
    logp, entropy = token_logp(packed, token_ids, mask, row_id, entropy="trained")
    ((logp.sum() + 0.3 * entropy.sum()) / len(logp)).backward()
    total, outputs = 0.0, logp.split([int(part.sum()) for part in mask.split(LENGTHS)])
    for ids, kept, got in zip(token_ids.split(LENGTHS), mask.split(LENGTHS), outputs, strict=True):
        logp_LV = alone(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        expected = logp_LV.gather(-1, ids[1:, None])[kept[1:], 0]
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
        total = total + expected.sum() - 0.3 * (logp_LV.exp() * logp_LV).sum(-1)[kept[1:]].sum()
    (total / len(logp)).backward()
    other = dict(packed.named_parameters())
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(other[name].grad, parameter.grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_common_beginnings_are_computed_once(llama, dtype):
    """Values and gradients are those of every row by itself, whatever targets they have."""
    lengths = (9, 9, 7, 9, 9, 9)
    columns = random_rows(lengths)
    ids, masks = ([*column.split(lengths)] for column in columns[:2])
    ids[1], ids[2], ids[4], masks[1] = ids[0], ids[0][:7], ids[0], masks[0]
    ids[5] = torch.cat([ids[0][:4], 60 - ids[0][4:5], ids[5][5:]])
    weight_F = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(1))
    weights = [part[mask] for part, mask in zip(weight_F.split(lengths), masks, strict=True)]
    seen = []

    def run(batches):
        model = load_causal_lm(llama, torch.float32)
        handle = model.model.embed_tokens.register_forward_hook(
            lambda _m, inputs, _o: seen.append(inputs[0].numel())
        )
        outputs = [
            token_logp(
                model,
                torch.cat([ids[n] for n in rows]),
                torch.cat([masks[n] for n in rows]),
                torch.arange(len(rows)).repeat_interleave(torch.tensor([lengths[n] for n in rows])),
                dtype,
                "trained",
            )
            for rows in batches
        ]
        logp, entropy = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        (torch.cat(weights) * (logp + 0.1 * entropy)).sum().backward()
        handle.remove()
        return logp, entropy, [p.grad for p in model.parameters()]

    together, alone = run([range(6)]), run([[n] for n in range(6)])
    assert seen[0] == 8 + 8 + 4, "rows 0, 3, and what 5 adds to 0, without their last tokens"
    atol = 1e-5 if dtype is torch.float32 else 0.02
    for one, other in zip(together[:2], alone[:2], strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)
    for one, other in zip(together[2], alone[2], strict=True):
        assert (one - other).norm() <= atol * other.norm()


def test_padding_is_not_computed(llama):
    model = load_causal_lm(llama, torch.float32)
    seen = []
    model.model.layers[0].mlp.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[1])
    )
    token_ids, mask, row_id = random_rows(LENGTHS)
    token_ids[np.cumsum((0, *LENGTHS[:-1]))] = torch.arange(len(LENGTHS))
    token_logp(model, token_ids, mask, row_id)
    assert seen == [sum(LENGTHS) - len(LENGTHS)]


def test_a_dummy_batch_passes(llama):
    model, batch = load_causal_lm(llama, torch.float32), dummy_batch({})
    logp, _ = token_logp(model, batch["token_ids"], batch["loss_mask"], batch["row_id"])
    assert logp.shape == (1,) and logp.item() < 0


def test_without_packed_rows_attention_is_as_ever(llama):
    """Generation, padding masks and masks of four dimensions pass through."""
    packed, plain = (
        load_causal_lm(llama, torch.float32),
        AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32),
    )
    token_ids = random_rows((12, 12))[0].view(2, 12)
    left_padded = torch.ones_like(token_ids)
    left_padded[0, :4] = 0
    tree = torch.tril(torch.ones(12, 12, dtype=torch.bool))[None, None].clone()
    tree[..., 8:, 4:8] = False
    for mask in (None, left_padded, tree):
        one, other = (model(input_ids=token_ids, attention_mask=mask).logits for model in (packed, plain))
        assert torch.equal(one[:, 4:], other[:, 4:])


def test_a_row_beyond_the_sliding_window_is_refused(tmp_path):
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {
        "vocab_size": 61,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "sliding_window": 8,
    }
    MistralForCausalLM(MistralConfig(**sizes, num_attention_heads=2, num_key_value_heads=1)).save_pretrained(
        tmp_path
    )
    model = load_causal_lm(str(tmp_path), torch.float32)
    assert token_logp(model, *random_rows((9, 4)))[0].isfinite().all()
    refusal = (
        "a row of 9 tokens is longer than the model's sliding window of 8: lower "
        "env_config.max_context_tokens to 8$"
    )
    with pytest.raises(ValueError, match=refusal):
        token_logp(model, *random_rows((10, 4)))


def test_a_model_that_mixes_tokens_outside_attention_is_refused(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(
        MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1, state_size=4)
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not keep packed rows apart"):
        load_causal_lm(str(tmp_path), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "refusal"),
    [
        ("gpt_oss", "the attention of this model has sinks, which the learner cannot reproduce"),
        ("bert-generation", "does not keep packed rows apart: tokens must meet in plain causal attention"),
    ],
)
def test_attention_of_another_kind_is_refused(tmp_path, kind, refusal, dtype):
    """gpt-oss has a score beside those of tokens; BERT's tokens see those behind them."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 61,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    }
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=refusal):
        load_causal_lm(str(tmp_path), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pretrained_model_passes_although_its_values_are_large(dtype):
    load_causal_lm(
        resolve_model("smollm2"), dtype
    )  # hidden values around 27: an absolute tolerance refused it
