"""Rollouts of a small policy in plain PyTorch, many at once, through the real environment.

For reports, not for training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from envs.data.question import Question
from envs.search.episode import SearchEpisode
from envs.search.task import SearchTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Played:
    """A finished rollout: `decisions` are the (start, end) of each decision in `episode.history`."""

    episode: SearchEpisode
    decisions: list[tuple[int, int]] = field(default_factory=list)


class _Decoder:
    """Contexts of B rows in one key-value cache; rows grow by different lengths, gaps are masked."""

    def __init__(self, model: PreTrainedModel, rows: int):
        from transformers import DynamicCache

        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._mask_BL = torch.zeros(rows, 0, dtype=torch.long)
        self._next_logits_BV = torch.zeros(rows, model.config.vocab_size)

    def extend(self, new_ids: list[list[int]]) -> None:
        """Appends to each row its new ids (none for a row that waits)."""
        longest = max(map(len, new_ids))
        lengths_B = torch.tensor([len(ids) for ids in new_ids])
        block_BT = torch.tensor([ids + [0] * (longest - len(ids)) for ids in new_ids])
        mask_BT = (torch.arange(longest) < lengths_B[:, None]).long()
        positions_BT = (self._mask_BL.sum(1, keepdim=True) + mask_BT.cumsum(1) - 1).clamp(min=0)
        self._mask_BL = torch.cat([self._mask_BL, mask_BT], dim=1)
        hidden = self._model.model(
            input_ids=block_BT,
            attention_mask=self._mask_BL,
            position_ids=positions_BT,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        moved = lengths_B > 0
        last = hidden[torch.arange(len(new_ids)), (lengths_B - 1).clamp(min=0)]
        self._next_logits_BV[moved] = self._model.lm_head(last[moved])

    def pick(self, temperature: float, generator: torch.Generator) -> list[int]:
        if temperature == 0:
            return self._next_logits_BV.argmax(-1).tolist()
        chances = torch.softmax(self._next_logits_BV / temperature, dim=-1)
        return torch.multinomial(chances, 1, generator=generator)[:, 0].tolist()


@torch.inference_mode()
def play(
    model: PreTrainedModel,
    task: SearchTask,
    questions: list[Question],
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Played]:
    """One rollout per question, greedy at temperature 0.

    Only for one role: the context is the belief's history.
    """
    generator = torch.Generator().manual_seed(seed)
    played = [
        Played(SearchEpisode(task, question, rollout_id=f"{question.id}/{k}", group_id=question.id))
        for k, question in enumerate(questions)
    ]
    decoder = _Decoder(model, len(played))
    decoder.extend([list(rollout.episode.start().ids) for rollout in played])
    while not all(rollout.episode.done for rollout in played):
        decisions = _decide(decoder, played, task.protocol.stop_token_ids, temperature, generator)
        seen_ids: list[list[int]] = []
        for rollout, decision in zip(played, decisions, strict=True):
            seen = None
            if not rollout.episode.done:
                start = len(rollout.episode.history)
                rollout.decisions.append((start, start + len(decision)))
                for call in rollout.episode.decide(decision, completed=task.protocol.is_complete(decision)):
                    task.tools(call)
                seen = rollout.episode.observe()
            seen_ids.append(list(seen.ids) if seen else [])
        if any(seen_ids):
            decoder.extend(seen_ids)
    return played


def _decide(
    decoder: _Decoder, played: list[Played], stop: list[int], temperature: float, generator: torch.Generator
):
    decisions: list[list[int]] = [[] for _ in played]
    active = [not rollout.episode.done for rollout in played]
    while any(active):
        tokens = decoder.pick(temperature, generator)
        for k, token in enumerate(tokens):
            if active[k]:
                decisions[k].append(token)
        decoder.extend([[tokens[k]] if active[k] else [] for k in range(len(played))])
        for k, rollout in enumerate(played):
            if active[k]:
                full = len(decisions[k]) >= rollout.episode.max_decision_tokens
                active[k] = decisions[k][-1] not in stop and not full
    return decisions


@torch.inference_mode()
def beliefs(model: PreTrainedModel, contexts: list[list[int]], suffixes: list) -> list[float]:
    """exp of the mean log-probability of each suffix's gold tokens after its context (SPEC §2)."""
    found = []
    for start in range(0, len(contexts), 64):
        rows = list(zip(contexts[start : start + 64], suffixes[start : start + 64], strict=True))
        longest = max(len(context) + len(suffix.ids) for context, suffix in rows)
        ids_BL = torch.tensor([(c + s.ids) + [0] * (longest - len(c) - len(s.ids)) for c, s in rows])
        logps_BLV = torch.log_softmax(model(input_ids=ids_BL).logits.float(), dim=-1)
        for k, (context, suffix) in enumerate(rows):
            gold = [len(context) + j for j in range(len(suffix.ids)) if suffix.gold_mask_L[j]]
            logps = torch.stack([logps_BLV[k, j - 1, ids_BL[k, j]] for j in gold])
            found.append(float(logps.mean().exp()))
    return found
