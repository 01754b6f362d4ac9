"""What the corpus parsers share: the root folder, the emotions, audio files and the checks of the result."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from ser.data.audio import duration
from ser.data.corpus import Corpus, Utterance
from ser.errors import SerError

log = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".WAV", ".FLAC")
_READERS = 8  # threads: on a network disk, opening a file is mostly waiting


def existing_root(root: str | Path | None, corpus: str, remedy: str) -> Path:
    """The corpus folder as a path.

    Raises:
        SerError: none was given, or it is no folder; ``remedy`` says how to give it.
    """
    if not root:
        raise SerError(f"the {corpus} corpus needs its folder but none was given; {remedy}.")
    path = Path(root).expanduser()
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise SerError(f"the {corpus} folder {path} {found}; {remedy}.")
    return path


def find_layout(root: Path, pattern: str) -> Path | None:
    """The folder in which ``pattern`` matches: ``root``, one of its subfolders or one of its parents; None if none.

    So a root that is one level too high, or too low (``Session1`` instead of its parent), is found all the same.
    """
    resolved = root.resolve()
    first = pattern.partition("/")[0]
    children = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    above = [parent for parent in resolved.parents[:2] if fnmatch(resolved.relative_to(parent).parts[0], first)]
    for folder in (root, *children, *above):
        if any(not match.name.startswith(".") for match in folder.glob(pattern)):
            if folder != root:
                log.info("%s: the corpus lies in %s", root, folder)
            return folder
    return None


def validate_emotions(emotions: Iterable[str], possible: Sequence[str], corpus: str) -> tuple[str, ...]:
    """The class names in the given order.

    Raises:
        SerError: one of them is not among ``possible`` or is named twice, or there are fewer than two.
    """
    if isinstance(emotions, str):
        raise SerError(
            f"emotions {emotions!r} were given for {corpus}, expected a list of at least two; write "
            f"data.emotions=[{','.join(possible)}] or some of these."
        )
    names = tuple(str(name) for name in emotions)
    unknown = [name for name in names if name not in possible]
    if unknown:
        raise SerError(
            f"{corpus} has no emotion {', '.join(unknown)}; choose data.emotions among {', '.join(possible)}."
        )
    if len(names) < 2 or len(set(names)) < len(names):
        raise SerError(
            f"emotions [{', '.join(names)}] were given for {corpus}, expected at least two different ones; "
            f"choose data.emotions among {', '.join(possible)}."
        )
    return names


def named_files(paths: Iterable[Path], pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    """Audio files whose name without suffix matches; one per name, the .wav where a recording is there in both formats.

    macOS's ``._`` twins are left out.
    """
    by_name = {path.stem: path for path in sorted(paths) if path.suffix in AUDIO_SUFFIXES}  # .wav sorts last
    for stem, path in by_name.items():
        if (match := pattern.fullmatch(stem)) is not None:
            yield path, match


def audio_file(folder: Path, stem: str) -> Path:
    """The audio file of that name with whichever suffix exists; the .wav path where none does."""
    candidates = (folder / f"{stem}{suffix}" for suffix in AUDIO_SUFFIXES)
    return next((path for path in candidates if path.is_file()), folder / f"{stem}.wav")


def assemble(name: str, emotions: tuple[str, ...], utterances: Iterable[Utterance], source: Path) -> Corpus:
    """The corpus of these utterances, sorted by session and id, with their lengths read from the files' headers.

    The length is 0.0 where a file is missing or unreadable, so that the extraction reports it.

    Raises:
        SerError: there are none, an id occurs twice, or an emotion has no utterance.
    """
    found = list(utterances)
    files = list(dict.fromkeys(utterance.path for utterance in found))
    with ThreadPoolExecutor(_READERS) as pool:
        length = dict(zip(files, pool.map(duration, files), strict=True))
    ordered = tuple(
        replace(u, seconds=max(0.0, min(length[u.path], length[u.path] if u.end is None else u.end) - u.start))
        for u in sorted(found, key=lambda utterance: (utterance.session, utterance.id))
    )
    if not ordered:
        raise SerError(
            f"no {name} utterance labelled {', '.join(emotions)} was found in {source}; check that the "
            "corpus is complete there."
        )
    repeated = [identifier for identifier, count in Counter(u.id for u in ordered).items() if count > 1]
    if repeated:
        raise SerError(
            f"{len(repeated)} utterance ids occur more than once in {source}, the first is {repeated[0]}; "
            "every id must be unique, so remove the copies."
        )
    missing = set(emotions) - {utterance.emotion for utterance in ordered}
    if missing:
        raise SerError(
            f"{source} has no utterance labelled {', '.join(sorted(missing))}; leave it out of "
            "data.emotions or complete the corpus."
        )
    return Corpus(name, emotions, ordered)
