"""A folder of recordings whose emotions stand in the names of files or folders."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ser.data.corpora.parsing import assemble, audio_files, existing_root, log, speaker_groups, validate_emotions
from ser.data.corpus import Corpus, Utterance
from ser.emotions import find_emotion
from ser.errors import SerError

_REMEDY = "set data.root to a folder such as recordings/anna/angry/1.wav or recordings/anna_angry_1.wav"
_UNKNOWN = "unknown"  # one speaker for all: there is then no interval over speakers


def folder(root: str | Path | None, emotions: Sequence[str] | None = None) -> Corpus:
    """Read the audio files below ``root``, labelled by their names; files without an emotion are left out.

    The emotion is the word of the file name (``anna_angry_1.wav``, ``1001_DFA_ANG_XX.wav``) or of the nearest folder
    that is one of ``ser.emotions``, with its aliases. The speaker is the first folder below ``root`` that is no
    emotion, else what stands before the first ``_`` or ``-`` of the file name if several files begin so, else unknown.

    Raises:
        SerError: the folder is not there, or no two emotions are found in it.
    """
    base = existing_root(root, "recordings", _REMEDY)
    files = sorted(path.relative_to(base) for path in audio_files(base))
    labels = {path: emotion for path in files if (emotion := _emotion(path)) is not None}
    if len(set(labels.values())) < 2:
        raise SerError(
            f"{base} has {len(files)} audio files and names of {len(set(labels.values()))} emotions in their paths, "
            f"expected two or more; {_REMEDY}."
        )
    if len(labels) < len(files):
        log.warning("%s: %d of %d files have no emotion in their names", base, len(files) - len(labels), len(files))
    possible = sorted(set(labels.values()))
    wanted = validate_emotions(possible if emotions is None else emotions, possible, str(base))
    kept = [path for path in files if labels.get(path) in wanted]
    first_words = Counter(_words(path.stem)[0] for path in kept)
    speakers = [_speaker(path, first_words) for path in kept]
    session = speaker_groups((speaker, "") for speaker in speakers)
    return assemble(
        "folder",
        wanted,
        (
            Utterance(str(path.with_suffix("")), base / path, labels[path], speaker, session[speaker], "")
            for path, speaker in zip(kept, speakers, strict=True)
        ),
        base,
    )


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\s_.-]+", name) if word] or [name]


def _emotion(path: Path) -> str | None:
    """The only emotion in the file name, else in the nearest folder that has one; None where there are none or two."""
    for name in (path.stem, *(parent.name for parent in path.parents)):
        found = {emotion.name for word in _words(name) if (emotion := find_emotion(word))}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _speaker(path: Path, first_words: Counter[str]) -> str:
    for part in path.parts[:-1]:
        if not any(find_emotion(word) for word in _words(part)):
            return part
    words = _words(path.stem)
    return words[0] if len(words) > 1 and not find_emotion(words[0]) and first_words[words[0]] > 1 else _UNKNOWN
