"""A trained model as one ONNX file, checked against PyTorch before it is in place."""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ser.data.audio import SAMPLE_RATE
from ser.data.batching import average_frames
from ser.encoders import FrameFiles
from ser.encoders.base import HOP_SAMPLES, valid
from ser.errors import SerError
from ser.inference.checkpoint import to_plain
from ser.inference.engines import FRAMES, METADATA_KEY, WAVEFORM, TorchNetwork
from ser.inference.recognizer import SHORTEST_SAMPLES, Prediction, Recognizer
from ser.io import atomic_path

TOLERANCE = 1e-4  # of a probability, between PyTorch and ONNX in single precision
# With the encoder inside, its last digits decide now and then to which half-precision number a frame's value rounds.
TOLERANCE_WITH_ENCODER = 1e-3
_OPSET = 18


class FrameGraph(nn.Module):
    """Frames (B, L, D) as the encoder made them and lengths (B,) to probabilities (B, C).

    Raises:
        SerError: it is an ONNX file.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        if not isinstance(recognizer.model, TorchNetwork):
            raise SerError(
                "an ONNX file cannot be exported again, expected a run folder, .ckpt or exported folder; name one "
                "with --checkpoint."
            )
        self.network = _exportable(recognizer.model.network)
        self.longest, self.average = recognizer.longest_frames, recognizer.config.average
        self.register_buffer("mean", recognizer.config.statistics.mean.clone())
        self.register_buffer("std", recognizer.config.statistics.std.clone())

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Cut, average, normalise, classify, softmax."""
        if self.longest is not None:
            lengths = lengths.clamp(max=self.longest)
        frames, lengths = average_frames(frames, lengths, self.average)
        normalised = (frames - self.mean) / self.std  # (B, L, D)
        normalised = normalised.masked_fill(~valid(lengths, frames.shape[1]).unsqueeze(-1), 0.0)
        probabilities: Tensor = self.network(normalised, lengths).emotion_logits.softmax(dim=-1)
        return probabilities


class WaveformGraph(nn.Module):
    """Waveforms (B, N) at 16 kHz and their samples (B,) to probabilities (B, C).

    Raises:
        SerError: the encoder computes in another precision than float32.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.classify = FrameGraph(recognizer)
        encoder: Any = recognizer.encoder
        if getattr(encoder, "dtype", "float32") != "float32":
            raise SerError(
                f"the encoder computes in {encoder.dtype}, expected float32 for a file that holds it; leave out "
                "--with-encoder."
            )
        encoder.load()
        self.encoder = copy.deepcopy(encoder).cpu()

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """The cut, the encoder, rounding to half precision as in the feature cache, then the network."""
        if self.encoder.longest is not None:
            waveform, lengths = waveform[:, : self.encoder.longest], lengths.clamp(max=self.encoder.longest)
        valid_samples = valid(lengths, waveform.shape[1])
        frames, counts = self.encoder(waveform.masked_fill(~valid_samples, 0.0), lengths)
        probabilities: Tensor = self.classify(frames.half().float(), counts)
        return probabilities


@torch.library.custom_op("ser::recurrent", mutates_args=())
def recurrent(frames: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, hidden_size: int, cell: str) -> Tensor:
    """One recurrent layer in one direction from a zero state, (B, L, D) -> (B, L, H), as the one ONNX operator it is.

    ``torch.export`` would unroll the layer into a copy of its cell per frame of the example, which fixes the length;
    and onnxruntime has fast kernels for the operators.

    Args:
        frames: (B, L, D).
        weight: (1, G H, D), the G gates in ONNX's order.
        recurrence: (1, G H, H).
        bias: (1, 2 G H), of the input, then of the recurrence.
        hidden_size: H.
        cell: ``gru`` (G = 3) or ``lstm`` (G = 4).
    """
    order = _ONNX_GATES[cell]
    back = [order.index(gate) for gate in range(len(order))]
    parameters = [_ordered(value, back) for value in (weight[0], recurrence[0], *bias[0].chunk(2))]
    start = frames.new_zeros(1, len(frames), hidden_size)
    options = (parameters, True, 1, 0.0, False, False, True)
    output: Tensor = (
        torch.gru(frames, start, *options)[0] if cell == "gru" else torch.lstm(frames, (start, start), *options)[0]
    )
    return output


@recurrent.register_fake
def _shape(frames: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, hidden_size: int, cell: str) -> Tensor:
    return frames.new_empty(frames.shape[0], frames.shape[1], hidden_size)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The ``custom_translation_table`` that ``torch.onnx.export`` needs for ``recurrent``."""
    from onnxscript import opset18  # noqa: PLC0415

    op: Any = opset18  # its annotations are those of ONNX types, not of what tracing passes

    def translated(frames: Any, weight: Any, recurrence: Any, bias: Any, hidden_size: int, cell: str) -> Any:
        parameters = (op.Transpose(frames, perm=[1, 0, 2]), weight, recurrence, bias)  # frames (L, B, D)
        if cell == "gru":
            output, _ = op.GRU(*parameters, hidden_size=hidden_size, linear_before_reset=1)
        else:
            output, _, _ = op.LSTM(*parameters, hidden_size=hidden_size)
        one_direction = op.Squeeze(output, op.Constant(value_ints=[1]))  # (L, 1, B, H) -> (L, B, H)
        return op.Transpose(one_direction, perm=[1, 0, 2])  # (B, L, H)

    return {torch.ops.ser.recurrent.default: translated}


class _ExportableRNN(nn.Module):
    """Replaces a one-layer, one-directional, batch-first ``nn.GRU`` or ``nn.LSTM`` that starts from zeros."""

    def __init__(self, layer: nn.GRU | nn.LSTM) -> None:
        super().__init__()
        if layer.num_layers != 1 or layer.bidirectional or not layer.batch_first or not layer.bias:
            raise TypeError(f"expected a layer of one direction, batch first, with bias: {layer}")
        self.hidden_size = layer.hidden_size
        self.cell = layer.mode.lower()
        weight, recurrence, *biases = (_ordered(value, _ONNX_GATES[self.cell]) for value in layer.parameters())
        self.register_buffer("weight", weight[None])
        self.register_buffer("recurrence", recurrence[None])
        self.register_buffer("bias", torch.cat(biases)[None])

    def forward(self, frames: Tensor) -> tuple[Tensor, None]:
        """(B, L, D) -> (B, L, H), and no final state."""
        weights = (self.weight, self.recurrence, self.bias)
        return torch.ops.ser.recurrent(frames, *weights, self.hidden_size, self.cell), None


# Position in PyTorch's order of each gate in ONNX's: reset, update, new -> update, reset, new of a GRU; input, forget,
# cell, output -> input, output, forget, cell of an LSTM.
_ONNX_GATES = {"gru": [1, 0, 2], "lstm": [0, 3, 1, 2]}


def _ordered(value: Tensor, gates: list[int]) -> Tensor:
    """Weights (G H, ...) with their G gates in the given order."""
    parts = value.detach().chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


def _exportable(network: nn.Module) -> nn.Module:
    """A copy on the CPU with exportable recurrent layers; convolutions hold their weight as one tensor."""
    network = copy.deepcopy(network).cpu()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GRU | nn.LSTM):
                setattr(module, name, _ExportableRNN(child))
            elif isinstance(child, nn.Conv1d) and is_parametrized(child, "weight"):
                # Not remove_parametrizations: the copy shares its class with the original, which would change too.
                sizes = (child.in_channels, child.out_channels, child.kernel_size[0])
                plain = nn.Conv1d(*sizes, padding=child.padding[0], groups=child.groups).requires_grad_(False)
                plain.load_state_dict({"weight": child.weight, "bias": child.bias})
                setattr(module, name, plain)
    return network


@dataclass(frozen=True)
class Agreement:
    """How an exported file answers compared with the model in PyTorch."""

    recordings: int  # how many were compared
    shortest: float  # seconds
    longest: float  # seconds
    largest_difference: float  # of a probability
    same_label: float  # fraction of recordings with the same label


def export_onnx(
    recognizer: Recognizer, path: str | Path, *, with_encoder: bool = False, quantize: bool = False
) -> dict[str, Agreement]:
    """Write an ONNX file with dynamic batch and time, and compare it with PyTorch before it is in place.

    Inputs are ``frames`` (B, L, D) as the encoder made them (averaging and normalisation are inside) or ``waveform``
    (B, N) at 16 kHz mono, and ``lengths`` (B,) int64 in frames or samples; the output is ``probabilities`` (B, C). The
    metadata hold the emotions and the description that Recognizer needs.

    Args:
        recognizer: a model in PyTorch.
        path: the file to write.
        with_encoder: put the encoder into the file too.
        quantize: store weights as 8-bit integers.

    Returns:
        Agreement of the single-precision file (``float32``) and, if asked for, of the quantised one (``int8``).

    Raises:
        SerError: packages are missing, the model cannot be exported, or the file disagrees with PyTorch.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise SerError(
            f"ONNX export needs {' and '.join(missing)}, which this installation lacks; pip install 'ser-lab[export]'."
        )
    found: dict[str, Agreement] = {}
    with atomic_path(path) as temporary:
        _write(recognizer, temporary, with_encoder)
        found["float32"] = agreement(recognizer, Recognizer.from_checkpoint(temporary, encoder=recognizer.encoder))
        tolerance = TOLERANCE_WITH_ENCODER if with_encoder else TOLERANCE
        if found["float32"].largest_difference > tolerance:
            raise SerError(
                f"the exported model differs from PyTorch by {found['float32'].largest_difference:.1e} in a "
                f"probability, expected at most {tolerance:.0e}; nothing was written, so please report it."
            )
        if quantize:
            from ser.inference.quantization import quantize_file  # noqa: PLC0415

            quantize_file(temporary)
            found["int8"] = agreement(recognizer, Recognizer.from_checkpoint(temporary, encoder=recognizer.encoder))
    return found


def agreement(one: Recognizer, other: Recognizer, waveforms: Sequence[Tensor] | None = None) -> Agreement:
    """Compare two forms of a model on waveforms at 16 kHz; None takes synthetic sounds of 25 ms to 30 s."""
    waveforms = test_sounds() if waveforms is None else waveforms
    pairs = [tuple(_predict(recognizer, waveform) for recognizer in (one, other)) for waveform in waveforms]
    values = [[list(prediction.probabilities.values()) for prediction in pair] for pair in pairs]
    gaps = np.ptp(np.array(values), axis=1)  # (n, C)
    seconds = [len(waveform) / SAMPLE_RATE for waveform in waveforms]
    same = [first.label == second.label for first, second in pairs]
    return Agreement(len(pairs), min(seconds), max(seconds), float(gaps.max()), float(np.mean(same)))


def _predict(recognizer: Recognizer, waveform: Tensor) -> Prediction:
    """The prediction of a waveform (N,), or of made-up frames of its length where the model takes no audio."""
    if not isinstance(recognizer.encoder, FrameFiles):
        return recognizer.predict_batch([waveform])[0]
    mean, std = recognizer.config.statistics.mean, recognizer.config.statistics.std
    length = len(waveform) // HOP_SAMPLES  # as encoders of 50 frames per second have
    noise = torch.randn(length, len(mean), generator=torch.Generator().manual_seed(length))
    return recognizer.classify([mean + std * noise], [length * HOP_SAMPLES / SAMPLE_RATE])[0]


def test_sounds(count: int = 40, seed: int = 0) -> list[Tensor]:
    """Gliding harmonics in noise, as different from each other as voices are; 25 ms to 30 s, in geometric steps."""
    generator = np.random.default_rng(seed)
    sounds = []
    for samples in np.geomspace(SHORTEST_SAMPLES, 30 * SAMPLE_RATE, count).astype(int):
        time = np.arange(samples) / SAMPLE_RATE
        pitch = generator.uniform(80, 300) * (1 + 0.3 * np.sin(2 * np.pi * generator.uniform(0.2, 2) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
        tilt = generator.uniform(0.5, 2)
        voice = sum(np.sin(order * phase) / order**tilt for order in range(1, 15))
        envelope = np.abs(np.sin(2 * np.pi * generator.uniform(1, 5) * time)) ** generator.uniform(0.5, 3)
        noise = generator.uniform(1e-4, 0.02) * generator.standard_normal(samples)
        sounds.append(torch.from_numpy(generator.uniform(0.02, 0.3) * voice * envelope + noise).float())
    return sounds


def _write(recognizer: Recognizer, path: Path, with_encoder: bool) -> None:
    graph: nn.Module
    if with_encoder:
        graph, name, time = WaveformGraph(recognizer), WAVEFORM, "samples"
        example, lengths = torch.randn(2, SAMPLE_RATE), torch.tensor([SAMPLE_RATE, SAMPLE_RATE // 2])
    else:
        graph, name, time = FrameGraph(recognizer), FRAMES, "time"
        example, lengths = torch.randn(2, 37, recognizer.config.input_size), torch.tensor([37, 20])
    batch = torch.export.Dim("batch")
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(),
            (example, lengths),
            dynamo=True,
            dynamic_shapes=({0: batch, 1: torch.export.Dim(time)}, {0: batch}),
            opset_version=_OPSET,
            input_names=[name, "lengths"],
            output_names=["probabilities"],
            verbose=False,
            custom_translation_table=_translations(),
        )
    if program is None:
        raise SerError("torch.onnx.export gave no program, expected one; install the versions that ser[export] names.")
    program.model.metadata_props.update(
        {
            METADATA_KEY: json.dumps(to_plain(recognizer.config.plain)),
            "emotions": ",".join(recognizer.emotions),
            "sample_rate": str(SAMPLE_RATE),
        }
    )
    program.save(path, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice off the screen; its errors are exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
