"""Epochs of a small network alone and beside busy processes, with one thread and with all.

    python -m benchmarks.contention --busy 1

Short parallel parts wait for the slowest of their threads. Where another program has one of the cores, that thread is
late every time, so two threads can be slower than one. ``trainer.threads=auto`` takes one thread for a small network.
Elapsed time per epoch; the ratio is that beside the busy processes to that alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks.composing import Experiment, compose_experiment
from benchmarks.overhead import bare_epoch
from ser.run.trainer import count_threads

TARGET = 1.5


def main() -> None:
    """Print a row per number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=1, help="busy processes beside it (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="epochs each, of which the median counts")
    parser.add_argument("--scale", type=float, default=0.06, help="size relative to IEMOCAP (default: %(default)s)")
    parser.add_argument("--experiment", default="bottleneck_gru", help="what to train (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        experiment = compose_experiment(Path(folder), options.scale, f"experiment={options.experiment}")
        auto = count_threads(experiment.cfg.trainer, experiment.module().network) or torch.get_num_threads()
        print(f"{options.experiment}: trainer.threads=auto takes {auto}", flush=True)
        for threads in sorted({1, os.cpu_count() or 1}):
            with threadpool_limits(threads):
                alone = epoch(experiment, options.rounds)
                with busy(options.busy):
                    beside = epoch(experiment, options.rounds)
            print(f"{threads} thread(s): {alone:.2f} s alone, {beside:.2f} s beside {options.busy} busy process(es): "
                  f"{beside / alone:.2f} (target for auto: {TARGET})", flush=True)  # fmt: skip


def epoch(experiment: Experiment, rounds: int) -> float:
    """Median elapsed seconds of an epoch, after one to warm up."""
    return statistics.median([float(bare_epoch(experiment)[0]) for _ in range(rounds + 1)][1:])


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.5)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
