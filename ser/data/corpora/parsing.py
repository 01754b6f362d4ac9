"""What the corpus parsers share: the root folder, the asked emotions, audio files and the checks of the result."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from ser.data.audio import duration
from ser.data.corpus import Corpus, Utterance
from ser.errors import SerError

_log = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".WAV", ".FLAC")
_READERS = 8  # threads: on a network disk opening a file is waiting


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
    """The folder that holds ``pattern``: ``root``, one of its subfolders, or the one that ``root`` is a part of.

    So a root that is one level too high, or too low (``Session1`` instead of its parent), is found all the same.
    None where nothing matches.
    """
    resolved = root.resolve()
    first = pattern.partition("/")[0]
    children = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    above = [parent for parent in resolved.parents[:2] if fnmatch(resolved.relative_to(parent).parts[0], first)]
    for folder in (root, *children, *above):
        if any(not match.name.startswith(".") for match in folder.glob(pattern)):
            if folder != root:
                _log.info("%s: the corpus lies in %s", root, folder)
            return folder
    return None


def asked_emotions(asked: Iterable[str], possible: Sequence[str], corpus: str) -> tuple[str, ...]:
    """The asked class names, in the asked order.

    Raises:
        SerError: one of them is not among ``possible``, is asked twice, or fewer than two are asked.
    """
    if isinstance(asked, str):
        raise SerError(
            f"emotions {asked!r} were asked of {corpus}, expected a list of at least two; write "
            f"data.emotions=[{','.join(possible)}] or some of these."
        )
    names = tuple(str(name) for name in asked)
    unknown = [name for name in names if name not in possible]
    if unknown:
        raise SerError(
            f"{corpus} has no emotion {', '.join(unknown)}; choose data.emotions among {', '.join(possible)}."
        )
    if len(names) < 2 or len(set(names)) < len(names):
        raise SerError(
            f"emotions [{', '.join(names)}] were asked of {corpus}, expected at least two different ones; "
            f"choose data.emotions among {', '.join(possible)}."
        )
    return names


def is_audio(path: Path) -> bool:
    """Whether the name is that of an audio file, and not of its macOS ``._`` twin."""
    return path.suffix in AUDIO_SUFFIXES and not path.name.startswith(".")


def audio_file(folder: Path, stem: str) -> Path:
    """The audio file of that name with whichever suffix exists; the .wav path where none does."""
    candidates = (folder / f"{stem}{suffix}" for suffix in AUDIO_SUFFIXES)
    return next((path for path in candidates if path.is_file()), folder / f"{stem}.wav")


def durations(paths: Sequence[Path]) -> list[float]:
    """Length of each file in seconds by its header, 0.0 where it is missing or unreadable."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(duration, paths))


def assemble(name: str, emotions: tuple[str, ...], utterances: Iterable[Utterance], source: Path) -> Corpus:
    """The corpus of these utterances, sorted by session and id.

    Raises:
        SerError: there are none, an id occurs twice, or an emotion has no utterance.
    """
    ordered = tuple(sorted(utterances, key=lambda utterance: (utterance.session, utterance.id)))
    if not ordered:
        raise SerError(
            f"no {name} utterance labelled {', '.join(emotions)} was found in {source}; check that the "
            "corpus is complete there."
        )
    repeated = [id_ for id_, count in Counter(utterance.id for utterance in ordered).items() if count > 1]
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
