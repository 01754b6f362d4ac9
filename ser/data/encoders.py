"""From waveforms to frames; the only file that imports transformers, and that late.

Building an encoder reads nothing but the checkpoint's configuration. Weights are loaded at the first waveform, so a run
on a complete cache never loads them.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ser.data.audio import SAMPLE_RATE
from ser.data.checkpoints import checkpoint_folder, first_line, read_json, remedy, weights_hash
from ser.errors import SerError

FRAME_SAMPLES, HOP_SAMPLES = 400, 320  # 25 ms every 20 ms, in samples at 16 kHz
# Keys of config.json that say who wrote it and not what it computes.
_CONFIG_NOISE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class UnfitWaveform(SerError):  # noqa: N818 - says what is wrong with the one waveform and nothing else
    """A waveform that no frame can be made of; others may be fine."""


Layer = int | Sequence[int] | None


class Encoder(Protocol):
    """Turns 16 kHz mono waveforms into frames, each waveform independent of its batch mates."""

    @property
    def dim(self) -> int:
        """Values a frame (D)."""

    @property
    def frame_rate(self) -> float:
        """Frames per second."""

    def description(self) -> dict[str, Any]:
        """Plain settings and weight hash that determine the frames; they make the cache fingerprint."""

    def to(self, device: str | torch.device) -> Self:
        """Compute on ``device`` from now on."""

    def __call__(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (N,) to float32 frames (L, D) on the encoder's device.

        Raises:
            UnfitWaveform: a waveform is shorter than one frame.
        """


class LogMel:
    """Natural log-mel energies, the encoder that needs no download.

    25 ms windows, one frame per 320 samples and as many frames as HuBERT gives: floor((N - 400) / 320) + 1. The scale
    ``(ln(max(energy, 1e-10)) + 12) / 4`` is fixed, so that a frame depends on its own window alone.

    Args:
        mels: mel bands (D).
        hop_seconds: distance of two frames.
        f_min: lower edge of the lowest band in Hz.
        f_max: upper edge of the highest band in Hz.
    """

    def __init__(self, mels: int = 80, hop_seconds: float = 0.02, f_min: float = 20.0, f_max: float = 8000.0) -> None:
        self.dim = mels
        self.hop = round(hop_seconds * SAMPLE_RATE)
        self.frame_rate = SAMPLE_RATE / self.hop
        self.f_min, self.f_max = f_min, f_max
        self.device = torch.device("cpu")

    def description(self) -> dict[str, Any]:
        """Settings that determine the frames."""
        return {
            "encoder": "logmel",
            "mels": self.dim,
            "hop_samples": self.hop,
            "f_min": self.f_min,
            "f_max": self.f_max,
            "scale": "(ln(max(x,1e-10))+12)/4",
        }

    def to(self, device: str | torch.device) -> Self:
        """Compute on ``device`` from now on."""
        self.device = torch.device(device)
        self._mel.to(self.device)
        return self

    @cached_property
    def _mel(self) -> nn.Module:
        from torchaudio.transforms import MelSpectrogram  # noqa: PLC0415

        # torch centres the 400-sample window in the 512-sample transform; 56 zeros on either side undo that shift.
        return MelSpectrogram(
            SAMPLE_RATE,
            n_fft=512,
            win_length=FRAME_SAMPLES,
            hop_length=self.hop,
            f_min=self.f_min,
            f_max=self.f_max,
            pad=56,
            n_mels=self.dim,
            center=False,
            norm="slaney",
            mel_scale="slaney",
        ).to(self.device)

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (N,) to frames (L, D).

        Raises:
            UnfitWaveform: a waveform is shorter than one frame.
        """
        _refuse_short(waveforms, FRAME_SAMPLES)
        padded = pad_sequence([w.to(self.device, torch.float32) for w in waveforms], batch_first=True)  # (B, N)
        energy = self._mel(padded).transpose(1, 2)  # (B, L, D)
        frames = (energy.clamp(min=1e-10).log() + 12) / 4
        lengths = [(len(waveform) - FRAME_SAMPLES) // self.hop + 1 for waveform in waveforms]
        return [row[:length].clone() for row, length in zip(frames, lengths, strict=True)]


class _Checkpoint:
    """A frozen transformers encoder: where it lies, what it is, which layers are wanted.

    Layers count as in transformers' ``hidden_states``: 0 is the input of the first layer, k the output of layer k, and
    the last one the model's own output (with its final norm, where it has one).

    Args:
        checkpoint: folder, or id on the Hugging Face Hub.
        layer: None for the last, a number, or several numbers whose mean is taken.
        dtype: precision of the computation; "bfloat16" and "float16" are for GPUs.
        max_batch_seconds: padded audio that one forward pass may hold.
    """

    frame_rate = SAMPLE_RATE / HOP_SAMPLES
    model_types: tuple[str, ...] = ()

    def __init__(
        self, checkpoint: str, layer: Layer = None, dtype: str = "float32", max_batch_seconds: float = 120.0
    ) -> None:
        if dtype not in _DTYPES:
            raise SerError(f"dtype {dtype!r} is not known, expected one of {', '.join(_DTYPES)}; set features.dtype.")
        self.checkpoint = str(checkpoint)
        self.layer: int | list[int] | None = layer if layer is None or isinstance(layer, int) else list(layer)
        self.dtype = dtype
        self.max_batch_seconds = max_batch_seconds
        self.device = torch.device("cpu")

    @cached_property
    def folder(self) -> Path:
        """The local folder with configuration and weights; fetches them from the Hub where necessary."""
        return checkpoint_folder(self.checkpoint)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config.json."""
        config = read_json(self.folder / "config.json")
        if config.get("model_type") not in self.model_types:
            raise SerError(
                f"{self.checkpoint} is a {config.get('model_type', 'nameless')!r} model, expected "
                f"{' or '.join(self.model_types)}; choose the matching features group."
            )
        return config

    @cached_property
    def preprocessor(self) -> dict[str, Any]:
        """The checkpoint's feature-extractor settings."""
        settings = read_json(self.folder / "preprocessor_config.json")
        if settings.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise SerError(
                f"{self.checkpoint} was trained at {settings['sampling_rate']} Hz, expected {SAMPLE_RATE}; "
                "choose another checkpoint."
            )
        return settings

    @property
    def dim(self) -> int:
        """Values a frame."""
        return int(self.config[self._keys[0]])

    @property
    def _keys(self) -> tuple[str, str]:
        """Names of width and depth in config.json."""
        return "hidden_size", "num_hidden_layers"

    @cached_property
    def layers(self) -> list[int]:
        """The wanted layers, checked against the depth of the checkpoint."""
        depth = int(self.config[self._keys[1]])
        wanted = [depth] if self.layer is None else [self.layer] if isinstance(self.layer, int) else self.layer
        if not wanted or not all(0 <= layer <= depth for layer in wanted):
            raise SerError(
                f"layer {self.layer} is not in {self.checkpoint}, expected numbers from 0 to {depth}; "
                "set features.layer."
            )
        return sorted(set(wanted))

    def description(self) -> dict[str, Any]:
        """Settings and hashes that determine the frames; the place of the checkpoint does not."""
        plain = {key: value for key, value in self.config.items() if key not in _CONFIG_NOISE}
        return {
            "encoder": self.config["model_type"],
            "layers": self.layers,
            "dim": self.dim,
            "dtype": self.dtype,
            "config": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16],
            "weights": weights_hash(self.folder),
        }

    def to(self, device: str | torch.device) -> Self:
        """Compute on ``device`` from now on."""
        self.device = torch.device(device)
        if "model" in self.__dict__:
            self.model.to(self.device)
        return self

    @cached_property
    def model(self) -> Any:
        """The frozen model, cut after the last wanted layer."""
        model = self._load(self._model_class())
        trunk = self._trunk(model)
        trunk.layers = trunk.layers[: max(1, *self.layers)]
        return model.eval().requires_grad_(False).to(self.device)

    def _model_class(self) -> Any:
        raise NotImplementedError

    def _trunk(self, model: Any) -> Any:
        """The part of ``model`` that holds ``layers``."""
        raise NotImplementedError

    def _load(self, model_class: Any) -> Any:
        """Read the weights; every one the model needs must be in the checkpoint."""
        from transformers.utils import logging  # noqa: PLC0415

        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # its bar would cut through the extraction's own
        try:
            model, found = model_class.from_pretrained(
                self.folder, dtype=_DTYPES[self.dtype], local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # transformers passes on whatever its readers raise
            raise SerError(
                f"the weights in {self.folder} cannot be read ({first_line(error)}), expected an intact "
                f"checkpoint; {remedy(self.checkpoint)}."
            ) from error
        finally:
            if shown:
                logging.enable_progress_bar()
        missing = [name for name in found["missing_keys"] if "masked_spec_embed" not in name]
        if missing:
            raise SerError(
                f"the weights in {self.folder} lack {len(missing)} tensors (first: {sorted(missing)[0]}), "
                f"expected a complete checkpoint; {remedy(self.checkpoint)}."
            )
        return model

    def _mean_of_layers(self, trunk: Any, *arguments: Any, **keywords: Any) -> Tensor:
        """Run ``trunk`` and average the wanted hidden states, (B, L, D) in float32."""
        states: dict[int, Tensor] = {}

        def keep_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            states[0] = inputs[0]

        def keep_output(index: int, output: Any) -> None:
            states[index] = output[0] if isinstance(output, tuple) else output

        hooks = [trunk.layers[0].register_forward_pre_hook(keep_input)]
        for number in set(self.layers) - {0}:
            hooks.append(
                trunk.layers[number - 1].register_forward_hook(
                    lambda module, inputs, output, number=number: keep_output(number, output)
                )
            )
        try:
            states[int(self.config[self._keys[1]])] = trunk(*arguments, **keywords).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([states[number].float() for number in self.layers]).mean(dim=0)


class SpeechEncoder(_Checkpoint):
    """HuBERT, WavLM or wav2vec 2.0: one frame per 320 samples, floor((N - 400) / 320) + 1 in all.

    Base checkpoints normalise their first convolution over time, so padding a waveform would change all its frames.
    Hence the convolutional front runs waveform by waveform; the transformer, where nearly all time goes, runs on the
    padded batch under a mask. Arguments and the counting of layers: ``_Checkpoint``.
    """

    model_types = ("hubert", "wavlm", "wav2vec2")

    def description(self) -> dict[str, Any]:
        """Settings and hashes that determine the frames."""
        return super().description() | {"do_normalize": self._do_normalize}

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (N,) to float32 frames (L, D).

        Raises:
            UnfitWaveform: a waveform is shorter than one frame.
            SerError: the checkpoint cannot be had.
        """
        _refuse_short(waveforms, FRAME_SAMPLES)
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
    def _do_normalize(self) -> bool:
        """Whether the checkpoint wants waveforms of zero mean and unit variance (transformers' default: yes)."""
        return bool(self.preprocessor.get("do_normalize", True))

    def _front(self, waveform: Tensor) -> Tensor:
        """Normalised waveform (N,) through convolutions and projection, (L, D)."""
        waveform = waveform.to(self.device, torch.float32)
        if self._do_normalize:
            waveform = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
        convolved = self.model.feature_extractor(waveform[None].to(_DTYPES[self.dtype]))  # (1, C, L)
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


class WhisperEncoder(_Checkpoint):
    """The encoder half of Whisper: 50 frames a second, cut to the clip's own length.

    Whisper hears 30 seconds at a time, zero-padded; longer clips are encoded in consecutive windows. Every window costs
    the same, so batching matters little and the mask question does not arise. Arguments and the counting of layers:
    ``_Checkpoint``.
    """

    model_types = ("whisper",)

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
        _refuse_short(waveforms, HOP_SAMPLES)
        window = int(self.config["max_source_positions"])  # frames
        pieces = [
            (index, piece)
            for index, waveform in enumerate(waveforms)
            for piece in waveform.split(window * HOP_SAMPLES)
            if round(len(piece) / HOP_SAMPLES) > 0
        ]
        found: list[list[Tensor]] = [[] for _ in waveforms]
        at_once = max(1, int(self.max_batch_seconds * self.frame_rate / window))
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
        return self._mean_of_layers(self.model, mels.to(self.device, _DTYPES[self.dtype]))

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


def _refuse_short(waveforms: Sequence[Tensor], samples: int) -> None:
    for waveform in waveforms:
        if len(waveform) < samples:
            given, wanted = (
                f"{count} samples ({1000 * count / SAMPLE_RATE:.1f} ms)" for count in (len(waveform), samples)
            )
            raise UnfitWaveform(f"the waveform has {given}, expected at least one frame of {wanted}; leave it out.")


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
