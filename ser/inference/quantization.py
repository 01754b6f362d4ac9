"""ONNX weights as 8-bit integers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 4_096  # values: smaller weights, the last layer's among them, cost accuracy and save nothing


def quantize_file(path: Path) -> None:
    """Store the large weights in ``path`` as integers with one scale an output channel, in place.

    They become single precision again when the file is loaded, and all products are computed in it. Integer products
    (dynamic quantisation) were tried: rounding the activations moves more labels of a trained model than rounding all
    weights does, for a file of the same size, and onnxruntime has none for the GRU, which takes nearly all the time.
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
        # Not DequantizeLinear: onnxruntime would join it to a MatMul and round the activations again.
        cast = helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], to=onnx.TensorProto.FLOAT)
        nodes[name] = [cast, helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name])]
    for cast, product in nodes.values():
        model.graph.node.insert(0, product)
        model.graph.node.insert(0, cast)
    onnx.save(model, path)


def _weights(nodes: Any) -> Iterator[tuple[str, int]]:
    """Names of what the nodes multiply by, and the axis of its output channels."""
    for node in nodes:
        if node.op_type == "GRU":  # (1, 3H, D) and (1, 3H, H)
            yield from ((name, 1) for name in node.input[1:3])
        elif node.op_type == "Conv":  # (out, in, width)
            yield node.input[1], 0
        elif node.op_type in ("MatMul", "Gemm"):
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            yield node.input[1], 0 if transposed else -1


def _per_channel(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric integers, and the scale of each of the channels along ``axis`` in a form that broadcasts."""
    others = tuple(other for other in range(values.ndim) if other != axis)
    scale = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-12).astype(np.float32) / 127
    return np.round(values / scale).astype(np.int8), scale
