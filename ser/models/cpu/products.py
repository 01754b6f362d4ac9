"""Matrix products with one weight, many times over: forward, back, and the gradient of the weight."""

import torch
from torch import Tensor
from torch.nn import functional as F


class PlainProduct:
    """Products with a weight (O, I) by torch's own matrix product, in the precision of the weight."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def apply(self, rows: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        return F.linear(rows, self.weight)

    def back(self, rows: Tensor) -> Tensor:
        """(N, O) -> (N, I)."""
        return rows @ self.weight

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """Gradient of the weight: (N, O), (N, I) -> (O, I)."""
        return left.t() @ right


class PackedProduct(PlainProduct):
    """The same by oneDNN, with the weight reordered once for all its products; float32 and bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.forth: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.transposed: Tensor | None = None

    def apply(self, rows: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        return torch.ops.mkldnn._linear_pointwise(rows, self.forth, None, "none", [], "")

    def back(self, rows: Tensor) -> Tensor:
        """(N, O) -> (N, I)."""
        if self.transposed is None:
            self.transposed = torch.ops.mkldnn._reorder_linear_weight(self.weight.t())
        return torch.ops.mkldnn._linear_pointwise(rows, self.transposed, None, "none", [], "")

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """Gradient of the weight: (N, O), (N, I) -> (O, I)."""
        if left.dtype != torch.float32:
            return super().outer(left, right)  # torch's own product is oneDNN's in bfloat16
        gradient, _ = torch.ops.aten.mkldnn_linear_backward_weights(
            left.to_mkldnn(), right.to_mkldnn(), self.weight, False
        )
        return gradient


def best_product(precision: torch.dtype) -> type[PlainProduct]:
    """Packed where this build's oneDNN knows the precision; the choice never depends on timing, so runs repeat."""
    built = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if precision == torch.bfloat16:
        built = built and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return PackedProduct if built and precision in {torch.float32, torch.bfloat16} else PlainProduct


def has_bf16_instructions() -> bool:
    """Whether this CPU multiplies bfloat16 itself; where it does not, bfloat16 is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def product_precision(weight: Tensor) -> torch.dtype:
    """Precision to multiply in: bfloat16 under autocast to it on CPUs with instructions for it, else the weight's."""
    asked = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return torch.bfloat16 if asked and has_bf16_instructions() else weight.dtype
