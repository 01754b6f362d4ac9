"""What every network returns."""

from typing import NamedTuple

from torch import Tensor


class NetworkOutput(NamedTuple):
    """The answer of a network for a batch.

    Attributes:
        emotion_logits: (B, C).
        speaker_logits: (B, S) over the training speakers; None without an adversarial head.
        pooled: (B, P), one vector an utterance, the input of the heads.
        attention: (B, L, L), row t holds the weights of query frame t; None unless asked for or without attention.
    """

    emotion_logits: Tensor
    speaker_logits: Tensor | None
    pooled: Tensor
    attention: Tensor | None
