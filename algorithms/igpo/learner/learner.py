"""IGPO's learner: what the algorithm asks of it between updates.

It stands on RLlib's `TorchLearner` by way of `DistributedLearner` (device, copies or shards, state) and
`UpdatingLearner` (the update of one batch). Of several learners, each gets complete groups
(`algorithms.igpo.learner.groups.shard_groups`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from algorithms.igpo.belief.naive import NaiveScorer
from algorithms.igpo.belief.tree import TreeScorer
from algorithms.igpo.iteration_record import GroupCredit, TurnCredit
from algorithms.igpo.learner.distributed import HOST, move_optimizer_state
from algorithms.igpo.learner.host_memory import PinnedBuffers, named_tensors
from algorithms.igpo.learner.update import UpdatingLearner
from envs.runner.belief import BeliefQuery

if TYPE_CHECKING:
    from algorithms.igpo.weights.nccl import WeightSender

REFERENCES, TIMESTEPS = "references", "timesteps"
"""Keys of the learner's state, beside RLlib's."""


class IGPOTorchLearner(UpdatingLearner):
    """Adds to the update: credit for the log, belief scores, state, colocation, weights for the engines.

    Reads from the config, besides the update's settings: `belief_scoring`, `log_tokens`.
    """

    @override(UpdatingLearner)
    def build(self) -> None:
        self._timesteps: dict[str, Any] = {}
        super().build()

    @functools.cached_property
    def weight_sender(self) -> WeightSender:
        """Sends the weights to the engines (`engine.weight_transfer: nccl`); keeps its groups.

        Made at the first push, because it imports vLLM.
        """
        from algorithms.igpo.weights.nccl import WeightSender

        return WeightSender(self._hugging_face, self._learner_index or 0, self._device)

    def take_credit(self) -> tuple[dict[tuple[str, int], TurnCredit], list[GroupCredit]]:
        """Hands over the credit of the last batch's turns and groups. A second call returns nothing.

        Returns:
            {(rollout id, turn index): credit, with the log-prob gap of turns that were trained on}, groups.
        """
        credit, groups = self.notes.credit, self.notes.groups
        for key, gap_L in self._turn_gaps.items():
            credit[key].logp_gap_mean = float(np.abs(gap_L).mean())
            if self.config.log_tokens:
                credit[key].logp_gap_L = gap_L
        self.notes.credit, self.notes.groups, self._turn_gaps = {}, [], {}
        return credit, groups

    def score_beliefs(self, queries: Sequence[BeliefQuery], module_id: str) -> list[np.ndarray]:
        """Scores belief by the policy and method of `config.belief_scoring`.

        Returns:
            s_t(a) of each query in nats, float64 [T1, K] (definitions: Belief and information gain).
        """
        module, scoring = self._hugging_face(module_id), self.config.belief_scoring
        current = contextlib.nullcontext(module.hf)
        with self._references.model(module_id) if scoring.policy == "reference" else current as model:
            if scoring.method == "naive":
                return NaiveScorer(model, module.compute_dtype).score(queries)
            return TreeScorer(model, module.compute_dtype, self.config.tokens_per_micro_batch).score(queries)

    @override(UpdatingLearner)
    def get_state(
        self, components=None, *, not_components=None, gather: bool = False, **kwargs
    ) -> dict[str, Any]:
        """Returns RLlib's state, the steps sampled so far, and the references if they are refreshed.

        Frozen references are loaded from their source again.
        """
        state = super().get_state(components, not_components=not_components, gather=gather, **kwargs)
        state[TIMESTEPS] = self._timesteps
        if self.config.reference_refresh_interval and self._check_component(
            REFERENCES, components, not_components
        ):
            state[REFERENCES] = self._references.get_state()
        return state

    @override(UpdatingLearner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state, an older one too, but keeps learning rate and trained policies of the
        configuration.

        References are restored where this configuration refreshes its own; without that they stay the initial
        policy.
        """
        if WEIGHTS_SEQ_NO in state:
            self._weights_seq_no = 0  # RLlib would keep weights that are newer than those of the state
        super().set_state(
            {name: value for name, value in state.items() if name != "should_module_be_updated"}
        )
        if TIMESTEPS in state:
            self.after_gradient_based_update(timesteps=state[TIMESTEPS])
        if REFERENCES in state and self.config.reference_refresh_interval:
            self._references.set_state(state[REFERENCES])

    @override(UpdatingLearner)
    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Sets the learning rate of the next batch, as RLlib does."""
        super().after_gradient_based_update(timesteps=timesteps)
        self._timesteps = timesteps

    def enter_device(self) -> None:
        """Moves everything back to the device before an update (`engine.placement: colocated`)."""
        self._move(self._device)

    def leave_device(self) -> None:
        """Moves weights, optimizer state and references to host memory while the engine uses the device.

        Drops the gradients.
        """
        for param in self._params.values():
            param.grad = None
        self._move(HOST)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @functools.cached_property
    def _host_memory(self) -> PinnedBuffers:
        return PinnedBuffers()

    def _move(self, device: torch.device) -> None:
        if self._device.type == "cuda":
            self._host_memory.move(self._state_tensors(), device)
            return
        for module_id in self.module.keys():  # noqa: SIM118 (not a dict)
            self._hugging_face(module_id).to(device)
        self._references.to(device)
        if not self.config.offload_optimizer:
            move_optimizer_state(self._named_optimizers.values(), device)

    def _state_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields everything that is on the device between updates, by a name: each tensor once."""
        of_modules = {}  # modules may share a base
        for module_id in self.module.keys():  # noqa: SIM118 (not a dict)
            for name, tensor in named_tensors(self._hugging_face(module_id), module_id):
                of_modules.setdefault(id(tensor), (name, tensor))
        yield from of_modules.values()
        for number, model in enumerate(self._references.own_models):
            yield from named_tensors(model, f"reference {number}")
        if self.config.offload_optimizer:
            return
        for name, optimizer in self._named_optimizers.items():
            for number, state in enumerate(optimizer.state.values()):
                for key, value in state.items():
                    # Fused AdamW wants its count of steps on the device too.
                    if isinstance(value, torch.Tensor):
                        yield f"{name} {number} {key}", value
