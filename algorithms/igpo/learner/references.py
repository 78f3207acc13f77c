"""Reference policies: earlier copies of the trained policies, for the KL term and for belief under
`belief_policy: reference`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager

import torch
from ray.rllib.core.columns import Columns

from algorithms.igpo.learner.token_batch import TokenBatch
from algorithms.igpo.model.causal_lm import HFCausalLM, load_causal_lm
from algorithms.igpo.model.fsdp import first_reads, shard_layers
from algorithms.igpo.model.lora import without_adapters
from algorithms.igpo.model.token_logp import token_logp


class References:
    """One reference for each of `modules`: the model that its training started from, until a refresh.

    Modules with the same source share one frozen reference. The reference of a module with adapters is its
    own base.

    Args:
        modules: {module id: module}.
        device: device of the references.
        sharded: whether the learners shard each reference, layer by layer; then all of them must run every
            forward pass.
        refreshed: whether `refresh` will be called; then each module needs a copy of its own.
    """

    def __init__(
        self,
        modules: Mapping[str, HFCausalLM],
        device: torch.device,
        *,
        refreshed: bool = False,
        sharded: bool = False,
    ):
        self._models: dict[str, torch.nn.Module] = {}
        self._compute_dtypes = {module_id: module.compute_dtype for module_id, module in modules.items()}
        by_source: dict[tuple, torch.nn.Module] = {}
        for module_id, module in modules.items():
            source = (module.path, module.compute_dtype, module_id if refreshed else None)
            if module.has_lora:
                self._models[module_id] = module.hf
                continue
            if source not in by_source:
                arguments = module.path, module.compute_dtype, module.trust_remote_code
                with first_reads(device) if sharded else contextlib.nullcontext():
                    model = load_causal_lm(*arguments)
                model.requires_grad_(False)
                if sharded:
                    shard_layers(model, device)
                by_source[source] = model.to(device)
            self._models[module_id] = by_source[source]
        self._own = list(by_source.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __contains__(self, module_id: str) -> bool:
        return module_id in self._models

    @contextmanager
    def model(self, module_id: str) -> Generator[torch.nn.Module]:
        """The reference of `module_id`, valid in the context."""
        with without_adapters(self._models[module_id]):
            yield self._models[module_id]

    @torch.no_grad()
    def token_logp(self, module_id: str, micro: TokenBatch) -> torch.Tensor:
        """Computes the log-probs of a micro-batch's decision tokens, float32 [D], in nats."""
        columns = micro["token_ids"], micro[Columns.LOSS_MASK], micro["row_id"]
        with self.model(module_id) as model:
            return token_logp(model, *columns, self._compute_dtypes[module_id], entropy="off")[0]

    @property
    def own_models(self) -> list[torch.nn.Module]:
        """The models that are no module's own base."""
        return self._own

    def to(self, device: torch.device) -> None:
        """Moves the references, except those that are a module's own base."""
        for model in self._own:
            model.to(device)

    @torch.no_grad()
    def refresh(self, modules: Mapping[str, HFCausalLM]) -> None:
        """Copies the weights of each module into its reference."""
        for module_id, model in self._models.items():
            model.load_state_dict(modules[module_id].hf.state_dict())

    def get_state(self) -> dict[str, dict[str, torch.Tensor]]:
        return {
            module_id: {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
            for module_id, model in self._models.items()
        }

    def set_state(self, state: dict[str, dict[str, torch.Tensor]]) -> None:
        """Loads what `get_state` returned, for the modules that have a reference here too."""
        for module_id in state.keys() & self._models.keys():
            self._models[module_id].load_state_dict(state[module_id])
