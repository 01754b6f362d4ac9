"""From a corpus to its feature cache: resumable, shared by processes, undisturbed by bad files."""

import csv
import io
import logging
import time
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ser.data.audio import read_audio
from ser.data.cache import FeatureCache, FeatureFile, Item, Origin, Source, fingerprint, write_items
from ser.data.corpus import Corpus, FrameSource, Utterance
from ser.data.encoders import Encoder, UnfitWaveform
from ser.errors import SerError
from ser.files import write_text

log = logging.getLogger(__name__)

PART_BYTES = 64_000_000  # frames held in memory before they are written
PART_SECONDS = 60.0  # work that a killed process may lose
_BATCHES_AHEAD = 2  # decoded while the encoder is busy

Made = tuple[Utterance, Tensor, Source]


@dataclass(frozen=True)
class Extraction:
    """What a corpus's cache holds now and how it came about.

    Attributes:
        cache: frames of every utterance but the failed ones.
        failures: reason of each utterance that gave no frames; also in ``failures.csv`` beside the session files.
        extracted: utterances encoded by this call.
        reused: utterances that were there before, or that another process encoded meanwhile.
    """

    cache: FeatureCache
    failures: dict[str, str]
    extracted: int
    reused: int


def extract(
    corpus: Corpus,
    encoder: Encoder | None,
    cache_root: str | Path,
    device: str = "cpu",
    workers: int = 2,
    batch_seconds: float = 60.0,
    show_progress: bool = True,
) -> Extraction:
    """Bring the cache of ``corpus`` up to date and open it.

    Only what is missing is computed. Finished utterances are written every minute or 64 MB, so a killed run goes on
    where it was. Processes that extract the same corpus at once share its sessions among them.

    Args:
        corpus: utterances to have frames of.
        encoder: makes the frames; unused, and allowed to be None, where the corpus makes its own.
        cache_root: folder of all caches.
        device: where the encoder computes.
        workers: threads that decode audio ahead of the encoder.
        batch_seconds: padded audio in one batch.
        show_progress: draw a progress bar where the output is a terminal.

    Raises:
        SerError: the corpus is empty, no utterance could be encoded, the cache is damaged, foreign or made from other
            audio, or it cannot be written.
    """
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
    origin = Origin(corpus.name, corpus.fingerprint(), maker.description())
    folder = Path(cache_root) / corpus.name / fingerprint(origin.encoder)
    sessions = [
        _Session(folder, number, origin, [u for u in corpus.utterances if u.session == number])
        for number in corpus.sessions
    ]
    due = [session for session in sessions if not session.complete()]
    work = _Work(maker, workers, batch_seconds, Console(), show_progress)
    _share(due, work)
    _write_failures(folder / "failures.csv", corpus, work.failures)
    reused = len(corpus.utterances) - work.extracted - len(work.failures)
    if work.failures and len(work.failures) == len(corpus.utterances):
        name, reason = next(iter(work.failures.items()))
        raise SerError(
            f"none of the {len(corpus.utterances)} utterances of {corpus.name} could be encoded "
            f"(first: {name}: {reason}), expected some; see {folder / 'failures.csv'}."
        )
    if due:
        log.info(
            "extracted %d utterances, reused %d, failed %d: %s", work.extracted, reused, len(work.failures), folder
        )
    else:
        log.info("reusing cache %s (%d utterances)", folder, reused)
    cache = FeatureCache([session.path for session in sessions if session.path.exists()], origin)
    return Extraction(cache, work.failures, work.extracted, reused)


@dataclass
class _Session:
    """One session's file, the parts of it that are not merged yet, and what the corpus wants of it."""

    folder: Path
    number: int
    origin: Origin
    utterances: list[Utterance]

    @property
    def path(self) -> Path:
        return self.folder / f"session{self.number}.safetensors"

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"session{self.number}.part*.safetensors"))

    def complete(self) -> bool:
        """Whether nothing is to be done; needs no lock, so a shared cache may be read-only."""
        return not self.parts() and self.path.exists() and not self.missing(self.stored([self.path]))

    def stored(self, paths: Sequence[Path]) -> dict[str, FeatureFile]:
        """Where each utterance lies, after checking that it was made from the same audio by the same encoder."""
        found: dict[str, FeatureFile] = {}
        for path in paths:
            if path.exists():
                file = FeatureFile(path)
                self.origin.check(path, file.metadata)
                found |= dict.fromkeys(file.lengths, file)
        for utterance in self.utterances:
            if utterance.id in found:
                _check_source(utterance, found[utterance.id])
        return found

    def missing(self, stored: dict[str, FeatureFile]) -> set[str]:
        return {utterance.id for utterance in self.utterances} - stored.keys()

    def fill(self, work: "_Work") -> None:
        """Encode what is missing, part by part, then merge; the caller holds the session's lock."""
        for leftover in self.folder.glob(f".session{self.number}.*.tmp.safetensors"):
            leftover.unlink()  # of a killed process: nobody else writes while the lock is held
        missing = self.missing(self.stored([*self.parts(), self.path]))
        items: list[Item] = []
        held, written = 0, time.monotonic()
        made = work.frames(self.number, self.utterances, missing)
        try:
            for utterance, frames, source in made:
                half = frames.to("cpu", torch.float16).numpy()  # (L, D)
                item = Item.of(utterance.id, half, source)
                if not np.isfinite(item.sums[1]).all():  # one bad value anywhere shows in its column's sum
                    work.failures[utterance.id] = (
                        f"the features are not finite in half precision (largest "
                        f"{frames.abs().max().item():.4g}, expected at most 65504)"
                    )
                    continue
                work.extracted += 1
                items.append(item)
                held += half.nbytes
                if held > PART_BYTES or time.monotonic() - written > PART_SECONDS:
                    self._write_part(items)
                    held, written = 0, time.monotonic()
        finally:  # Ctrl-C loses nothing that was finished
            made.close()  # stops the decoders and the bar
            if items:
                self._write_part(items)
        self._merge()

    def _write_part(self, items: list[Item]) -> None:
        """Write the next part and empty ``items``."""
        parts = self.parts()
        number = int(parts[-1].name.split(".part")[1].split(".")[0]) + 1 if parts else 1
        write_items(self.folder / f"session{self.number}.part{number:04d}.safetensors", items, self.origin)
        items.clear()

    def _merge(self) -> None:
        """One file of the parts and the file that was there, then the parts go."""
        parts = self.parts()
        stored = self.stored([*parts, self.path])  # the merged file last: after a kill parts may repeat it
        if any(file.path != self.path for file in stored.values()):
            write_items(self.path, [stored[name].item(name) for name in sorted(stored)], self.origin)
        for part in parts:
            part.unlink(missing_ok=True)


@dataclass
class _Work:
    """Makes frames, counts them and shows how far it is."""

    maker: "FrameSource | Encoder"
    workers: int
    batch_seconds: float
    console: Console
    show_progress: bool
    failures: dict[str, str] = field(default_factory=dict)
    extracted: int = 0

    def frames(self, session: int, utterances: Sequence[Utterance], missing: set[str]) -> Generator[Made]:
        """Frames of the utterances named by ``missing``, longest first.

        Batches are formed over all utterances and then thinned, so that an interrupted run encodes the same batches as
        an undisturbed one and ends with the same bytes.
        """
        batches = [[u for u in batch if u.id in missing] for batch in length_batches(utterances, self.batch_seconds)]
        batches = [batch for batch in batches if batch]
        wanted = [utterance for batch in batches for utterance in batch]
        log.info("session %d: %d of %d utterances to extract", session, len(wanted), len(utterances))
        if callable(self.maker):
            made = self._encode(batches, self.maker)
        else:
            made = ((utterance, frames, None) for utterance, frames in self.maker.frames(wanted))
        with self._bar() if self.show_progress and self.console.is_terminal else nullcontext() as bar:
            task = bar.add_task(f"session {session}", total=len(wanted), speed=0.0) if bar else None
            seconds, started = 0.0, time.monotonic()
            for item in made:
                if bar and task is not None:
                    seconds += item[0].seconds
                    bar.update(task, advance=1, speed=seconds / max(time.monotonic() - started, 1e-3))
                yield item

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("utterances  {task.fields[speed]:.1f} s of audio/s "),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )

    def _encode(self, batches: Iterable[list[Utterance]], encoder: Encoder) -> Iterator[Made]:
        """Decode in threads, a few batches ahead of the encoder."""
        pool = ThreadPoolExecutor(max(1, self.workers))
        ahead: deque[list[tuple[Utterance, Future[tuple[Tensor, Source]]]]] = deque()
        try:
            for batch in batches:
                ahead.append([(utterance, pool.submit(_decode, utterance)) for utterance in batch])
                if len(ahead) > _BATCHES_AHEAD:
                    yield from self._encode_batch(ahead.popleft(), encoder)
            while ahead:
                yield from self._encode_batch(ahead.popleft(), encoder)
        finally:
            pool.shutdown(cancel_futures=True)

    def _encode_batch(
        self, batch: Iterable[tuple[Utterance, Future[tuple[Tensor, Source]]]], encoder: Encoder
    ) -> Iterator[Made]:
        decoded: list[tuple[Utterance, Tensor, Source]] = []
        for utterance, future in batch:
            try:
                decoded.append((utterance, *future.result()))
            except Exception as error:  # one bad file never stops the rest, whatever its decoder raises
                self.failures[utterance.id] = str(error) or type(error).__name__
        for (utterance, _, source), frames in zip(decoded, self._attempt(decoded, encoder), strict=True):
            if frames is not None:
                yield utterance, frames, source

    def _attempt(self, decoded: Sequence[Made], encoder: Encoder) -> list[Tensor | None]:
        """Frames of a batch; where it fails, one by one, so that only the culprit is left out."""
        if not decoded:
            return []
        try:
            return list(encoder([waveform for _, waveform, _ in decoded]))
        except (UnfitWaveform, torch.OutOfMemoryError) as error:
            if len(decoded) > 1:
                return [frames for single in decoded for frames in self._attempt([single], encoder)]
            self.failures[decoded[0][0].id] = str(error)
            return [None]


def _share(sessions: Sequence[_Session], work: _Work) -> None:
    """Fill sessions that no other process is filling, then wait for those that are and see to what they lack."""
    for wait in (False, True):
        busy = []
        for session in sessions:
            try:
                session.folder.mkdir(parents=True, exist_ok=True)
                held = FileLock(session.folder / f"session{session.number}.lock").acquire(blocking=wait)
            except Timeout:
                log.info("session %d: another process is extracting it; waiting for it at the end", session.number)
                busy.append(session)
                continue
            except (OSError, NotImplementedError) as error:
                raise SerError(
                    f"could not write in {session.folder} ({error}), expected a writable folder that can "
                    "lock files; choose another cache folder."
                ) from error
            with held:
                session.fill(work)
        sessions = busy


def length_batches(utterances: Sequence[Utterance], batch_seconds: float) -> list[list[Utterance]]:
    """Utterances of similar length together, longest first, within ``batch_seconds`` of padded audio."""
    batches: list[list[Utterance]] = []
    for utterance in sorted(utterances, key=lambda u: (-u.seconds, u.id)):
        if batches and max(batches[-1][0].seconds, 1.0) * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(utterance)
        else:
            batches.append([utterance])
    return batches


def _decode(utterance: Utterance) -> tuple[Tensor, Source]:
    """Waveform (N,) and the record by which a later run notices other audio."""
    waveform = read_audio(utterance.path, utterance.start, utterance.end)
    found = utterance.path.stat()
    return waveform, {
        "size": found.st_size,
        "mtime": found.st_mtime_ns,
        "start": utterance.start,
        "end": utterance.end,
        "crc32": _file_crc32(utterance.path, found.st_size, found.st_mtime_ns),
    }


def _check_source(utterance: Utterance, file: FeatureFile) -> None:
    """Refuse cached frames of other audio. The content is only read where the time of change differs.

    Raises:
        SerError: naming both sides.
    """
    then = file.metadata["utterances"][utterance.id]["source"]
    if then is None:
        return
    before, after = f"{then['start']} to {then['end']} s", f"{utterance.start} to {utterance.end} s"
    if before == after:
        try:
            now = utterance.path.stat()
        except OSError:
            return  # frames outlive their audio
        if (now.st_size, now.st_mtime_ns) == (then["size"], then["mtime"]):
            return
        before, after = (
            f"{size} bytes, checksum {crc32:08x}"
            for size, crc32 in (
                (then["size"], then["crc32"]),
                (now.st_size, _file_crc32(utterance.path, now.st_size, now.st_mtime_ns)),
            )
        )
    if before != after:
        raise SerError(
            f"{utterance.id} was extracted from other audio ({before}) than {utterance.path} now holds "
            f"({after}); restore the audio, or delete {file.path} and run the same command again."
        )


@lru_cache(maxsize=4096)
def _file_crc32(path: Path, size: int, mtime: int) -> int:
    """Checksum of a file's content; size and time are there to notice a replaced file."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _available(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such name, no such device, no driver
        raise SerError(
            f"device {device} is not available on this machine, expected one that is; set extraction.device=cpu."
        ) from error
    return device


def _write_failures(path: Path, corpus: Corpus, failures: dict[str, str]) -> None:
    """List what failed in ``path``, or remove the list of an earlier run."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["id", "path", "reason"])
    writer.writerows((u.id, u.path, failures[u.id]) for u in corpus.utterances if u.id in failures)
    write_text(path, table.getvalue())
