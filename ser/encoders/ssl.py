"""HuBERT, WavLM and wav2vec 2.0."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ser.data.audio import SAMPLE_RATE
from ser.encoders.base import FRAME_SAMPLES, refuse_short
from ser.encoders.pretrained import DTYPES, Layer, PretrainedEncoder
from ser.encoders.waveform import Waveform
from ser.errors import SerError

FULL = "full"  # the whole model is trained


class SpeechEncoder(PretrainedEncoder):
    """HuBERT, WavLM or wav2vec 2.0: one frame per 320 samples, floor((N - 400) / 320) + 1 in all.

    Base checkpoints normalise their first convolution over time, so padding a waveform would change all its frames.
    Hence the convolutional front runs waveform by waveform; the transformer, where nearly all time goes, runs on the
    padded batch under a mask. The counting of layers: ``PretrainedEncoder``.

    Layers that are trained with the network belong to it, and the frames are their input: the output of the last
    frozen layer, or the waveform itself (``Waveform``) where all of the model is trained.

    Args:
        checkpoint: as for PretrainedEncoder, like ``layer, dtype, max_batch_seconds, average`` and ``join``.
        layer: a single one or the last where layers are trained.
        dtype: of the frozen part.
        max_batch_seconds: padded audio that one forward pass may hold.
        finetune: None or "none": nothing is trained; a number: so many layers up to ``layer``; "full": the whole model.
        finetune_lr_factor: learning rate of the trained layers relative to the network's.

    Raises:
        SerError: ``finetune`` is nothing of the kind, or does not go with ``layer``.
    """

    model_types = ("hubert", "wavlm", "wav2vec2")

    def __init__(
        self,
        checkpoint: str,
        layer: Layer = None,
        dtype: str = "float32",
        max_batch_seconds: float = 120.0,
        finetune: int | str | None = None,
        finetune_lr_factor: float = 0.1,
        average: int = 1,
        join: str = "mean",
    ) -> None:
        super().__init__(checkpoint, layer, dtype, max_batch_seconds, average, join)
        number = isinstance(finetune, int) and not isinstance(finetune, bool) and finetune > 0
        if not (number or finetune in (None, "none", FULL)):
            raise SerError(
                f"features.finetune={finetune} was given, expected null, a number of layers from 1 or full; "
                "null trains none of the encoder."
            )
        self.finetune = None if finetune == "none" else finetune
        if self.finetune is not None and isinstance(self.layer, list):
            raise SerError(
                f"features.finetune={finetune} was given with layers {self.layer}, expected a single "
                "one; set features.layer to a number or null."
            )
        if self.finetune is not None and average != 1:
            raise SerError(
                f"features.finetune={finetune} was given with features.average={average}, but the trained layers "
                "expect every frame; set features.average=1."
            )
        self.finetune_lr_factor = finetune_lr_factor
        self._waveform = Waveform() if self.finetune == FULL else None

    @property
    def dim(self) -> int:
        """Values a frame."""
        return super().dim if self._waveform is None else self._waveform.dim

    @cached_property
    def layers(self) -> list[int]:
        """The layers that the frames are made of: the last frozen one where others are trained."""
        wanted = self._wanted_layers()
        if not isinstance(self.finetune, int):
            return wanted
        if self.finetune > wanted[0]:
            raise SerError(
                f"features.finetune={self.finetune} was given, but {self.checkpoint} has {wanted[0]} layers up to the "
                "wanted one; give at most that many, or full."
            )
        return [wanted[0] - self.finetune]

    def tuned(self) -> dict[str, Any]:
        """What rebuilds the trained part of the model, as ser.models.finetuned.FineTuned takes it."""
        first = self.layers[0] if isinstance(self.finetune, int) else None
        return {
            "config": self.plain_config,
            "first": first,
            "last": self._wanted_layers()[0],
            "normalize": self.normalizes,
        }

    def whole_model(self) -> Any:
        """The model with all its layers, of which the trained ones take their first weights."""
        return self._load(self._model_class())

    def description(self) -> dict[str, Any]:
        """Settings and hashes that determine the frames."""
        if self._waveform is not None:
            return self._waveform.description()
        return super().description() | {"do_normalize": self.normalizes}

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (N,) to float32 frames (L, D).

        Raises:
            UnfitWaveform: a waveform is shorter than one frame.
            SerError: the checkpoint cannot be had.
        """
        if self._waveform is not None:
            return self._waveform.to(self.device)(waveforms)
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
        hidden = self._joined_layers(self.model.encoder, padded, attention_mask=mask)
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
