"""ONNX weights as 8-bit integers."""

import itertools
import logging
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 16_384  # values: smaller weights, the last layer's among them, cost accuracy and save nothing


def quantize_file(path: Path) -> None:
    """Quantise the weights in ``path``, in place.

    Products are computed with integers (onnxruntime's dynamic quantisation, one scale a channel), but not those ahead
    of the first GRU, whose frames span more than 8 bits, nor small ones such as the last layer. onnxruntime has no
    integer GRU, so the weights of the GRUs are stored as integers with one scale a row and become single precision
    again when the file is loaded.
    """
    import onnx  # noqa: PLC0415
    from onnx import helper, numpy_helper  # noqa: PLC0415
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    whole = onnx.load(path)
    metadata = {entry.key: entry.value for entry in whole.metadata_props}
    del whole.graph.value_info[:]  # the quantiser transposes weights and would find their noted shapes wrong
    kept = [node.name for node in itertools.takewhile(lambda node: node.op_type != "GRU", whole.graph.node)]
    sizes = {weight.name: math.prod(weight.dims) for weight in whole.graph.initializer}
    kept += [node.name for node in whole.graph.node if sum(sizes.get(name, 0) for name in node.input) < _SMALLEST]
    advice = logging.getLogger()
    level = advice.level
    advice.setLevel(logging.ERROR)  # it recommends a preprocessing that the exporter has done already
    try:
        quantize_dynamic(
            whole,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=kept,
        )
    finally:
        advice.setLevel(level)
    model = onnx.load(path)
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    recurrent = [name for node in model.graph.node if node.op_type == "GRU" for name in node.input[1:3]]
    nodes = []
    for name in recurrent:
        values = numpy_helper.to_array(weights[name])  # (1, 3H, D)
        if values.size < _SMALLEST:
            continue
        integers, scale = _per_row(values[0])
        model.graph.initializer.remove(weights[name])
        model.graph.initializer.extend(
            [numpy_helper.from_array(integers[None], f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
        )
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=1))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    del model.metadata_props[:]
    helper.set_model_props(model, metadata)
    onnx.save(model, path)


def _per_row(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric integers of (rows, columns) and the scale (rows,) of each row."""
    scale = np.maximum(np.abs(values).max(axis=1), 1e-12).astype(np.float32) / 127
    return np.round(values / scale[:, None]).astype(np.int8), scale
