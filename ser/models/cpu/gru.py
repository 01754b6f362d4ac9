"""Training step of a bidirectional GRU on the CPU, with both directions in one loop and its gradient written out.

torch has a fused kernel for LSTMs on CPUs, but none for GRUs: ``nn.GRU`` takes some ten operations per frame and
direction, and its backward pass multiplies and adds up the gradients of the weights frame by frame. Here a frame takes
six operations forward and three backward for both directions, and each weight's gradient is one product over all
frames. Only public operations are used. docs/benchmarks.md has the figures (``python -m benchmarks.recurrent``).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ser.cpu import float32_products

ENABLED = True  # the switch: False leaves everything to nn.GRU
LARGEST = 8_192  # values of the batch's states: of more, large matrix products take most of the time either way
CHUNK = 65_536  # values of the gates that one piece of the backward pass holds, so that they stay in the core's cache


def can_train(layer: nn.Module, frames: Tensor) -> bool:
    """Whether this is a GRU that trains on a CPU, where it pays; elsewhere ``nn.GRU`` serves, as for what traces it."""
    if not ENABLED or type(layer) is not nn.GRU or frames.device.type != "cpu":
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or len(frames) * layer.hidden_size > LARGEST:
        return False
    needed = frames.requires_grad or any(weight.requires_grad for weight in layer.parameters())
    return needed and torch.is_grad_enabled()


def run_directions(layers: Sequence[nn.GRU], frames: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """States (B, L, H) of several layers of equal sizes, each over frames (B, L, D) of its own.

    Under an autocast all is in its precision, the states as well, which ``nn.GRU`` keeps in single precision.
    """
    stacked = torch.stack([part.transpose(0, 1) for part in frames])  # (G, L, B, D)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [torch.stack([getattr(layer, name) for layer in layers]) for name in names]
    if torch.is_autocast_enabled("cpu") and stacked.dtype != torch.float64:
        precision = torch.get_autocast_dtype("cpu")
        stacked, weights = stacked.to(precision), [weight.to(precision) for weight in weights]
    with torch.autocast("cpu", enabled=False):
        states: Tensor = GRUSteps.apply(stacked, *weights)
    return states.transpose(1, 2).unbind(0)


class GRUSteps(torch.autograd.Function):
    """G independent GRU layers (Cho et al. 2014, in torch's form), each over its own frames.

    Per frame, with the product h W of the state before it: r and z = sigmoid(x W + h W), n = tanh(x W + r (h W)),
    state = n + z (h - n).
    """

    @staticmethod
    def forward(
        ctx: Any, frames: Tensor, weight_input: Tensor, weight_state: Tensor, bias_input: Tensor, bias_state: Tensor
    ) -> Tensor:
        """States (G, L, B, H) of frames (G, L, B, D); weights (G, 3H, D) and (G, 3H, H), biases (G, 3H)."""
        groups, length, batch, _ = frames.shape
        size = weight_state.shape[2]
        rz, last = slice(0, 2 * size), slice(2 * size, None)  # of the gates
        of_input = torch.baddbmm(bias_input.unsqueeze(1), frames.flatten(1, 2), weight_input.transpose(1, 2))
        of_input = of_input.unflatten(1, (length, batch))  # (G, L, B, 3H)
        states = frames.new_empty(groups, length + 1, batch, size)
        states[:, 0] = 0
        gates = frames.new_empty(groups, length, batch, 2 * size)  # r and z
        new = frames.new_empty(groups, length, batch, size)  # n
        of_state = frames.new_empty(groups, length, batch, 3 * size)
        weight, bias = weight_state.transpose(1, 2).contiguous(), bias_state.unsqueeze(1)
        # A list of views per tensor: indexing inside the loop would take longer than the arithmetic.
        xs, xn = of_input[..., rz].unbind(1), of_input[..., last].unbind(1)
        hs, hn, whole = of_state[..., rz].unbind(1), of_state[..., last].unbind(1), of_state.unbind(1)
        r, z, both = gates[..., :size].unbind(1), gates[..., size:].unbind(1), gates.unbind(1)
        n, state = new.unbind(1), states.unbind(1)
        with float32_products(batch * weight[0].numel()):
            for t in range(length):
                torch.baddbmm(bias, state[t], weight, out=whole[t])
                torch.add(xs[t], hs[t], out=both[t]).sigmoid_()
                torch.addcmul(xn[t], r[t], hn[t], out=n[t]).tanh_()
                torch.lerp(n[t], state[t], z[t], out=state[t + 1])
        ctx.save_for_backward(frames, states, gates, new, of_state[..., last], weight_input, weight_state)
        return states[:, 1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments of ``forward``, which have none of their own."""
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("this GRU has no second derivatives on a CPU; set ser.models.cpu.gru.ENABLED = False")
        frames, states, gates, new, state_part, weight_input, weight_state = ctx.saved_tensors
        groups, length, batch, size = new.shape
        before = states[:, :-1]
        of_states = gradient.contiguous().clone()  # (G, L, B, H), to which each frame adds what comes through the next
        of_gates = frames.new_empty(groups, length, batch, 3, size)  # of r, z and n's part of the state, before sigmoid
        of_new = torch.empty_like(new)  # of n's part of the input
        of_state, wide = of_states.unbind(1), of_states.unsqueeze(3).unbind(1)
        gate, flat = of_gates.unbind(1), of_gates.flatten(3).unbind(1)
        frames_at_once = max(1, CHUNK // max(1, 3 * groups * batch * size))
        for stop in range(length, 0, -frames_at_once):
            piece = slice(start := max(0, stop - frames_at_once), stop)
            slopes, of_n = _slopes(gates[:, piece], new[:, piece], state_part[:, piece], before[:, piece])
            slope, z = slopes.unbind(1), gates[:, piece, :, size:].unbind(1)
            with float32_products(batch * weight_state[0].numel()):
                for t in range(stop - 1, start - 1, -1):
                    torch.mul(wide[t], slope[t - start], out=gate[t])
                    if t:
                        of_state[t - 1].addcmul_(of_state[t], z[t - start]).baddbmm_(flat[t], weight_state)
            torch.mul(of_states[:, piece], of_n, out=of_new[:, piece])
        found = of_gates.flatten(3).flatten(1, 2)  # (G, L B, 3H)
        of_weight_state, of_bias_state = found.transpose(1, 2) @ before.flatten(1, 2), found.sum(1)
        found[..., 2 * size :] = of_new.flatten(1, 2)
        of_weight_input, of_bias_input = found.transpose(1, 2) @ frames.flatten(1, 2), found.sum(1)
        of_frames = (found @ weight_input).view_as(frames) if ctx.needs_input_grad[0] else None
        return of_frames, of_weight_input, of_weight_state, of_bias_input, of_bias_state


def _slopes(gates: Tensor, new: Tensor, state_part: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """What a state's gradient is multiplied by for that of its gates (G, L, B, 3, H) and of n's input (G, L, B, H)."""
    size = new.shape[-1]
    r, z = gates[..., :size], gates[..., size:]
    of_n = (1 - z).mul_(1 - new * new)
    slopes = new.new_empty(*new.shape[:-1], 3, size)
    torch.mul((of_n * state_part).mul_(r), 1 - r, out=slopes[..., 0, :])
    torch.mul((before - new).mul_(z), 1 - z, out=slopes[..., 1, :])
    torch.mul(of_n, r, out=slopes[..., 2, :])
    return slopes, of_n
