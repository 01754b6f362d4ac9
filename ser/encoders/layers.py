"""The loop over transformer layers, and what becomes of the states of several."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Layers(nn.Module):
    """Consecutive transformer layers, with the model's own final norm where it has one.

    The loop is ours because transformers' models cannot start in the middle (fine-tuning), run at another length than
    30 s or under a mask (Whisper), or be exported with batch and time left open.

    Args:
        layers: of HuBERT, WavLM, wav2vec 2.0 or Whisper; of WavLM, the first must hold the relative positions.
        norm: applied to the last state; None leaves it out.
    """

    def __init__(self, layers: nn.ModuleList, norm: nn.Module | None) -> None:
        super().__init__()
        self.layers, self.norm = layers, norm

    def forward(self, hidden: Tensor, mask: Tensor | None) -> list[Tensor]:
        """States (B, L, D) before the first layer and after each, from the first one.

        The mask (B, L) is True at valid frames; None: all are valid.
        """
        states, positions, key_mask = [hidden], None, None
        if mask is not None:
            lowest = torch.finfo(hidden.dtype).min  # not -inf: the row of an empty window would become NaN
            key_mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, lowest)[:, None, None, :]
        for layer in self.layers:
            if hasattr(getattr(layer, "attention", None), "gru_rel_pos_linear"):  # WavLM
                hidden, positions = layer(hidden, attention_mask=mask, position_bias=positions)
            else:
                hidden = layer(hidden, attention_mask=key_mask)
            states.append(hidden)
        if self.norm is not None:
            states[-1] = self.norm(states[-1])
        return states


def joined(states: Sequence[Tensor], join: str) -> Tensor:
    """States (B, L, D) each: side by side, (B, L, D * count), or their mean (B, L, D)."""
    return torch.cat(list(states), dim=-1) if join == "concatenate" else torch.stack(list(states)).mean(dim=0)
