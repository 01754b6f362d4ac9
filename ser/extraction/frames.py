"""From a corpus to its feature cache: resumable, shared by processes; what is wrong with one file stops no other."""

import logging
import socket
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ser.data.audio import SAMPLE_RATE, read_audio
from ser.data.cache import FeatureCache
from ser.data.corpus import Corpus, FrameSource, Utterance
from ser.data.soundfiles import printable
from ser.encoders import Encoder, FrameFiles, UnfitWaveform, encode
from ser.encoders.base import usable_device
from ser.encoders.pretrained import PretrainedEncoder
from ser.errors import SerError, check_number
from ser.extraction.inventory import CacheFolder
from ser.extraction.processes import fill_together, interruptible, usable_cores
from ser.extraction.sharing import Bar, Filling, portions
from ser.io import write_text

log = logging.getLogger(__name__)
_BATCHES_AHEAD = 2  # decoded while the encoder is busy
_NAMED = 5  # of the recordings with a fault

Maker = FrameSource | Encoder


@dataclass(frozen=True)
class Extraction:
    """What a corpus's cache holds now and how it came about."""

    cache: FeatureCache  # frames of every utterance but the failed ones
    failures: dict[str, str]  # reason of each utterance that gave no frames; also in ``failures.csv`` beside the shards
    extracted: int  # utterances encoded by this call
    reused: int  # utterances that were there before, or that another process encoded meanwhile
    trusted: tuple[str, ...] = ()  # audio is missing and the cached frames were taken unchecked (trust_cache)


@interruptible()
def extract(
    corpus: Corpus,
    encoder: Encoder | None,
    cache_root: str | Path,
    device: str = "cpu",
    workers: int = 2,
    processes: int | str = 1,
    batch_seconds: float = 60.0,
    trust_cache: bool = False,
    show_progress: bool = True,
) -> Extraction:
    """Bring the cache of ``corpus`` up to date and open it.

    Only what is missing is computed: frames belong to the content of the audio, the segment and the encoder, whatever
    the utterance is called. The corpus is extracted in portions, each claimed by a lock, so processes and nodes that
    extract it at once share them. Finished utterances are written every minute or 64 MB, so a killed run goes on where
    it was.

    The encoder may be None where the corpus makes its own frames. conf/train.yaml explains the settings.

    Raises:
        SerError: the corpus is empty, no utterance could be encoded, or the cache is damaged or cannot be written.
    """
    if corpus.parts:
        settings = (cache_root, device, workers, processes, batch_seconds, trust_cache, show_progress)
        return _joined({name: extract(part, encoder, *settings) for name, part in corpus.parts if part.utterances})
    if processes != "auto":
        check_number("extraction.processes", processes, 1, whole=True)
    check_number("extraction.workers", workers, 0, whole=True)
    check_number("extraction.batch_seconds", batch_seconds, 0, above=True)
    maker = _maker_of(corpus, encoder, device)
    folder = CacheFolder.of(corpus, maker, cache_root, trust_cache)
    missing = folder.missing(corpus.utterances)
    extracted = 0
    if missing:
        with Bar(missing, show_progress) as bar:
            work = portions(corpus.utterances, folder.recordings, batch_seconds)
            filling = Filling(folder, Encoding(folder, maker, workers).frames, work, bar)
            with _count_processes(processes, maker, device, missing, folder) as count:
                if count > 1:
                    fill_together(filling, count)
            filling.run(wait=True)
        extracted = filling.extracted
    failures = folder.failures
    _write_failures(folder.path / "failures.csv", corpus, failures)
    if len(failures) == len(corpus.utterances):
        name, reason = next(iter(failures.items()))
        raise SerError(
            f"none of the {len(corpus.utterances)} utterances of {corpus.name} could be encoded "
            f"(first: {name}: {reason.rstrip('.')}), expected some; see {folder.path / 'failures.csv'}."
        )
    cache = FeatureCache(folder.places)
    if isinstance(maker, FrameFiles):
        maker.settle_rate(cache.lengths, corpus.utterances)
    result = Extraction(cache, failures, extracted, len(folder.places) - extracted, tuple(folder.trusted))
    _report(result, folder, bool(missing))
    suspects = {name: fault for name, fault in sorted(folder.suspects.items()) if name not in failures}
    for fault in dict.fromkeys(suspects.values()):
        names = [name for name, found in suspects.items() if found == fault]
        listed = ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
        log.warning("%d recording%s %s, listen: %s", len(names), "s are" if len(names) > 1 else " is", fault, listed)
    return result


def _maker_of(corpus: Corpus, encoder: Encoder | None, device: str) -> Maker:
    """What makes the frames of a corpus whose cache can have a folder; an encoder is on its device."""
    maker: Maker | None = corpus.frame_source or encoder
    if maker is None or not corpus.utterances:
        raise SerError(
            f"corpus {corpus.name} has {len(corpus.utterances)} utterances and encoder {encoder}, expected "
            "some of one and an encoder; check data.root and features."
        )
    if corpus.name in ("", ".", "..") or Path(corpus.name).name != corpus.name:
        raise SerError(f"the corpus name {corpus.name!r} cannot name a folder, expected a plain name; set data.name.")
    if isinstance(maker, Encoder):
        maker.to(usable_device(device, "set extraction.device=cpu"))
    return maker


def _joined(parts: Mapping[str, Extraction]) -> Extraction:
    """What several corpora have, with the name of its corpus before each id."""
    return Extraction(
        FeatureCache.joined({name: part.cache for name, part in parts.items()}),
        {f"{name}/{one}": reason for name, part in parts.items() for one, reason in part.failures.items()},
        sum(part.extracted for part in parts.values()),
        sum(part.reused for part in parts.values()),
        tuple(f"{name}/{one}" for name, part in parts.items() for one in part.trusted),
    )


def _report(result: Extraction, folder: CacheFolder, worked: bool) -> None:
    if worked:
        counts = (result.extracted, result.reused, len(result.failures), folder.path)
        log.info("extracted %d utterances, reused %d, failed %d: %s", *counts)
    else:
        log.info("reusing cache %s (%d utterances)", folder.path, result.reused)
    if result.trusted:
        log.warning("%d utterances have no audio here: their cached frames are used unchecked", len(result.trusted))
    for package, (before, now) in folder.other_versions().items():
        log.warning("cached frames were made with %s %s, installed is %s: new ones may differ slightly; for those, "
                    "delete %s", package, before, now, folder.path)  # fmt: skip


@contextmanager
def _count_processes(
    asked: int | str, maker: Maker, device: str, missing: Sequence[Utterance], folder: CacheFolder
) -> Iterator[int]:
    """How many processes to start; with ``auto`` one if another one of this machine has started its own."""
    if asked != "auto":
        yield int(asked)
        return
    repays = 300.0 if isinstance(maker, PretrainedEncoder) else 20_000.0  # seconds of audio per process
    audio = sum(max(utterance.seconds, 1.0) for utterance in missing)
    count = 1 if device != "cpu" or isinstance(maker, FrameFiles) else min(usable_cores(), int(audio // repays))
    lock = FileLock(folder.path / f"processes-{socket.gethostname()}.lock")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(blocking=False) if count > 1 else nullcontext()
    except (Timeout, OSError, NotImplementedError):  # what cannot lock at all is said where a portion is claimed
        count, held = 1, nullcontext()
    with held:
        yield max(1, count)


def _write_failures(path: Path, corpus: Corpus, failures: Mapping[str, str]) -> None:
    """List what failed in ``path``, or remove the list of an earlier run; nothing where neither is there."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    rows = [(u.id, printable(u.path), failures[u.id]) for u in corpus.utterances if u.id in failures]
    with suppress(SerError):  # a shared cache may be read-only; failures are logged too
        write_text(path, pd.DataFrame(rows, columns=["id", "path", "reason"]).to_csv(index=False))


@dataclass
class Encoding:
    """Makes the frames of utterances that a cache folder lacks."""

    folder: CacheFolder  # has the content hashes of the audio and takes the reasons of what fails
    maker: Maker  # makes the frames
    workers: int  # threads that decode audio ahead of the encoder

    def frames(self, batches: Sequence[list[Utterance]]) -> Generator[tuple[Utterance, Tensor]]:
        """Each utterance of the batches with its frames (L, D) in half precision, but for those that fail."""
        if isinstance(self.maker, FrameFiles):
            made = self._import([utterance for batch in batches for utterance in batch], self.maker)
        elif isinstance(self.maker, Encoder):
            made = self._encode([batch for batch in batches if batch], self.maker)
        else:
            made = self.maker.frames([utterance for batch in batches for utterance in batch])
        for utterance, frames in made:
            half = frames.to("cpu", torch.float16)
            if bool(half.isfinite().all()):
                yield utterance, half
            else:
                self.folder.failures[utterance.id] = (
                    f"the features are not finite in half precision (largest {frames.abs().max().item():.4g}, "
                    "expected at most 65504)"
                )

    def _import(self, utterances: Iterable[Utterance], files: FrameFiles) -> Iterator[tuple[Utterance, Tensor]]:
        """Frames from files; what is wrong with one is its reason and stops no other."""
        for utterance in utterances:
            try:
                place = files.locate(utterance)
                frames = files.read(place)
                self._check_current(place.path)
            except SerError as error:
                self.folder.failures[utterance.id] = str(error)
            else:
                yield utterance, frames

    def _encode(self, batches: Iterable[list[Utterance]], encoder: Encoder) -> Iterator[tuple[Utterance, Tensor]]:
        """Decode in threads, a few batches ahead of the encoder."""
        pool = ThreadPoolExecutor(max(1, self.workers))
        ahead: deque[list[tuple[Utterance, Future[Tensor]]]] = deque()
        try:
            for batch in batches:
                ahead.append([(utterance, pool.submit(self._decode, utterance)) for utterance in batch])
                if len(ahead) > _BATCHES_AHEAD:
                    yield from self._encode_batch(ahead.popleft(), encoder)
            while ahead:
                yield from self._encode_batch(ahead.popleft(), encoder)
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, utterance: Utterance) -> Tensor:
        """Waveform (N,) of the audio that was hashed."""
        waveform = read_audio(utterance.path, utterance.start, utterance.end)
        self._check_current(utterance.path)
        if fault := audio_fault(waveform.numpy()):
            self.folder.suspects[utterance.id] = fault
        return waveform

    def _check_current(self, path: Path) -> None:
        if not self.folder.hashes.is_current(path):
            raise SerError(f"{path} was replaced while it was read; run the same command again.")

    def _encode_batch(
        self, batch: Iterable[tuple[Utterance, "Future[Tensor]"]], encoder: Encoder
    ) -> Iterator[tuple[Utterance, Tensor]]:
        decoded: list[tuple[Utterance, Tensor]] = []
        for utterance, future in batch:
            try:
                decoded.append((utterance, future.result()))
            except Exception as error:  # one bad file never stops the rest, whatever its decoder raises
                self.folder.failures[utterance.id] = str(error) or type(error).__name__
        for (utterance, _), frames in zip(decoded, self._attempt(decoded, encoder), strict=True):
            if frames is not None:
                yield utterance, frames

    def _attempt(self, decoded: Sequence[tuple[Utterance, Tensor]], encoder: Encoder) -> list[Tensor | None]:
        """Frames of a batch; where it fails, one by one, so that only the culprit is left out."""
        if not decoded:
            return []
        try:
            return list(encode(encoder, [waveform for _, waveform in decoded]))
        except (UnfitWaveform, torch.OutOfMemoryError) as error:
            if len(decoded) > 1:
                return [frames for single in decoded for frames in self._attempt([single], encoder)]
            self.folder.failures[decoded[0][0].id] = str(error)
            return [None]


def audio_fault(waveform: np.ndarray) -> str:
    """What makes a waveform (N,) useless for training: silent, constant, nearly empty or clipped; else empty."""
    if len(waveform) < 0.1 * SAMPLE_RATE:
        return "shorter than 0.1 s"
    if np.abs(waveform).max() < 1e-4:
        return "silent"
    if waveform.std() < 1e-4:
        return "without sound (a constant offset)"
    if (np.abs(waveform) > 0.999).mean() > 0.01:
        return "clipped (over 1% of the samples)"
    return ""
