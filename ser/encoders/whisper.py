"""The encoder half of Whisper."""

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser.data.batching import valid_frames
from ser.encoders.base import HOP_SAMPLES, Layers, all_full, joined
from ser.encoders.pretrained import DTYPES, PretrainedEncoder
from ser.errors import SerError

WINDOWS = ("sparse", "clip", "30s")
_HALF = HOP_SAMPLES // 2 - 1  # a last piece of more than half a frame is a frame
_EVERY = 50  # of so many positions of silence, a sparse window has one
_AROUND = 5  # frames computed behind the clip: one of silence that sees silence only, and what the convolutions see


class WhisperEncoder(PretrainedEncoder):
    """The encoder half of Whisper: 50 frames per second, as many as the clip is long.

    Whisper was trained on 30 seconds at a time, zero-padded, and a window of that size costs the same for every clip.
    Its attention spreads over that silence, so frames computed without it are others. There are three windows:

    - ``sparse``: the clip's own positions, and every 50th of the silence behind it, each of which weighs as 50 in the
      attention. Level with 30 seconds in emotion recognition; clips of 2 seconds cost a sixth more than alone.
    - ``clip``: the clip's own positions; also where layers are trained, since no cache keeps the silence.
    - ``30s``: exactly as Whisper itself makes frames; each clip costs as much as one of 30 seconds.

    Longer clips are encoded in consecutive windows of 30 seconds. docs/results/recognition.md has the figures.
    """

    model_types = ("whisper",)
    size_keys = ("d_model", "encoder_layers", "encoder_ffn_dim")
    shortest = HOP_SAMPLES
    filters: Tensor
    hann: Tensor

    def __init__(self, checkpoint: str, *, window: str = "sparse", **settings: Any) -> None:
        super().__init__(checkpoint, **settings)
        if window == "sparse" and self.finetune is not None:
            window = "clip"
        if window not in WINDOWS:
            raise SerError(f"window {window!r} is not known, expected sparse, clip or 30s; set features.window.")
        if self.finetune is not None and window != "clip":
            raise SerError(
                f"features.finetune={self.finetune} was given with features.window={window}, expected window=clip; the "
                "trained layers see the clip alone."
            )
        self.window = window

    @property
    def window_frames(self) -> int:
        """Frames of a whole window: 1500, which is 30 seconds."""
        return int(self.config["max_source_positions"])

    def computed_samples(self, samples: int) -> int:
        """Samples that a waveform of ``samples`` costs in a batch: whole windows with ``window="30s"``."""
        whole = self.window_frames * HOP_SAMPLES
        return -(-samples // whole) * whole if self.window == "30s" else samples

    def description(self) -> dict[str, Any]:
        """Settings and hashes that determine the frames."""
        keys = ("feature_size", "hop_length", "n_fft", "chunk_length")
        return super().description() | {key: self.preprocessor.get(key) for key in keys} | {"window": self.window}

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, L, D) in float32 and lengths (B,) of waveforms (B, N) of ``lengths`` (B,) samples."""
        self.load()
        whole = self.window_frames * HOP_SAMPLES
        # Samples of a window; a symbol in an exported graph, where min() would fix the length.
        size: Any = whole if self.window == "30s" else torch.sym_min(waveforms.shape[1], whole)
        count = (waveforms.shape[1] + size - 1) // size  # windows of the longest
        pieces = F.pad(waveforms, (0, count * size - waveforms.shape[1])).reshape(-1, size)  # (B * count, size)
        steps = (size + _HALF) // HOP_SAMPLES  # frames of a window
        start = size * torch.arange(count, device=lengths.device)
        frames = ((lengths[:, None] - start).clamp(0, whole) + _HALF) // HOP_SAMPLES  # (B, count)
        if self.window == "sparse":
            hidden = self._sparse(pieces, steps, frames.flatten())
        else:
            mask = None
            if self.window == "clip" and not all_full(frames, steps):
                mask = valid_frames(frames.flatten(), steps)  # (B * count, steps)
            hidden = self._convolved(self._mels(pieces, steps, mask), mask)
            hidden = self._transformed(hidden + self._positions[: hidden.shape[1]], mask)  # (B * count, steps, D)
        return hidden.reshape(waveforms.shape[0], -1, hidden.shape[-1]), frames.sum(1)

    def _sparse(self, pieces: Tensor, steps: int, frames: Tensor) -> Tensor:
        """Frames (W, steps, D) of windows (W, N) of which ``frames`` (W,) are speech and the rest is thin silence."""
        hidden = self._convolved(self._mels(pieces, steps + _AROUND, None), None)  # (W, steps + _AROUND, D)
        places = torch.arange(_EVERY // 2, self.window_frames, _EVERY, device=frames.device)  # (S,)
        silence = hidden[:, steps + _AROUND - 2, None] + self._positions[places]  # (W, S, D)
        speaks = valid_frames(frames, steps)  # (W, steps)
        lowest = torch.finfo(hidden.dtype).min
        weights = torch.zeros_like(speaks, dtype=hidden.dtype).masked_fill(~speaks, lowest)
        silent = torch.full_like(silence[..., 0], math.log(_EVERY)).masked_fill(places < frames[:, None], lowest)
        hidden = torch.cat([hidden[:, :steps] + self._positions[:steps], silence], dim=1)  # (W, steps + S, D)
        return self._transformed(hidden, torch.cat([weights, silent], dim=1))[:, :steps]

    def _mels(self, pieces: Tensor, steps: int, mask: Tensor | None) -> Tensor:
        """Log-mel energies (W, mels, 2 * steps) of windows (W, N), zero where ``mask`` (W, steps) is False."""
        size, hop = int(self._extractor.n_fft), int(self._extractor.hop_length)
        if self.window != "30s":  # silence behind each clip, whatever its batch mates' lengths
            behind = size if self.window == "clip" else 2 * steps * hop - pieces.shape[1]
            pieces = F.pad(pieces, (0, behind))
        around = F.pad(pieces.unsqueeze(1), (size // 2, size // 2), mode="reflect").squeeze(1)
        spectrum = torch.view_as_real(
            torch.stft(around, size, hop, window=self.hann, center=False, return_complex=True)
        )
        energy = spectrum.square().sum(-1).transpose(1, 2)[:, : 2 * steps]  # (W, 2 * steps, bins)
        log = (energy @ self.filters).clamp(min=1e-10).log10()  # (W, 2 * steps, mels)
        outside = None if mask is None else ~mask.repeat_interleave(2, dim=1).unsqueeze(-1)
        heard = log if outside is None else log.masked_fill(outside, -10.0)  # the smallest value there is
        log = (torch.maximum(log, heard.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        return (log if outside is None else log.masked_fill(outside, 0.0)).transpose(1, 2)

    def _convolved(self, mels: Tensor, mask: Tensor | None) -> Tensor:
        """What the first layer gets, without positions (W, steps, D), of log-mel energies (W, mels, 2 * steps)."""
        model: Any = self.model
        hidden = F.gelu(model.conv1(mels.to(DTYPES[self.dtype])))
        if mask is not None:  # the second convolution looks around, too
            hidden = hidden.masked_fill(~mask.repeat_interleave(2, dim=1).unsqueeze(1), 0.0)
        return F.gelu(model.conv2(hidden)).transpose(1, 2)

    def _transformed(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Frames (W, L, D) in float32 of the chosen layers; the mask (W, L) is as of ``Layers``."""
        model: Any = self.model
        states = model.layers(hidden, mask)
        return joined([states[number].float() for number in self.layers], self.join)

    @property
    def _positions(self) -> Tensor:
        """What tells one position from another (1500, D)."""
        model: Any = self.model
        positions: Tensor = model.embed_positions.weight
        return positions

    @cached_property
    def _extractor(self) -> Any:
        """Whisper's own log-mel settings and filters.

        Raises:
            SerError: they are for another number of mel bands than the model.
        """
        from transformers import WhisperFeatureExtractor  # noqa: PLC0415

        given, expected = self.preprocessor.get("feature_size", 80), self.config.get("num_mel_bins", 80)
        if given != expected:
            raise SerError(
                f"the preprocessor settings in {self.folder} give {given} mel bands, but the model expects {expected}; "
                "copy preprocessor_config.json from the same checkpoint."
            )
        return WhisperFeatureExtractor.from_dict(self.preprocessor)

    def whole_model(self) -> Any:
        """Whisper's encoder half with all its layers."""
        import transformers  # noqa: PLC0415
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Half  # noqa: PLC0415

        name = (self.config.get("architectures") or [None])[0]
        if name == "WhisperEncoder":
            return self._read(Half)
        if name == "WhisperForAudioClassification":
            return self._read(transformers.WhisperForAudioClassification).encoder
        return self._read(transformers.WhisperModel).encoder  # of a whole Whisper only the encoder is kept

    def _build(self) -> nn.Module:
        filters = torch.as_tensor(self._extractor.mel_filters, dtype=torch.float32)  # (bins, mels)
        self.register_buffer("filters", filters.to(self.device), persistent=False)
        self.register_buffer("hann", torch.hann_window(self._extractor.n_fft, device=self.device), persistent=False)
        model = self.whole_model()
        model.layers = model.layers[: max(1, *self.layers)]
        model.layers = Layers(model.layers, model.layer_norm if len(model.layers) == self.depth else None)
        return model
