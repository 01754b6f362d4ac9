"""RAVDESS, the speech part: 24 actors, two sentences (Livingstone & Russo 2018)."""

import re
from collections.abc import Sequence
from pathlib import Path

from ser.data.corpora.parsing import asked_emotions, assemble, durations, existing_root, find_layout, is_audio
from ser.data.corpus import Corpus, Utterance
from ser.errors import SerError

_REMEDY = "set data.root=/path/to/ravdess (or the variable RAVDESS_ROOT), the folder that holds Actor_01 to Actor_24"
_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # codes 01 to 08
_ACTORS_PER_GROUP = 4  # two men and two women; RAVDESS has no sessions
# modality 03 (audio only) - channel 01 (speech) - emotion - intensity - statement - repetition - actor
_NAME = re.compile(r"03-01-0(?P<emotion>[1-8])-\d\d-\d\d-\d\d-(?P<actor>\d\d)")


def ravdess(root: str | Path | None, emotions: Sequence[str] = ("neutral", "happy", "sad", "angry")) -> Corpus:
    """Read the speech recordings; everything is in the file names. Sessions are six groups of four actors.

    Args:
        root: the folder that holds Actor_01 to Actor_24.
        emotions: the classes in their order, of neutral, calm, happy, sad, angry, fearful, disgust and surprised.

    Raises:
        SerError: the folder or its layout is not there, or an emotion is unknown or has no recording.
    """
    folder = existing_root(root, "RAVDESS", _REMEDY)
    wanted = asked_emotions(emotions, _EMOTIONS, "RAVDESS")
    layout = find_layout(folder, "Actor_[0-9][0-9]")
    if layout is None:
        raise SerError(f"{folder} holds no Actor_01 folder, expected the unpacked speech recordings; {_REMEDY}.")
    found = {}  # by name: of a recording in both formats the .wav, which sorts last, stays
    for path in sorted(layout.glob("Actor_[0-9][0-9]/*")):
        name = _NAME.fullmatch(path.stem)
        if name and is_audio(path) and _EMOTIONS[int(name["emotion"]) - 1] in wanted:
            found[path.stem] = (path, _EMOTIONS[int(name["emotion"]) - 1], int(name["actor"]))
    seconds = durations([path for path, _, _ in found.values()])
    utterances = (
        Utterance(
            path.stem,
            path,
            emotion,
            speaker=f"Actor_{actor:02d}",
            session=(actor - 1) // _ACTORS_PER_GROUP + 1,
            gender="M" if actor % 2 else "F",
            seconds=length,
        )
        for (path, emotion, actor), length in zip(found.values(), seconds, strict=True)
    )
    return assemble("ravdess", wanted, utterances, layout)
