"""HuBERT, WavLM and wav2vec 2.0."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ser.data.batching import valid_frames
from ser.encoders.base import FRAME_SAMPLES, HOP_SAMPLES, Encoder, Layers, all_full, joined
from ser.encoders.pretrained import PretrainedEncoder
from ser.errors import SerError

FULL = "full"  # the whole model is trained


class SpeechModel(nn.Module):
    """Padded waveforms to the states of the wanted layers, exact for every utterance.

    Unlike transformers' own forward, padding changes nothing even where the first convolution is normalised over time
    (base checkpoints), and no layer is dropped at random. The ``model`` may lack its last layers; its final norm comes
    after ``depth`` of them. State 0 is the input of the first layer. With ``normalize`` every waveform is brought to
    mean 0 and variance 1 first.
    """

    def __init__(self, model: nn.Module, wanted: Sequence[int], depth: int, normalize: bool) -> None:
        super().__init__()
        parts: Any = model
        trunk = parts.encoder
        self.convolutions, self.projection = parts.feature_extractor.conv_layers, parts.feature_projection
        self.positions, self.dropout = trunk.pos_conv_embed, trunk.dropout
        norm_last = bool(parts.config.do_stable_layer_norm)
        self.norm = None if norm_last else trunk.layer_norm
        self.stack = Layers(trunk.layers, trunk.layer_norm if norm_last and len(trunk.layers) == depth else None)
        self.wanted, self.normalize = list(wanted), normalize

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """Wanted states (B, L, D) each, and their lengths (B,), of waveforms (B, N) of at least 400 samples."""
        full = all_full(lengths, waveforms.shape[1])
        if self.normalize:
            waveforms = _unit_variance(waveforms, lengths)
        hidden = waveforms.to(self.projection.projection.weight.dtype).unsqueeze(1)  # (B, 1, N)
        for layer in self.convolutions:
            (width,), (stride,) = layer.conv.kernel_size, layer.conv.stride
            lengths = (lengths - width) // stride + 1
            grouped = isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm)
            hidden = _normalised_convolution(layer, hidden, lengths) if grouped and not full else layer(hidden)
        projected = self.projection(hidden.transpose(1, 2))
        hidden = projected[0] if isinstance(projected, tuple) else projected  # (B, L, D)
        mask = None if full else valid_frames(lengths, hidden.shape[1])
        if mask is not None:
            hidden = hidden.masked_fill(~mask.unsqueeze(-1), 0.0)  # the positions are a convolution and look around
        hidden = hidden + self.positions(hidden)
        if self.norm is not None:
            hidden = self.norm(hidden)
        states = self.stack(self.dropout(hidden), mask)
        return [states[number] for number in self.wanted], lengths


class SpeechEncoder(PretrainedEncoder):
    """HuBERT, WavLM or wav2vec 2.0: one frame per 320 samples, floor((N - 400) / 320) + 1 in all.

    Arguments are those of PretrainedEncoder; ``finetune="full"`` trains the whole model, whose input is then the
    waveform itself in rows of 320 samples.
    """

    model_types = ("hubert", "wavlm", "wav2vec2")
    trained_whole = (FULL,)

    @property
    def dim(self) -> int:
        """Values per frame (D)."""
        return HOP_SAMPLES if self.finetune == FULL else super().dim

    def tuned(self) -> dict[str, Any]:
        """What rebuilds the trained part of the model, as arguments of ser.models.finetuned.FineTuned."""
        return super().tuned() | {"normalize": self.normalizes}

    @property
    def normalizes(self) -> bool:
        """Whether the checkpoint wants waveforms of mean 0 and variance 1 (transformers' default: yes)."""
        return bool(self.preprocessor.get("do_normalize", True))

    def description(self) -> dict[str, Any]:
        """Settings and hashes that determine the frames."""
        if self.finetune == FULL:
            return Encoder.description(self) | {"encoder": "waveform", "row_samples": HOP_SAMPLES}
        return super().description() | {"do_normalize": self.normalizes}

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, L, D) in float32 and lengths (B,) of waveforms (B, N) of ``lengths`` (B,) samples."""
        if self.finetune == FULL:  # the cache keeps rows in half precision, whose steps are 1/2000 of each sample
            rows = (waveforms.shape[1] - FRAME_SAMPLES) // HOP_SAMPLES + 1
            frames = waveforms[:, : rows * HOP_SAMPLES].reshape(-1, rows, HOP_SAMPLES)
            return frames, (lengths - FRAME_SAMPLES) // HOP_SAMPLES + 1
        self.load()
        states, counts = self.model(waveforms, lengths)  # type: ignore[misc]
        return joined([state.float() for state in states], self.join), counts

    def whole_model(self) -> Any:
        """The transformers model with all its layers, from which the trained ones take their first weights."""
        from transformers import AutoModel  # noqa: PLC0415

        if self.config.get("add_adapter") or self.config.get("conv_pos_batch_norm"):
            raise SerError(
                f"{self.checkpoint} has an adapter or a batch-normalised position layer, expected a plain HuBERT, "
                "WavLM or wav2vec 2.0; choose another checkpoint."
            )
        return self._read(AutoModel, "eager" if self.config["model_type"] == "wavlm" else "sdpa")

    def _build(self) -> nn.Module:
        model = self.whole_model()
        model.encoder.layers = model.encoder.layers[: max(1, *self.layers)]
        # The positional convolution is trained as a product of two tensors; frozen, it is one.
        nn.utils.parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
        return SpeechModel(model, self.layers, self.depth, self.normalizes)


def _unit_variance(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Each waveform of (B, N) at mean 0 and variance 1, padding at 0."""
    mask = valid_frames(lengths, waveforms.shape[1])  # (B, N)
    count = lengths.unsqueeze(1)
    centred = (waveforms - (waveforms * mask).sum(1, keepdim=True) / count).masked_fill(~mask, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / torch.sqrt(variance + 1e-7)


def _normalised_convolution(layer: Any, hidden: Tensor, lengths: Tensor) -> Tensor:
    """A convolution whose channels (B, C, L) are normalised over the ``lengths`` (B,) valid frames only."""
    states, norm = layer.conv(hidden), layer.layer_norm  # a group per channel
    weights = valid_frames(lengths, states.shape[2]).float().unsqueeze(2) / lengths[:, None, None]  # (B, L, 1)
    mean = states.float() @ weights  # (B, C, 1)
    variance = (states.float() - mean).square() @ weights
    scale = torch.rsqrt(variance + norm.eps) * norm.weight[:, None]
    shift = norm.bias[:, None] - mean * scale
    activated: Tensor = layer.activation(torch.addcmul(shift.to(states.dtype), states, scale.to(states.dtype)))
    return activated
