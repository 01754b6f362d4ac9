"""ONNX weights as 8-bit integers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 4_096  # values; rounding smaller weights, such as the last layer's, costs accuracy and saves nothing


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
