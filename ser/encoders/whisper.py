"""The encoder half of Whisper."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ser.data.audio import SAMPLE_RATE
from ser.encoders.base import HOP_SAMPLES, refuse_short
from ser.encoders.pretrained import DTYPES, Layer, PretrainedEncoder
from ser.errors import SerError


class WhisperEncoder(PretrainedEncoder):
    """The encoder half of Whisper: 50 frames a second, cut to the clip's own length.

    Whisper hears 30 seconds at a time, zero-padded; longer clips are encoded in consecutive windows. Every window costs
    the same, so batching matters little and the mask question does not arise. Arguments and the counting of layers:
    ``PretrainedEncoder``; ``finetune`` has to be None or "none".

    Raises:
        SerError: layers are to be trained.
    """

    model_types = ("whisper",)

    def __init__(
        self,
        checkpoint: str,
        layer: Layer = None,
        dtype: str = "float32",
        max_batch_seconds: float = 120.0,
        finetune: str | int | None = None,
        average: int = 1,
        join: str = "mean",
    ) -> None:
        super().__init__(checkpoint, layer, dtype, max_batch_seconds, average, join)
        if finetune not in (None, "none"):
            raise SerError(
                f"features.finetune={finetune} was given for a Whisper encoder, expected a HuBERT, WavLM or "
                "wav2vec 2.0: Whisper's layers look at all 30 seconds of a window, of which the cache keeps the clip's "
                "own frames only; set features.finetune=null."
            )

    def description(self) -> dict[str, Any]:
        """Settings and hashes that determine the frames."""
        keys = ("feature_size", "hop_length", "n_fft", "chunk_length")
        return super().description() | {key: self.preprocessor.get(key) for key in keys}

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (N,) to float32 frames (round(N / 320), D).

        Raises:
            UnfitWaveform: a waveform is shorter than one frame.
            SerError: the checkpoint cannot be had.
        """
        refuse_short(waveforms, HOP_SAMPLES)
        window = int(self.config["max_source_positions"])  # frames
        pieces = [
            (index, piece)
            for index, waveform in enumerate(waveforms)
            for piece in waveform.split(window * HOP_SAMPLES)
            if round(len(piece) / HOP_SAMPLES) > 0
        ]
        found: list[list[Tensor]] = [[] for _ in waveforms]
        at_once = max(1, int(self.max_batch_seconds * SAMPLE_RATE / HOP_SAMPLES / window))
        for start in range(0, len(pieces), at_once):
            batch = pieces[start : start + at_once]
            hidden = self._windows([piece for _, piece in batch])  # (B, window, D)
            for (index, piece), row in zip(batch, hidden, strict=True):
                found[index].append(row[: round(len(piece) / HOP_SAMPLES)])
        return [torch.cat(rows) for rows in found]

    def _windows(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Encode clips of at most one window, (B, window, D)."""
        mels = self._extractor(
            [waveform.float().cpu().numpy() for waveform in waveforms], sampling_rate=SAMPLE_RATE, return_tensors="pt"
        ).input_features  # (B, mels, 2 * window)
        return self._joined_layers(self.model, mels.to(self.device, DTYPES[self.dtype]))

    @cached_property
    def _extractor(self) -> Any:
        from transformers import WhisperFeatureExtractor  # noqa: PLC0415

        return WhisperFeatureExtractor.from_dict(self.preprocessor)

    @property
    def _keys(self) -> tuple[str, str]:
        return "d_model", "encoder_layers"

    def _model_class(self) -> Any:
        from transformers import WhisperModel  # noqa: PLC0415
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Half  # noqa: PLC0415

        return Half if self.config.get("architectures") == ["WhisperEncoder"] else WhisperModel

    def _load(self, model_class: Any) -> Any:
        model = super()._load(model_class)
        return getattr(model, "encoder", model)  # of a whole Whisper only the encoder is kept

    def _trunk(self, model: Any) -> Any:
        return model
