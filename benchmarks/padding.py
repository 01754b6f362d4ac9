"""Frames computed per real frame: random batches against batches of similar length, for each fold's training part.

    python -m benchmarks.padding --index utterances.csv

The index is a CSV with the columns utterance, label, session, speaker and seconds; without it, the lengths are those
of the synthetic corpus of the same size, which follow IEMOCAP's distribution. Networks compute every frame of a padded
batch, so the ratio is work done over work needed.
"""

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser.data.batching import LengthBatches
from ser.data.corpora.synthetic_frames import EMOTIONS, IEMOCAP_SIZE, draw_utterances, frames_of
from ser.data.corpus import Corpus, Utterance
from ser.data.protocols import SessionProtocol

TARGET = 1.05


def main() -> None:
    """Print one line per fold and the mean over folds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, help="CSV of true utterances (default: lengths of the synthetic corpus)")
    parser.add_argument("--batch-size", type=int, default=32, help="utterances per batch (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="shuffled epochs to average (default: %(default)s)")
    options = parser.parse_args()
    corpus = read_index(options.index) if options.index else synthetic_labels()
    protocol = SessionProtocol()
    ratios = []
    for fold in range(1, protocol.folds(corpus) + 1):
        train = protocol.split(corpus, fold, seed=1).train
        lengths = np.array([frames_of(utterance.seconds) for utterance in train])
        ours = by_length(lengths, options.batch_size, options.epochs)
        ratios.append((at_random(lengths, options.batch_size, options.epochs), ours))
        print(f"fold {fold}: {len(lengths):5d} utterances, {lengths.sum():7d} frames: "
              f"computed / real {ratios[-1][1]:.3f}, random batches {ratios[-1][0]:.3f}")  # fmt: skip
    random, ours = np.mean(ratios, axis=0)
    print(f"{corpus.name}, batches of {options.batch_size}: computed / real {ours:.3f} (target {TARGET}), "
          f"random batches {random:.3f}")  # fmt: skip


def read_index(path: Path) -> Corpus:
    """A corpus without audio from the table of its utterances."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    utterances = [Utterance(row["utterance"], Path(), row["label"], row["speaker"], int(row["session"]), "",
                            float(row["seconds"])) for row in rows]  # fmt: skip
    return Corpus(path.stem, tuple(sorted({row["label"] for row in rows})), tuple(utterances))


def synthetic_labels() -> Corpus:
    """As many utterances as IEMOCAP has, with its lengths, without frames."""
    return Corpus("synthetic lengths", EMOTIONS, tuple(draw_utterances(IEMOCAP_SIZE, seed=0)))


def by_length(lengths: NDArray[np.int64], batch_size: int, epochs: int) -> float:
    """Padding of the batches that training uses, a mean over shuffled epochs."""
    batches = LengthBatches(lengths.tolist(), batch_size, seed=1)
    ratios = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        ratios.append(padding(lengths, batches))
    return float(np.mean(ratios))


def at_random(lengths: NDArray[np.int64], batch_size: int, epochs: int) -> float:
    """Padding of batches drawn without regard to length."""
    random = np.random.default_rng(1)
    cuts = range(batch_size, len(lengths), batch_size)
    return float(np.mean([padding(lengths, np.split(random.permutation(len(lengths)), cuts)) for _ in range(epochs)]))


def padding(lengths: NDArray[np.int64], batches: Iterable[Sequence[int] | NDArray[np.int64]]) -> float:
    """Frames of the padded batches over frames of the utterances."""
    return float(sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum())


if __name__ == "__main__":
    main()
