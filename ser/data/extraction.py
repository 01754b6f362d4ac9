"""From a corpus to its feature cache: resumable, shared by processes, undisturbed by bad files."""

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from ser.data.audio import printable
from ser.data.cache import FeatureCache
from ser.data.corpus import Corpus, Utterance
from ser.data.encoding import Encoding, Maker
from ser.data.inventory import CacheFolder
from ser.data.sharing import Bar, Filling, fill_together, portions, usable_cores
from ser.encoders import Encoder, FrameFiles
from ser.encoders.base import usable_device
from ser.encoders.pretrained import PretrainedEncoder
from ser.errors import SerError, check_number
from ser.io import write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What a corpus's cache holds now and how it came about."""

    cache: FeatureCache  # frames of every utterance but the failed ones
    failures: dict[str, str]  # reason of each utterance that gave no frames; also in ``failures.csv`` beside the shards
    extracted: int  # utterances encoded by this call
    reused: int  # utterances that were there before, or that another process encoded meanwhile
    trusted: tuple[str, ...] = ()  # audio is missing and the cached frames were taken unchecked (trust_cache)


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
    maker: Maker | None = corpus.frame_source or encoder
    if maker is None or not corpus.utterances:
        raise SerError(
            f"corpus {corpus.name} has {len(corpus.utterances)} utterances and encoder {encoder}, expected "
            "some of one and an encoder; check data.root and features."
        )
    if corpus.name in ("", ".", "..") or Path(corpus.name).name != corpus.name:
        raise SerError(f"the corpus name {corpus.name!r} cannot name a folder, expected a plain name; set data.name.")
    if encoder is not None and corpus.frame_source is None:
        encoder.to(usable_device(device, "set extraction.device=cpu"))
    folder = CacheFolder.of(corpus, maker, cache_root, trust_cache)
    missing = folder.missing(corpus.utterances)
    extracted = 0
    if missing:
        with Bar(missing, show_progress) as bar:
            work = portions(corpus.utterances, folder.recordings, batch_seconds)
            filling = Filling(folder, Encoding(folder, maker, workers), work, bar)
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
            f"(first: {name}: {reason}), expected some; see {folder.path / 'failures.csv'}."
        )
    cache = FeatureCache(folder.places)
    if isinstance(maker, FrameFiles):
        maker.settle_rate(cache.lengths, corpus.utterances)
    result = Extraction(cache, failures, extracted, len(folder.places) - extracted, tuple(folder.trusted))
    _report(result, folder, bool(missing))
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
        log.warning("cached frames were made with %s %s, installed is %s: new ones may differ slightly; for those, "
                    "delete %s", package, before, now, folder.path)  # fmt: skip


@contextmanager
def _count_processes(
    asked: int | str, maker: Maker, device: str, missing: Sequence[Utterance], folder: CacheFolder
) -> Iterator[int]:
    """How many processes to start; with ``auto`` one if another one of this machine has started its own."""
    if asked != "auto":
        check_number("extraction.processes", asked, 1, whole=True)
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
