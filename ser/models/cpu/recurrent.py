"""A bidirectional GRU layer whose training step on CPU is made of few, large operations.

``nn.GRU`` on CPU records every operation of every step for autograd. Here the derivative is written out (the equations
are those of ``torch.nn.GRU``: Cho et al. 2014, with the reset gate after the recurrent product):

* both directions advance in the same operations, the backward one from the last frame to the first;
* products with the input are made for a block of steps at once, as are the gradients of all weights and of the input;
* what the derivative needs of the gates is prepared for a block of steps at once, so that going back one step is
  little more than the product with the recurrent weights;
* matrix products run in oneDNN on weights packed once a call, which on some CPUs (AMD's) is twice as fast in float32
  as torch's default.

Before its true end (backward) and after it (forward), an utterance's update gate is held at 1: the state stays as it is
and padding gets no gradient.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ser.models.cpu.products import PlainProduct, best_product

BLOCK_ROWS = 1024  # rows (steps x utterances) of one large product: enough for full speed, small enough for the caches
INFERENCE_UNITS = 2048  # B * H from which inference is faster than nn.GRU's
HOLD = 1e30  # update gate's input that makes the gate exactly 1


class Direction(NamedTuple):
    """Products and bias of one direction; the rows of ``recurrent`` stand in the order n, r, z."""

    input: PlainProduct
    recurrent: PlainProduct
    bias: Tensor  # (4H,): of the recurrent part of n, of r, z (both biases) and of the input part of n


def make_direction(weights: Sequence[Tensor], precision: torch.dtype) -> Direction:
    """Prepare (weight_ih, weight_hh, bias_ih, bias_hh) of an ``nn.GRU`` for products in ``precision``."""
    weight_ih, weight_hh, bias_ih, bias_hh = (weight.detach() for weight in weights)
    size = weight_hh.shape[1]
    product = best_product(precision)
    bias = torch.cat((bias_hh[2 * size :], bias_ih[: 2 * size] + bias_hh[: 2 * size], bias_ih[2 * size :]))
    return Direction(product(weight_ih.to(precision)), product(weight_hh.roll(size, 0).to(precision)), bias)


class Span(NamedTuple):
    """A block of steps: frames ``[first, last)`` of the forward direction, the mirrored ones of the backward one."""

    first: int
    last: int
    frames: int

    def place(self, index: int) -> slice:
        """Where the frames of direction ``index`` stand in a time-major (L, ...) tensor."""
        return slice(self.first, self.last) if index == 0 else slice(self.frames - self.last, self.frames - self.first)


def in_order(block: Tensor, index: int) -> Tensor:
    """Turn (S, ...) from the order of time into that of a direction, or back."""
    return block.flip(0) if index else block


def spans(frames: int, batch: int) -> list[Span]:
    """Cut L steps into blocks of about ``BLOCK_ROWS`` rows."""
    steps = max(1, BLOCK_ROWS // batch)
    return [Span(first, min(first + steps, frames), frames) for first in range(0, frames, steps)]


def project(
    gates: Tensor, frames: Tensor, lengths: Tensor, span: Span, directions: tuple[Direction, Direction]
) -> None:
    """Put what the frames (L, B, D) and the biases give to the gates of a block into ``gates`` (2, S, B, 4H)."""
    size = gates.shape[-1] // 4
    for index, direction in enumerate(directions):
        block = frames[span.place(index)]  # (S, B, D)
        rows = direction.input.apply(block.flatten(0, 1)).view(*block.shape[:2], 3 * size)
        own = gates[index]  # (S, B, 4H)
        own.copy_(direction.bias)
        own[..., size:] += in_order(rows, index)
        time = torch.arange(span.frames, device=lengths.device)[span.place(index)]
        ended = in_order(time.unsqueeze(1) >= lengths, index)  # (S, B)
        if ended.any():
            own[..., 2 * size : 3 * size].masked_fill_(ended.unsqueeze(-1), HOLD)
    gates[..., 3 * size :].mul_(2)  # tanh(x) is 2 sigmoid(2x) - 1; a sigmoid takes a sixth of the time here


def advance(gates: Tensor, states: Tensor, narrow: Tensor, directions: tuple[Direction, Direction]) -> None:
    """Run the steps of a block, turning the inputs of ``gates`` (2, S, B, 4H) into gates and filling the states.

    ``states`` (2, S + 1, B, H) and ``narrow``, the same in the precision of the products, hold the state before.
    """
    size = states.shape[-1]
    minus_one = states.new_full((), -1.0)
    (ahead, back), (fine_ahead, fine_back) = (
        [half.unbind(0) for half in tensor] for tensor in (gates[..., : 3 * size], narrow)
    )
    apply_ahead, apply_back = (direction.recurrent.apply for direction in directions)
    both = gates[..., size : 3 * size].unbind(1)  # r and z
    wide, fine = states.unbind(1), narrow.unbind(1)
    parts = [part.unbind(1) for part in gates.chunk(4, dim=-1)]
    for step, (recurrent, reset, update, new) in enumerate(zip(*parts, strict=True)):
        ahead[step].add_(apply_ahead(fine_ahead[step]))
        back[step].add_(apply_back(fine_back[step]))
        both[step].sigmoid_()
        new.addcmul_(reset, recurrent, value=2).sigmoid_()
        torch.add(minus_one, new, alpha=2, out=new)
        torch.lerp(new, wide[step], update, out=wide[step + 1])  # n + z (h - n)
        if narrow.dtype != states.dtype:
            fine[step + 1].copy_(wide[step + 1])


def derivatives(gates: Tensor, before: Tensor) -> Tensor:
    """Derivatives of each new state by the four inputs of its gates: (2, S, B, 4H), (2, S, B, H) -> (2, S, B, 4H)."""
    recurrent, reset, update, new = gates.chunk(4, dim=-1)
    slopes = torch.empty_like(gates)
    to_recurrent, to_reset, to_update, to_new = slopes.chunk(4, dim=-1)
    rest = 1 - update
    torch.mul(rest, new, out=to_update)
    torch.addcmul(rest, to_update, new, value=-1, out=to_new)  # (1 - z) (1 - n^2)
    torch.mul(to_new, reset, out=to_recurrent)
    torch.mul(to_recurrent, recurrent, out=to_reset)
    to_reset.addcmul_(to_reset, reset, value=-1)  # times 1 - r
    torch.sub(before, new, out=to_update).mul_(update).mul_(rest)
    return slopes


def retreat(
    arriving: Tensor, ahead: Tensor, updates: Tensor, slopes: Tensor, directions: tuple[Direction, Direction]
) -> Tensor:
    """Go back through a block, turning slopes into gradients of the inputs of the gates.

    Args:
        arriving: (2, S, B, H), gradient of the output of each step.
        ahead: (2, B, H), gradient that reaches the block's last state from later steps.
        updates: (2, S, B, H), update gates.
        slopes: (2, S, B, 4H), :func:`derivatives`, in the precision of the products; changed in place.
        directions: the weights.

    Returns:
        Gradient of the state before the block (2, B, H).
    """
    size = ahead.shape[-1]
    (first, second) = (half.unbind(0) for half in slopes[..., : 3 * size])
    back_first, back_second = (direction.recurrent.back for direction in directions)
    steps = zip(*(tensor.unbind(1) for tensor in (arriving, updates, slopes.unflatten(-1, (4, size)))), strict=True)
    for step, (arrived, update, slope) in reversed(list(enumerate(steps))):
        ahead = ahead.add_(arrived)
        slope.mul_(ahead.to(slope.dtype).unsqueeze(2))  # (2, B, 4, H)
        ahead = ahead.mul_(update)
        ahead[0].add_(back_first(first[step]))
        ahead[1].add_(back_second(second[step]))
    return ahead


class WeightGradient:
    """Sums the gradients of the four weights of one direction over blocks."""

    def __init__(self, direction: Direction, dtype: torch.dtype) -> None:
        self.direction = direction
        self.input = torch.zeros_like(direction.input.weight, dtype=dtype)
        self.recurrent = torch.zeros_like(direction.recurrent.weight, dtype=dtype)
        self.bias = torch.zeros_like(direction.bias)

    def add(self, gradients: Tensor, inputs: Tensor, before: Tensor) -> None:
        """Add a block: gradients of the gates' inputs (N, 4H), frames (N, D), states before the step (N, H)."""
        size = before.shape[-1]
        self.input += self.direction.input.outer(gradients[:, size:], inputs)
        self.recurrent += self.direction.recurrent.outer(gradients[:, : 3 * size], before)
        self.bias += gradients.sum(0, dtype=self.bias.dtype)

    def result(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients in the order and layout of ``nn.GRU``: weight_ih, weight_hh, bias_ih, bias_hh."""
        size = self.recurrent.shape[1]
        return self.input, self.recurrent.roll(-size, 0), self.bias[size:], self.bias[: 3 * size].roll(-size)


class BidirectionalRecurrence(torch.autograd.Function):
    """Both directions over time-major frames; see :func:`bidirectional_gru`.

    The gates of a block of S steps are kept as (2, S, B, 4H): recurrent part of n, r, z, n. A recurrent product adds to
    the first 3H columns, a product with the input to the last 3H; their gradients have the same layout.
    """

    @staticmethod
    def forward(
        ctx: Any, frames: Tensor, lengths: Tensor, precision: torch.dtype, keep: bool, *weights: Tensor
    ) -> Tensor:
        """(L, B, D) -> (L, B, 2H); ``keep`` says whether a derivative will be asked for."""
        count, batch, _ = frames.shape
        size = weights[1].shape[1]
        directions = (make_direction(weights[:4], precision), make_direction(weights[4:], precision))
        frames = frames.to(precision).contiguous()
        states = weights[0].new_zeros(2, count + 1, batch, size)  # in each direction's order, the first all 0
        narrow = states if precision == states.dtype else torch.zeros_like(states, dtype=precision)
        output = states.new_empty(batch, count, 2 * size).transpose(0, 1)  # (L, B, 2H), laid out batch first
        gates: list[Tensor] = []
        blocks = spans(count, batch)
        for span in blocks:
            if keep or not gates:
                gates.append(states.new_empty(2, span.last - span.first, batch, 4 * size))
            current, around = gates[-1][:, : span.last - span.first], slice(span.first, span.last + 1)
            project(current, frames, lengths, span, directions)
            advance(current, states[:, around], narrow[:, around], directions)
            for index, half in enumerate(output.split(size, dim=-1)):
                half[span.place(index)] = in_order(states[index, span.first + 1 : span.last + 1], index)
        if keep:
            ctx.save_for_backward(frames, states, narrow, *gates)
            ctx.directions, ctx.spans = directions, blocks
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """(L, B, 2H) -> gradients of the frames and of all weights."""
        frames, states, narrow, *gates = ctx.saved_tensors
        directions: tuple[Direction, Direction] = ctx.directions
        size = states.shape[-1]
        to_frames = torch.zeros_like(frames, dtype=states.dtype) if ctx.needs_input_grad[0] else None
        sums = [WeightGradient(direction, states.dtype) for direction in directions]
        ahead = torch.zeros_like(states[:, 0])  # (2, B, H)
        for span, kept in zip(reversed(ctx.spans), reversed(gates), strict=True):
            steps = slice(span.first, span.last)
            halves = enumerate(gradient.split(size, dim=-1))
            arriving = torch.stack([in_order(half[span.place(index)], index) for index, half in halves])
            slopes = derivatives(kept, states[:, steps]).to(narrow.dtype)
            ahead = retreat(arriving, ahead, kept.chunk(4, dim=-1)[2], slopes, directions)
            for index, direction in enumerate(directions):
                rows = slopes[index].flatten(0, 1)  # (S * B, 4H)
                block = in_order(frames[span.place(index)], index)  # (S, B, D)
                sums[index].add(rows, block.flatten(0, 1), narrow[index, steps].flatten(0, 1))
                if to_frames is not None:
                    back = direction.input.back(rows[:, size:]).view(block.shape)
                    to_frames[span.place(index)] += in_order(back, index)
        return to_frames, None, None, None, *sums[0].result(), *sums[1].result()


def bidirectional_gru(frames: Tensor, lengths: Tensor, weights: Sequence[Tensor], precision: torch.dtype) -> Tensor:
    """Run both directions over padded utterances, the backward one from each true end. On CPU; derivable once.

    Args:
        frames: (B, L, D).
        lengths: (B,) valid frames of each utterance.
        weights: weight_ih, weight_hh, bias_ih, bias_hh of the forward ``nn.GRU``, then of the backward one.
        precision: of the matrix products; gates and states are at least float32.

    Returns:
        States (B, L, 2H) in the precision of the weights; those of padding mean nothing.
    """
    wide = torch.promote_types(weights[0].dtype, torch.float32)
    wide_weights = [weight.to(wide) for weight in weights]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (frames, *weights))
    time_major = frames.transpose(0, 1)  # (L, B, D)
    with torch.autocast("cpu", enabled=False):
        output: Tensor = BidirectionalRecurrence.apply(time_major, lengths, precision, keep, *wide_weights)
    return output.transpose(0, 1).to(weights[0].dtype)  # (B, L, 2H)


def pays(frames: Tensor, hidden_size: int, training: bool) -> bool:
    """Whether :func:`bidirectional_gru` can stand in for ``nn.GRU`` here, and is faster.

    Not where a graph is recorded for export, and not for small batches of which no derivative is asked: measured with
    L = 20 to 300 on 1 thread, it took 0.5 to 0.8 of the time of ``nn.GRU`` to train from H = 32 to 512 and B = 1 to 32
    (1.1 for one utterance of 20 frames), and to infer 0.5 to 1.0 from ``B * H = 2048`` on but up to 2.3 below.
    """
    recording = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()
    if frames.device.type != "cpu" or recording or 0 in frames.shape:
        return False
    return training or len(frames) * hidden_size >= INFERENCE_UNITS
