"""One call for every way of running a model: a waveform in, a Prediction out."""

import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ser.data.audio import SAMPLE_RATE, Waveform, prepare
from ser.data.batching import length_batches
from ser.data.normalization import SHRINKAGE_SECONDS, FrameStatistics, RunningStatistics
from ser.encoders import Encoder, encode
from ser.encoders.base import usable_device
from ser.errors import SerError, SyntheticVoiceWarning
from ser.inference.checkpoint import PRETRAINED, SYNTHETIC, ModelConfig, find_model, from_hub
from ser.inference.engines import (
    FrameModel,
    OnnxWaveformModel,
    Scores,
    TorchNetwork,
    build_encoder,
    check_encoder,
    load_model,
)
from ser.inference.vad import NO_SPEECH

Recording = tuple[Waveform, Any]  # samples (N,), (N, channels) or (channels, N), and their rate in Hz


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording; without speech its probabilities are NaN."""

    label: str  # the most probable emotion, or ``no speech``
    confidence: float  # its probability
    probabilities: dict[str, float]  # of every emotion, in class order
    seconds: float  # length of the recording
    normalization: str  # whose statistics normalised the frames: the ``source`` of FrameStatistics
    windows: int = 1  # whose probabilities were averaged; 1 for a recording taken whole
    attention: NDArray[np.float32] | None = None  # (L,) fraction on each frame, mean over queries; None: not asked for
    speech_seconds: float | None = None  # how much speech was found; None without a speech gate

    @classmethod
    def of(cls, emotions: Sequence[str], probabilities: Sequence[float], **facts: Any) -> "Prediction":
        """From probabilities in class order."""
        table = {name: float(value) for name, value in zip(emotions, probabilities, strict=True)}
        label = max(table, key=table.__getitem__)
        return cls(label, table[label], table, **facts)

    @classmethod
    def without_speech(cls, emotions: Sequence[str], **facts: Any) -> "Prediction":
        """For a recording in which a speech gate found nothing."""
        return cls(NO_SPEECH, np.nan, dict.fromkeys(emotions, np.nan), **facts)


class Recognizer:
    """Recognises emotions with a trained model; safe to call from several threads, which take turns.

    Frames are rounded to half precision as in the feature cache, cut to ``max_seconds`` and normalised as in
    training, so a training file gets the prediction of the run itself. Probabilities do not depend on the other
    recordings of a batch (1e-4). The ``model`` classifies the encoder's frames, or waveforms where the encoder is
    inside; ``encoder`` is then None.
    """

    def __init__(
        self, config: ModelConfig, model: FrameModel | OnnxWaveformModel, encoder: Encoder | None = None
    ) -> None:
        self.config, self.model, self.encoder = config, model, encoder
        self.emotions = config.emotions
        self._lock = threading.Lock()
        if SYNTHETIC in config.notes:
            warnings.warn(SYNTHETIC, SyntheticVoiceWarning, stacklevel=3)  # the caller of from_checkpoint

    @property
    def longest_frames(self) -> int | None:
        """Frames of the encoder that training kept of an utterance; None: all, or the model itself cuts them."""
        kept = self.config.plain["max_seconds"]
        return None if kept is None or self.encoder is None else max(1, round(kept * self.encoder.frame_rate))

    def heard(self, waveform: Tensor) -> Tensor:
        """The part of a waveform (N,) from prepare() that the network uses."""
        longest = self.config.max_seconds
        return waveform if longest is None else waveform[: round(longest * SAMPLE_RATE)]

    @property
    def network(self) -> nn.Module:
        """The trained network, for an export.

        Raises:
            SerError: it is an ONNX file already.
        """
        if not isinstance(self.model, TorchNetwork):
            raise SerError(
                "an ONNX file cannot be exported again, expected a run folder, .ckpt or exported folder; name one "
                "with --checkpoint."
            )
        return self.model.network

    def parameters(self) -> list[Tensor]:
        """The network's parameters; none where it is an ONNX file."""
        return list(self.model.network.parameters()) if isinstance(self.model, TorchNetwork) else []

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        encoder_checkpoint: str | Path | None = None,
        device: str = "cpu",
        encoder: Encoder | None = None,
        allow_download: bool = False,
    ) -> "Recognizer":
        """Load a run folder (the epoch that it kept), a ``.ckpt``, an exported folder or an ``.onnx`` file.

        Nothing in the file is executed, and only classes of this package are built from it. ``encoder_checkpoint`` is
        the local folder or Hub id of the pretrained encoder, if it has moved since training; ``encoder`` is one that is
        loaded already. With ``allow_download`` the encoder that the model names is fetched from the Hugging Face Hub.

        Raises:
            SerError: the model or its encoder is missing, damaged, of another kind or refused.
        """
        place = usable_device(device, "use --device cpu")
        config, model = load_model(find_model(path), place)
        if isinstance(model, OnnxWaveformModel):
            return cls(config, model)
        if encoder is None:
            encoder = build_encoder(config, encoder_checkpoint, place, allow_download)
        else:
            check_encoder(config, encoder)
        return cls(config, model, encoder)

    @classmethod
    def pretrained(
        cls, encoder_checkpoint: str | Path | None = None, device: str = "cpu", allow_download: bool = False
    ) -> "Recognizer":
        """Load the model that comes with the package; its card is ``ser/pretrained/README.md``.

        Its encoder is the local folder that is given, else what SER_ENCODER names, else what the Hub has cached.

        Raises:
            SerError: the encoder is not here, or it is another one.
        """
        return cls.from_checkpoint(PRETRAINED, encoder_checkpoint, device, allow_download=allow_download)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        encoder_checkpoint: str | Path | None = None,
        device: str = "cpu",
        allow_download: bool = False,
    ) -> "Recognizer":
        """Load what ``ser export --format hub`` wrote, from a local folder or the Hugging Face Hub.

        Raises:
            SerError: as from_checkpoint; or the Hub does not know the model or cannot be reached.
        """
        folder = Path(folder_or_hub_id).expanduser()
        if not folder.exists():
            folder = from_hub(str(folder_or_hub_id))
        return cls.from_checkpoint(folder, encoder_checkpoint, device, allow_download=allow_download)

    def __call__(
        self,
        waveform: Waveform,
        sample_rate: Any,
        *,
        statistics: FrameStatistics | None = None,
        attention: bool = False,
    ) -> Prediction:
        """Recognise samples (N,), (N, channels) or (channels, N), in [-1, 1] or integers, of a ``sample_rate`` in Hz.

        Without ``statistics`` those of the training part normalise the frames. With ``attention`` the prediction has
        its fraction on each frame.

        Raises:
            SerError: the recording is too short or too long, or holds NaN.
        """
        return self.predict_many([(waveform, sample_rate)], statistics=statistics, attention=attention)[0]

    def predict_many(
        self,
        recordings: Sequence[Recording],
        *,
        statistics: FrameStatistics | None = None,
        attention: bool = False,
        batch_seconds: float = 60.0,
    ) -> list[Prediction]:
        """Recognise several recordings, in batches of similar length; predictions in the order given.

        ``statistics`` and ``attention`` are as for a single call; a batch has ``batch_seconds`` of padded audio.

        Raises:
            SerError: as for a single call; no recording is then recognised.
        """
        waveforms = [prepare(*recording) for recording in recordings]
        found: dict[int, Prediction] = {}
        for rows in length_batches([len(waveform) for waveform in waveforms], batch_seconds * SAMPLE_RATE):
            predictions = self.predict_batch([waveforms[row] for row in rows], statistics, attention)
            found.update(zip(rows, predictions, strict=True))
        return [found[row] for row in range(len(waveforms))]

    def predict_batch(
        self, waveforms: Sequence[Tensor], statistics: FrameStatistics | None = None, attention: bool = False
    ) -> list[Prediction]:
        """Recognise waveforms (N,) from prepare() as one batch."""
        seconds = [len(waveform) / SAMPLE_RATE for waveform in waveforms]
        if not isinstance(self.model, OnnxWaveformModel):
            return self.classify(self.frames(waveforms), seconds, statistics, attention)
        if statistics is not None:
            raise SerError(
                "this exported model holds its encoder and normalises by the training statistics; for a "
                "speaker's own, export without --with-encoder."
            )
        with self._lock:
            scores = self.model(waveforms)
        return self._predictions(scores, seconds, self.config.statistics)

    def frames(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Frames (L, D) of waveforms (N,) from prepare(), rounded to half precision as in the feature cache.

        Raises:
            SerError: a waveform is shorter than one frame, or the encoder is inside the model.
        """
        if self.encoder is None:
            raise SerError("this exported model holds its encoder and gives no frames; load the checkpoint instead.")
        with self._lock:
            frames = [found.half().float() for found in encode(self.encoder, waveforms)]
        if not all(bool(torch.isfinite(found).all()) for found in frames):
            raise SerError(
                "the encoder gave values beyond half precision, as training would not accept them; check "
                "that the recording is sound with samples in [-1, 1]."
            )
        return frames

    def classify(
        self,
        frames: Sequence[Tensor],
        seconds: Sequence[float],
        statistics: FrameStatistics | None = None,
        attention: bool = False,
    ) -> list[Prediction]:
        """Recognise frames (L, D) from frames() as one batch; ``seconds`` are the lengths of their recordings."""
        statistics = statistics or self.config.statistics
        return self._predictions(self.score(frames, statistics, attention), seconds, statistics)

    def score(self, frames: Sequence[Tensor], statistics: FrameStatistics, attention: bool = False) -> Scores:
        """Probabilities and pooled features of frames (L, D) as one batch, cut to the length that training kept.

        Raises:
            SerError: the encoder is inside the model.
        """
        if isinstance(self.model, OnnxWaveformModel):
            raise SerError("this exported model holds its encoder and takes no frames; load the checkpoint instead.")
        with self._lock:
            return self.model([utterance[: self.longest_frames] for utterance in frames], statistics, attention)

    def speaker_statistics(
        self, recordings: Iterable[Recording], shrinkage: float = SHRINKAGE_SECONDS
    ) -> FrameStatistics:
        """Statistics of unlabelled recordings of one speaker, for models trained with ``normalization=speaker``.

        A few recordings are enough (``ser enrol`` measures how many). The training statistics weigh ``shrinkage``
        seconds of audio; with 0 the recordings alone count.
        """
        rate = self.encoder.frame_rate if self.encoder is not None else 0.0
        running = RunningStatistics(self.config.statistics, rate, shrinkage, "speaker")
        for recording in recordings:
            running.update(self.frames([prepare(*recording)])[0])
        return running.current

    def _predictions(self, scores: Scores, seconds: Sequence[float], statistics: FrameStatistics) -> list[Prediction]:
        attention: Sequence[Any] = scores.attention or [None] * len(seconds)
        if not np.isfinite(scores.probabilities).all():
            raise SerError(
                "the model answers NaN in place of probabilities; its weights are damaged, so train or copy it again."
            )
        return [
            Prediction.of(self.emotions, row, seconds=length, normalization=statistics.source, attention=weights)
            for row, length, weights in zip(scores.probabilities, seconds, attention, strict=True)
        ]
