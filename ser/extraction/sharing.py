"""The portions of a corpus that processes and nodes encode side by side, each claimed by a lock on a file.

The system releases the lock of a process that ends in whatever way, so a portion that was being encoded is free again.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Self

from filelock import FileLock, Timeout
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ser.data.batching import length_batches
from ser.data.cache import Frames, Recording, write_shard
from ser.data.corpus import Utterance
from ser.errors import SerError
from ser.extraction.inventory import CacheFolder

log = logging.getLogger(__name__)

SHARD_BYTES = 64_000_000  # frames held in memory before they are written
SHARD_SECONDS = 60.0  # work that a killed process may lose
PORTION_BATCHES = 2  # small, so that the last portions keep no process waiting for long
MOST_PORTIONS = 256  # each is a lock and a shard at least
LOOK = 1.0  # seconds between two looks at what other processes have done
_LOGGED = 60.0  # seconds between two lines where there is no terminal


@dataclass(frozen=True)
class Portion:
    """Batches that one process encodes at a time."""

    name: str  # of the lock and the shards; the same in every process that extracts these utterances
    batches: tuple[list[Utterance], ...]  # utterances of similar length

    @property
    def utterances(self) -> list[Utterance]:
        """Those of all batches."""
        return [utterance for batch in self.batches for utterance in batch]


def portions(
    utterances: Sequence[Utterance], recordings: Mapping[str, Recording], batch_seconds: float
) -> list[Portion]:
    """The corpus in portions of a few batches, longest utterances first.

    They are made of all utterances of the corpus, cached or not, so that processes that start at different times, and a
    run after an interrupted one, agree on them and encode the same batches of ``batch_seconds`` of padded audio.
    """
    ordered = sorted(utterances, key=lambda u: (-u.seconds, u.id))
    # Utterances of unknown length (0 s) count as a second, so that they do not all land in one batch.
    rows = length_batches([max(utterance.seconds, 1.0) for utterance in ordered], batch_seconds)
    batches = [[ordered[row] for row in batch] for batch in rows]
    size = max(PORTION_BATCHES, math.ceil(len(batches) / MOST_PORTIONS))
    found = []
    for first in range(0, len(batches), size):
        some = tuple(batches[first : first + size])
        content = [recordings[u.id] for batch in some for u in batch if u.id in recordings]
        found.append(Portion(hashlib.sha256(repr(content).encode()).hexdigest()[:12], some))
    return found


@dataclass
class Filling:
    """Encodes the portions that no other process encodes, and counts what it did."""

    folder: CacheFolder  # what the cache holds
    frames: Callable[[Sequence[list[Utterance]]], Generator[tuple[Utterance, Tensor]]]  # makes the frames of batches
    portions: Sequence[Portion]  # of the whole corpus
    bar: "Bar | None" = None  # shows all processes' progress; None in those that another one watches
    asked_by: Connection | None = None  # to the process that watches this one
    extracted: int = 0  # utterances encoded so far

    def run(self, wait: bool) -> None:
        """Encode what is free, in turn; with ``wait`` until everything is there, whoever encodes it.

        Raises:
            SerError: the folder cannot be written or cannot lock files.
        """
        left = list(self.portions)
        while left:
            left = [portion for portion in left if not self._claim(portion)]
            if not wait:
                return
            if left:
                time.sleep(LOOK / 4)
                self.folder.refresh()
                self.show()

    def add(self, answer: Connection, worker: SpawnProcess) -> None:
        """Add the counts that another process sends, or log that it died.

        Raises:
            SerError: what stopped it.
        """
        try:
            extracted, failures, suspects, problem = answer.recv()
        except EOFError:
            worker.join()
            log.warning(
                "an extraction process ended with exit code %s, perhaps for lack of memory (extraction.processes=1 "
                "takes least); its part is done by others",
                worker.exitcode,
            )
            return
        self.extracted += extracted
        self.folder.failures |= failures
        self.folder.suspects |= suspects
        if problem:
            raise SerError(problem)

    def _claim(self, portion: Portion) -> bool:
        """Encode what is missing of a portion; false where another process holds it."""
        if not self.folder.missing(portion.utterances):
            return True
        try:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder.path / f"{portion.name}.lock")
            held = lock.acquire(blocking=False)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            raise SerError(
                f"could not write in {self.folder.path} ({error}), expected a writable folder that can lock files; "
                "choose another cache folder."
            ) from error
        with held:
            self._fill(portion)
            # Whoever opened this file before it went finds nothing missing.
            (self.folder.path / f"{portion.name}.lock").unlink(missing_ok=True)
        return True

    def _fill(self, portion: Portion) -> None:
        """Encode what is missing of a portion, shard by shard; the caller holds its lock."""
        for leftover in self.folder.path.glob(f".frames-{portion.name}-*.tmp.safetensors"):
            leftover.unlink()  # of a killed process: nobody else writes while the lock is held
        self.folder.refresh()  # another process may have extracted some of it
        missing = {u.id for u in self.folder.missing(portion.utterances)}
        held: dict[str, Frames] = {}
        size, written = 0, time.monotonic()
        batches = [[u for u in batch if u.id in missing] for batch in portion.batches]
        with closing(self.frames(batches)) as made:
            try:
                for utterance, half in made:
                    held[utterance.id] = half.numpy()
                    size += half.nbytes
                    if size > SHARD_BYTES or time.monotonic() - written > SHARD_SECONDS:
                        self._write(portion, held)
                        size, written = 0, time.monotonic()
                    self.show(held)
            finally:  # Ctrl-C loses nothing that was finished
                if held:
                    self._write(portion, held)
        self.folder.refresh()

    def _write(self, portion: Portion, held: dict[str, Frames]) -> None:
        """Write the next shard of the portion and empty ``held``."""
        before = len(list(self.folder.path.glob(f"frames-{portion.name}-*.safetensors")))
        path = self.folder.path / f"frames-{portion.name}-{before + 1:04d}.safetensors"
        write_shard(path, held, self.folder.recordings, self.folder.identity)
        self.extracted += len(held)
        held.clear()

    def show(self, held: Collection[str] = ()) -> None:
        """Update the bar; stop if the process that watches this one has closed the pipe."""
        if self.bar is not None:
            self.bar.show(self.folder, held)
        if self.asked_by is not None and self.asked_by.poll():  # the other end sends nothing: it is closed
            raise SystemExit


class Bar:
    """One progress line about what is ``missing``, whoever extracts it: on a terminal, else logged every minute."""

    def __init__(self, missing: Sequence[Utterance], show: bool) -> None:
        self.missing, self.show_at_all = missing, show
        console = get_console()  # of a sweep's status line, too
        self.started = self.looked = self.logged = time.monotonic()
        self.progress = Progress(
            TextColumn("extracting"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("utterances  {task.fields[speed]:.1f} s of audio/s "),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (show and console.is_terminal),
        )
        self.task = self.progress.add_task("", total=len(missing), speed=0.0)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def show(self, folder: CacheFolder, held: Collection[str] = ()) -> None:
        """Count what is in the refreshed ``folder`` or ``held``, encoded and not yet written; at most once a second."""
        now = time.monotonic()
        if not self.show_at_all or now - self.looked < LOOK:
            return
        self.looked = now
        done = [u for u in self.missing if u.id in folder.places or u.id in folder.failures or u.id in held]
        speed = sum(utterance.seconds for utterance in done) / (now - self.started)
        self.progress.update(self.task, completed=len(done), speed=speed)
        if self.progress.disable and now - self.logged > _LOGGED:
            self.logged = now
            log.info("extracting: %d of %d utterances, %.1f s of audio/s", len(done), len(self.missing), speed)
