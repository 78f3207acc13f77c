"""Log-probs of the tokens that were written, without a logit that nobody asks for."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from algorithms.igpo.model.packing import PackedRows, distinct_targets

Entropy = Literal["off", "measured", "trained"]


LOGITS_PER_CHUNK = 1 << 25
"""Entries of one float32 chunk of logits (128 MiB)."""


def backbone(model):
    """The model without its output head."""
    return getattr(model, model.base_model_prefix)


def head_logp(head, hidden_PH, target_P, entropy: Entropy):
    """Log-prob of each target and the entropy at its position, both float32 [P]."""
    logp_PV = torch.log_softmax(head(hidden_PH).float(), dim=-1)
    logp_P = logp_PV.gather(-1, target_P[:, None]).squeeze(-1)
    if entropy == "off":
        return logp_P, torch.zeros_like(logp_P)
    kept_PV = logp_PV if entropy == "trained" else logp_PV.detach()
    return logp_P, -(kept_PV.exp() * kept_PV).sum(-1)


def token_logp(
    model,
    token_ids: torch.Tensor,
    target_mask: torch.Tensor,
    compute_dtype: torch.dtype = torch.float32,
    entropy: Entropy = "measured",
    logits_per_chunk: int = LOGITS_PER_CHUNK,
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of the rows' own next tokens, and the entropy of the distribution that each was drawn from.

    What rows have in common at their beginning, as the prompt of a group, is computed once
    (`algorithms.igpo.model.packing`).

    Args:
        model: what `load_causal_lm` returned.
        token_ids: [N, L] int64, padded on the right with any valid id.
        target_mask: [N, L - 1] bool; entry j is about token j + 1. Only these positions pass the output head.
        compute_dtype: bfloat16 runs the model under autocast; log-softmax is float32 always.
        entropy: `off` (zeros, and cheaper), `measured` (no gradient) or `trained`.
        logits_per_chunk: entries of logits that exist at once.
        lengths: [N] real tokens of each row, at least 2: the padding behind them is not computed. None: all
            L.

    Returns:
        log-probs [N, L - 1] and entropies [N, L - 1], float32, 0 outside `target_mask`.
    """
    device = token_ids.device
    lengths_N = np.full(len(token_ids), token_ids.shape[1]) if lengths is None else lengths.cpu().numpy()
    rows = PackedRows(token_ids[:, :-1], lengths_N - 1)  # the last token predicts nothing that is asked for
    target_P = token_ids[:, 1:][target_mask]
    token_of_P = rows.token_of_NL[target_mask.cpu().numpy()]
    first_U, copy_of_P = distinct_targets(token_of_P, target_P.cpu().numpy())
    before_U, first_U, copy_of_P = (
        torch.from_numpy(x).to(device) for x in (token_of_P[first_U], first_U, copy_of_P)
    )
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute_dtype is torch.bfloat16):
        hidden_TH = backbone(model)(**rows.inputs()).last_hidden_state[0]
        hidden_UH, target_U = hidden_TH.index_select(0, before_U), target_P[first_U]
        head = model.get_output_embeddings()
        chunk = max(1, logits_per_chunk // model.config.vocab_size)
        if len(target_U) <= chunk:
            logp_U, entropy_U = head_logp(head, hidden_UH, target_U, entropy)
        else:
            parts = [
                checkpoint(head_logp, head, hidden, target, entropy, use_reentrant=False)
                for hidden, target in zip(hidden_UH.split(chunk), target_U.split(chunk), strict=True)
            ]
            logp_U, entropy_U = (torch.cat(column) for column in zip(*parts, strict=True))
    zeros_NL = torch.zeros(target_mask.shape, dtype=torch.float32, device=device)
    logp_NL, entropy_NL = (
        zeros_NL.masked_scatter(target_mask, x_U.index_select(0, copy_of_P)) for x_U in (logp_U, entropy_U)
    )
    return logp_NL, entropy_NL
