"""From a corpus to its feature cache: resumable, shared by processes, undisturbed by bad files."""

import logging
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ser.data.audio import printable, read_audio
from ser.data.batching import length_batches
from ser.data.cache import FeatureCache, Frames, write_shard
from ser.data.corpus import Corpus, FrameSource, Utterance
from ser.data.inventory import CacheFolder
from ser.encoders import Encoder, FrameFiles, UnfitWaveform, encode
from ser.errors import SerError
from ser.io import write_text

log = logging.getLogger(__name__)

SHARD_BYTES = 64_000_000  # frames held in memory before they are written
SHARD_SECONDS = 60.0  # work that a killed process may lose
_BATCHES_AHEAD = 2  # decoded while the encoder is busy


@dataclass(frozen=True)
class Extraction:
    """What a corpus's cache holds now and how it came about.

    Attributes:
        cache: frames of every utterance but the failed ones.
        failures: reason of each utterance that gave no frames; also in ``failures.csv`` beside the shards.
        extracted: utterances encoded by this call.
        reused: utterances that were there before, or that another process encoded meanwhile.
        trusted: utterances whose audio is missing and whose cached frames were taken unchecked (``trust_cache``).
    """

    cache: FeatureCache
    failures: dict[str, str]
    extracted: int
    reused: int
    trusted: tuple[str, ...] = ()


def extract(
    corpus: Corpus,
    encoder: Encoder | None,
    cache_root: str | Path,
    device: str = "cpu",
    workers: int = 2,
    batch_seconds: float = 60.0,
    trust_cache: bool = False,
    show_progress: bool = True,
) -> Extraction:
    """Bring the cache of ``corpus`` up to date and open it.

    Only what is missing is computed: frames belong to the content of the audio, the segment and the encoder, whatever
    the utterance is called. Finished utterances are written every minute or 64 MB, so a killed run goes on where it
    was. Processes that extract the same corpus at once share its sessions among them.

    Args:
        corpus: utterances to have frames of.
        encoder: makes the frames; unused, and allowed to be None, where the corpus makes its own.
        cache_root: folder of all caches.
        device: where the encoder computes.
        workers: threads that decode audio ahead of the encoder.
        batch_seconds: padded audio in one batch.
        trust_cache: use cached frames of utterances whose audio is missing, found by id; for machines without audio.
        show_progress: draw a progress bar where the output is a terminal.

    Raises:
        SerError: the corpus is empty, no utterance could be encoded, or the cache is damaged or cannot be written.
    """
    if corpus.parts:
        settings = (cache_root, device, workers, batch_seconds, trust_cache, show_progress)
        return _joined({name: extract(part, encoder, *settings) for name, part in corpus.parts if part.utterances})
    maker: FrameSource | Encoder | None = corpus.frame_source or encoder
    if maker is None or not corpus.utterances:
        raise SerError(
            f"corpus {corpus.name} has {len(corpus.utterances)} utterances and encoder {encoder}, expected "
            "some of one and an encoder; check data.root and features."
        )
    if corpus.name in ("", ".", "..") or Path(corpus.name).name != corpus.name:
        raise SerError(f"the corpus name {corpus.name!r} cannot name a folder, expected a plain name; set data.name.")
    if encoder is not None and corpus.frame_source is None:
        encoder.to(_available(device))
    folder = CacheFolder.of(corpus, maker, cache_root, trust_cache)
    missing = folder.missing(corpus.utterances)
    due = {u.session for u in missing}
    filling = _Filling(folder, maker, workers, batch_seconds, show_progress, missing)
    _share([(number, [u for u in corpus.utterances if u.session == number]) for number in sorted(due)], filling)
    failures = folder.failures
    _write_failures(folder.path / "failures.csv", corpus, failures)
    if len(failures) == len(corpus.utterances):
        name, reason = next(iter(failures.items()))
        raise SerError(
            f"none of the {len(corpus.utterances)} utterances of {corpus.name} could be encoded "
            f"(first: {name}: {reason}), expected some; see {folder.path / 'failures.csv'}."
        )
    cache = FeatureCache(folder.places)
    if isinstance(maker, FrameFiles):
        maker.settle_rate(cache.lengths, corpus.utterances)
    result = Extraction(
        cache,
        failures,
        filling.extracted,
        len(folder.places) - filling.extracted,
        tuple(folder.trusted),
    )
    _report(result, folder, bool(due))
    return result


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
        log.warning("cached frames were made with %s %s, now %s", package, before, now)


@dataclass
class _Filling:
    """Encodes what a cache folder lacks, counts it and shows the progress."""

    folder: CacheFolder
    maker: "FrameSource | Encoder"
    workers: int
    batch_seconds: float
    show_progress: bool
    missing: Sequence[Utterance]  # of all sessions
    extracted: int = 0

    def session(self, number: int, utterances: Sequence[Utterance]) -> None:
        """Encode what is missing of a session, shard by shard; the caller holds the session's lock."""
        for leftover in self.folder.path.glob(f".session{number}-*.tmp.safetensors"):
            leftover.unlink()  # of a killed process: nobody else writes while the lock is held
        self.folder.refresh()  # another process may have extracted some of it
        missing = {u.id for u in self.folder.missing(utterances)}
        held: dict[str, Frames] = {}
        size, written = 0, time.monotonic()
        made = self._frames(number, utterances, missing)
        try:
            for utterance, frames in made:
                half = frames.to("cpu", torch.float16)  # (L, D)
                if not bool(half.isfinite().all()):
                    self.folder.failures[utterance.id] = (
                        f"the features are not finite in half precision (largest {frames.abs().max().item():.4g}, "
                        "expected at most 65504)"
                    )
                    continue
                held[utterance.id] = half.numpy()
                size += half.nbytes
                if size > SHARD_BYTES or time.monotonic() - written > SHARD_SECONDS:
                    self._write(number, held)
                    size, written = 0, time.monotonic()
        finally:  # Ctrl-C loses nothing that was finished
            made.close()  # stops the decoders and the bar
            if held:
                self._write(number, held)
        self.folder.refresh()

    def _write(self, number: int, held: dict[str, Frames]) -> None:
        """Write the next shard of the session and empty ``held``."""
        shards = sorted(self.folder.path.glob(f"session{number}-*.safetensors"))
        last = int(shards[-1].stem.rpartition("-")[2]) if shards else 0
        path = self.folder.path / f"session{number}-{last + 1:04d}.safetensors"
        write_shard(path, held, self.folder.recordings, self.folder.identity)
        self.extracted += len(held)
        held.clear()

    def _frames(
        self, session: int, utterances: Sequence[Utterance], missing: set[str]
    ) -> Generator[tuple[Utterance, Tensor]]:
        """Frames of the utterances named by ``missing``, longest first.

        Batches are formed over all utterances and then thinned, so that an interrupted run encodes the same batches as
        an undisturbed one.
        """
        batches = [[u for u in batch if u.id in missing] for batch in utterance_batches(utterances, self.batch_seconds)]
        wanted = [utterance for batch in batches for utterance in batch]
        log.info("session %d: %d of %d utterances to extract", session, len(wanted), len(utterances))
        if isinstance(self.maker, FrameFiles):
            made = self._import(wanted, self.maker)
        elif isinstance(self.maker, Encoder):
            made = self._encode([batch for batch in batches if batch], self.maker)
        else:
            made = self.maker.frames(wanted)
        with _progress_bar(self.show_progress) as bar:
            total = len(self.missing)  # of the whole corpus, other processes' part included
            done = total - len(self.folder.missing(self.missing))
            task = bar.add_task(f"session {session}", total=total, completed=done, speed=0.0)
            seconds, started = 0.0, time.monotonic()
            for item in made:
                seconds += item[0].seconds
                bar.update(task, advance=1, speed=seconds / max(time.monotonic() - started, 1e-3))
                yield item

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


def utterance_batches(utterances: Sequence[Utterance], batch_seconds: float) -> list[list[Utterance]]:
    """Utterances of similar length together, longest first, within ``batch_seconds`` of padded audio."""
    ordered = sorted(utterances, key=lambda u: (-u.seconds, u.id))
    # Utterances of unknown length (0 s) count as a second, so that they do not all land in one batch.
    batches = length_batches([max(utterance.seconds, 1.0) for utterance in ordered], batch_seconds)
    return [[ordered[row] for row in batch] for batch in batches]


def _share(sessions: Sequence[tuple[int, Sequence[Utterance]]], filling: _Filling) -> None:
    """Fill sessions that no other process is filling, then wait for those that are and add what they lack."""
    folder = filling.folder.path
    for wait in (False, True):
        busy = []
        for number, utterances in sessions:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                held = FileLock(folder / f"session{number}.lock").acquire(blocking=wait)
            except Timeout:
                log.info("session %d: another process is extracting it; waiting for it at the end", number)
                busy.append((number, utterances))
                continue
            except (OSError, NotImplementedError) as error:
                raise SerError(
                    f"could not write in {folder} ({error}), expected a writable folder that can lock files; "
                    "choose another cache folder."
                ) from error
            with held:
                filling.session(number, utterances)
        sessions = busy


def _progress_bar(show: bool) -> Progress:
    console = Console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("utterances  {task.fields[speed]:.1f} s of audio/s "),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (show and console.is_terminal),
    )


def _available(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such name, no such device, no driver
        raise SerError(
            f"device {device} is not available on this machine, expected one that is; set extraction.device=cpu."
        ) from error
    return device


def _write_failures(path: Path, corpus: Corpus, failures: Mapping[str, str]) -> None:
    """List what failed in ``path``, or remove the list of an earlier run; nothing where neither is there."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    rows = [(u.id, printable(u.path), failures[u.id]) for u in corpus.utterances if u.id in failures]
    with suppress(SerError):  # a shared cache may be read-only; failures are logged too
        write_text(path, pd.DataFrame(rows, columns=["id", "path", "reason"]).to_csv(index=False))
