"""The graphs of ONNX files: a model whose recurrent layers can be exported, and its weights as 8-bit integers."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ser.data.batching import average_frames, valid_frames
from ser.errors import SerError
from ser.inference.recognizer import Recognizer

# Position in PyTorch's order of each gate in ONNX's: reset, update, new -> update, reset, new of a GRU; input, forget,
# cell, output -> input, output, forget, cell of an LSTM.
_ONNX_GATES = {"gru": [1, 0, 2], "lstm": [0, 3, 1, 2]}
_SMALLEST = 4_096  # values; rounding smaller weights, such as the last layer's, costs accuracy and saves nothing


class FrameGraph(nn.Module):
    """Frames (B, L, D) as the encoder made them and lengths (B,) to probabilities (B, C)."""

    mean: Tensor
    std: Tensor

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.network = _exportable(recognizer.network)
        self.longest, self.average = recognizer.longest_frames, recognizer.config.average
        self.register_buffer("mean", recognizer.config.statistics.mean.clone())
        self.register_buffer("std", recognizer.config.statistics.std.clone())

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Cut, average, normalise, classify, softmax."""
        if self.longest is not None:
            lengths = lengths.clamp(max=self.longest)
        frames, lengths = average_frames(frames, lengths, self.average)
        normalised = (frames - self.mean) / self.std  # (B, L, D)
        normalised = normalised.masked_fill(~valid_frames(lengths, frames.shape[1]).unsqueeze(-1), 0.0)
        probabilities: Tensor = self.network(normalised, lengths).emotion_logits.softmax(dim=-1)
        return probabilities


class WaveformGraph(nn.Module):
    """Waveforms (B, N) at 16 kHz and their samples (B,) to probabilities (B, C)."""

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
        valid_samples = valid_frames(lengths, waveform.shape[1])
        frames, counts = self.encoder(waveform.masked_fill(~valid_samples, 0.0), lengths)
        probabilities: Tensor = self.classify(frames.half().float(), counts)
        return probabilities


@torch.library.custom_op("ser::recurrent", mutates_args=())
def recurrent(frames: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, hidden_size: int, cell: str) -> Tensor:
    """One recurrent layer in one direction from a zero state, (B, L, D) -> (B, L, H), as the one ONNX operator it is.

    ``torch.export`` would unroll the layer into a copy of its cell per frame of the example, which fixes the length;
    and onnxruntime has fast kernels for the operators.

    Frames are (B, L, D), the weights (1, G H, D) and the recurrence (1, G H, H) with the G gates of the ``cell``
    (``gru`` or ``lstm``) in ONNX's order, the bias (1, 2 G H) of the input, then of the recurrence.
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


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
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


def quantize_file(path: Path) -> None:
    """Replace the large weights of the ONNX file ``path`` by integers with one scale per output channel.

    They become single precision again when the file is loaded, and all products are computed in it. Dynamic
    quantisation (integer products) changes more labels of a trained model for a file of the same size, and onnxruntime
    has none for recurrent layers, which takes nearly all the time.
    """
    import onnx  # noqa: PLC0415
    from onnx import helper, numpy_helper  # noqa: PLC0415

    model = onnx.load(path)
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    nodes: dict[str, list[Any]] = {}
    for name, axis in _weights(model.graph.node):
        if name in nodes or name not in weights:
            continue
        values = numpy_helper.to_array(weights[name])
        if values.size < _SMALLEST or values.dtype != np.float32:
            continue
        integers, scale = _per_channel(values, axis % values.ndim)
        model.graph.initializer.remove(weights[name])
        model.graph.initializer.extend(
            [numpy_helper.from_array(integers, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
        )
        # Not DequantizeLinear: onnxruntime would fuse it with a MatMul and round the activations.
        cast = helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], to=onnx.TensorProto.FLOAT)
        nodes[name] = [cast, helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name])]
    for cast, product in nodes.values():
        model.graph.node.insert(0, product)
        model.graph.node.insert(0, cast)
    onnx.save(model, path)


def _weights(nodes: Any) -> Iterator[tuple[str, int]]:
    """Names of the nodes' weights, and the axis of their output channels."""
    for node in nodes:
        if node.op_type in ("GRU", "LSTM"):  # (1, G H, D) and (1, G H, H)
            yield from ((name, 1) for name in node.input[1:3])
        elif node.op_type == "Conv":  # (out, in, width)
            yield node.input[1], 0
        elif node.op_type in ("MatMul", "Gemm"):
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            yield node.input[1], 0 if transposed else -1


def _per_channel(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric integers and the scale of each channel along ``axis``, in a shape that broadcasts."""
    others = tuple(other for other in range(values.ndim) if other != axis)
    scale = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-12).astype(np.float32) / 127
    return np.round(values / scale).astype(np.int8), scale
