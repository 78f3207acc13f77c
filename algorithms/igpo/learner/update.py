"""The update of one batch: plan, log-probs before it, loss, gradient, step, metrics.

RLlib gives the full batch to `_uncompiled_update` once (`LearnerGroup.update` without num_epochs and
minibatch_size). `algorithms.igpo.learner.update_plan` makes epochs, minibatches and micro-batches, because
RLlib's own iterators count turns for rows and train some rows twice.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any, cast

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ALL_MODULES

from algorithms.igpo.learner.connectors import BatchNotes, BuildTokenBatch, TurnLevelAdvantages
from algorithms.igpo.learner.distributed import DistributedLearner, gradient_norm, optimizer_state_on
from algorithms.igpo.learner.loss import policy_loss
from algorithms.igpo.learner.lr_schedule import lr_share
from algorithms.igpo.learner.references import References
from algorithms.igpo.learner.token_batch import TokenBatch, decisions_of
from algorithms.igpo.learner.update_plan import Update, UpdatePlan
from algorithms.igpo.learner.update_stats import UpdateStats
from algorithms.igpo.loss_settings import LossSettings
from algorithms.igpo.model.causal_lm import HFCausalLM
from envs.engine.peak_memory import peak_memory_gib, reset_peak_memory

OLD_LOGP, REFERENCE_LOGP = "old_logp", "reference_logp"
"""Columns that the learner adds to a token batch before the first of several updates: float32 [F], 0 off the
loss mask."""
DECISIONS, TOKEN_TERMS = "decisions", "token_terms"
"""Keys of `fwd_out`, added by `compute_loss_for_module`: the columns at the decision tokens, on the device,
and the terms of the loss."""


class UpdatingLearner(DistributedLearner):
    """AdamW over the policy loss of `algorithms.igpo.learner.loss`.

    Like RLlib's PPO, it appends its own pieces to the learner connector pipeline; they report in `notes`.

    Reads from the config: `credit_config()`, `loss_settings()`, `env_settings().alias_rule`, `num_epochs`,
    `num_minibatches`, `tokens_per_micro_batch`, `lr` (a number or RLlib's schedule [[env steps, lr], ...]),
    `lr_warmup_iterations`, `lr_decay`, `lr_decay_iterations`, `lr_final_share`, `weight_decay`, `adam_betas`,
    `adam_eps`, `grad_clip`, `seed`, `reference_scored_policy`, `reference_refresh_interval`.

    Metrics per module: loss, policy_loss, kl (if the loss has it), entropy, grad_norm (before clipping),
    ratio_mean, ratio_max, clip_share, mismatch_weight_mean, logp_gap_mean / _p999 / _max (|learner - sampler|
    before the first step; p999 and max are the largest over the learners), lr, tokens, sequences,
    padding_share, micro_batches. Over all modules: seconds_learn, peak_gib_learn
    (`envs.engine.peak_memory`), and the connector's seconds_credit.

    Raises:
        FloatingPointError: a loss or gradient is not finite; no step is taken with it.
    """

    @override(DistributedLearner)
    def build(self) -> None:
        super().build()
        self.notes = BatchNotes()
        credited = TurnLevelAdvantages(
            self.config.credit_config(),
            self.notes,
            alias_rule=self.config.env_settings().alias_rule,
            preset=self.config.preset_settings,
        )
        tokens = BuildTokenBatch(self.config.loss_settings().loss_aggregation, self.notes)
        for piece in (credited, tokens):
            self._learner_connector.append(piece)
        self._turn_gaps: dict[tuple[str, int], np.ndarray] = {}
        referenced = [module_id for module_id in self.module.keys() if self._needs_reference(module_id)]  # noqa: SIM118
        self._references = References(
            {module_id: self._hugging_face(module_id) for module_id in referenced},
            self._device,
            refreshed=self.config.reference_refresh_interval > 0,
            sharded=self.config.shard_learner,
        )

    @override(DistributedLearner)
    def _uncompiled_update(self, batch: dict[str, Any], **kwargs):
        started = time.perf_counter()
        reset_peak_memory()
        self._turn_gaps = {}
        self._set_optimizers()
        plans = [self._plan(module_id, dict(batch[module_id])) for module_id in sorted(batch)]
        stats = {plan.module_id: UpdateStats(self._has_kl_term(plan.module_id)) for plan in plans}
        num_updates = self.config.num_epochs * self.config.num_minibatches
        if num_updates > 1:
            for plan in plans:
                self._add_log_probs_before(plan, stats[plan.module_id])
        for updates in zip(*plans, strict=True):  # one optimizer step, of all modules
            for optimizer in self._optimizer_parameters:
                optimizer.zero_grad(set_to_none=True)
            for update in updates:
                if update.num_micro_batches:
                    self._accumulate_gradient(update, stats[update.plan.module_id])
            gradients = {ref: param.grad for ref, param in self._params.items() if param.grad is not None}
            for update in updates:
                self._add_gradient_norm(update, gradients, stats[update.plan.module_id])
            self._step(gradients)
        losses = {plan.module_id: self._report(plan, stats[plan.module_id], num_updates) for plan in plans}
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

    def _plan(self, module_id: str, batch: TokenBatch) -> UpdatePlan:
        return UpdatePlan.cut(
            module_id,
            batch,
            self.notes.layouts[module_id],
            self.over_learners,
            num_epochs=self.config.num_epochs,
            num_minibatches=self.config.num_minibatches,
            tokens_per_micro_batch=self.config.tokens_per_micro_batch,
            aggregation=self._settings(module_id).loss_aggregation,
            seed=(self.config.seed or 0, self._weights_seq_no),
        )

    @torch.no_grad()
    def _add_log_probs_before(self, plan: UpdatePlan, stats: UpdateStats) -> None:
        """Adds `old_logp` (pi_old) and, for a KL term, `reference_logp` to the plan's columns.

        Needed before the first of several updates: afterwards the policy is no longer pi_old.
        """
        module = self._hugging_face(plan.module_id)
        for update in plan.first_epoch():
            old, reference = [], []
            for k, micro in enumerate(update.micro_batches()):
                old.append(module.forward_train(micro)["token_logp"])
                if update.is_real(k):
                    stats.add_gap(micro, decisions_of(micro, self._device), old[-1])
                if self._has_kl_term(plan.module_id):
                    reference.append(self._references.token_logp(plan.module_id, micro))
            plan.add_column(OLD_LOGP, update, old)
            if reference:
                plan.add_column(REFERENCE_LOGP, update, reference)

    def _accumulate_gradient(self, update: Update, stats: UpdateStats) -> None:
        """Adds up the gradient over the micro-batches of an update; then every learner has all of it.

        Nothing waits for the device before the last of them: while it computes one, this process packs the
        next.

        Raises:
            FloatingPointError: the loss of a micro-batch of any learner is not finite.
        """
        module_id = update.plan.module_id
        config, module = self.config.get_config_for_module(module_id), self.module[module_id]
        losses = []
        for k, micro in enumerate(update.micro_batches()):
            fwd_out = module.forward_train(micro)
            loss = self.compute_loss_for_module(
                module_id=module_id, config=config, batch=micro, fwd_out=fwd_out
            )
            if update.is_real(k):
                decisions = fwd_out[DECISIONS]
                if OLD_LOGP not in micro:
                    stats.add_gap(micro, decisions, fwd_out["token_logp"].detach())
                stats.add_terms(decisions, fwd_out[TOKEN_TERMS], fwd_out["entropy"])
            # FSDP averages gradients over the learners, but each loss is already a share of one sum.
            (loss * (self.config.num_learners if self.config.shard_learner else 1)).backward()
            losses.append(loss.detach())
        self.add_up_gradients(self._hugging_face(module_id))
        losses = torch.stack(losses).double().tolist()
        self._refuse_non_finite(update, losses)
        stats.total["loss"] += sum(losses)
        stats.collect()

    def _refuse_non_finite(self, update: Update, losses: list[float]) -> None:
        """Raises FloatingPointError on every learner if a loss of any is not finite (a collective call)."""
        bad = [k for k, loss in enumerate(losses) if not math.isfinite(loss)]
        if not self.over_learners([float(len(bad))], "sum")[0]:
            return
        rollouts = update.rollout_ids(bad)
        names = ", ".join(rollouts[:8]) + (" ..." if len(rollouts) > 8 else "")
        raise FloatingPointError(
            f"the loss is not finite in module {update.plan.module_id}, {self._name(update)}, among the "
            f"rollouts {names or 'of another learner'}; no step was taken. Lower lr, or look at them in the "
            "rollout log"
        )

    def _name(self, update: Update) -> str:
        return f"batch {self._weights_seq_no}, epoch {update.epoch}, minibatch {update.minibatch}"

    @override(DistributedLearner)
    def compute_loss_for_module(self, *, module_id, config, batch, fwd_out) -> torch.Tensor:
        """Computes the share of one micro-batch in the batch's loss (RLlib's hook).

        Adds the terms of the loss (`algorithms.igpo.learner.loss.TokenTerms`) to `fwd_out` under TOKEN_TERMS.

        Args:
            batch: a token batch. Without the column `old_logp`, pi_old is the policy itself (one update per
                batch). Without `reference_logp`, the reference is run if the loss has a KL term.
            fwd_out: output of `HFCausalLM.forward_train`.
        """
        of_decisions = fwd_out[DECISIONS] = decisions_of(batch, self._device)
        logp_D = fwd_out["token_logp"]
        reference_logp_D = of_decisions.get(REFERENCE_LOGP)
        if reference_logp_D is None and self._has_kl_term(module_id):
            reference_logp_D = self._references.token_logp(module_id, batch)
        terms = policy_loss(
            config.loss_settings(),
            logp_D=logp_D,
            old_logp_D=of_decisions.get(OLD_LOGP, logp_D.detach()),
            sampler_logp_D=of_decisions[Columns.ACTION_LOGP],
            advantage_D=of_decisions[Columns.ADVANTAGES],
            weight_D=of_decisions["loss_weight"],
            turn_id_D=of_decisions["turn_id"],
            sequence_id_D=of_decisions["sequence_id"],
            clip_scale_D=of_decisions["clip_scale"],
            reference_logp_D=reference_logp_D,
            entropy_D=fwd_out["entropy"],
        )
        fwd_out[TOKEN_TERMS] = terms
        return terms.loss

    def _add_gradient_norm(self, update: Update, gradients: dict[Any, Any], stats: UpdateStats) -> None:
        """Notes the norm of the module's gradient before clipping.

        Raises:
            FloatingPointError: it is not finite.
        """
        module_id = update.plan.module_id
        ((_, optimizer),) = self.get_optimizers_for_module(module_id)
        own = list(self.filter_param_dict_for_optimizer(gradients, optimizer).values())
        if not own:
            return
        norm = gradient_norm(own)
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the norm of the gradient is {norm} in module {module_id}, {self._name(update)}; no step "
                "was taken. Lower lr, or look at the rollouts of this batch in the rollout log"
            )
        stats.grad_norms.append(norm)

    def _step(self, gradients: dict[Any, Any]) -> None:
        optimizers = self._named_optimizers.values()
        offloads = self.config.offload_optimizer
        with optimizer_state_on(self._device, optimizers) if offloads else contextlib.nullcontext():
            self.apply_gradients(self.postprocess_gradients(gradients))

    def _report(self, plan: UpdatePlan, stats: UpdateStats, num_updates: int) -> torch.Tensor:
        """Logs the module's metrics; returns the mean loss over the updates."""
        self._turn_gaps |= stats.turn_gaps(plan.layout.turn_keys)
        stats.add_sizes(plan, ragged=self._hugging_face(plan.module_id).takes_ragged_rows(self._device))
        ((_, optimizer),) = self.get_optimizers_for_module(plan.module_id)
        metrics = stats.metrics(num_updates, self.over_learners)
        metrics |= {
            "tokens": plan.num_tokens,
            "sequences": plan.num_sequences,
            "lr": float(self._get_optimizer_lr(optimizer)),
        }
        for name, value in metrics.items():
            self.metrics.log_value((plan.module_id, name), value, reduce="mean", window=1)
        return torch.tensor(metrics["loss"])

    def _needs_reference(self, module_id: str) -> bool:
        scored = module_id == self.config.reference_scored_policy
        return scored or (
            self._settings(module_id).kl_coeff > 0 and bool(self.should_module_be_updated(module_id))
        )

    @override(DistributedLearner)
    def configure_optimizers_for_module(self, module_id, config=None) -> None:
        params = [param for param in self.get_parameters(self.module[module_id]) if param.requires_grad]
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.AdamW(
                params, fused=self._device.type in ("cpu", "cuda"), **self._adam_settings()
            ),
            params=params,
            lr_or_lr_schedule=(config or self.config).lr,
        )

    def _adam_settings(self) -> dict[str, Any]:
        return {
            "betas": tuple(self.config.adam_betas),
            "eps": self.config.adam_eps,
            "weight_decay": self.config.weight_decay,
        }

    def _set_optimizers(self) -> None:
        """Gives every optimizer the configuration's settings, and the learning rate of this batch.

        A restored state brings those that it was saved with.
        """
        config = self.config
        share = lr_share(
            self._weights_seq_no,
            warmup=config.lr_warmup_iterations,
            decay=config.lr_decay,
            until=config.lr_decay_iterations,
            final=config.lr_final_share,
        )
        for optimizer, schedule in self._optimizer_lr_schedules.items():
            for group in optimizer.param_groups:
                group.update(self._adam_settings())
            if share != 1.0 or config.lr_warmup_iterations or config.lr_decay != "none":
                self._set_optimizer_lr(optimizer, lr=share * float(schedule.get_current_value()))

    def _hugging_face(self, module_id: str) -> HFCausalLM:
        return cast(HFCausalLM, self.module[module_id])

    def _settings(self, module_id: str) -> LossSettings:
        return self.config.get_config_for_module(module_id).loss_settings()

    def _has_kl_term(self, module_id: str) -> bool:
        return module_id in self._references and self._settings(module_id).kl_coeff > 0
