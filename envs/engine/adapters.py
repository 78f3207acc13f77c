"""One vLLM engine for several policies that are adapters of one base (vLLM's multi-LoRA).

The base is read once, from `model_path`, and never changes. A push replaces adapters alone. vLLM 0.32 takes
an adapter from a folder only, so a push writes it to a temporary one. vLLM keys its prefix cache by adapter,
so policies never read each other's keys and values.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from envs.engine.base import NO_WEIGHTS, EngineSettings, Generate, Generated, ScoreAnswer, Scored
from envs.engine.lora import LoraSettings, served_rank, served_targets, write_adapter
from envs.engine.vllm import VLLMEngine


class AdapterServer(VLLMEngine):
    """The engine that `policies` share.

    Args:
        model_path: Hugging Face folder of the base.
        settings: engine settings.
        adapters: {policy id: settings of its adapters}.
        further: the other arguments of `VLLMEngine`.

    Raises:
        InputError: the engine cannot start here, or serves no adapters of such a rank.
    """

    def __init__(
        self, model_path: str, settings: EngineSettings, adapters: Mapping[str, LoraSettings], **further: Any
    ):
        self._settings = dict(adapters)
        self._base = model_path
        self._adapters: dict[str, Any] = {}
        """Policy id to vLLM's `LoRARequest`; None: the base alone."""
        self._policy_of: dict[str, str] = {}
        """Running request to the policy that it asks."""
        super().__init__(model_path, settings, **further)
        self.weights_version = 0

    @property
    def policies(self) -> dict[str, ServedPolicy]:
        """An engine for each policy, all on this one."""
        return {policy: ServedPolicy(self, policy) for policy in self._settings}

    def _weights_arguments(self, *, on_cpu: bool, trust_remote_code: bool) -> dict[str, Any]:
        number, targets = len(self._settings), served_targets(self._settings)
        if targets == "all-linear":
            # Without a list vLLM wraps the output head too, and then fails to score prompts on a CPU.
            targets = _linear_layers(self._base, trust_remote_code)
        return {
            "enable_lora": True,
            "max_loras": number,
            "max_cpu_loras": number,
            "max_lora_rank": served_rank(self._settings),
            "lora_target_modules": targets,
            "use_tqdm_on_load": False,  # the base is read from files, with a bar on the user's terminal
        }

    def submit_for(self, policy: str, request: Generate | ScoreAnswer) -> None:
        """Queues a request to `policy`."""
        self._policy_of[request.request_id] = policy
        self.submit(request)

    def step(self) -> list[Generated | Scored]:
        finished = super().step()
        for result in finished:
            del self._policy_of[result.request_id]
        return finished

    def _add(self, request_id: str, ids: list[int], params: Any, adapter: Any = None) -> None:
        super()._add(request_id, ids, params, self._adapters[self._policy_of[request_id]])

    def load_adapter(self, policy: str, tensors: dict[str, Any]) -> None:
        """Replaces the adapters of `policy`, drops every cached prefix, and wakes a sleeping engine.

        Args:
            policy: its id.
            tensors: as `write_adapter` takes them; none at all: the policy is the base.

        Raises:
            RuntimeError: requests are running, or vLLM does not take the adapters.
        """
        from vllm.lora.request import LoRARequest

        if self._engine.is_sleeping():
            self._llm.wake_up()
        if not tensors:
            self._adapters[policy] = None
        else:
            number = 1 + list(self._settings).index(policy)
            with tempfile.TemporaryDirectory(prefix="igpo-adapter-") as folder:
                write_adapter(folder, self._settings[policy], tensors, self._base)
                if not self._engine.add_lora(LoRARequest(policy, number, folder, load_inplace=True)):
                    raise RuntimeError(f"vLLM did not take the adapters of policy {policy}")
            self._adapters[policy] = LoRARequest(policy, number, folder)  # vLLM holds it: it reads no folder
        self._hold(0)

    def sleep(self) -> None:
        """Frees the device. The base waits in host memory, because no push brings it back."""
        if self.is_busy:
            raise RuntimeError("the engine was put to sleep while requests were running")
        if not self._engine.is_sleeping():
            self._llm.sleep(level=1)  # a CPU worker ignores it


def _linear_layers(folder: str, trust_remote_code: bool) -> list[str]:
    """Names of the linear layers of a model, without its output head."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    head, linear = model.get_output_embeddings(), torch.nn.Linear
    layers = [name for name, one in model.named_modules() if isinstance(one, linear) and one is not head]
    return sorted({name.rpartition(".")[2] for name in layers})


class ServedPolicy:
    """The engine of one policy, on a server that other policies use too (a `RolloutEngine`).

    `step` returns the results of all of them.
    """

    def __init__(self, server: AdapterServer, policy: str):
        self._server, self._policy = server, policy
        self.weights_version = NO_WEIGHTS

    def submit(self, request: Generate | ScoreAnswer) -> None:
        if self.weights_version == NO_WEIGHTS:
            raise RuntimeError("the engine has no weights yet: push the learner's before sampling")
        self._server.submit_for(self._policy, request)

    def step(self) -> list[Generated | Scored]:
        return self._server.step()

    @property
    def stepped(self) -> object:
        return self._server

    @property
    def is_busy(self) -> bool:
        return self._server.is_busy

    def load_weights(self, tensors: dict[str, Any], version: int) -> None:
        """As any engine; the tensors are those of the policy's adapters, or none: then it is the base."""
        self._server.load_adapter(self._policy, tensors)
        self.weights_version = version

    def sleep(self) -> None:
        self._server.sleep()
        self.weights_version = NO_WEIGHTS
