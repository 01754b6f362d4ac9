"""HuBERT, WavLM and wav2vec 2.0 over padded batches, exact for every utterance, from the parts of transformers' models.

Nothing of transformers is imported here: the parts are handed in. Unlike the models' own forward, padding changes
nothing even where the first convolution is normalised over time, no layer is dropped at random, and the whole can be
exported with batch and time left open.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ser.models.layers import masked_mean, valid_frames


class LayerStack(nn.Module):
    """Consecutive transformer layers, with the model's own final norm where it has one.

    Args:
        layers: of HuBERT, WavLM, wav2vec 2.0 or Whisper; of WavLM, the first must hold the relative positions.
        norm: applied to the last state; None leaves it out.
    """

    def __init__(self, layers: nn.ModuleList, norm: nn.Module | None) -> None:
        super().__init__()
        self.layers, self.norm = layers, norm

    def forward(self, hidden: Tensor, mask: Tensor | None) -> list[Tensor]:
        """States (B, L, D) before the first layer and after each, for (B, L, D) and (B, L), True at valid frames."""
        states, bias = [hidden], None
        attended = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            if _has_relative_positions(layer):
                hidden, bias = layer(hidden, attention_mask=mask, position_bias=bias)
            else:
                output = layer(hidden, attention_mask=attended)
                hidden = output[0] if isinstance(output, tuple) else output
            states.append(hidden)
        if self.norm is not None:
            states[-1] = self.norm(states[-1])
        return states


class SpeechModel(nn.Module):
    """Padded waveforms to frames.

    Args:
        model: of transformers (HubertModel, WavLMModel, Wav2Vec2Model), perhaps without its last layers.
        wanted: numbers of the states that the answer is made of; 0 is the input of the first layer.
        depth: layers of the whole model, after which its final norm comes.
        normalize: bring every waveform to mean 0 and variance 1 first.
        join: makes the answer (B, L, D) of the wanted states; None takes the only one.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: Sequence[int],
        depth: int,
        normalize: bool,
        join: Callable[[Sequence[Tensor]], Tensor] | None = None,
    ) -> None:
        super().__init__()
        parts: Any = model
        trunk = parts.encoder
        self.convolutions, self.projection = parts.feature_extractor.conv_layers, parts.feature_projection
        self.positions, self.dropout = trunk.pos_conv_embed, trunk.dropout
        norm_first = not parts.config.do_stable_layer_norm
        self.norm = trunk.layer_norm if norm_first else None
        ends = not norm_first and len(trunk.layers) == depth
        self.stack = LayerStack(trunk.layers, trunk.layer_norm if ends else None)
        self.wanted, self.normalize, self.join = list(wanted), normalize, join

    def forward(self, waveforms: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) of ``samples`` (B,), at least 400, to (B, L, D) and (B,); frames of padding mean nothing."""
        if self.normalize:
            waveforms = _unit_variance(waveforms, samples)
        hidden, lengths = waveforms.unsqueeze(1), samples
        for layer in self.convolutions:
            (width,), (stride,) = layer.conv.kernel_size, layer.conv.stride
            lengths = (lengths - width) // stride + 1
            hidden = _convolve(layer, hidden, lengths)  # (B, C, L)
        projected = self.projection(hidden.transpose(1, 2))
        hidden = projected[0] if isinstance(projected, tuple) else projected  # (B, L, D)
        mask = valid_frames(lengths, hidden.shape[1])
        hidden = hidden.masked_fill(~mask.unsqueeze(-1), 0.0)  # the positions are a convolution and look around
        hidden = hidden + self.positions(hidden)
        if self.norm is not None:
            hidden = self.norm(hidden)
        states = self.stack(self.dropout(hidden), mask)
        chosen = [states[number] for number in self.wanted]
        return self.join(chosen) if self.join else chosen[0], lengths


def _has_relative_positions(layer: Any) -> bool:
    return hasattr(getattr(layer, "attention", None), "gru_rel_pos_linear")


def _unit_variance(waveforms: Tensor, samples: Tensor) -> Tensor:
    """Each waveform of (B, N) at mean 0 and variance 1, padding at 0."""
    mask = valid_frames(samples, waveforms.shape[1])  # (B, N)
    centred = waveforms.unsqueeze(-1) - masked_mean(waveforms.unsqueeze(-1), mask).unsqueeze(1)  # (B, N, 1)
    variance = masked_mean(centred.square(), mask).unsqueeze(1)
    return (centred / torch.sqrt(variance + 1e-7)).squeeze(-1).masked_fill(~mask, 0.0)


def _convolve(layer: Any, hidden: Tensor, lengths: Tensor) -> Tensor:
    """One convolution of the front; where it is normalised over time, over the ``lengths`` (B,) valid frames only."""
    norm = getattr(layer, "layer_norm", None)
    if not isinstance(norm, nn.GroupNorm):
        result: Tensor = layer(hidden)
        return result
    states = layer.conv(hidden).transpose(1, 2)  # (B, L, C), a group a channel
    mask = valid_frames(lengths, states.shape[1])
    centred = states - masked_mean(states, mask).unsqueeze(1)
    variance = masked_mean(centred.square(), mask).unsqueeze(1)
    normalised = centred * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias
    activated: Tensor = layer.activation(normalised.transpose(1, 2))
    return activated
