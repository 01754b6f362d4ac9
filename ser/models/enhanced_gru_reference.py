"""The speaker-independent network with the two slices of its first publication, kept to reproduce it."""

import torch
from torch import Tensor

from ser.models.enhanced_gru import EnhancedGRU
from ser.models.layers import masked_max, masked_mean


class EnhancedGRUReference(EnhancedGRU):
    """:class:`EnhancedGRU` as first printed: the 6H concatenation cut to 4H, the pooled 8H cut to 4H.

    The cuts leave the mean of the attended states: enhancement and max pooling are computed and thrown away, and the
    enhancement's parameters get a gradient of exactly zero. Use :class:`EnhancedGRU` for anything but reproduction.
    """

    pooled_multiple = 4

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, 4H), (B, L) -> (B, 4H)."""
        width = states.shape[-1]
        enhanced = torch.cat((states, self.enhance(states)), dim=-1)[..., :width]  # (B, L, 6H) -> (B, L, 4H)
        pooled = torch.cat((masked_mean(enhanced, mask), masked_max(enhanced, mask)), dim=-1)  # (B, 8H)
        return pooled[:, :width]  # (B, 4H)
