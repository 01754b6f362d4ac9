"""Cached frames as padded batches for Lightning."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ser.data.batching import LengthBatches, average_utterance, valid_frames
from ser.data.cache import FeatureCache
from ser.data.corpus import Corpus, Utterance
from ser.data.normalization import Normalization, Statistics
from ser.data.split import Split
from ser.errors import SerError, check_number

KEPT_BYTES = 600_000_000  # averaged frames that stay in memory, of training first; IEMOCAP's 576 MB fit


class Batch(NamedTuple):
    """Utterances padded to the longest of them."""

    frames: Tensor  # (B, L, D), zero beyond lengths; half precision from the cache, float32 once averaged or normalised
    lengths: Tensor  # (B,) true frames of each utterance
    emotion: Tensor  # (B,) index into the corpus's emotions; from C on those of auxiliary utterances (training)
    speaker: Tensor  # (B,) index among the training speakers, -1 for others
    statistics: Tensor  # (B,) row of the normalisation statistics
    ids: list[str]  # the utterances' ids


class FrameDataset(Dataset[Batch]):
    """Whole padded batches, read from the cache.

    Indexed by a list of row numbers, so that a loader without automatic batching yields whole batches.

    Utterances are cut to ``max_frames`` cached frames, then averaged, then normalised where ``normalized_by`` is
    given: both once. Averaged frames of up to ``keep_bytes`` stay in memory once they were read: a network on them
    is quick, and reading four frames for each of them is not.

    With several ``caches`` the rows of the second, copies of the same utterances, come after those of the first.
    """

    def __init__(
        self,
        caches: Sequence[FeatureCache],
        utterances: Sequence[Utterance],
        max_frames: int | None,
        average: int = 1,
        keep_bytes: int = 0,
    ) -> None:
        self.average, self.keep_bytes, self.versions = average, keep_bytes, len(caches)
        self.normalized_by: Statistics | None = None  # None: normalised per batch
        self._kept: dict[int, Tensor] = {}
        self.ids = [utterance.id for utterance in utterances] * self.versions
        first = caches[0]  # used where a copy became too short
        self.caches = [cache if u.id in cache.lengths else first for cache in caches for u in utterances]
        longest = max_frames or np.iinfo(np.int64).max
        self.cached_lengths = [
            min(cache.lengths[name], longest) for cache, name in zip(self.caches, self.ids, strict=True)
        ]
        self.lengths = [-(-length // average) for length in self.cached_lengths]
        self.emotion = torch.zeros(len(self.ids), dtype=torch.int64)
        self.speaker = torch.full((len(self.ids),), -1, dtype=torch.int64)
        self.statistics = torch.zeros(len(self.ids), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: list[int]) -> Batch:
        lengths = [self.lengths[row] for row in rows]
        longest = max(lengths)
        kind = torch.float16 if self.average == 1 else torch.float32
        padding = torch.zeros(longest - min(lengths), self.caches[0].dim, dtype=kind)
        parts = ((self._frames(row), padding[: longest - length]) for row, length in zip(rows, lengths, strict=True))
        # One call writes each value once; filling a tensor of zeros writes twice.
        frames = torch.cat([part for pair in parts for part in pair]).unflatten(0, (len(rows), longest))  # (B, L, D)
        index = torch.tensor(rows)
        emotion, speaker, statistics = self.emotion[index], self.speaker[index], self.statistics[index]
        return Batch(frames, torch.tensor(lengths), emotion, speaker, statistics, [self.ids[row] for row in rows])

    def _frames(self, row: int) -> Tensor:
        """Frames (L, D) of an utterance, cut and averaged."""
        if row in self._kept:
            return self._kept[row]
        frames = torch.from_numpy(self.caches[row].read(self.ids[row])[: self.cached_lengths[row]])
        if self.average > 1:
            frames = average_utterance(frames.float(), self.average)
            if self.normalized_by is not None:
                which = self.statistics[row]
                frames.sub_(self.normalized_by.mean[which]).div_(self.normalized_by.std[which])
            if frames.nbytes <= self.keep_bytes:
                self.keep_bytes -= frames.nbytes
                self._kept[row] = frames
        return frames


def check_batches(
    batch_size: int,
    max_frames: int | None,
    jitter: float,
    balance: str | None,
    max_seconds: float | None,
    workers: int,
) -> None:
    """Refuse settings of ``batches`` that are out of range."""
    check_number("batches.batch_size", batch_size, 1, whole=True)
    check_number("batches.workers", workers, 0, whole=True)
    if max_frames is not None:
        check_number("batches.max_frames", max_frames, 1, whole=True)
    if max_seconds is not None:
        check_number("batches.max_seconds", max_seconds, 0, above=True)
    check_number("batches.jitter", jitter, 0, 0.999)
    if balance not in (None, "corpus"):
        raise SerError(f"batches.balance={balance} was given, expected null or corpus.")


class EmotionDataModule(lightning.LightningDataModule):
    """Loaders of the three parts of a split, in batches of similar length.

    ``normalization`` is fitted once on the training part (and, where it declares so, on unlabelled test frames).
    With ``test_each_epoch`` validation has the test part as a second loader, so that its scores can be recorded;
    with ``test=False`` nothing can read it. The frames have ``frame_rate`` per second before they are averaged.
    Each epoch trains on each utterance once, from ``cache`` or one of ``copies``, caches of it in other voices.
    conf/train.yaml explains the settings of ``batches``.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: Split,
        cache: FeatureCache,
        normalization: Normalization,
        *,
        copies: Sequence[FeatureCache] = (),
        batch_size: int = 32,
        max_frames: int | None = None,
        max_seconds: float | None = None,
        frame_rate: float = 50.0,
        average: int = 1,
        jitter: float = 0.05,
        balance: str | None = None,
        workers: int = 0,
        seed: int = 0,
        test_each_epoch: bool = False,
        test: bool = True,
    ) -> None:
        super().__init__()
        check_batches(batch_size, max_frames, jitter, balance, max_seconds, workers)
        self.cache, self.split = cache, split
        self.emotions = list(corpus.emotions)
        self.speakers = sorted({utterance.speaker for utterance in split.train})
        self.batch_size, self.max_frames, self.workers, self.seed = batch_size, max_frames, workers, seed
        self.frame_rate, self.average, self.jitter = frame_rate, average, jitter
        self.balance = balance
        self.test_each_epoch = test_each_epoch and test
        self.crop = None if max_seconds is None else max(1, round(max_seconds * frame_rate))
        self.normalization = normalization
        parts = {name: part for name, part in split.parts().items() if part and (test or name != "test")}
        # Test utterances of a speaker who also trains or validates stay out: opening the test part changes no training.
        known = {utterance.speaker for utterance in (*split.train, *split.validation)}
        everyone = [u for name, part in parts.items() for u in part if name != "test" or u.speaker not in known]
        self.statistics = normalization.fit(cache, split.train, everyone)
        left = 0 if workers else KEPT_BYTES  # each worker would have its own
        self.datasets = {}
        for name, part in parts.items():
            dataset = self.datasets[name] = self._dataset(part, left)
            left = max(0, left - sum(dataset.lengths) * cache.dim * 4)
        self.learned = self.datasets["train"]
        if split.auxiliary or copies:
            self.learned = self._dataset((*split.train, *split.auxiliary), left, copies)

    def _dataset(
        self, utterances: Sequence[Utterance], keep_bytes: int, copies: Sequence[FeatureCache] = ()
    ) -> FrameDataset:
        dataset = FrameDataset((self.cache, *copies), utterances, self.crop, self.average, keep_bytes)
        utterances = [*utterances] * dataset.versions
        speaker = {name: index for index, name in enumerate(self.speakers)}
        emotions = [*self.emotions, *self.split.other_emotions]
        dataset.emotion = torch.tensor([emotions.index(u.emotion) for u in utterances])
        dataset.speaker = torch.tensor([speaker.get(u.speaker, -1) for u in utterances])
        dataset.statistics = torch.tensor([self.statistics.row(u.speaker) for u in utterances])
        dataset.normalized_by = self.statistics if self.average > 1 else None
        return dataset

    def emotion_counts(self) -> Tensor:
        """Training utterances of each emotion (C,), for class weights."""
        return torch.bincount(self.datasets["train"].emotion, minlength=len(self.emotions))

    def loader(self, part: str, shuffle: bool = False) -> "DataLoader[Batch]":
        """Batches of ``part`` (train, validation or test) for this process's rank.

        The training part, if shuffled, has the auxiliary utterances, too.
        """
        dataset = self.learned if shuffle and part == "train" else self.datasets[part]
        count = len(dataset) // dataset.versions
        chosen = np.array(self._balanced() if shuffle and self.balance else range(count))
        rows = chosen + count * np.arange(dataset.versions)[:, None]  # (V, n)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = LengthBatches(
            np.array(dataset.lengths)[rows],
            self.batch_size,
            self.max_frames,
            shuffle=shuffle,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            jitter=self.jitter,
            rows=rows,
        )
        return DataLoader(
            dataset,
            sampler=batches,
            batch_size=None,  # the dataset returns whole batches
            collate_fn=_unchanged,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
            # Its own generator: drawing the workers' seeds must not disturb the run's random numbers.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _balanced(self) -> list[int]:
        """Rows of the training part, those of smaller corpora as often as brings them near the largest."""
        learned = (*self.split.train, *self.split.auxiliary)
        counts = Counter(utterance.corpus for utterance in learned)
        times = {corpus: round(max(counts.values()) / count) for corpus, count in counts.items()}
        return [row for row, u in enumerate(learned) for _ in range(times[u.corpus])]

    def train_dataloader(self) -> "DataLoader[Batch]":
        """Shuffled training batches."""
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> list["DataLoader[Batch]"]:
        """Validation batches, always in the same order; test batches as well with ``test_each_epoch``."""
        names = ("validation", *["test"] * self.test_each_epoch)
        return [self.loader(part) for part in names if part in self.datasets]

    def test_dataloader(self) -> "DataLoader[Batch]":
        """Test batches, always in the same order."""
        return self.loader("test")

    def predict_dataloader(self) -> list["DataLoader[Batch]"]:
        """All parts in the split's order, for the final tables."""
        return [self.loader(part) for part in self.datasets]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalise on the device what the dataset has not; padded frames stay zero."""
        return batch if self.average > 1 else normalize(batch, self.statistics.mean, self.statistics.std)


def _unchanged(batch: Any) -> Any:
    """What the dataset returned, which the loader would otherwise search for arrays to convert."""
    return batch


def normalize(batch: Batch, mean: Tensor, std: Tensor) -> Batch:
    """Batch with single-precision frames, normalised by its rows of ``mean`` and ``std`` (R, D); padding stays zero."""
    device = batch.frames.device
    row = batch.statistics.to(device)
    frames = batch.frames - mean.to(device)[row][:, None]  # (B, L, D), a new tensor, so the rest may be done in place
    frames.div_(std.to(device)[row][:, None]).mul_(valid_frames(batch.lengths, frames.shape[1])[..., None])
    return batch._replace(frames=frames)
