"""GRU layers as the one ONNX operator they are.

``torch.export`` unrolls ``nn.GRU`` into a copy of its cell for every frame of the example, which fixes the length. So
for export every ``nn.GRU`` is replaced by a module that calls an operator of its own, and that is translated to ONNX's
GRU, for which onnxruntime has a fast kernel.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


@torch.library.custom_op("ser::gru", mutates_args=())
def gru(frames: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, hidden_size: int) -> Tensor:
    """One layer in one direction from a zero state: (B, L, D) -> (B, L, hidden_size).

    Args:
        frames: (B, L, D).
        weight: (1, 3H, D), gates in ONNX's order: update, reset, new.
        recurrence: (1, 3H, H).
        bias: (1, 6H), of the input, then of the recurrence.
        hidden_size: H.
    """
    biases = bias[0].chunk(2)
    parameters = [_other_order(value) for value in (weight[0], recurrence[0], *biases)]
    start = frames.new_zeros(1, len(frames), hidden_size)
    output, _ = torch.gru(frames, start, parameters, True, 1, 0.0, False, False, True)
    return output


@gru.register_fake
def _shape(frames: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, hidden_size: int) -> Tensor:
    return frames.new_empty(frames.shape[0], frames.shape[1], hidden_size)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The ``custom_translation_table`` that ``torch.onnx.export`` needs for such networks."""
    from onnxscript import opset18  # noqa: PLC0415

    op: Any = opset18  # its annotations are those of ONNX types, not of what tracing passes

    def translated(frames: Any, weight: Any, recurrence: Any, bias: Any, hidden_size: int) -> Any:
        time_first = op.Transpose(frames, perm=[1, 0, 2])  # (L, B, D)
        output, _ = op.GRU(time_first, weight, recurrence, bias, hidden_size=hidden_size, linear_before_reset=1)
        one_direction = op.Squeeze(output, op.Constant(value_ints=[1]))  # (L, 1, B, H) -> (L, B, H)
        return op.Transpose(one_direction, perm=[1, 0, 2])  # (B, L, H)

    return {torch.ops.ser.gru.default: translated}


def exportable(network: nn.Module) -> nn.Module:
    """A copy of ``network`` in which every GRU is such a module."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GRU):
                setattr(module, name, _ExportableGRU(child))
    return network


class _ExportableGRU(nn.Module):
    """Stands in for a one-layer, one-directional, batch-first ``nn.GRU`` that starts from zeros."""

    def __init__(self, layer: nn.GRU) -> None:
        super().__init__()
        if layer.num_layers != 1 or layer.bidirectional or not layer.batch_first or not layer.bias:
            raise TypeError(f"expected a GRU of one layer and one direction, batch first, with bias: {layer}")
        self.hidden_size = layer.hidden_size
        weight, recurrence, *biases = (_other_order(value) for value in layer.parameters())
        self.register_buffer("weight", weight[None])
        self.register_buffer("recurrence", recurrence[None])
        self.register_buffer("bias", torch.cat(biases)[None])

    def forward(self, frames: Tensor) -> tuple[Tensor, None]:
        """(B, L, D) -> (B, L, H), and no final state."""
        return torch.ops.ser.gru(frames, self.weight, self.recurrence, self.bias, self.hidden_size), None


def _other_order(value: Tensor) -> Tensor:
    """PyTorch's order of gates (reset, update, new) from ONNX's (update, reset, new), or back: (3H, ...)."""
    first, second, third = value.detach().chunk(3)
    return torch.cat((second, first, third))
