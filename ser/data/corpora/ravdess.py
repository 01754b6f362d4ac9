"""RAVDESS, the speech part: 24 actors, two sentences (Livingstone & Russo 2018)."""

import re
from collections.abc import Sequence
from pathlib import Path

from ser.data.corpora.parsing import assemble, existing_root, find_layout, named_files, validate_emotions
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
    wanted = validate_emotions(emotions, _EMOTIONS, "RAVDESS")
    layout = find_layout(folder, "Actor_[0-9][0-9]")
    if layout is None:
        raise SerError(f"{folder} holds no Actor_01 folder, expected the unpacked speech recordings; {_REMEDY}.")
    utterances = (
        Utterance(
            path.stem,
            path,
            _EMOTIONS[int(name["emotion"]) - 1],
            speaker=f"Actor_{name['actor']}",
            session=(int(name["actor"]) - 1) // _ACTORS_PER_GROUP + 1,
            gender="M" if int(name["actor"]) % 2 else "F",
        )
        for path, name in named_files(layout.glob("Actor_[0-9][0-9]/*"), _NAME)
        if _EMOTIONS[int(name["emotion"]) - 1] in wanted
    )
    return assemble("ravdess", wanted, utterances, layout)
