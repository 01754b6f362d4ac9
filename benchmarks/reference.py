"""Epoch time and UAR of ``enhanced_gru`` here against the usual way of training it, on the same utterances.

    python -m benchmarks.reference
    python -m benchmarks.reference --epochs 20 data=ravdess data.root=... features=whisper_base

The usual way is a plain PyTorch script: one file of features an utterance, loaded anew each time; batches of 16 drawn
at random and padded to their longest; a network without masks, so that padding is read as speech; nn.GRU. Ours is the
cache, batches by length, masks and the faster GRU of this package. Both have the same layers and sizes, optimizer,
rate, clipping, seed, number of epochs and single-precision arithmetic, on one thread by default; epochs of the two
alternate so that whatever else the machine does meets both, and the ratio is of medians. Utterances are those of
``data=synthetic_features``, whose lengths follow IEMOCAP's, with frames averaged as the network's settings say. The
UARs are of one fold, two speakers and one seed: they show that both have learnt.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.composing import Experiment, compose_experiment
from ser.data.batching import LengthBatches, average_utterance
from ser.data.corpus import Utterance

TARGET = 4.0
BATCH = 16


class PlainEnhancedGRU(nn.Module):
    """The layers of ``EnhancedGRU`` as one writes them first: every frame of a padded batch counts.

    Args:
        input_size: D.
        hidden_size: H.
        emotions: C.
        dropout: probability, everywhere.
    """

    def __init__(self, input_size: int, hidden_size: int, emotions: int, dropout: float = 0.3) -> None:
        super().__init__()
        half, width = 2 * hidden_size, 4 * hidden_size
        self.project, self.dropout = nn.Linear(input_size, half), nn.Dropout(dropout)
        self.scale, self.shift = nn.Parameter(torch.ones(half)), nn.Parameter(torch.zeros(half))
        self.grus = nn.ModuleList(
            nn.GRU(width if index else half, half, batch_first=True, bidirectional=True) for index in range(3)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, 8, dropout, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.enhance = nn.Sequential(
            nn.Linear(width, half),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(half, half),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        sizes = (12 * hidden_size, hidden_size, hidden_size // 2)
        hidden = [
            layer
            for narrow in itertools.pairwise(sizes)
            for layer in (nn.Linear(*narrow), nn.ReLU(), nn.Dropout(dropout))
        ]
        self.head = nn.Sequential(*hidden, nn.Linear(sizes[-1], emotions))

    def forward(self, frames: Tensor) -> Tensor:
        """(B, L, D) -> logits (B, C)."""
        states = self.project(frames) + positions(frames.shape[1], self.project.out_features)
        deviation = (states.var(dim=1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        states = self.dropout((states - states.mean(dim=1, keepdim=True)) / deviation * self.scale + self.shift)
        for index, (gru, norm) in enumerate(zip(self.grus, self.norms, strict=True)):
            output = norm(gru(states)[0])
            states = self.dropout(output + states if index else output)  # (B, L, 4H)
        states = self.attention_norm(states + self.attention(states, states, states)[0])
        enhanced = torch.cat((states, self.enhance(states)), dim=-1)  # (B, L, 6H)
        logits: Tensor = self.head(torch.cat((enhanced.mean(dim=1), enhanced.amax(dim=1)), dim=-1))
        return logits


def positions(frames: int, width: int) -> Tensor:
    """Sinusoids (frames, width), as they are usually computed."""
    rates = torch.exp(torch.arange(0, width, 2) * (-np.log(10000.0) / width))
    angles = torch.arange(frames)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class Usual:
    """The plain script's data, network and loop.

    Args:
        experiment: whose utterances and settings to take.
        folder: where the feature files go.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        data, self.folder = experiment.data, folder
        self.mean, self.std = data.statistics.mean[0], data.statistics.std[0]
        self.parts = {"train": data.split.train, "test": data.split.test}
        for utterance in (utterance for part in self.parts.values() for utterance in part):
            frames = torch.from_numpy(data.cache.read(utterance.id)).float()
            np.save(folder / f"{utterance.id}.npy", average_utterance(frames, data.average).numpy())
        self.emotions = data.emotions
        torch.manual_seed(1)
        self.network = PlainEnhancedGRU(data.cache.dim, experiment.cfg.model.hidden_size, len(data.emotions))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=experiment.cfg.optimizer.lr)

    def batch(self, utterances: list[Utterance]) -> tuple[Tensor, Tensor]:
        """Frames (B, L, D) and classes (B,)."""
        frames = [torch.from_numpy(np.load(self.folder / f"{u.id}.npy", allow_pickle=False)) for u in utterances]
        padded = pad_sequence([(row - self.mean) / self.std for row in frames], batch_first=True)
        return padded, torch.tensor([self.emotions.index(u.emotion) for u in utterances])

    def epoch(self, number: int) -> None:
        """Train on every utterance once, in random order."""
        self.network.train()
        train = self.parts["train"]
        order = np.random.default_rng([1, number]).permutation(len(train))
        for rows in np.array_split(order, -(-len(train) // BATCH)):
            frames, emotion = self.batch([train[row] for row in rows])
            step(self.optimizer, self.network, nn.functional.cross_entropy(self.network(frames), emotion))

    def uar(self) -> float:
        """Of the test part, in batches of 16 as they come."""
        self.network.eval()
        test, found = self.parts["test"], []
        with torch.no_grad():
            for start in range(0, len(test), BATCH):
                frames, emotion = self.batch(list(test[start : start + BATCH]))
                found.append((emotion, self.network(frames).argmax(dim=-1)))
        return recall(found)


class Ours:
    """The package's batches and network in a bare loop (what Lightning adds is in benchmarks.overhead).

    Args:
        experiment: whose utterances and settings to take.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.data = experiment.data
        torch.manual_seed(1)
        self.network = experiment.module().network
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=experiment.cfg.optimizer.lr)

    def epoch(self, number: int) -> None:
        """Train on every utterance once, in batches of like lengths."""
        self.network.train()
        loader = self.data.train_dataloader()
        if isinstance(loader.sampler, LengthBatches):
            loader.sampler.set_epoch(number)
        for raw in loader:
            batch = self.data.on_after_batch_transfer(raw, 0)
            logits = self.network(batch.frames, batch.lengths).emotion_logits
            step(self.optimizer, self.network, nn.functional.cross_entropy(logits, batch.emotion))

    def uar(self) -> float:
        """Of the test part."""
        self.network.eval()
        found = []
        with torch.no_grad():
            for raw in self.data.test_dataloader():
                batch = self.data.on_after_batch_transfer(raw, 0)
                found.append((batch.emotion, self.network(batch.frames, batch.lengths).emotion_logits.argmax(dim=-1)))
        return recall(found)


def step(optimizer: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
    """Backward, clip, update."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def recall(found: list[tuple[Tensor, Tensor]]) -> float:
    """Mean recall over classes of (truth, answer) batches."""
    truth, answer = (torch.cat([pair[side] for pair in found]) for side in (0, 1))
    return float(np.mean([float((answer[truth == name] == name).float().mean()) for name in truth.unique()]))


def timed(work: Callable[[int], None], number: int) -> float:
    """Processor seconds: on one thread of an idle machine the time by the clock, and undisturbed on a busy one."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work(number)
    return clock() - start


def main() -> None:
    """Print the ratio of epoch times and both UARs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.1, help="size relative to IEMOCAP (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of each (default: %(default)s)")
    parser.add_argument("--hidden-size", type=int, default=64, help="H (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", help="words of train.py: corpus, features, learning rate")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        words = ["model=enhanced_gru", "adversarial=none", "augmentation=none", "optimizer.lr=1e-3", *options.overrides]
        words += [f"model.hidden_size={options.hidden_size}", f"batches.batch_size={BATCH}"]
        experiment = compose_experiment(Path(folder), options.scale, *words)
        usual, ours = Usual(experiment, Path(folder)), Ours(experiment)
        pairs = [(timed(usual.epoch, epoch), timed(ours.epoch, epoch)) for epoch in range(options.epochs)]
        theirs, mine = (median(seconds) for seconds in zip(*pairs, strict=True))
        ratios = [one / other for one, other in pairs]
        ratio = f"{theirs / mine:.2f} (target {TARGET}; {min(ratios):.2f} to {max(ratios):.2f})"
        print(f"enhanced_gru, H = {options.hidden_size}, {len(usual.parts['train'])} utterances, {options.threads} "
              f"thread(s): usual / ours {ratio}; {theirs:.1f} s and {mine:.1f} s an epoch")  # fmt: skip
        print(f"UAR after {options.epochs} epochs: usual {100 * usual.uar():.1f}, ours {100 * ours.uar():.1f}")


if __name__ == "__main__":
    main()
