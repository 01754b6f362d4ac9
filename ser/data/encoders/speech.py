"""HuBERT, WavLM and wav2vec 2.0."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ser.data.audio import SAMPLE_RATE
from ser.data.encoders.contract import FRAME_SAMPLES, refuse_short
from ser.data.encoders.pretrained import DTYPES, PretrainedEncoder
from ser.errors import SerError


class SpeechEncoder(PretrainedEncoder):
    """HuBERT, WavLM or wav2vec 2.0: one frame per 320 samples, floor((N - 400) / 320) + 1 in all.

    Base checkpoints normalise their first convolution over time, so padding a waveform would change all its frames.
    Hence the convolutional front runs waveform by waveform; the transformer, where nearly all time goes, runs on the
    padded batch under a mask. Arguments and the counting of layers: ``PretrainedEncoder``.
    """

    model_types = ("hubert", "wavlm", "wav2vec2")

    def description(self) -> dict[str, Any]:
        """Settings and hashes that determine the frames."""
        return super().description() | {"do_normalize": self.normalizes}

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (N,) to float32 frames (L, D).

        Raises:
            UnfitWaveform: a waveform is shorter than one frame.
            SerError: the checkpoint cannot be had.
        """
        refuse_short(waveforms, FRAME_SAMPLES)
        frames: dict[int, Tensor] = {}
        for batch in _batches([len(waveform) for waveform in waveforms], self.max_batch_seconds):
            frames.update(zip(batch, self._encode([waveforms[index] for index in batch]), strict=True))
        return [frames[index] for index in range(len(waveforms))]

    def _encode(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """One padded batch through the transformer."""
        fronts = [self._front(waveform) for waveform in waveforms]
        lengths = [len(front) for front in fronts]
        padded = pad_sequence(fronts, batch_first=True)  # (B, L, D)
        mask = None
        if min(lengths) < max(lengths):
            steps = torch.arange(max(lengths), device=self.device)
            mask = steps < torch.tensor(lengths, device=self.device)[:, None]  # (B, L)
        hidden = self._mean_of_layers(self.model.encoder, padded, attention_mask=mask)
        return [row[:length].clone() for row, length in zip(hidden, lengths, strict=True)]

    @property
    def normalizes(self) -> bool:
        """Whether the checkpoint wants waveforms of zero mean and unit variance (transformers' default: yes)."""
        return bool(self.preprocessor.get("do_normalize", True))

    def _front(self, waveform: Tensor) -> Tensor:
        """Normalised waveform (N,) through convolutions and projection, (L, D)."""
        waveform = waveform.to(self.device, torch.float32)
        if self.normalizes:
            waveform = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
        convolved = self.model.feature_extractor(waveform[None].to(DTYPES[self.dtype]))  # (1, C, L)
        projected = self.model.feature_projection(convolved.transpose(1, 2))
        return (projected[0] if isinstance(projected, tuple) else projected)[0]

    def _model_class(self) -> Any:
        from transformers import AutoModel  # noqa: PLC0415

        if self.config.get("add_adapter") or self.config.get("conv_pos_batch_norm"):
            raise SerError(
                f"{self.checkpoint} has an adapter or a batch-normalised position layer, expected a plain "
                "HuBERT, WavLM or wav2vec 2.0; choose another checkpoint."
            )
        return AutoModel

    def _trunk(self, model: Any) -> Any:
        return model.encoder


def _batches(lengths: Sequence[int], max_seconds: float) -> list[list[int]]:
    """Indices in batches of similar length whose padded size stays within ``max_seconds``, one at least."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        # The first of a batch is its longest.
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_seconds * SAMPLE_RATE:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
