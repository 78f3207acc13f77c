"""The learner: SPEC §5 over micro-batches, with gradient accumulation, several updates per batch, several
learners.

RLlib hands the whole batch to `_uncompiled_update` once (`LearnerGroup.update` without num_epochs and
minibatch_size); epochs, minibatches and micro-batches are made here (`algorithms.igpo.learner.update_plan`),
because RLlib's own iterators count turns for rows and train some rows twice. With several learners each holds
whole groups (`algorithms.igpo.learner.groups.shard_groups`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from ray.rllib.utils.metrics import ALL_MODULES

from algorithms.igpo.belief.naive import NaiveScorer
from algorithms.igpo.belief.tree import TreeScorer
from algorithms.igpo.iteration_record import GroupCredit, TurnCredit
from algorithms.igpo.learner.connectors import BuildTokenBatch, TurnLevelAdvantages, find_piece
from algorithms.igpo.learner.distributed import DistributedLearner
from algorithms.igpo.learner.loss import LossSettings, policy_loss
from algorithms.igpo.learner.offload import HOST, moments_on, move_moments
from algorithms.igpo.learner.references import References
from algorithms.igpo.learner.token_batch import Columns
from algorithms.igpo.learner.update_plan import Work, plan_work
from algorithms.igpo.model.causal_lm import HFCausalLM
from algorithms.igpo.model.fsdp import whole
from envs.engine.peak_memory import peak_memory_gib, reset_peak_memory
from envs.runner.belief import BeliefQuery

REFERENCES, TIMESTEPS = "references", "timesteps"
"""Keys of the learner's state, beside RLlib's."""


class IGPOTorchLearner(DistributedLearner):
    """AdamW (weight decay 0.01: PyTorch's default and verl's) over the policy loss of
    `algorithms.igpo.learner.loss`.

    Reads from the config: `loss_settings()`, `num_epochs`, `num_minibatches`, `tokens_per_micro_batch`, `lr`
    (a number or RLlib's schedule [[env steps, lr], ...]), `grad_clip`, `seed`, `num_learners`.

    Metrics per module: loss, policy_loss, kl (where a reference is kept), entropy, grad_norm (before
    clipping), ratio_mean, ratio_max, clip_share, mismatch_weight_mean, logp_gap_mean / _p999 / _max (|learner
    - sampler| before the first step; p999 and max are the largest over the learners), lr, tokens, sequences,
      padding_share,
    micro_batches. Over all modules: seconds_learn, peak_gib_learn (memory, `envs.engine.peak_memory`); from
    the connector seconds_credit.

    Raises FloatingPointError where a loss or gradient is not finite, before any step is taken with it.
    """

    def build(self) -> None:
        self._timesteps: dict[str, Any] = {}
        super().build()
        self._turn_gaps: dict[tuple[str, int], np.ndarray] = {}
        self._works: dict[str, Work] = {}
        self._where = ""
        referenced = [module_id for module_id in self.module.keys() if self._needs_reference(module_id)]  # noqa: SIM118
        self._references = References(
            {module_id: self._hugging_face(module_id) for module_id in referenced},
            self._device,
            refreshed=self.config.reference_refresh_interval > 0,
            sharded=self.config.shard_learner,
        )
        if self.config.shard_learner:
            self.stage_state()  # RLlib asks for it while it sets the algorithm up

    def _needs_reference(self, module_id: str) -> bool:
        scored = module_id == self.config.reference_scored_policy
        return scored or (
            self._settings(module_id).kl_coeff > 0 and bool(self.should_module_be_updated(module_id))
        )

    def configure_optimizers_for_module(self, module_id, config=None) -> None:
        params = [param for param in self.get_parameters(self.module[module_id]) if param.requires_grad]
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.AdamW(params, fused=self._device.type in ("cpu", "cuda")),
            params=params,
            lr_or_lr_schedule=(config or self.config).lr,
        )

    def take_credit(self) -> tuple[dict[tuple[str, int], TurnCredit], list[GroupCredit]]:
        """Credit of the last batch's turns (with the log-prob gap of those trained on) and groups; clears
        both.
        """
        piece = find_piece(self._learner_connector, TurnLevelAdvantages)
        credit, groups = piece.last_credit, piece.last_groups
        for key, gap_L in self._turn_gaps.items():
            credit[key].logp_gap_mean = float(np.abs(gap_L).mean())
            if self.config.log_tokens:
                credit[key].logp_gap_L = gap_L
        piece.last_credit, piece.last_groups, self._turn_gaps = {}, [], {}
        return credit, groups

    def score_beliefs(self, queries: Sequence[BeliefQuery], module_id: str) -> list[np.ndarray]:
        """s_t(a) of SPEC §2 for every query, by the policy and method of `config.belief_scoring`."""
        module, scoring = self._hugging_face(module_id), self.config.belief_scoring
        current = contextlib.nullcontext(module.hf)
        with self._references.model(module_id) if scoring.policy == "reference" else current as model:
            if scoring.method == "naive":
                return NaiveScorer(model, module.compute_dtype).score(queries)
            return TreeScorer(model, module.compute_dtype, self.config.tokens_per_micro_batch).score(queries)

    def get_state(
        self, components=None, *, not_components=None, gather: bool = False, **kwargs
    ) -> dict[str, Any]:
        """RLlib's, the steps sampled so far, and the references where they are refreshed: else they are
        loaded again.
        """
        state = super().get_state(components, not_components=not_components, gather=gather, **kwargs)
        state[TIMESTEPS] = self._timesteps
        if self.config.reference_refresh_interval and self._check_component(
            REFERENCES, components, not_components
        ):
            state[REFERENCES] = self._references.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's, but the learning rate and which policies are trained are the configuration's, not the
        checkpoint's.
        """
        super().set_state(
            {name: value for name, value in state.items() if name != "should_module_be_updated"}
        )
        if TIMESTEPS in state:
            self.after_gradient_based_update(timesteps=state[TIMESTEPS])
        if REFERENCES in state:
            self._references.set_state(state[REFERENCES])

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """RLlib's: sets the learning rate of the next update."""
        super().after_gradient_based_update(timesteps=timesteps)
        self._timesteps = timesteps

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs):
        started = time.perf_counter()
        reset_peak_memory()
        self._turn_gaps = {}
        self._works = {
            module_id: self._plan(module_id, dict(batch[module_id])) for module_id in sorted(batch)
        }
        works = self._works.values()
        num_updates = self.config.num_epochs * self.config.num_minibatches
        if num_updates > 1:
            for work in works:
                self._measure_before(work)
        for update in range(num_updates):
            epoch, minibatch = divmod(update, self.config.num_minibatches)
            self._where = f"batch {self._weights_seq_no}, epoch {epoch}, minibatch {minibatch}"
            for optimizer in self._optimizer_parameters:
                optimizer.zero_grad(set_to_none=True)
            for work in works:
                if work.weight_scale[update] > 0:
                    self._accumulate_gradient(work, update)
            gradients = {ref: param.grad for ref, param in self._params.items() if param.grad is not None}
            optimizers = self._named_optimizers.values()
            with (
                moments_on(self._device, optimizers)
                if self.config.offload_optimizer
                else contextlib.nullcontext()
            ):
                self.apply_gradients(self.postprocess_gradients(gradients))
        losses = {work.module_id: self._report(work, num_updates) for work in works}
        self._works = {}
        interval = self.config.reference_refresh_interval
        if interval and self._weights_seq_no % interval == 0:
            self._references.refresh(
                {module_id: self._hugging_face(module_id) for module_id in self._references}
            )
        self.metrics.log_value(
            (ALL_MODULES, "seconds_learn"), time.perf_counter() - started, reduce="mean", window=1
        )
        self.metrics.log_value((ALL_MODULES, "peak_gib_learn"), peak_memory_gib(), reduce="max", window=1)
        return {}, losses, {}

    def _plan(self, module_id: str, columns: Columns) -> Work:
        return plan_work(
            module_id,
            columns,
            find_piece(self._learner_connector, BuildTokenBatch).layouts[module_id],
            self.over_learners,
            num_epochs=self.config.num_epochs,
            num_minibatches=self.config.num_minibatches,
            tokens_per_micro_batch=self.config.tokens_per_micro_batch,
            aggregation=self._settings(module_id).loss_aggregation,
            seed=(self.config.seed or 0, self._weights_seq_no),
        )

    def _measure_before(self, work: Work) -> None:
        module = self._hugging_face(work.module_id)
        work.measure_before_updates(
            lambda micro: module.forward_train(micro)["token_logp"],
            (lambda micro: self._references.token_logp(work.module_id, micro))
            if self._pays_kl(work.module_id)
            else None,
            self._device,
            num_minibatches=self.config.num_minibatches,
            together=self.config.shard_learner,
        )

    def _accumulate_gradient(self, work: Work, update: int) -> None:
        """Forward and backward over all micro-batches of one update; then every learner holds the whole
        gradient.
        """
        config = self.config.get_config_for_module(work.module_id)
        module = self.module[work.module_id]
        last = work.num_micro_batches[update] - 1
        losses = []
        for k in range(last + 1):
            micro = work.micro_batch(update, k, self._device)
            no_sync = getattr(module, "no_sync", contextlib.nullcontext)  # only a DDP wrapper has it
            with no_sync() if k < last else contextlib.nullcontext():
                loss = self.compute_loss_for_module(
                    module_id=work.module_id, config=config, batch=micro, fwd_out=module.forward_train(micro)
                )
                # DDP averages gradients over the learners, but each loss is already a share of one sum.
                (loss * max(1, self.config.num_learners)).backward()
            losses.append(loss.detach())
        losses = torch.stack(losses).double().tolist()
        work.refuse_non_finite(update, losses, self._where, self.over_learners)
        work.measured.total["loss"] += sum(losses)

    def compute_loss_for_module(self, *, module_id, config, batch, fwd_out) -> torch.Tensor:
        """RLlib's hook: the share of one micro-batch in the batch's loss."""
        mask = batch["decision_mask"][:, 1:]

        def flat(name: str) -> torch.Tensor:
            return batch[name][:, 1:][mask]

        settings = config.loss_settings()
        measured = self._works[module_id].measured
        logp_P, entropy_P = fwd_out["token_logp"][mask], fwd_out["entropy"][mask]
        reference_logp_P = None
        if "old_logp" in batch:
            old_logp_P = flat("old_logp")
        else:  # one update per batch
            old_logp_P = logp_P.detach()
            measured.add_gap(old_logp_P, flat("sampler_logp"), flat("turn_id"))
        if "reference_logp" in batch:
            reference_logp_P = flat("reference_logp")
        elif self._pays_kl(module_id):
            reference_logp_P = self._references.token_logp(module_id, batch)[mask]
        terms = policy_loss(
            settings,
            logp_P=logp_P,
            old_logp_P=old_logp_P,
            sampler_logp_P=flat("sampler_logp"),
            advantage_P=flat("advantages"),
            weight_P=flat("loss_weight"),
            turn_id_P=flat("turn_id"),
            sequence_id_P=batch["sequence_id"][:, None].expand(mask.shape)[mask],
            clip_scale_P=flat("clip_scale"),
            reference_logp_P=reference_logp_P,
            entropy_P=entropy_P,
        )
        measured.add_terms(terms, entropy_P.detach(), flat("loss_weight"), flat("turn_id"))
        return terms.loss

    def postprocess_gradients_for_module(self, *, module_id, config=None, module_gradients_dict):
        """RLlib's clipping, after the norm was found finite and noted."""
        if not module_gradients_dict:
            return module_gradients_dict
        gradients = list(module_gradients_dict.values())
        norm = float(whole(torch.nn.utils.get_total_norm(gradients)))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the norm of the gradient is {norm} in module {module_id}, {self._where}; no step was "
                "taken. Lower lr, or "
                "look at the rollouts of this batch in the rollout log"
            )
        self._works[module_id].measured.grad_norms.append(norm)
        if self.config.shard_learner:  # RLlib's clipping does not know sharded gradients
            if config.grad_clip is not None:
                torch._foreach_mul_(gradients, min(1.0, config.grad_clip / (norm + 1e-6)))
            return module_gradients_dict
        return super().postprocess_gradients_for_module(
            module_id=module_id, config=config, module_gradients_dict=module_gradients_dict
        )

    def _report(self, work: Work, num_updates: int) -> torch.Tensor:
        """Log the module's metrics; returns the mean loss over the updates."""
        self._turn_gaps |= work.measured.turn_gaps(work.layout.turn_keys)
        ((_, optimizer),) = self.get_optimizers_for_module(work.module_id)
        metrics = work.measured.metrics(num_updates, self.over_learners) | work.size
        for name, value in {**metrics, "lr": float(self._get_optimizer_lr(optimizer))}.items():
            self.metrics.log_value((work.module_id, name), value, reduce="mean", window=1)
        return torch.tensor(metrics["loss"])

    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        super()._set_optimizer_state(state)
        if self.config.offload_optimizer:
            move_moments(self._named_optimizers.values(), HOST)

    def enter_device(self) -> None:
        """Everything comes back from host memory: an update begins (`engine.placement: colocated`)."""
        self._move(self._device)

    def leave_device(self) -> None:
        """Weights, moments and references wait in host memory while the engine has the device; gradients are
        dropped.
        """
        for param in self._params.values():
            param.grad = None
        self._move(HOST)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _move(self, device: torch.device) -> None:
        for module_id in self.module.keys():  # noqa: SIM118 (not a dict)
            self._hugging_face(module_id).to(device)
        self._references.to(device)
        if not self.config.offload_optimizer:
            move_moments(self._named_optimizers.values(), device)

    def _hugging_face(self, module_id: str) -> HFCausalLM:
        """The module without its DDP wrapper."""
        return cast(HFCausalLM, self.module[module_id].unwrapped())

    def _settings(self, module_id: str) -> LossSettings:
        return self.config.get_config_for_module(module_id).loss_settings()

    def _pays_kl(self, module_id: str) -> bool:
        return module_id in self._references and self._settings(module_id).kl_coeff > 0
