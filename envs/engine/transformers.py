"""The rollout engine on transformers, for machines without vLLM (macOS, unusual GPUs): far slower than vLLM.

Requests join and leave a running batch at every step (continuous batching). A request keeps its keys and
values until it ends. Rows are padded on the left, so all of them end in the last column. There is no prefix
cache, so the next turn of a rollout reads the whole history again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from envs.engine.base import NO_WEIGHTS, EngineSettings, Generate, Generated, ScoreAnswer, Scored
from envs.engine.weights import keep_in_float32

PREFILL_TOKENS = 8192
"""Limit on the tokens, with padding, of one forward pass over new requests."""


@dataclass(eq=False)
class _Row:
    """A request whose turn is being written."""

    request: Generate
    generator: torch.Generator
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TransformersEngine:
    """An engine for one policy. It starts without weights: call `load_weights` first.

    Args:
        model_path: Hugging Face folder.
        settings: engine settings, of which this engine reads `max_num_seqs` and `placement`.
        max_model_len: longest context plus decision, in tokens.
        dtype: "float32" or "bfloat16".
        reads_text: whether to load the tokenizer, which requests with stop strings need.
        trust_remote_code: whether a model may run code that its repository ships; a tokenizer never does.
    """

    def __init__(
        self,
        model_path: str,
        settings: EngineSettings,
        *,
        max_model_len: int,
        dtype: Literal["float32", "bfloat16"],
        reads_text: bool = False,
        trust_remote_code: bool = False,
    ):
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        # A build for an accelerator says that it has one, on machines without too.
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        self.weights_version = NO_WEIGHTS
        self._device = torch.device("cpu") if accelerator is None else accelerator
        self._max_num_seqs, self._max_model_len = settings.max_num_seqs, max_model_len
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code),
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
        )
        keep_in_float32(model)
        self._model = model.eval().requires_grad_(False)
        if settings.placement == "separate":
            self._model.to(self._device)
        self._tokenizer = (
            AutoTokenizer.from_pretrained(model_path, trust_remote_code=False) if reads_text else None
        )
        self._waiting: deque[Generate] = deque()
        self._scores: list[ScoreAnswer] = []
        self._rows: list[_Row] = []
        self._cache = _LeftPaddedCache()

    def submit(self, request: Generate | ScoreAnswer) -> None:
        if self.weights_version == NO_WEIGHTS:
            raise RuntimeError("the engine has no weights yet: push the learner's before sampling")
        new = request.max_tokens if isinstance(request, Generate) else len(request.suffix_ids)
        if len(request.context_ids) + new > self._max_model_len:
            raise ValueError(
                f"request {request.request_id} is {len(request.context_ids)} + {new} tokens long; the "
                "engine takes "
                f"{self._max_model_len}"
            )
        if isinstance(request, Generate):
            self._waiting.append(request)
        else:
            self._scores.append(request)

    @property
    def stepped(self) -> object:
        return self

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting or self._scores or self._rows)

    @torch.inference_mode()
    def step(self) -> list[Generated | Scored]:
        finished: list[Generated | Scored] = [*self._score()]
        if self._rows:
            inputs = torch.tensor([[row.ids[-1]] for row in self._rows], device=self._device)
            logits_RV = self._forward(inputs, torch.ones_like(inputs), self._cache, keep=1)[:, -1]
            finished += self._extend(self._rows, logits_RV)
        finished += self._admit()
        if any(isinstance(result, Generated) for result in finished):
            ended = {result.request_id for result in finished}
            kept = [k for k, row in enumerate(self._rows) if row.request.request_id not in ended]
            self._rows = [self._rows[k] for k in kept]
            self._cache.keep(kept)
        return finished

    def load_weights(self, tensors: dict[str, Any], version: int) -> None:
        if self.is_busy:
            raise RuntimeError("weights were pushed while requests were running")
        self._model.to(self._device)
        missing, unknown = self._model.load_state_dict(tensors, strict=False)
        self._model.tie_weights()
        tied = set(getattr(self._model, "_tied_weights_keys", None) or ())
        missing = [name for name in missing if not (self._model.config.tie_word_embeddings and name in tied)]
        if missing or unknown:
            raise ValueError(
                f"weights do not fit the engine's model: missing {missing[:3]}, unknown {unknown[:3]}"
            )
        self.weights_version = version

    def sleep(self) -> None:
        if self.is_busy:
            raise RuntimeError("the engine was put to sleep while requests were running")
        self._model.to("cpu")
        if self._device.type != "cpu":
            torch.accelerator.empty_cache()  # else the allocator keeps what the learner needs
        self.weights_version = NO_WEIGHTS

    def _score(self) -> list[Scored]:
        """Scores as many waiting requests as fit into one forward pass."""
        requests, self._scores = _within_budget(self._scores)
        if not requests:
            return []
        keep = max(len(request.suffix_ids) for request in requests) + 1
        inputs, mask = self._left_padded([request.context_ids + request.suffix_ids for request in requests])
        logits_RLV = self._forward(inputs, mask, None, keep=keep)
        scored = []
        for request, logits_LV in zip(requests, logits_RLV, strict=True):
            length = len(request.suffix_ids)
            logp_LV = logits_LV[-length - 1 : -1].float().log_softmax(-1)
            target_L = torch.tensor(request.suffix_ids, device=self._device)
            logp_L = logp_LV.gather(-1, target_L[:, None])[:, 0].cpu().numpy()
            scored.append(
                Scored(request.request_id, float(np.mean(logp_L[request.gold_mask_L], dtype=np.float64)))
            )
        return scored

    def _admit(self) -> list[Generated]:
        """Admits waiting requests as far as there is room. Returns those that end with their first token."""
        room = self._max_num_seqs - len(self._rows)
        first = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        requests, later = _within_budget(first)
        self._waiting.extendleft(reversed(later))
        if not requests:
            return []
        rows = [_Row(request, torch.Generator().manual_seed(request.seed)) for request in requests]
        cache = _LeftPaddedCache()
        logits_RLV = self._forward(
            *self._left_padded([request.context_ids for request in requests]), cache, keep=1
        )
        self._cache.append(cache)
        self._rows += rows
        return self._extend(rows, logits_RLV[:, -1])

    def _extend(self, rows: list[_Row], logits_RV: torch.Tensor) -> list[Generated]:
        """Samples the next token of each row. Returns the results of the rows that end with it."""
        logp_RV = logits_RV.float().log_softmax(-1).cpu()
        finished = []
        for row, logp_V in zip(rows, logp_RV, strict=True):
            token = self._sample(row, logp_V)
            row.ids.append(token)
            row.logprobs.append(float(logp_V[token]))
            stopped = token in row.request.stop_token_ids or self._has_stop_string(row)
            if stopped or len(row.ids) == row.request.max_tokens:
                finish = "stop" if stopped else "length"
                logprobs_L = np.asarray(row.logprobs, dtype=np.float32)
                finished.append(Generated(row.request.request_id, row.ids, logprobs_L, finish))
        return finished

    @staticmethod
    def _sample(row: _Row, logp_V: torch.Tensor) -> int:
        temperature = row.request.temperature
        if temperature == 0:
            return int(logp_V.argmax())
        return int(torch.multinomial(torch.softmax(logp_V / temperature, -1), 1, generator=row.generator))

    def _has_stop_string(self, row: _Row) -> bool:
        if not row.request.stop_strings:
            return False
        if self._tokenizer is None:
            raise ValueError(
                f"request {row.request.request_id} has stop strings, but the engine has no tokenizer "
                "(reads_text)"
            )
        text = self._tokenizer.decode(row.ids, skip_special_tokens=True)
        return any(stop in text for stop in row.request.stop_strings)

    def _left_padded(self, sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(sequence) for sequence in sequences)
        ids_RL = torch.tensor([[0] * (width - len(sequence)) + sequence for sequence in sequences])
        mask_RL = torch.tensor(
            [[0] * (width - len(sequence)) + [1] * len(sequence) for sequence in sequences]
        )
        return ids_RL.to(self._device), mask_RL.to(self._device)

    def _forward(
        self, ids_RL: torch.Tensor, mask_RL: torch.Tensor, cache: _LeftPaddedCache | None, *, keep: int
    ) -> torch.Tensor:
        """Logits [R, L, V] of the last `keep` positions. Adds the new tokens to `cache`."""
        mask_RC = mask_RL if cache is None else cache.extend_mask(mask_RL)
        positions_RL = (mask_RC.cumsum(1) - 1).clamp_min(0)[:, -ids_RL.shape[1] :]
        output = self._model(
            input_ids=ids_RL,
            attention_mask=mask_RC,
            position_ids=positions_RL,
            past_key_values=None if cache is None else cache.layers,
            use_cache=cache is not None,
            logits_to_keep=keep,
        )
        return output.logits


class _LeftPaddedCache:
    """Keys and values of the running rows, [R, heads, C, H] per layer, and the mask of real columns.

    Two rows of 3 and 5 tokens have the mask 00111, 11111.
    """

    def __init__(self):
        from transformers import DynamicCache

        self.layers: Any = DynamicCache()
        self.mask_RC: torch.Tensor | None = None

    def extend_mask(self, mask_RL: torch.Tensor) -> torch.Tensor:
        self.mask_RC = mask_RL if self.mask_RC is None else torch.cat([self.mask_RC, mask_RL], 1)
        return self.mask_RC

    def append(self, other: _LeftPaddedCache) -> None:
        """Adds the rows of `other`. The narrower of the two caches is padded on the left."""
        if self.mask_RC is None or other.mask_RC is None:
            self.layers, self.mask_RC = other.layers, other.mask_RC
            return
        width = max(self.mask_RC.shape[1], other.mask_RC.shape[1])
        self.mask_RC = torch.cat([_pad_left(part, 1, width) for part in (self.mask_RC, other.mask_RC)])
        for mine, theirs in zip(self.layers.layers, other.layers.layers, strict=True):
            mine.keys = torch.cat([_pad_left(part, 2, width) for part in (mine.keys, theirs.keys)])
            mine.values = torch.cat([_pad_left(part, 2, width) for part in (mine.values, theirs.values)])

    def keep(self, rows: list[int]) -> None:
        """Drops all other rows, and the columns that are padding in every row that stays."""
        if self.mask_RC is None:
            return
        if not rows:
            self.__init__()
            return
        index = torch.tensor(rows, device=self.mask_RC.device)
        mask_RC = self.mask_RC[index]
        first = int(mask_RC.any(0).int().argmax())
        self.mask_RC = mask_RC[:, first:]
        for layer in self.layers.layers:
            layer.keys, layer.values = layer.keys[index, :, first:], layer.values[index, :, first:]


def _pad_left(tensor: torch.Tensor, dim: int, width: int) -> torch.Tensor:
    shape = list(tensor.shape)
    shape[dim] = width - shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim)


def _within_budget(requests: list) -> tuple[list, list]:
    """Returns the first requests that fit into `PREFILL_TOKENS` (at least one), and the rest."""
    width = 0
    for count, request in enumerate(requests):
        width = max(width, len(request.context_ids) + len(getattr(request, "suffix_ids", ())))
        if count and (count + 1) * width > PREFILL_TOKENS:
            return requests[:count], requests[count:]
    return requests, []
