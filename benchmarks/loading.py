"""What reading the cache costs beside the training step, and how much memory it takes.

    python -m benchmarks.loading --scale 1.0

Writes frames of IEMOCAP's size (1.26 million of 768 values, 1.9 GB in half precision) into the cache of the
synthetic features, or reuses them. One process iterates over all training batches, once to bring the files into the
system's cache of pages and freed memory into use, then five times, timed. The time is set beside that of ``gru``'s
training steps (forward, backward, clipping, AdamW) on batches taken evenly over all lengths, with as many threads as a
training takes, and beside a plain copy of the same padded batches, below which no loading that fills a batch can go.
All are processor time, so that a busy computer changes their ratio little; use no loader processes, whose time is not
counted. The peak of resident memory is set beside that of an interpreter that has done nothing.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.composing import compose_experiment
from benchmarks.memory import peak_mb
from ser.cpu import network_products, reuse_freed_memory
from ser.data.datamodule import EmotionDataModule
from ser.module import EmotionModule
from ser.run.trainer import count_threads

TARGET, TARGET_MB = 0.05, 1500
EPOCHS = 5


def main() -> None:
    """Print the two figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="size relative to IEMOCAP (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="training steps to time (default: %(default)s)")
    parser.add_argument("--model", default="gru", help="network to compare with (default: %(default)s)")
    parser.add_argument("--experiment", help="row of conf/experiment to compare with, in place of a network")
    parser.add_argument("--average", type=int, default=1, help="frames averaged into one (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")
    options = parser.parse_args()
    command = [sys.executable, "-m", "benchmarks.memory"]
    empty = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    data = ["data=synthetic_features", f"data.scale={options.scale}"]
    # In a process of its own, so that what it takes to make the frames does not count.
    subprocess.run([sys.executable, "-m", "ser.cli", "extract", *data], capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        compared = f"experiment={options.experiment}" if options.experiment else f"model={options.model}"
        words = [compared, f"batches.workers={options.workers}"]
        experiment = compose_experiment(Path(folder), options.scale, *words)
    data = experiment.data
    experiment.data = EmotionDataModule(
        experiment.corpus, data.split, data.cache, data.normalization, average=options.average, **experiment.cfg.batches
    )
    module, started = experiment.module(), peak_mb()
    reuse_freed_memory()
    threads = count_threads(experiment.cfg.trainer, module)
    with threadpool_limits(threads), network_products(module.network):
        iterate(experiment.data)  # what an earlier epoch, or the extraction, leaves in the system's cache
        loading, batches = iterate(experiment.data, EPOCHS)
        peak = peak_mb()
        copying = copy_seconds(experiment.data)
        step = step_seconds(module, experiment.data, options.steps)
    print(f"{experiment.corpus.name}: {sum(experiment.data.cache.lengths.values()):,} frames of "
          f"{experiment.data.cache.dim} values, {batches} batches, {options.workers} workers")  # fmt: skip
    print(f"peak memory {peak:.0f} MB, {peak - empty:.0f} MB above an empty process (target {TARGET_MB}), "
          f"{peak - started:.0f} MB above the program before the first batch")  # fmt: skip
    load = loading / batches
    print(f"loading {1000 * load:.2f} ms a batch, step of {compared} of {options.average} frames: {1000 * step:.0f} ms "
          f"({threads or 'all'} threads): loading / step {load / step:.4f} (target {TARGET})")  # fmt: skip
    print(f"a plain copy of a batch: {1000 * copying:.2f} ms, {copying / step:.4f} of the step")


def iterate(data: EmotionDataModule, epochs: int = 1) -> tuple[float, int]:
    """Seconds of processor time per epoch to go through the training part, and its number of batches."""
    loader, start = data.loader("train", shuffle=True), time.process_time()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batches = sum(1 for _ in loader)
    return (time.process_time() - start) / epochs, batches


def copy_seconds(data: EmotionDataModule) -> float:
    """Mean seconds of processor time to copy the padded frames of a training batch into memory that is used again."""
    seconds = []
    for batch in data.loader("train"):
        start = time.process_time()
        batch.frames.clone()
        seconds.append(time.process_time() - start)
    return float(np.mean(seconds))


def step_seconds(module: EmotionModule, data: EmotionDataModule, steps: int) -> float:
    """Mean seconds of processor time of a training step over batches spread evenly over the lengths."""
    batches = list(data.loader("train").sampler)  # longest first
    chosen = np.linspace(0, len(batches) - 1, steps + 2).round().astype(int)[1:-1]
    optimizer = module.configure_optimizers()
    module.train()
    seconds = []
    for index in [chosen[0], *chosen]:  # the first one warms up
        batch = data.on_after_batch_transfer(data.datasets["train"][batches[index]], 0)
        start = time.process_time()
        output = module(batch.frames, batch.lengths)
        optimizer.zero_grad()
        module.emotion_loss(output.emotion_logits, batch.emotion).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.process_time() - start)
    return float(np.mean(seconds[1:]))


if __name__ == "__main__":
    main()
