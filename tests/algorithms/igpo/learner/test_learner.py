"""The module and the learner on a tiny random Llama: exact log-probs, exact losses, exact steps."""

import copy
import math
from itertools import zip_longest
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from igpo_learner_setup import (
    gradients,
    make_batch,
    make_learner,
    module_spec,
    random_rows,
    save_tiny_llama,
    stamp,
    update,
)
from ray.rllib.utils.metrics import ALL_MODULES, LEARNER_RESULTS
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from algorithms.igpo.learner.token_batch import Row, TokenLayout, join_rows, row_lengths
from algorithms.igpo.learner.update import TOKEN_TERMS
from algorithms.igpo.learner.update_plan import UpdatePlan, plan_minibatches, split_micro_batches
from algorithms.igpo.learner.update_stats import UpdateStats
from algorithms.igpo.loss_settings import LossSettings
from algorithms.igpo.metrics import learner_metrics
from algorithms.igpo.model.causal_lm import HFCausalLM, load_causal_lm
from algorithms.igpo.model.token_logp import token_logp
from envs.engine.weights import state_to_tensors

ALL, CPU = slice(None), torch.device("cpu")
AGGREGATIONS = ("seq_mean_token_mean", "token_mean", "seq_mean_token_sum")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.set_num_threads(1)
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def untied_llama(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("untied"), tied=False, seed=1)


def columns_of(learner, episodes):
    """The token columns as the learner's own connector pipeline makes them."""
    stamp(episodes)
    return learner._learner_connector(rl_module=learner.module, batch={}, episodes=episodes, shared_data={})[
        "default_policy"
    ]


def metrics_of(result, module_id="default_policy"):
    return {name: stats.peek() for name, stats in result[module_id].items() if hasattr(stats, "peek")}


def sample_with(learner, episodes):
    """Put the learner's own log-probs where the engine's would be."""
    layout_rows = [
        (episode, agent) for episode in episodes for agent in episode.agent_episodes.values() if len(agent)
    ]
    module = learner.module["default_policy"].unwrapped()
    for _, agent in layout_rows:
        logps = agent.extra_model_outputs["action_logp"].data
        ids, mask = [], []
        for context, decision in zip(agent.get_observations(), agent.get_actions(), strict=False):
            ids += [*context, *decision]
            mask += [False] * len(context) + [True] * len(decision)
        with torch.no_grad():
            row = {
                "token_ids": torch.tensor(ids).long(),
                "loss_mask": torch.tensor(mask),
                "row_id": torch.zeros(len(ids), dtype=torch.int32),
            }
            got = module.forward_train(row)["token_logp"].numpy()
        for k, part in enumerate(np.split(got, np.cumsum([len(logp) for logp in logps])[:-1])):
            logps[k] = part


# The module
# ---------------------------------------------------------------------------------------------------------


def test_token_logp_is_the_log_softmax_of_each_row_alone(llama):
    model = load_causal_lm(llama, torch.float32)
    lengths = (9, 5, 12)
    token_ids, mask, row_id = random_rows(lengths)
    logp, entropy = token_logp(model, token_ids, mask, row_id)
    counts = [int(part.sum()) for part in mask.split(lengths)]
    rows = zip(token_ids.split(lengths), mask.split(lengths), strict=True)
    outputs = zip(logp.split(counts), entropy.split(counts), strict=True)
    for (ids, kept), (own_logp, own_entropy) in zip(rows, outputs, strict=True):
        logits = model(input_ids=ids[None]).logits[0, :-1].double()
        expected = torch.log_softmax(logits, -1)
        torch.testing.assert_close(
            own_logp.double(),
            expected.gather(-1, ids[1:, None])[kept[1:], 0],
            atol=5e-6,  # float32 logits of other shapes: kernels round differently from CPU to CPU
            rtol=0,
        )
        torch.testing.assert_close(
            own_entropy.double(),
            torch.special.entr(expected.exp()).sum(-1)[kept[1:]],
            atol=1e-5,
            rtol=0,
        )


def test_chunks_of_positions_change_neither_value_nor_gradient(llama):
    model = load_causal_lm(llama, torch.float32)
    columns = random_rows()
    results = []
    for chunk in (1 << 25, 61 * 4):
        model.zero_grad()
        logp, entropy = token_logp(model, *columns, entropy="trained", logits_per_chunk=chunk)
        (logp.sum() + 0.3 * entropy.sum()).backward()
        results.append((logp.detach(), entropy.detach(), [p.grad.clone() for p in model.parameters()]))
    for one, other in zip(*(r[:2] for r in results), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    for one, other in zip(results[0][2], results[1][2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_entropy_carries_a_gradient_only_on_request(llama):
    model = load_causal_lm(llama, torch.float32)
    columns = random_rows()
    assert not token_logp(model, *columns)[1].requires_grad
    assert token_logp(model, *columns, entropy="trained")[1].requires_grad


def test_dropout_is_off_in_training(llama):
    learner = make_learner(llama)
    module = learner.module["default_policy"]
    batch = dict(zip(("token_ids", "loss_mask", "row_id"), random_rows(), strict=True))
    one, other = (module.forward_train(batch)["token_logp"] for _ in range(2))
    assert module.training and torch.equal(one, other)


def test_gradient_checkpointing_gives_the_same_gradient(llama):
    got = []
    for checkpointing in (False, True):
        learner = make_learner(llama, model_config={"gradient_checkpointing": checkpointing})
        update(learner, make_batch())
        got.append(gradients(learner))
    for name, gradient in got[0].items():
        torch.testing.assert_close(gradient, got[1][name], atol=1e-7, rtol=1e-5)


def test_state_has_hugging_face_names_without_tied_copies(llama, untied_llama):
    for path, tied in ((llama, True), (untied_llama, False)):
        module = make_learner(path).module["default_policy"]
        state = module.get_state()
        names = {name for name, _ in load_causal_lm(path, torch.float32).named_parameters()}
        assert set(state) == names and ("lm_head.weight" in state) is not tied
        assert {array.dtype for array in state.values()} == {np.dtype("float32")}
        before = copy.deepcopy(state)
        with torch.no_grad():
            for param in module.parameters():
                param.zero_()
        assert all(np.array_equal(state[name], before[name]) for name in state), "a copy, not a view"
        module.set_state(state)
        assert all(np.array_equal(array, before[name]) for name, array in module.get_state().items())
        if tied:
            assert module.hf.lm_head.weight is module.hf.model.embed_tokens.weight


def test_bfloat16_state_is_int16_for_the_engine_and_float32_for_checkpoints(llama):
    module = make_learner(llama, model_config={"dtype": "bfloat16"}).module["default_policy"]
    engine = module.get_state(inference_only=True)
    assert {array.dtype for array in engine.values()} == {np.dtype("int16")}
    exact = module.get_state()
    for name, tensor in state_to_tensors(engine).items():
        assert tensor.dtype is torch.bfloat16
        torch.testing.assert_close(tensor, torch.from_numpy(exact[name]).bfloat16(), atol=0, rtol=0)
    module.set_state(engine)
    for name, array in module.get_state().items():
        assert np.array_equal(array, torch.from_numpy(exact[name]).bfloat16().float().numpy())


def test_weights_of_another_model_are_refused(llama, tmp_path):
    module = make_learner(llama).module["default_policy"]
    other = make_learner(save_tiny_llama(tmp_path, hidden=16)).module["default_policy"]
    with pytest.raises(ValueError, match="of another shape"):
        module.set_state(other.get_state())
    state = module.get_state()
    state["surprise"] = state.pop("model.norm.weight")
    with pytest.raises(
        ValueError, match=r"missing \['model.norm.weight'\] \(1\), unknown \['surprise'\] \(1\)"
    ):
        module.set_state(state)


def test_saved_folder_loads_again_in_its_precision(llama, tmp_path):
    from transformers import AutoModelForCausalLM

    for dtype in ("float32", "bfloat16"):
        module = make_learner(llama, model_config={"dtype": dtype}).module["default_policy"]
        module.save_pretrained(str(tmp_path / dtype))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / dtype, dtype="auto")
        assert str(model.dtype) == f"torch.{dtype}"
        torch.testing.assert_close(
            model.model.norm.weight.float(), module.hf.model.norm.weight.detach().to(model.dtype).float()
        )


def test_model_with_scaled_logits_is_refused(tmp_path):
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = GraniteConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, logits_scaling=8.0)
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="changes its logits"):
        load_causal_lm(str(tmp_path), torch.float32)


@pytest.mark.parametrize(
    ("model_config", "message"),
    [
        ({}, "needs `path`"),
        ({"path": "x", "dtype": "float16"}, "dtype"),
        ({"path": "x", "dtpye": "float32"}, "dtpye"),
    ],
)
def test_bad_model_config_is_named(model_config, message):
    spec = module_spec({"m": None}).rl_module_specs["m"]
    with pytest.raises(ValueError, match=message):
        HFCausalLM(
            observation_space=spec.observation_space,
            action_space=spec.action_space,
            model_config=model_config,
        )


# Cutting batches
# ----------------------------------------------------------------------------------------------------


def test_micro_batches_keep_sequences_and_budget():
    lengths = np.array([10, 3, 8, 8, 2, 30])
    sequence = np.array([0, 1, 2, 2, 3, 4])
    parts = split_micro_batches(np.arange(6), lengths, sequence, 26)
    # The row of 30 exceeds the budget alone; then 10 + 8 + 8 = 26; the rows of 8 are one sequence.
    assert [part.tolist() for part in parts] == [[5], [0, 2, 3], [1, 4]]


def test_minibatches_do_not_depend_on_the_sharding():
    sequence = np.array([0, 0, 1, 2, 3, 4, 5, 6])
    plan = {"num_epochs": 2, "num_minibatches": 3, "seed": (1, 2)}
    whole = plan_minibatches(sequence, 7, **plan)
    assert len(whole) == 6
    for epoch in (whole[:3], whole[3:]):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(8)), "every row once per epoch"
        sizes = [len(set(sequence[rows])) for rows in epoch]
        assert max(sizes) - min(sizes) <= 1
    assert any((a.tolist() != b.tolist()) for a, b in zip(whole[:3], whole[3:], strict=True)), (
        "shuffled per epoch"
    )
    odd = sequence % 2 == 1
    for one, other, both in zip(
        plan_minibatches(sequence[odd], 7, **plan),
        plan_minibatches(sequence[~odd], 7, **plan),
        whole,
        strict=True,
    ):
        rows = [*np.flatnonzero(odd)[one], *np.flatnonzero(~odd)[other]]
        assert sorted(rows) == both.tolist()


def plan_of(columns, num_sequences=0, over_learners=lambda values, how: values, **settings):
    layout = TokenLayout(rollout_ids_R=[f"r{n}" for n in range(num_sequences)], num_sequences=num_sequences)
    cut = {"num_epochs": 1, "num_minibatches": 1, "tokens_per_micro_batch": 1, "seed": (0,), **settings}
    return UpdatePlan.cut("m", columns, layout, over_learners, aggregation="token_mean", **cut)


def three_rows():
    rows = [Row(weight=1.0, sequence_id=n) for n in range(3)]
    for n, row in enumerate(rows):
        row.append([5, 6], decision=False)
        row.append([10 + n] * (n + 1), decision=True, turn_id=n)
    return join_rows(rows)


def test_dummy_rows_are_never_planned():
    (update,) = plan_of(join_rows([]))
    assert (update.rows, update.num_micro_batches, update.weight_scale) == ([], 0, 0.0)
    assert list(update.micro_batches()) == []


def test_every_update_yields_its_rows_once_and_longest_first():
    plan = plan_of(three_rows(), 3, num_epochs=2, num_minibatches=2)
    updates = [[micro["token_ids"].tolist() for micro in update.micro_batches()] for update in plan]
    lengths = [[len(ids) for ids in micros] for micros in updates]
    assert [(update.epoch, update.minibatch) for update in plan] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for one, other, micros in ((0, 1, lengths[:2]), (2, 3, lengths[2:])):
        assert sorted(micros[0] + micros[1]) == [3, 4, 5], "every row once per epoch"
        assert [len(micros[0]), len(micros[1])] == [2, 1], (one, other)
        assert micros[0] == sorted(micros[0], reverse=True)
    assert (plan.num_tokens, plan.num_sequences) == (6, 3)


def test_an_idle_learner_adds_dummies_and_weights_are_those_of_the_minibatch():
    """Another learner has 3 micro-batches and 2 decision tokens more in every update."""
    more = {"sum": 2.0, "max": 1.0}
    plan = plan_of(
        three_rows(),
        3,
        lambda values, how: [value + more[how] for value in values],
        tokens_per_micro_batch=100,
    )
    (update,) = plan
    micros = list(update.micro_batches())
    assert [micro["turn_id"].max().item() for micro in micros] == [2, -1]
    assert micros[0]["loss_weight"].sum() == 6 and micros[1]["loss_weight"].sum() == 0
    plan.weight_scale_I = [0.5]
    assert next(next(iter(plan)).micro_batches())["loss_weight"].sum() == 3


def test_a_column_is_added_where_its_tokens_are():
    plan = plan_of(three_rows(), 3)
    (update,) = plan.first_epoch()
    values = [micro["token_ids"][micro["loss_mask"]].float() for micro in update.micro_batches()]
    plan.add_column("old_logp", update, [*values, torch.tensor([9.0])])  # the last is a dummy's
    assert plan.batch["old_logp"].tolist() == [0, 0, 10, 0, 0, 11, 11, 0, 0, 12, 12, 12]


# The update
# ----------------------------------------------------------------------------------------------------------


def reference_loss(model, frozen, columns, loss: LossSettings, rows=ALL):
    """The loss of one update at rho = 1, straight from full logits, row by row in float64."""
    total = 0.0
    lengths = row_lengths(columns).tolist()
    parts = [
        dict(zip(columns, values, strict=True))
        for values in zip(*(column.split(lengths) for column in columns.values()), strict=True)
    ]
    parts = parts if rows == ALL else [parts[n] for n in rows]
    count, num_tokens = len(parts), sum(part["loss_mask"].sum() for part in parts)
    for part in parts:
        ids, mask = part["token_ids"], part["loss_mask"]

        def logp(m, ids=ids, mask=mask):
            return torch.log_softmax(m(input_ids=ids[None]).logits[0, :-1].double(), -1)[mask[1:]]

        target = ids[mask][:, None]
        all_logp = logp(model)
        own = all_logp.gather(-1, target)[:, 0]
        weight = torch.exp(own.detach() - part["action_logp"][mask].double()).clamp(max=loss.mismatch_cap)
        term = -weight * torch.exp(own - own.detach()) * part["advantages"][mask].double()
        if loss.kl_coeff:
            d = logp(frozen).gather(-1, target)[:, 0].detach() - own
            term = term + loss.kl_coeff * (torch.exp(d) - d - 1)
        if loss.entropy_coeff:
            term = term + loss.entropy_coeff * (all_logp.exp() * all_logp).sum(-1)
        total = (
            total
            + {
                "seq_mean_token_mean": term.mean() / count,
                "token_mean": term.sum() / num_tokens,
                "seq_mean_token_sum": term.sum() / count,
            }[loss.loss_aggregation]
        )
    return total


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_loss_and_gradient_of_an_update(llama, aggregation):
    loss = LossSettings(kl_coeff=0.1, entropy_coeff=0.01, loss_aggregation=aggregation)
    learner = make_learner(llama, loss=loss, grad_clip=None, model_config={"entropy_grad": True})
    frozen = load_causal_lm(llama, torch.float32)
    with torch.no_grad():  # away from the reference, or the KL would be 0
        for param in learner.module["default_policy"].parameters():
            param.mul_(1.1)
    model = copy.deepcopy(learner.module["default_policy"].hf)
    episodes = make_batch()
    expected = reference_loss(model, frozen, columns_of(learner, episodes), loss)
    expected.backward()
    metrics = metrics_of(update(learner, episodes))
    assert metrics["loss"] == pytest.approx(expected.item(), abs=1e-6)
    assert metrics["kl"] > 0.001
    got = gradients(learner)
    for name, param in model.named_parameters():
        torch.testing.assert_close(got[name], param.grad, atol=1e-6 * max(1, metrics["grad_norm"]), rtol=1e-5)
    assert metrics["grad_norm"] == pytest.approx(
        torch.stack([p.grad.norm() for p in model.parameters()]).norm().item(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("aggregation", "level"), list(zip(AGGREGATIONS, ("turn", "token", "sequence"), strict=True))
)
def test_micro_batches_do_not_change_the_update(llama, aggregation, level):
    loss = LossSettings(kl_coeff=0.05, loss_aggregation=aggregation, ratio_level=level)
    results = []
    for budget in (10_000, 1):
        learner = make_learner(
            llama, loss=loss, tokens_per_micro_batch=budget, num_epochs=2, num_minibatches=2, lr=1e-4
        )
        metrics = metrics_of(update(learner, make_batch(agents=("searcher", "reader"))))
        results.append((metrics, gradients(learner)))
    assert results[0][0]["micro_batches"] == 4 and results[1][0]["micro_batches"] == 18
    (whole, whole_gradient), (parts, parts_gradient) = results
    for name in ("loss", "kl", "logp_gap_mean", "grad_norm", "entropy"):
        assert parts[name] == pytest.approx(whole[name], abs=1e-6, rel=1e-6), name
    for name, gradient in whole_gradient.items():
        torch.testing.assert_close(parts_gradient[name], gradient, atol=1e-6, rtol=1e-5)


def test_several_updates_keep_pi_old(llama):
    """Two epochs by hand: the second update's ratio is against the policy before the first."""
    loss = LossSettings(kl_coeff=0.0, mismatch_cap=0.0, clip_low=0.02, clip_high=0.02)
    episodes = make_batch()
    learner = make_learner(llama, loss=loss, num_epochs=2, lr=1e-3)
    module = copy.deepcopy(learner.module["default_policy"])
    columns = columns_of(learner, episodes)
    metrics = metrics_of(update(learner, episodes))

    advantage, weight = (columns[name][columns["loss_mask"]] for name in ("advantages", "loss_weight"))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    old, losses, ratios = None, [], []
    for _ in range(2):
        logp = module.forward_train(columns)["token_logp"]
        old = logp.detach() if old is None else old
        ratio = torch.exp(logp - old)
        value = -(weight * torch.minimum(ratio * advantage, ratio.clamp(0.98, 1.02) * advantage)).sum()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(value.item())
        ratios.append(ratio.detach())
    assert metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    assert (
        metrics["ratio_max"] == pytest.approx(ratios[1].max().item(), abs=1e-4)
        and metrics["ratio_max"] > 1.02
    )
    assert metrics["clip_share"] > 0
    for name, param in module.hf.named_parameters():
        torch.testing.assert_close(
            dict(learner.module["default_policy"].hf.named_parameters())[name], param, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_minibatch_is_averaged_over_itself(llama, aggregation):
    """With lr 0 nothing moves: the mean loss over minibatches is that of each, averaged over its own
    sequences.
    """
    loss = LossSettings(kl_coeff=0.0, loss_aggregation=aggregation)
    learner = make_learner(llama, loss=loss, num_minibatches=3, lr=0.0)
    episodes = make_batch()
    columns = columns_of(learner, episodes)
    metrics = metrics_of(update(learner, episodes))
    sequence_id_N = columns["sequence_id"].numpy()[np.cumsum(row_lengths(columns)) - 1]
    plan = plan_minibatches(
        sequence_id_N, 9, num_epochs=1, num_minibatches=3, seed=(0, learner._weights_seq_no)
    )
    model = learner.module["default_policy"].hf
    expected = [reference_loss(model, None, columns, loss, rows.tolist()).item() for rows in plan]
    assert metrics["loss"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_gap_to_the_sampler_and_credit(llama):
    learner = make_learner(llama)
    episodes = make_batch()
    sample_with(learner, episodes)
    agent = next(iter(episodes[0].agent_episodes.values()))
    agent.extra_model_outputs["action_logp"].data[0] = agent.extra_model_outputs["action_logp"].data[
        0
    ] - np.float32(0.5)
    metrics = metrics_of(update(learner, episodes))
    tokens = len(agent.get_actions()[0])
    assert metrics["logp_gap_max"] == pytest.approx(0.5, abs=1e-5)
    assert metrics["logp_gap_mean"] == pytest.approx(0.5 * tokens / metrics["tokens"], abs=1e-5)
    assert metrics["logp_gap_p999"] == pytest.approx(0.5, abs=1e-5)
    assert metrics["mismatch_weight_mean"] == pytest.approx(
        1 + (np.exp(0.5) - 1) * tokens / metrics["tokens"], abs=1e-5
    )
    credit, groups = learner.take_credit()
    assert credit["0-0", 0].logp_gap_mean == pytest.approx(0.5, abs=1e-5)
    assert all(c.logp_gap_mean < 1e-5 for key, c in credit.items() if key != ("0-0", 0))
    assert len(credit) == sum(len(e.custom_data["rollout"].turns) for e in episodes) and len(groups) == 3
    assert all(c.logp_gap_L is None for c in credit.values())
    assert learner.take_credit() == ({}, [])


def test_on_request_the_gap_of_every_token_is_kept(llama):
    learner = make_learner(llama, log_tokens=True, tokens_per_micro_batch=64)
    episodes = make_batch()
    sample_with(learner, episodes)
    agent = next(iter(episodes[-1].agent_episodes.values()))
    off = np.linspace(-0.5, 0.5, len(agent.get_actions()[0]), dtype=np.float32)
    agent.extra_model_outputs["action_logp"].data[0] = agent.extra_model_outputs["action_logp"].data[0] - off
    update(learner, episodes)
    credit, _ = learner.take_credit()
    np.testing.assert_allclose(credit["2-2", 0].logp_gap_L, off, atol=1e-5)
    for episode in episodes:
        decisions = next(iter(episode.agent_episodes.values())).get_actions()
        rollout_id = episode.custom_data["rollout"].id
        assert [len(credit[rollout_id, k].logp_gap_L) for k in range(len(decisions))] == [
            len(ids) for ids in decisions
        ]


@pytest.mark.parametrize(("ragged", "share"), [(False, 0.05), (True, 0.0)])
def test_padding_counts_where_attention_pads(ragged, share):
    """Rows of 10 and 9 tokens go side by side: 19 of 20 positions are real."""
    stats = UpdateStats()
    stats.add_sizes(SimpleNamespace(lengths_R=np.array([10, 9]), rows_I=[[np.array([0, 1])]]), ragged=ragged)
    metrics = stats.metrics(1, lambda values, how: values)
    assert metrics["padding_share"] == pytest.approx(share, abs=1e-12) and metrics["micro_batches"] == 1


@pytest.mark.parametrize("tokens", [4.0, 0.0])
def test_a_learner_with_dummies_alone_reports_what_the_others_measured(tokens):
    """Here the others have `tokens` decision tokens with a KL of 2 in all."""
    others = {"passed_tokens": tokens, "kl": 2.0}
    names = ["loss", "policy_loss", "passed_tokens", "entropy", "ratio", "clipped", "mismatch_weight", "kl"]

    def over_learners(values, how):
        return values if how == "max" else [
            value + others.get(name, 0.0) for name, value in zip_longest(names, values)
        ]  # fmt: skip

    metrics = UpdateStats(measures_kl=True).metrics(1, over_learners)
    assert metrics.get("kl") == (0.5 if tokens else None)
    assert "kl" not in UpdateStats().metrics(1, over_learners)


def test_the_learner_asks_whether_attention_pads(llama, monkeypatch):
    learner = make_learner(llama)
    assert update(learner, make_batch())["default_policy"]["padding_share"].peek() > 0
    monkeypatch.setattr(HFCausalLM, "takes_ragged_rows", lambda self, device: True)
    assert update(learner, make_batch())["default_policy"]["padding_share"].peek() == 0


def test_gradient_is_clipped_after_its_norm_was_noted(llama):
    learner = make_learner(llama, grad_clip=0.01)
    metrics = metrics_of(update(learner, make_batch()))
    assert metrics["grad_norm"] > 0.1
    clipped = torch.stack([g.norm() for g in gradients(learner).values()]).norm().item()
    assert clipped == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_a_loss_that_is_not_finite_names_the_rollout_and_takes_no_step(llama, num_epochs):
    learner = make_learner(llama, num_epochs=num_epochs, tokens_per_micro_batch=1)
    before = learner.module["default_policy"].get_state()
    episodes = make_batch()
    next(iter(episodes[4].agent_episodes.values())).extra_model_outputs["action_logp"].data[0][:] = np.nan
    with pytest.raises(
        FloatingPointError, match=r"loss is not finite in module default_policy, batch 1.*rollouts 1-1;"
    ):
        update(learner, episodes)
    after = learner.module["default_policy"].get_state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_dummy_batch_has_no_rollout_to_name():
    """With weights that are not finite every loss is not, those of dummy batches included."""
    (update,) = plan_of(three_rows(), 3, tokens_per_micro_batch=9)
    assert len(update.rows) == 2
    assert update.rollout_ids([0, 1, 2]) == ["r0", "r1", "r2"]
    assert update.rollout_ids([1, 2]) == ["r0"] and update.rollout_ids([2]) == []


def test_the_loss_is_a_function_of_batch_and_forward(llama):
    """RLlib's hook works outside of an update and hands its terms on in `fwd_out`."""
    learner = make_learner(llama, loss=LossSettings(kl_coeff=0.05))
    columns = columns_of(learner, make_batch())
    fwd_out = learner.module["default_policy"].forward_train(columns)
    loss = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=columns, fwd_out=fwd_out
    )
    assert loss.requires_grad and loss is fwd_out[TOKEN_TERMS].loss
    metrics = metrics_of(update(learner, make_batch()))
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)


def test_a_gradient_that_is_not_finite_takes_no_step(llama):
    learner = make_learner(llama)
    param = next(learner.module["default_policy"].hf.parameters())
    param.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        FloatingPointError, match=r"norm of the gradient is (inf|nan) in module default_policy, batch 1"
    ):
        update(learner, make_batch())


def policy(agent):
    return f"{agent}_policy"


def test_a_gradient_that_is_not_finite_is_that_of_its_module(llama, untied_llama):
    learner = make_learner({"a_policy": llama, "z_policy": untied_llama})
    next(learner.module["a_policy"].hf.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        FloatingPointError, match=r"norm of the gradient is (inf|nan) in module a_policy, batch 1"
    ):
        update(learner, make_batch(agents=("a", "z"), policy=policy))


def test_a_checkpoint_does_not_say_which_policies_are_trained(llama, untied_llama, tmp_path):
    paths = {"searcher_policy": llama, "reader_policy": untied_llama}
    saved, restored = make_learner(paths), make_learner(paths)
    saved.config.multi_agent(policies_to_train=["searcher_policy"])
    saved.save_to_path(str(tmp_path))
    restored.config.multi_agent(policies_to_train=["reader_policy"])
    restored.restore_from_path(str(tmp_path))
    assert [name for name in paths if restored.should_module_be_updated(name)] == ["reader_policy"]


def driver_metrics(result, policies):
    logger = MetricsLogger(root=True)
    logger.aggregate([result], key=LEARNER_RESULTS)
    return learner_metrics(logger, policies)


def test_a_frozen_policy_has_no_part_in_the_metrics(llama, untied_llama):
    learner = make_learner(
        {"searcher_policy": llama, "reader_policy": untied_llama}, loss=LossSettings(kl_coeff=0.01)
    )
    learner.config.multi_agent(policies_to_train=["searcher_policy"])
    result = update(learner, make_batch(agents=("searcher", "reader"), policy=policy))
    metrics = driver_metrics(result, ["reader_policy", "searcher_policy"])
    for name in ("loss", "kl", "entropy", "grad_norm", "logp_gap_mean", "lr"):
        assert metrics[name] == pytest.approx(result["searcher_policy"][name].peek()), name
        assert metrics[f"policy/searcher_policy/{name}"] == result["searcher_policy"][name].peek(), name
    assert not [name for name in metrics if "reader_policy" in name]


def test_each_of_several_policies_has_metrics_of_its_own(llama, untied_llama):
    policies = ["reader_policy", "searcher_policy"]
    learner = make_learner(dict(zip(policies, (untied_llama, llama), strict=True)))
    result = update(learner, make_batch(agents=("searcher", "reader"), policy=policy))
    metrics = driver_metrics(result, policies)
    own = {id: {name: value.peek() for name, value in result[id].items()} for id in policies}
    assert own["reader_policy"]["loss"] != own["searcher_policy"]["loss"]
    for id in policies:
        for name in ("loss", "entropy", "grad_norm", "clip_share", "logp_gap_mean", "lr", "tokens"):
            assert metrics[f"policy/{id}/{name}"] == own[id][name], (id, name)
    assert metrics["loss"] == own["reader_policy"]["loss"] + own["searcher_policy"]["loss"]
    assert metrics["lr"] == own["reader_policy"]["lr"]


def test_what_was_measured_before_a_checkpoint_is_no_metric_after_it(llama, untied_llama, tmp_path):
    """A run that begins from the checkpoint freezes the policy that comes first, and has no KL term."""
    paths, episodes = {"a_policy": llama, "z_policy": untied_llama}, {"agents": ("a", "z"), "policy": policy}
    saved, logger = make_learner(paths, loss=LossSettings(kl_coeff=0.01)), MetricsLogger(root=True)
    logger.aggregate([update(saved, make_batch(**episodes))], key=LEARNER_RESULTS)
    assert learner_metrics(logger, list(paths)).keys() >= {"kl", "loss"}
    logger.reduce()  # as RLlib does at the end of an iteration, before anything is saved
    saved.save_to_path(str(tmp_path))
    restored, later = make_learner(paths), MetricsLogger(root=True)
    restored.config.multi_agent(policies_to_train=["z_policy"])
    restored.restore_from_path(str(tmp_path))
    later.set_state(logger.get_state())
    result = update(restored, make_batch(**episodes))
    later.aggregate([result], key=LEARNER_RESULTS)
    metrics = learner_metrics(later, list(paths))
    assert "kl" not in metrics and not [name for name, value in metrics.items() if np.isnan(value)]
    for name in ("loss", "entropy", "grad_norm", "logp_gap_mean"):
        assert metrics[name] == pytest.approx(result["z_policy"][name].peek()), name


def test_where_no_trained_policy_spoke_nothing_was_learnt(llama, untied_llama):
    learner = make_learner({"searcher_policy": llama, "reader_policy": untied_llama})
    learner.config.multi_agent(policies_to_train=["reader_policy"])
    metrics = driver_metrics(
        update(learner, make_batch(agents=("searcher",), policy=policy)), ["reader_policy", "searcher_policy"]
    )
    assert metrics["loss"] == metrics["grad_norm"] == metrics["logp_gap_mean"] == 0


@pytest.mark.parametrize("gaps", [(0.1, math.nan), (math.nan, 0.1)])
def test_a_gap_that_is_no_number_stays_one_beside_another_policy_s(gaps):
    results = {LEARNER_RESULTS: {ALL_MODULES: {"seconds_credit": 0.0, "peak_gib_learn": 0.0}}}
    results[LEARNER_RESULTS] |= {
        name: {"tokens": 8.0, "logp_gap_max": gap} for name, gap in zip("ab", gaps, strict=True)
    }
    logger = SimpleNamespace(peek=results.get)
    assert math.isnan(learner_metrics(logger, ["a", "b"])["logp_gap_max"])


def test_a_kl_that_was_not_measured_is_not_reported(llama):
    for coefficient in (0.0, 0.01):
        result = update(make_learner(llama, loss=LossSettings(kl_coeff=coefficient)), make_batch())
        assert (
            ("kl" in metrics_of(result))
            is ("kl" in driver_metrics(result, ["default_policy"]))
            is (coefficient > 0)
        )


def test_two_modules_of_which_one_is_frozen(llama, untied_llama):
    paths = {"searcher_policy": llama, "reader_policy": untied_llama}
    learner = make_learner(paths, loss=LossSettings(kl_coeff=0.01))
    before = {name: learner.module[name].get_state() for name in paths}
    learner.config.multi_agent(policies_to_train=["searcher_policy"])
    result = update(learner, make_batch(agents=("searcher", "reader"), policy=policy))
    after = {name: learner.module[name].get_state() for name in paths}

    def moved(name):
        return any(not np.array_equal(before[name][key], after[name][key]) for key in before[name])

    assert moved("searcher_policy") and not moved("reader_policy")
    assert "loss" in result["searcher_policy"] and "loss" not in result["reader_policy"]
    learner.config.multi_agent(policies_to_train=None)
    result = update(learner, make_batch(agents=("searcher", "reader"), policy=policy))
    after = {name: learner.module[name].get_state() for name in paths}
    assert moved("reader_policy") and {"loss", "grad_norm"} <= set(result["reader_policy"])
    credit, _ = learner.take_credit()
    assert all(c.logp_gap_mean is not None for c in credit.values())


def test_a_module_that_nobody_spoke_through_does_not_move(llama):
    learner = make_learner({"default_policy": llama, "idle": llama}, lr=0.1)
    for _ in range(2):
        update(learner, make_batch())
    before = load_causal_lm(llama, torch.float32).state_dict()
    assert all(
        np.array_equal(array, before[name]) for name, array in learner.module["idle"].get_state().items()
    )


def test_modules_of_the_same_source_share_one_reference(llama):
    learner = make_learner({"default_policy": llama, "idle": llama}, loss=LossSettings(kl_coeff=0.01))
    with learner._references.model("default_policy") as one, learner._references.model("idle") as other:
        assert one is other
    assert not any(name.startswith("_references") for name, _ in learner.module["idle"].named_parameters())
    assert list(make_learner(llama)._references) == []


def test_bfloat16_is_close_to_float32_and_learns_small_steps(llama):
    losses = []
    for dtype in ("float32", "bfloat16"):
        learner = make_learner(llama, model_config={"dtype": dtype}, lr=1e-6, loss=LossSettings(kl_coeff=0.1))
        before = learner.module["default_policy"].get_state()
        losses.append(metrics_of(update(learner, make_batch()))["loss"])
        after = learner.module["default_policy"].get_state()
        step = max(np.abs(after[name] - before[name]).max() for name in before)
        assert 5e-7 < step < 2e-6
    assert losses[0] == pytest.approx(losses[1], abs=0.05) and losses[0] != losses[1]


def test_learning_rate_follows_its_schedule(llama):
    learner = make_learner(llama, lr=[[0, 1e-3], [200, 1e-5]])
    assert metrics_of(update(learner, make_batch()))["lr"] == pytest.approx(1e-3)
    assert metrics_of(update(learner, make_batch()))["lr"] == pytest.approx(0.5 * (1e-3 + 1e-5))


def test_a_restored_learner_goes_on_exactly(llama, tmp_path):
    settings = {"num_minibatches": 2, "lr": [[0, 1e-3], [200, 1e-5]]}
    learner = make_learner(llama, **settings)
    update(learner, make_batch(seed=1))
    learner.save_to_path(str(tmp_path / "learner"))
    update(learner, make_batch(seed=2))
    restored = make_learner(llama, **settings)
    restored.restore_from_path(str(tmp_path / "learner"))
    update(restored, make_batch(seed=2))
    expected = learner.module["default_policy"].get_state()
    for name, array in restored.module["default_policy"].get_state().items():
        np.testing.assert_array_equal(array, expected[name])


def test_an_older_state_brings_its_weights_and_its_number_of_updates_back(llama):
    learner = make_learner(llama, lr=0.01)
    states = []
    for seed in range(3):
        states.append(copy.deepcopy(learner.get_state()))
        update(learner, make_batch(seed=seed))
    for state in (states[1], states[2], states[0]):
        learner.set_state(state)
        restored = learner.get_state()
        assert restored["weights_seq_no"] == state["weights_seq_no"]
        for name, array in state["rl_module"]["default_policy"].items():
            np.testing.assert_array_equal(restored["rl_module"]["default_policy"][name], array)


def test_rllib_gets_no_weights_for_the_engines(llama):
    """It would send them through the driver; `IGPO.push_weights` sends them, and asks with `gather`."""
    learner = make_learner(llama)
    assert "rl_module" not in learner.get_state("rl_module", inference_only=True)
    assert "rl_module" in learner.get_state("rl_module", inference_only=True, gather=True)
    assert "rl_module" in learner.get_state("rl_module")


@pytest.mark.parametrize("lr", [1e-5, [[0, 3e-5], [200, 0.0]]])
def test_a_restored_learner_has_the_rate_of_its_own_configuration(llama, tmp_path, lr):
    saved, restored, never_saved = (
        make_learner(llama, lr=1e-3),
        make_learner(llama, lr=lr),
        make_learner(llama, lr=lr),
    )
    for learner in (saved, never_saved):
        update(learner, make_batch())
    saved.save_to_path(str(tmp_path))
    restored.restore_from_path(str(tmp_path))
    expected = metrics_of(update(never_saved, make_batch()))["lr"]
    assert metrics_of(update(restored, make_batch()))["lr"] == pytest.approx(expected) != pytest.approx(1e-3)


def test_learning_raises_the_probability_of_what_was_better(llama):
    learner = make_learner(llama, lr=3e-3, preset="grpo")
    episodes = make_batch(groups=2, size=4)
    columns = columns_of(learner, episodes)

    def objective():
        with torch.no_grad():
            logp = learner.module["default_policy"].forward_train(columns)["token_logp"]
        return float((logp * columns["advantages"][columns["loss_mask"]]).sum())

    before = objective()
    for _ in range(5):
        sample_with(learner, episodes)
        update(learner, episodes)
    assert objective() > before + 1.0
