"""What the corpus parsers share: the root folder, the emotions, audio files and the checks of the result."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from ser.data.audio import duration
from ser.data.corpus import Corpus, Utterance
from ser.data.soundfiles import files_below, printable
from ser.errors import SerError

log = logging.getLogger(__name__)

# In any case; the first is taken where a recording has several.
AUDIO_SUFFIXES = (".wav", ".flac", ".aiff", ".aif", ".au", ".caf", ".w64", ".sph", ".opus", ".ogg", ".oga", ".mp3")
_COPY = re.compile(r" \(\d+\)$")  # what a second download of the same file is called
_MOST_GROUPS = 5  # speaker groups in place of sessions, as many as IEMOCAP's sessions
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


def validate_emotions(
    emotions: Iterable[str] | None, possible: Sequence[str], corpus: str, map: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The class names in the given order, without those that ``map`` renames and no label has any more.

    None stands for all of ``possible``.

    Raises:
        SerError: one of them is not among ``possible`` or is named twice, or there are fewer than two.
    """
    if emotions is None:
        return tuple(possible)
    if isinstance(emotions, str):
        raise SerError(
            f"emotions {emotions!r} were given for {corpus}, expected a list of at least two; write "
            f"data.emotions=[{','.join(possible)}] or some of these."
        )
    names = tuple(str(name) for name in emotions if name in possible or name not in (map or {}))
    if len(set(possible)) < 2:
        raise SerError(
            f"{corpus} has one emotion only ({', '.join(possible)}), expected two or more; add recordings of others."
        )
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


def mapped_labels(
    names: Mapping[str, str], emotions: Iterable[str] | None, corpus: str, map: Mapping[str, str] | None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The class of each label in ``names`` (label to class) after ``data.map``, and the classes that are read.

    Raises:
        SerError: the map names a class that there is not; or as validate_emotions.
    """
    if unknown := [str(name) for name in map or {} if name not in names.values()]:
        raise SerError(
            f"data.map names {unknown[0]}, which {corpus} does not have, expected some of "
            f"{', '.join(dict.fromkeys(names.values()))}."
        )
    labels = {label: str((map or {}).get(name, name)) for label, name in names.items()}
    return labels, validate_emotions(emotions, tuple(dict.fromkeys(labels.values())), corpus, map)


def audio_files(root: Path) -> Iterator[Path]:
    """All audio files below ``root``; hidden files and folders and macOS's ``._`` twins are left out."""
    return (path for path in files_below(root) if path.suffix.lower() in AUDIO_SUFFIXES)


def named_files(paths: Iterable[Path], pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    """Audio files whose path without suffix ends in ``pattern``, which begins with a whole name; one per identifier.

    Of several files with one name the original is taken (not ``name (1).wav``), then the .wav, then the shortest path.
    """
    found: dict[str, tuple[tuple[bool, int, int, str], Path, re.Match[str]]] = {}
    for path in paths:
        if path.suffix.lower() not in AUDIO_SUFFIXES or path.name.startswith("."):
            continue
        if (match := match_name(path, pattern)) is not None:
            order = (
                _COPY.search(path.stem) is not None,
                AUDIO_SUFFIXES.index(path.suffix.lower()),
                len(path.parts),
                str(path),
            )
            name = identifier(match)
            if name not in found or order < found[name][0]:
                found[name] = order, path, match
    yield from ((path, match) for _, path, match in found.values())


def identifier(match: re.Match[str]) -> str:
    """What a recording is called: the group ``id``, or all that names it, whether folders or ``_`` stand in it."""
    return match.groupdict().get("id") or match[0].replace("/", "_")


def match_name(path: Path, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The last parts of a path that are named so, without its suffix and the number of a copy."""
    return re.search(rf"(?<![^/]){pattern.pattern}$", _COPY.sub("", path.with_suffix("").as_posix()))


def speaker_groups(speakers: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Group of each speaker, in place of sessions: at most five, balanced by gender and number of utterances.

    It takes speaker and gender of every utterance. The largest speakers come first, each to the group with the fewest
    of that gender.
    """
    counts = Counter(speakers)
    ordered = sorted(counts, key=lambda one: (one[1], -counts[one], one[0]))
    groups = range(1, min(_MOST_GROUPS, len(counts)) + 1)
    of_gender: Counter[tuple[int, str]] = Counter()
    size: Counter[int] = Counter()
    found = {}
    for speaker, gender in ordered:
        group = min(groups, key=lambda group: (of_gender[group, gender], size[group], group))
        found[speaker] = group
        of_gender[group, gender] += 1
        size[group] += counts[speaker, gender]
    return found


def assemble(
    name: str, emotions: tuple[str, ...], utterances: Iterable[Utterance], source: Path, all_occur: bool = True
) -> Corpus:
    """The corpus of these utterances, sorted by session and id, with lengths that are 0.0 read from the files' headers.

    Of the emotions, those without an utterance are an error, or left out where not ``all_occur``. The length stays 0.0
    where a file is missing or unreadable, so that the extraction reports it.

    Raises:
        SerError: there are none, an id occurs twice, or an emotion has no utterance.
    """
    found = [  # ids and speakers, made of names of files that are not UTF-8, become texts that can be written
        u if (u.id + u.speaker).isascii() else replace(u, id=printable(u.id), speaker=printable(u.speaker))
        for u in utterances
    ]
    files = list(dict.fromkeys(utterance.path for utterance in found if not utterance.seconds))
    with ThreadPoolExecutor(_READERS) as pool:
        length = dict(zip(files, pool.map(duration, files), strict=True))
    ordered = tuple(
        u
        if u.seconds
        else replace(u, seconds=max(0.0, min(length[u.path], length[u.path] if u.end is None else u.end) - u.start))
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
    if not all_occur:
        emotions = tuple(emotion for emotion in emotions if emotion not in missing)
    elif missing:
        raise SerError(
            f"{source} has no utterance labelled {', '.join(sorted(missing))}; leave it out of "
            "data.emotions or complete the corpus."
        )
    return Corpus(name, emotions, ordered)
