"""Training step of the bidirectional GRU layer, and of EnhancedGRU, against the same with ``nn.GRU``, in one run.

    python -m benchmarks.recurrent --repeats 5 --threads 2

Every round times all variants one after the other, so that whatever else the machine does meets all of them; the
figures are medians, of CPU seconds with one thread and of the clock with more. "Share" is the floating-point operations
of the matrix products (of the network: as counted by torch) over the best rate of one large matrix product of the same
precision, torch's own or oneDNN's, whichever is faster.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ser.models.cpu.products import best_product
from ser.models.enhanced_gru import EnhancedGRU
from ser.models.layers import BidirectionalGRU

SIZES = [(32, 300, 64, 32), (32, 300, 64, 64), (32, 200, 256, 128), (32, 200, 512, 256), (32, 200, 512, 512)]
WIDTH, FRAMES, BATCH = 768, 200, 32  # of EnhancedGRU's input: HuBERT base, 4 s


def clock() -> float:
    """Seconds: of this process's CPU time with one thread (other processes do not count), else of the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def peak(precision: torch.dtype, size: int = 1536) -> float:
    """Operations a second of the fastest large matrix product of this precision."""
    left, right = (torch.randn(size, size).to(precision) for _ in range(2))
    best = float("inf")
    with torch.no_grad():
        for product in (best_product(precision)(right).apply, partial(torch.matmul, other=right)):
            for _ in range(8):
                start = clock()
                product(left)
                best = min(best, clock() - start)
    return 2 * size**3 / best


def step(network: nn.Module, inputs: Sequence[Tensor], plain: bool, autocast: bool) -> None:
    """One forward and backward pass; ``plain`` with ``nn.GRU``."""
    with patch("ser.models.layers.pays", lambda *_: False) if plain else patch.dict({}):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            result = network(*inputs)
            total: Tensor = (result if isinstance(result, Tensor) else result.emotion_logits).float().square().mean()
        total.backward()
    network.zero_grad()


def alternate(variants: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each variant, in rounds; one round more warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats + 1):
        for name, run in variants.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: median(values[1:]) for name, values in seconds.items()}


def report(title: str, seconds: dict[str, float], operations: float, peaks: dict[str, float]) -> None:
    """Print one line a variant: milliseconds, ratio to the first, share of the peak."""
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        share = operations / value / peaks[name[-4:]]
        print(f"{title:28s} {name:20s} {value * 1e3:8.1f} ms {first / value:6.2f}x {share:6.0%}", flush=True)


def main() -> None:
    """Time every layer size, then the whole network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    parser.add_argument("--network-only", action="store_true", help="leave out the single layers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    peaks = {"fp32": peak(torch.float32), "bf16": peak(torch.bfloat16)}
    print(
        f"torch {torch.__version__}, {options.threads} threads, {torch.backends.cpu.get_cpu_capability()}; peak",
        end=" ",
    )
    print(", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in peaks.items()))
    for batch, frames, inputs, hidden in () if options.network_only else SIZES:
        lengths = torch.randint(int(0.95 * frames), frames + 1, (batch,))  # as batches of like lengths have them
        x = torch.randn(batch, frames, inputs, requires_grad=True)
        layer, held = BidirectionalGRU(inputs, hidden), BidirectionalGRU(inputs, hidden).bfloat16()
        variants = {
            "nn.GRU fp32": partial(step, layer, (x, lengths), True, False),
            "ours fp32": partial(step, layer, (x, lengths), False, False),
            "nn.GRU held bf16": partial(step, held, (x.detach().bfloat16().requires_grad_(), lengths), True, False),
            "nn.GRU autocast bf16": partial(step, layer, (x, lengths), True, True),
            "ours autocast bf16": partial(step, layer, (x, lengths), False, True),
        }
        operations = (
            3 * 2 * 2 * batch * frames * 3 * hidden * (inputs + hidden)
        )  # passes, 2 directions, multiply and add
        report(f"B {batch} L {frames} D {inputs} H {hidden}", alternate(variants, options.repeats), operations, peaks)
    network = EnhancedGRU(WIDTH, 4, 8)
    frames_in = torch.randn(BATCH, FRAMES, WIDTH)
    lengths = torch.randint(int(0.95 * FRAMES), FRAMES + 1, (BATCH,))
    variants = {
        f"{name} {precision}": partial(step, network, (frames_in, lengths), name == "nn.GRU", precision == "bf16")
        for precision in ("fp32", "bf16")
        for name in ("nn.GRU", "ours")
    }
    with FlopCounterMode(display=False) as counter:
        step(network, (frames_in, lengths), True, False)
    seconds, operations = alternate(variants, options.repeats), counter.get_total_flops()
    report(f"EnhancedGRU B {BATCH} L {FRAMES}", seconds, operations, peaks)
    share, gain = operations / seconds["ours fp32"] / peaks["fp32"], seconds["ours fp32"] / seconds["ours bf16"]
    print(f"share of the fp32 peak {share:.0%} (target 60%); bf16 over our fp32 {gain:.2f} (target 2; the peaks "
          f"allow {peaks['bf16'] / peaks['fp32']:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
