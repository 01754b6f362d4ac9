"""One call behind file, folder, microphone, page and exported model: a waveform in, a Prediction out."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ser.data.audio import SAMPLE_RATE
from ser.data.batching import length_batches
from ser.data.normalization import FrameStatistics
from ser.encoders import Encoder
from ser.errors import SerError
from ser.inference.checkpoint import ModelConfig, find_model, read_checkpoint, read_folder
from ser.inference.engines import (
    FrameModel,
    OnnxNetwork,
    OnnxWaveformModel,
    Scores,
    TorchNetwork,
    open_onnx,
    takes_waveforms,
)
from ser.inference.loading import build_encoder, from_hub, usable_device
from ser.inference.waveforms import Recording, Waveform, prepare
from ser.models.build import build_network


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording.

    Attributes:
        label: the most probable emotion.
        confidence: its probability.
        probabilities: of every emotion, in class order.
        seconds: length of the recording.
        normalization: whose statistics normalised the frames: none, global, training, speaker or stream (see
            FrameStatistics).
        windows: windows whose probabilities were averaged; 1 for a recording taken whole.
        attention: (L,) share of attention on each frame (evenly over ``seconds``), mean over queries; None unless
            asked for and there.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    seconds: float
    normalization: str
    windows: int = 1
    attention: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, emotions: Sequence[str], probabilities: Sequence[float], **facts: Any) -> "Prediction":
        """From probabilities in class order."""
        table = {name: float(value) for name, value in zip(emotions, probabilities, strict=True)}
        label = max(table, key=table.__getitem__)
        return cls(label, table[label], table, **facts)


class Recognizer:
    """Recognises emotions with a trained model; safe to call from several threads, which take turns.

    Frames go through half precision as they do in the feature cache, are cut to ``max_seconds`` and normalised as in
    training, so a training file gets the run's own prediction. Probabilities do not depend on batch mates (1e-5).

    Args:
        config: what the model says about itself.
        model: classifies the encoder's frames, or waveforms where the encoder is inside.
        encoder: waveforms to frames; None where it is inside ``model``.
    """

    def __init__(
        self, config: ModelConfig, model: FrameModel | OnnxWaveformModel, encoder: Encoder | None = None
    ) -> None:
        self.config, self.model, self.encoder = config, model, encoder
        self.emotions = config.emotions
        self._turn = threading.Lock()  # encoders hook into their models while they compute

    @property
    def longest_frames(self) -> int | None:
        """Encoder frames that training kept of an utterance; None: all of them, or the model itself cuts."""
        if self.config.max_seconds is None or self.encoder is None:
            return None
        return max(1, round(self.config.max_seconds * self.encoder.frame_rate))

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
    ) -> "Recognizer":
        """Load a run folder (its best epoch), a ``.ckpt``, an exported folder or an ``.onnx`` file.

        Nothing in the file is executed, and only classes of this package are built from it.

        Args:
            path: the model.
            encoder_checkpoint: local folder or Hub id of the pretrained encoder, if not where training had it.
            device: cpu, cuda or cuda:1.
            encoder: one that is loaded already, to share it between models.

        Raises:
            SerError: the model or its encoder is missing, damaged, of another kind or refused.
        """
        place = usable_device(device)
        found = find_model(path)
        if found.suffix == ".onnx":
            config, session = open_onnx(found, device)
            if takes_waveforms(session):
                return cls(config, OnnxWaveformModel(session))
            encoder = encoder or build_encoder(config, encoder_checkpoint, place)
            return cls(config, OnnxNetwork(session, config.statistics), encoder)
        config, weights = read_folder(found) if found.is_dir() else read_checkpoint(found)
        network = build_network(config.plain["network"])
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise SerError(
                f"the weights in {found} do not fit the network it describes "
                f"({str(error).splitlines()[0]}); train or copy it again."
            ) from error
        encoder = encoder or build_encoder(config, encoder_checkpoint, place)
        return cls(config, TorchNetwork(network, place, config.average), encoder)

    @classmethod
    def from_pretrained(
        cls, folder_or_hub_id: str | Path, encoder_checkpoint: str | Path | None = None, device: str = "cpu"
    ) -> "Recognizer":
        """Load what ``ser export --format hub`` wrote, from a local folder or the Hugging Face Hub.

        Raises:
            SerError: as from_checkpoint; or the Hub neither knows nor can give it.
        """
        folder = Path(folder_or_hub_id).expanduser()
        if not folder.exists():
            folder = from_hub(str(folder_or_hub_id))
        return cls.from_checkpoint(folder, encoder_checkpoint, device)

    def __call__(
        self,
        waveform: Waveform,
        sample_rate: int,
        *,
        statistics: FrameStatistics | None = None,
        attention: bool = False,
    ) -> Prediction:
        """Recognise one recording.

        Args:
            waveform: samples (N,) or (N, channels) in [-1, 1].
            sample_rate: Hz.
            statistics: whose mean and deviation normalise the frames; None: the training part's.
            attention: whether to return the share of attention on each frame.

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
        """Recognise several recordings, in batches of similar length, in the order given.

        Args:
            recordings: pairs of samples and rate in Hz.
            statistics: as for a single call, for all of them.
            attention: as for a single call.
            batch_seconds: padded audio in one batch.

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
        """Recognise prepared waveforms (16 kHz mono) as one batch."""
        if isinstance(self.model, OnnxWaveformModel):
            if statistics is not None:
                raise SerError(
                    "this exported model holds its encoder and normalises by the training statistics; for a "
                    "speaker's own, export without --with-encoder."
                )
            with self._turn:
                scores = self.model(waveforms)
            return self._predictions(scores, [len(w) / SAMPLE_RATE for w in waveforms], self.config.statistics)
        return self.classify(self.frames(waveforms), [len(w) / SAMPLE_RATE for w in waveforms], statistics, attention)

    def predict_file(self, path: str | Path, *, statistics: FrameStatistics | None = None) -> Prediction:
        """Recognise one file of any length; longer than 60 s it is averaged over windows (ser.inference.files).

        Raises:
            SerError: the file cannot be read.
        """
        return self.predict_files([path], statistics=statistics)[0]

    def predict_files(
        self, paths: Sequence[str | Path], *, statistics: FrameStatistics | None = None
    ) -> list[Prediction]:
        """Recognise files in the order given; for folders and bad files see ser.inference.files.

        Raises:
            SerError: a file cannot be read.
        """
        from ser.inference.files import predict_in_order  # noqa: PLC0415

        return predict_in_order(self, [Path(path) for path in paths], statistics)

    def frames(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Frames (L, D) of prepared waveforms, rounded to half precision as the feature cache does.

        Raises:
            SerError: a waveform is shorter than one frame, or the encoder is inside the model.
        """
        if self.encoder is None:
            raise SerError("this exported model holds its encoder and gives no frames; load the checkpoint instead.")
        with self._turn:
            frames = [found.half().float() for found in self.encoder(waveforms)]
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
        if isinstance(self.model, OnnxWaveformModel):
            raise SerError("this exported model holds its encoder and takes no frames; load the checkpoint instead.")
        statistics = statistics or self.config.statistics
        with self._turn:
            scores = self.model([utterance[: self.longest_frames] for utterance in frames], statistics, attention)
        return self._predictions(scores, seconds, statistics)

    def speaker_statistics(self, recordings: Sequence[Recording]) -> FrameStatistics:
        """Statistics of one speaker's recordings, for models trained with ``normalization=speaker``."""
        return FrameStatistics.of_frames(self.frames([prepare(*recording)])[0] for recording in recordings)

    def _predictions(self, scores: Scores, seconds: Sequence[float], statistics: FrameStatistics) -> list[Prediction]:
        attention: Sequence[Any] = scores.attention or [None] * len(seconds)
        return [
            Prediction.of(self.emotions, row, seconds=length, normalization=statistics.source, attention=weights)
            for row, length, weights in zip(scores.probabilities, seconds, attention, strict=True)
        ]
