"""Ways of turning waveforms into probabilities: encoder and network in PyTorch, encoder and ONNX, or ONNX alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ser.data.batching import average_frames
from ser.data.normalization import FrameStatistics
from ser.errors import SerError
from ser.inference.checkpoint import ModelConfig

METADATA_KEY = "ser_config"  # in an ONNX file's metadata_props
WAVEFORM, FRAMES = "waveform", "frames"  # name of an ONNX graph's first input, which says what it takes


class Scores(NamedTuple):
    """Answer for a batch.

    Attributes:
        probabilities: (B, C) in double precision.
        attention: per utterance (L,), how much its frames are attended to, summing to 1; None without attention.
    """

    probabilities: NDArray[np.float64]
    attention: list[NDArray[np.float32]] | None


class FrameModel(Protocol):
    """Scores frames as the encoder made them."""

    def __call__(self, frames: Sequence[Tensor], statistics: FrameStatistics, attention: bool = False) -> Scores:
        """Normalise frames (L, D) by ``statistics`` and classify them as one batch."""


class TorchNetwork:
    """The trained network in PyTorch.

    Args:
        network: with its weights.
        device: where it computes.
        average: consecutive frames averaged into one, as in training.
    """

    def __init__(self, network: nn.Module, device: str | torch.device = "cpu", average: int = 1) -> None:
        self.device, self.average = torch.device(device), average
        self.network = network.eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def __call__(self, frames: Sequence[Tensor], statistics: FrameStatistics, attention: bool = False) -> Scores:
        """Average, normalise and classify frames (L, D) as one batch."""
        lengths = torch.tensor([len(utterance) for utterance in frames], device=self.device)
        mean, std = statistics.mean.to(self.device), statistics.std.to(self.device)
        padded = pad_sequence([utterance.to(self.device) for utterance in frames], batch_first=True)  # (B, L, D)
        padded, lengths = average_frames(padded, lengths, self.average)
        valid = torch.arange(padded.shape[1], device=self.device) < lengths[:, None]  # (B, L)
        normalised = ((padded - mean) / std) * valid[..., None]
        output = self.network(normalised, lengths, return_attention=attention)
        probabilities = output.emotion_logits.float().softmax(-1).double().cpu().numpy()  # (B, C)
        weights = None
        if output.attention is not None:
            # A padded query's row means nothing; a valid one has no weight on padding.
            weights = [
                matrix[:length, :length].mean(0).float().cpu().numpy()
                for matrix, length in zip(output.attention, lengths.tolist(), strict=True)
            ]
        return Scores(probabilities, weights)


class OnnxNetwork:
    """The exported network; averaging and normalisation by the training statistics are inside its graph.

    Args:
        session: an onnxruntime session of frames (B, L, D) and lengths (B,).
        trained: the statistics inside the graph.
    """

    def __init__(self, session: Any, trained: FrameStatistics) -> None:
        self.session, self.trained = session, trained

    def __call__(self, frames: Sequence[Tensor], statistics: FrameStatistics, attention: bool = False) -> Scores:
        """Classify frames (L, D) as one batch; an exported network gives no attention."""
        if statistics is not self.trained:
            # Undone by the graph's own normalisation, which leaves the frames normalised by ``statistics``.
            scale = self.trained.std / statistics.std
            frames = [(utterance.cpu() - statistics.mean) * scale + self.trained.mean for utterance in frames]
        return _run(self.session, FRAMES, [utterance.cpu() for utterance in frames])


class OnnxWaveformModel:
    """An exported encoder and network in one graph, waveform in, probabilities out."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def __call__(self, waveforms: Sequence[Tensor]) -> Scores:
        """Classify 16 kHz mono waveforms (N,)."""
        return _run(self.session, WAVEFORM, waveforms)


def open_onnx(path: Path, device: str = "cpu") -> tuple[ModelConfig, Any]:
    """Description and onnxruntime session of an exported file.

    Raises:
        SerError: onnxruntime is not installed, or the file is no model that ``ser export`` wrote.
    """
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise SerError(f"{path} needs onnxruntime, which is not installed; pip install 'ser[export]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = ["CUDAExecutionProvider"] * device.startswith("cuda") + ["CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        config = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    except Exception as error:  # onnxruntime's exceptions have no common base
        reason = "it says nothing of emotions" if isinstance(error, KeyError) else type(error).__name__
        raise SerError(
            f"{path} is no ONNX model that can be used here ({reason}), expected one that `ser export "
            "--format onnx` wrote; export it again."
        ) from error
    return ModelConfig.of(config, path), session


def takes_waveforms(session: Any) -> bool:
    """Whether the graph holds the encoder too."""
    return bool(session.get_inputs()[0].name == WAVEFORM)


def _run(session: Any, name: str, rows: Sequence[Tensor]) -> Scores:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    batch = pad_sequence([row.float() for row in rows], batch_first=True).numpy()  # (B, L, D) or (B, N)
    probabilities = session.run(["probabilities"], {name: batch, "lengths": lengths})[0]
    return Scores(probabilities.astype(np.float64), None)
