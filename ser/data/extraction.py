"""From a corpus to its feature cache: resumable, shared by processes, undisturbed by bad files."""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from ser.data.cache import FeatureCache, Origin, fingerprint
from ser.data.corpus import Corpus, FrameSource
from ser.data.encoding import Encoding
from ser.data.session_frames import SessionFrames
from ser.encoders import Encoder
from ser.errors import SerError
from ser.io import write_text

log = logging.getLogger(__name__)


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
        SessionFrames(folder, number, origin, [u for u in corpus.utterances if u.session == number])
        for number in corpus.sessions
    ]
    due = [session for session in sessions if not session.complete()]
    encoding = Encoding(maker, workers, batch_seconds, Console(), show_progress)
    _share(due, encoding)
    _write_failures(folder / "failures.csv", corpus, encoding.failures)
    reused = len(corpus.utterances) - encoding.extracted - len(encoding.failures)
    if encoding.failures and len(encoding.failures) == len(corpus.utterances):
        name, reason = next(iter(encoding.failures.items()))
        raise SerError(
            f"none of the {len(corpus.utterances)} utterances of {corpus.name} could be encoded "
            f"(first: {name}: {reason}), expected some; see {folder / 'failures.csv'}."
        )
    if due:
        log.info(
            "extracted %d utterances, reused %d, failed %d: %s",
            encoding.extracted,
            reused,
            len(encoding.failures),
            folder,
        )
    else:
        log.info("reusing cache %s (%d utterances)", folder, reused)
    cache = FeatureCache([session.path for session in sessions if session.path.exists()], origin)
    return Extraction(cache, encoding.failures, encoding.extracted, reused)


def _share(sessions: Sequence[SessionFrames], encoding: Encoding) -> None:
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
                session.fill(encoding)
        sessions = busy


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
