"""Time of an epoch through Lightning, with all of train.py's callbacks, over that of a bare PyTorch loop.

    python -m benchmarks.overhead --model gru --scale 0.2

Both train the same network from the same weights with the same optimizer, clipping, augmentation and normalisation on
the same batches, then go through the validation part and, as train.py does to watch it, the test part. Lightning's
epoch has all the rest as well: schedules, metrics, history, progress bar, logging, checkpoints. Epochs of the two
alternate and the median of the ratios counts: of elapsed time, and of processor time, which other programs on the
machine disturb less.
"""

import argparse
import itertools
import logging
import os
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import lightning
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.composing import Experiment, compose_experiment
from ser.cpu import network_products
from ser.run.trainer import build_trainer

TARGET = 1.05


def main() -> None:
    """Print the ratio and what it is in milliseconds per step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.2, help="size relative to IEMOCAP (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of epochs (default: %(default)s)")
    parser.add_argument("--model", default="gru", help="network (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for train.py")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    ratios, bare = [], []  # (elapsed, processor) each
    with tempfile.TemporaryDirectory() as folder:
        experiment = compose_experiment(
            Path(folder), options.scale, f"model={options.model}", "trainer.max_epochs=1", *options.overrides
        )
        with network_products(experiment.module().network):  # as in a training
            bare_epoch(experiment)  # warms up
            for _ in range(options.rounds):
                bare.append(bare_epoch(experiment))
                ratios.append(lightning_epoch(experiment) / bare[-1])
    steps = len(experiment.data.train_dataloader())
    each = ", ".join(f"{ratio:.3f}" for ratio in np.array(ratios)[:, 0])
    ratio, processor = np.median(ratios, axis=0)
    step = 1000 * float(np.median([seconds[0] for seconds in bare])) / steps
    print(f"{options.model}, {steps} steps an epoch: Lightning / bare loop {ratio:.3f} (target {TARGET}; {each}), in "
          f"processor time {processor:.3f}; {(ratio - 1) * step:.1f} ms more on steps of {step:.0f} ms")  # fmt: skip


def clocks() -> NDArray[np.float64]:
    """Elapsed and processor seconds (2,)."""
    return np.array([time.perf_counter(), time.process_time()])


class Stopwatch(lightning.Callback):
    """Measures the epoch, validation and checkpoints included; first among the callbacks at its start."""

    def __init__(self) -> None:
        self.started = self.seconds = np.zeros(2)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start."""
        self.started = clocks()

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop once everything that follows the last step is done."""
        self.seconds = clocks() - self.started


def lightning_epoch(experiment: Experiment) -> NDArray[np.float64]:
    """Elapsed and processor seconds (2,) of one epoch with train.py's trainer."""
    lightning.seed_everything(1, verbose=False)
    module, watch = experiment.module(), Stopwatch()
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        trainer = build_trainer(experiment.cfg, len(experiment.data.train_dataloader()))
        trainer.callbacks.insert(0, watch)  # type: ignore[attr-defined]
        trainer.fit(module, datamodule=experiment.data)
    experiment.data.trainer = None
    return watch.seconds


def bare_epoch(experiment: Experiment) -> NDArray[np.float64]:
    """Elapsed and processor seconds (2,) of one epoch in a loop as one would write it by hand."""
    lightning.seed_everything(1, verbose=False)
    module, data = experiment.module(), experiment.data
    network, optimizer = module.network, module.configure_optimizers()
    start = clocks()
    network.train()
    for raw in data.train_dataloader():
        batch = data.on_after_batch_transfer(raw, 0)
        frames, lengths = module.augmentation(batch.frames, batch.lengths)
        output = network(frames, lengths)
        loss = module.emotion_loss(output.emotion_logits, batch.emotion)
        if module.adversary is not None:
            speaker_loss, _ = module.adversary(output.pooled, batch.speaker, batch.emotion)
            loss = loss + module.adversary.weight * speaker_loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), experiment.cfg.trainer.gradient_clip_val)
        optimizer.step()
    network.eval()
    right = 0
    with torch.no_grad():
        for raw in itertools.chain(*data.val_dataloader()):
            batch = data.on_after_batch_transfer(raw, 0)
            right += int((network(batch.frames, batch.lengths).emotion_logits.argmax(-1) == batch.emotion).sum())
    return clocks() - start


if __name__ == "__main__":
    main()
