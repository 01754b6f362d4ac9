"""Training step of the bidirectional GRU layer against ``nn.GRU``, of whole networks, and of EnhancedGRU in bf16.

The layer is compared with a packed ``nn.GRU`` and with two ``nn.GRU`` of one direction, the networks with themselves
on two ``nn.GRU``, bf16 with fp32. The speed of matrix products in bf16 against fp32 stands beside that: no training
step can gain more.

    python -m benchmarks.recurrent --repeats 5 --threads 1

Every round times all variants one after the other, so that other load on the machine affects all of them alike; the
figures are medians, of CPU seconds with one thread and of the clock with more.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ser.cpu import float32_products, network_products
from ser.models.cpu import gru
from ser.models.layers import BidirectionalRNN
from ser.models.recurrent import BottleneckGRU, EnhancedGRU

SIZES = [(16, 50, 64, 32), (16, 150, 64, 32), (16, 200, 128, 64), (32, 200, 256, 128)]  # B, L, D, H
BATCH, FRAMES, WIDTH = 16, 200, 768  # of EnhancedGRU's input: HuBERT base, 4 s
NETWORKS = [("gru", 64), ("lstm", 64), ("gru", 256)]  # cell, H of EnhancedGRU


class PackedGRU(nn.Module):
    """The usual way to respect lengths: a bidirectional ``nn.GRU`` over packed sequences."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True, bidirectional=True)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, D), (B,) -> (B, L, 2H)."""
        packed = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=frames.shape[1])
        return states


def clock() -> float:
    """Seconds: of this process's CPU time with one thread (other processes do not count), else of the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def step(network: nn.Module, frames: Tensor, lengths: Tensor, bf16: bool = False) -> None:
    """One forward and backward pass."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        result = network(frames, lengths)
        total: Tensor = (result if isinstance(result, Tensor) else result.emotion_logits).float().square().mean()
    total.backward()
    network.zero_grad()


def plain_step(network: nn.Module, frames: Tensor, lengths: Tensor) -> None:
    """The same on two ``nn.GRU``, as where no gradient is needed."""
    with mock.patch.object(gru, "ENABLED", False):
        step(network, frames, lengths)


def alternate(variants: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each variant, in rounds; one round more warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats + 1):
        for name, run in variants.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: median(values[1:]) for name, values in seconds.items()}


def report(title: str, seconds: dict[str, float]) -> None:
    """Print one line per variant: milliseconds, and the first variant's time over it."""
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"{title:28s} {name:14s} {value * 1e3:8.1f} ms {first / value:6.2f}x", flush=True)


def main() -> None:
    """Time every layer size, then the whole network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.threads} threads, {torch.backends.cpu.get_cpu_capability()}")
    for batch, frames, inputs, hidden in SIZES:
        lengths = torch.randint(int(0.95 * frames), frames + 1, (batch,))  # as batches of similar length have them
        x = torch.randn(batch, frames, inputs)
        packed, ours = PackedGRU(inputs, hidden), BidirectionalRNN(inputs, hidden)
        variants = {
            "packed nn.GRU": partial(step, packed, x, lengths),
            "two nn.GRU": partial(plain_step, ours, x, lengths),
            "ours": partial(step, ours, x, lengths),
        }
        report(f"B {batch} L {frames} D {inputs} H {hidden}", alternate(variants, options.repeats))
    x, lengths = (
        torch.randn(BATCH, FRAMES // 4, WIDTH),
        torch.randint(47, FRAMES // 4 + 1, (BATCH,)),
    )  # means of 4 frames
    for title, network in (
        ("BottleneckGRU H 32", BottleneckGRU(WIDTH, 4)),
        ("EnhancedGRU H 64", EnhancedGRU(WIDTH, 4, hidden_size=64)),
    ):
        kinds = {"two nn.GRU": plain_step, "ours": step}
        variants = {name: partial(kind, network, x, lengths) for name, kind in kinds.items()}
        with network_products(network):  # as in a training
            report(f"{title} L {FRAMES // 4}", alternate(variants, options.repeats))
    single = torch.randn(2048, 2048)
    half = single.bfloat16()
    products = {"fp32": partial(torch.mm, single, single), "bf16": partial(torch.mm, half, half)}
    with float32_products():
        report("matrix product, 2048", alternate(products, options.repeats))
    x, lengths = torch.randn(BATCH, FRAMES, WIDTH), torch.randint(int(0.95 * FRAMES), FRAMES + 1, (BATCH,))
    for cell, hidden in NETWORKS:
        network = EnhancedGRU(WIDTH, 4, hidden_size=hidden, cell=cell)
        variants = {name: partial(step, network, x, lengths, name == "bf16") for name in ("fp32", "bf16")}
        with network_products(network):
            report(f"EnhancedGRU {cell} H {hidden}", alternate(variants, options.repeats))


if __name__ == "__main__":
    main()
