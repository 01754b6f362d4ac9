"""What computes: the encoder, and the network in PyTorch or ONNX, or both in one ONNX file."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ser.data.audio import SAMPLE_RATE
from ser.data.batching import average_frames, valid_frames
from ser.data.normalization import FrameStatistics
from ser.encoders import Encoder, encode
from ser.encoders.pretrained import PretrainedEncoder
from ser.errors import SerError
from ser.inference.checkpoint import ModelConfig, read_checkpoint, read_folder
from ser.models import network as models
from ser.models.network import construct

_FILES = {"config", "weights"}  # of an encoder's description: hashes of its files
_ROUNDING = 0.01  # of the test sound's frames. Whisper's weights rounded to 11 bits: 0.0007, with noise of 1%: 0.024
METADATA_KEY = "ser_config"  # in an ONNX file's metadata_props
WAVEFORM, FRAMES = "waveform", "frames"  # name of an ONNX graph's first input, which says what it takes


class Scores(NamedTuple):
    """Output of a model for a batch."""

    probabilities: NDArray[np.float64]  # (B, C) in double precision
    attention: list[NDArray[np.float32]] | None  # per utterance (L,), how much its frames are attended to
    pooled: NDArray[np.float32] | None = None  # (B, P) features that the classifier gets; None from an ONNX file


class TorchNetwork:
    """The trained network in PyTorch; it averages ``average`` consecutive frames, as in training."""

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
        normalised = ((padded - mean) / std) * valid_frames(lengths, padded.shape[1])[..., None]
        output = self.network(normalised, lengths, return_attention=attention)
        probabilities = output.emotion_logits.float().softmax(-1).double().cpu().numpy()  # (B, C)
        weights = None
        if output.attention is not None:
            # A padded query's row means nothing; a valid one has no weight on padding.
            weights = [
                matrix[:length, :length].mean(0).float().cpu().numpy()
                for matrix, length in zip(output.attention, lengths.tolist(), strict=True)
            ]
        return Scores(probabilities, weights, output.pooled.float().cpu().numpy())


class OnnxNetwork:
    """The exported network in onnxruntime; averaging and normalisation by the training statistics are in its graph."""

    def __init__(self, session: Any, trained: FrameStatistics) -> None:
        self.session, self.trained = session, trained

    def __call__(self, frames: Sequence[Tensor], statistics: FrameStatistics, attention: bool = False) -> Scores:
        """Classify frames (L, D) as one batch; an exported network gives no attention."""
        if statistics is not self.trained:
            # Undone by the graph's own normalisation, which leaves the frames normalised by ``statistics``.
            scale = self.trained.std / statistics.std
            frames = [(utterance.cpu() - statistics.mean) * scale + self.trained.mean for utterance in frames]
        return _run(self.session, FRAMES, [utterance.cpu() for utterance in frames])


FrameModel = TorchNetwork | OnnxNetwork  # scores frames as the encoder made them


class OnnxWaveformModel:
    """An exported encoder and network in one graph, waveform in, probabilities out."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def __call__(self, waveforms: Sequence[Tensor]) -> Scores:
        """Classify 16 kHz mono waveforms (N,)."""
        return _run(self.session, WAVEFORM, waveforms)


def load_model(found: Path, device: torch.device) -> tuple[ModelConfig, FrameModel | OnnxWaveformModel]:
    """Description and model of what ``find_model`` found; an ONNX graph says by its input whether it has the encoder.

    Raises:
        SerError: it is damaged, of another kind, or onnxruntime is not installed.
    """
    if found.suffix == ".onnx":
        config, session = open_onnx(found, device)
        whole = session.get_inputs()[0].name == WAVEFORM
        return config, OnnxWaveformModel(session) if whole else OnnxNetwork(session, config.statistics)
    config, weights = read_folder(found) if found.is_dir() else read_checkpoint(found)
    return config, TorchNetwork(build_network(config, weights, found), device, config.average)


def build_network(config: ModelConfig, weights: Mapping[str, Tensor], source: Path) -> nn.Module:
    """The trained network.

    Raises:
        SerError: the description names another class than those of ser.models, or the weights do not fit it.
    """
    with torch.device("meta"):  # takes no memory, however large the description says the network is
        described = models.build_network(config.plain["network"]).state_dict()
    wanted, given = ({name: value.shape for name, value in part.items()} for part in (described, weights))
    differing = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if differing:
        raise SerError(
            f"the weights in {source} do not fit the network it describes ({differing[0]}); train or copy it again."
        )
    network = models.build_network(config.plain["network"])
    network.load_state_dict(dict(weights))
    return network


def build_encoder(
    config: ModelConfig,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    allow_download: bool = False,
) -> Encoder:
    """The encoder that a model was trained with.

    ``checkpoint`` (folder or Hub id) takes the place of the one in training, and its download is then allowed. By
    default it is that of the training, or where that is no folder here, the one in the variable SER_ENCODER. With
    ``allow_download`` the encoder that the model names is fetched where it is not on this machine.

    Raises:
        SerError: it cannot be built or fetched, or its frames are not those of the training.
    """
    description = dict(config.plain["encoder"])
    if checkpoint is None and "checkpoint" in description and not Path(str(description["checkpoint"])).is_dir():
        checkpoint = os.environ.get("SER_ENCODER") or None
    if checkpoint is not None:
        key = next((key for key in ("checkpoint", "root") if key in description), None)  # root: of features=files
        if key is None:
            raise SerError(
                f"the model's encoder is {description.get('_target_')}, which reads no checkpoint; leave out --encoder."
            )
        description[key] = str(checkpoint)
    encoder: Encoder = construct(description, "ser.encoders")
    if not isinstance(encoder, Encoder):
        raise SerError(f"{description.get('_target_')} is no encoder; use a checkpoint that `ser train` wrote.")
    if isinstance(encoder, PretrainedEncoder):
        encoder.allow_download = allow_download or checkpoint is not None
    check_encoder(config, encoder)
    return encoder.to(device)


def check_encoder(config: ModelConfig, encoder: Encoder) -> None:
    """Refuse an encoder whose frames are not those that the model was trained on."""
    if encoder.dim != config.input_size:
        raise SerError(
            f"the encoder gives frames of {encoder.dim} values, the network expects {config.input_size}; "
            "name the encoder it was trained with (--encoder FOLDER)."
        )
    trained = config.plain.get("encoder_identity")
    if trained is None:
        return
    found = json.loads(json.dumps(encoder.description()))  # tuples become lists, as in the checkpoint
    differing = [key for key in sorted(trained.keys() | found.keys()) if trained.get(key) != found.get(key)]
    if differing and set(differing) <= _FILES and _sounds_alike(config.plain.get("encoder_frames"), encoder):
        return  # other files of the same weights: in half precision, or with the decoder
    if differing:
        key = differing[0]
        raise SerError(
            f"the encoder is not the one of the training: {key}={found.get(key)!r}, expected {trained.get(key)!r}; "
            "name the encoder it was trained with (--encoder FOLDER)."
        )


def frames_of_test_sound(encoder: Encoder) -> Tensor:
    """Mean frame (D,) of a made-up second, which identifies the encoder of an exported model in any file format."""
    time = torch.arange(SAMPLE_RATE, dtype=torch.float64) / SAMPLE_RATE
    sound = 0.1 * torch.sin(2 * torch.pi * (150 + 200 * time) * time) + 0.05 * torch.sin(2 * torch.pi * 1500 * time)
    return encode(encoder, [sound.float()])[0].mean(0).float().cpu()


def _sounds_alike(expected: Any, encoder: Encoder) -> bool:
    """Whether the encoder's frames of the test sound equal those stored in an exported model, up to rounding."""
    try:
        wanted = torch.tensor(expected, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return False
    found = frames_of_test_sound(encoder)
    return wanted.shape == found.shape and float((found - wanted).norm()) <= _ROUNDING * float(wanted.norm())


def open_onnx(path: Path, device: torch.device) -> tuple[ModelConfig, Any]:
    """Description and onnxruntime session of an exported file.

    Raises:
        SerError: onnxruntime is not installed, or the file is no model that ``ser export`` wrote.
    """
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise SerError(f"{path} needs onnxruntime, which is not installed; pip install 'ser-lab[export]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = ["CUDAExecutionProvider"] * (device.type == "cuda") + ["CPUExecutionProvider"]
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


def _run(session: Any, name: str, rows: Sequence[Tensor]) -> Scores:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    batch = pad_sequence([row.float() for row in rows], batch_first=True).numpy()  # (B, L, D) or (B, N)
    probabilities = session.run(["probabilities"], {name: batch, "lengths": lengths})[0]
    return Scores(probabilities.astype(np.float64), None)
