"""Log-probs of target tokens, with logits at the positions of targets only."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from algorithms.igpo.model.device import on_device
from algorithms.igpo.model.packing import PackedRows, distinct_targets
from algorithms.igpo.model.ragged import takes_ragged_rows

Entropy = Literal["off", "measured", "trained"]

LOGITS_PER_CHUNK = 1 << 25
"""Entries of one float32 chunk of logits (128 MiB)."""


def backbone(model):
    """Returns the model without its output head."""
    return getattr(model, model.base_model_prefix)


def head_logp(head, hidden_DH, target_D, entropy: Entropy):
    """Computes the log-prob of each target and the entropy at its position, both float32 [D], in nats."""
    logp_DV = torch.log_softmax(head(hidden_DH).float(), dim=-1)
    logp_D = logp_DV.gather(-1, target_D[:, None]).squeeze(-1)
    if entropy == "off":
        return logp_D, torch.zeros_like(logp_D)
    kept_DV = logp_DV if entropy == "trained" else logp_DV.detach()
    return logp_D, -(kept_DV.exp() * kept_DV).sum(-1)


def token_logp(
    model,
    token_ids_F: torch.Tensor,
    target_mask_F: torch.Tensor,
    row_id_F: torch.Tensor,
    compute_dtype: torch.dtype = torch.float32,
    entropy: Entropy = "measured",
    logits_per_chunk: int = LOGITS_PER_CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes log-probs of the rows' own tokens, and entropies of the distributions that gave them.

    The columns are best on the CPU, where rows are packed: then nothing waits for the model's device.

    Common beginnings of rows, such as the prompt of a group, are computed once
    (`algorithms.igpo.model.packing`). So are equal targets behind the same token. For the rows [a b c] and
    [a b d] with all tokens but the first as targets:

        target_D     b c b d    of which U = 3 are distinct (token before it, target): a-b, b-c, b-d
        gather 1     hidden_EH[before_U] picks the hidden states of a, b, b; the output head sees these only
        gather 2     logp_U[pair_of_D] gives the first value to both b: [D] values in the order of the rows

    Args:
        model: a model of `load_causal_lm`.
        token_ids_F: [F] int64, the rows end to end.
        target_mask_F: [F] bool, True at the D targets; False at the first token of every row. Only targets
            pass the output head.
        row_id_F: [F] integers, the row of each token: 0 to R - 1, ascending. A row has at least 2 tokens.
        compute_dtype: bfloat16 runs the model under autocast; log-softmax is float32 always.
        entropy: `off` (zeros, and cheaper), `measured` (no gradient) or `trained`.
        logits_per_chunk: entries of logits that exist at once.

    Returns:
        log-probs and entropies of the targets in nats, both float32 [D].
    """
    device = next(model.parameters()).device
    # The last token of a row predicts nothing, so the forward pass leaves it out. The token before a target
    # is then at the target's index - 1, less one for each row before its own.
    ids_F, row_F = token_ids_F.cpu().numpy(), row_id_F.cpu().numpy()
    position_D = np.flatnonzero(target_mask_F.cpu().numpy())
    rows = PackedRows(
        ids_F[np.append(row_F[1:] == row_F[:-1], False)],
        np.bincount(row_F) - 1,
        device,
        ragged=takes_ragged_rows(device, compute_dtype, model.config),
    )
    target_D, token_of_D = ids_F[position_D], rows.token_of_F[position_D - 1 - row_F[position_D]]
    first_U, pair_of_D = distinct_targets(token_of_D, target_D)
    before_U, target_U, pair_of_D = (
        on_device(x, device) for x in (token_of_D[first_U], target_D[first_U], pair_of_D)
    )
    # Without its cache, which would hold all weights in bfloat16 where gradient checkpoints need one layer's.
    with torch.autocast(
        device.type, torch.bfloat16, enabled=compute_dtype is torch.bfloat16, cache_enabled=False
    ):
        hidden_EH = backbone(model)(**rows.inputs()).last_hidden_state[0]
        hidden_UH = hidden_EH.index_select(0, before_U)
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
    return logp_U.index_select(0, pair_of_D), entropy_U.index_select(0, pair_of_D)
