"""The table `tokens`: one row per token, built column by column, because an iteration has hundreds of
thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from algorithms.igpo.iteration_record import IterationRecord, TurnCredit, TurnTokens
from pipeline.rollout_log.schema import TOKENS


def token_table(record: IterationRecord, keys: Mapping[str, Any]) -> pa.Table:
    """`tokens` of one iteration, in the order of its rollouts and turns. `keys`: the columns that all its
    rows share.

    Raises KeyError for a turn whose tokens are not in the record.
    """
    parts = []
    for rollout in record.rollouts:
        episode_keys = {
            "episode_id": rollout.id,
            "group_id": rollout.group_id,
            "question_id": rollout.question.id,
        }
        seen: Counter[str] = Counter()
        for turn in rollout.turns:
            tokens, credit = (
                record.tokens[rollout.id, turn.index],
                record.credit.get((rollout.id, turn.index)),
            )
            shared = {**keys, **episode_keys, "turn_index": turn.index, "agent": turn.agent}
            parts.append(_turn_table(tokens, credit, seen[turn.agent], shared, record.token_texts))
            seen[turn.agent] += parts[-1].num_rows
    return pa.concat_tables(parts)


def _turn_table(
    tokens: TurnTokens,
    credit: TurnCredit | None,
    start: int,
    shared: Mapping[str, Any],
    texts: Mapping[int, str],
) -> pa.Table:
    ids = np.concatenate([tokens.context_ids_C, tokens.decision_ids_L])
    size, num_context = len(ids), len(tokens.context_ids_C)
    sampler_logp = np.full(size, np.nan, np.float32)
    sampler_logp[num_context:] = tokens.sampler_logp_L
    learner_logp = np.full(size, np.nan, np.float32)
    if credit is not None and credit.logp_gap_L is not None:
        learner_logp[num_context:] = tokens.sampler_logp_L + credit.logp_gap_L
    columns: dict[str, Any] = {
        "position": np.arange(start, start + size),
        "is_decision": np.arange(size) >= num_context,
        "token_id": ids,
        "text": [texts[int(i)] for i in ids],
        "sampler_logp": pa.array(sampler_logp, from_pandas=True),  # NaN becomes null
        "learner_logp": pa.array(learner_logp, from_pandas=True),
    }
    return pa.table(
        [_column(columns.get(field.name), shared.get(field.name), size, field.type) for field in TOKENS],
        schema=TOKENS,
    )


def _column(values: Any, shared: Any, size: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(shared, kind), size) if values is None else pa.array(values).cast(kind)
