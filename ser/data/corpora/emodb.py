"""EMO-DB, the Berlin database of acted German: ten speakers, ten sentences (Burkhardt et al. 2005)."""

import re
from collections.abc import Sequence
from pathlib import Path

from ser.data.corpora.parsing import assemble, existing_root, find_layout, named_files, validate_emotions
from ser.data.corpus import Corpus, Utterance
from ser.errors import SerError

_REMEDY = "set data.root=/path/to/emodb (or the variable EMODB_ROOT), the folder that holds wav/03a01Fa.wav and so on"
_EMOTIONS = {"W": "angry", "L": "bored", "E": "disgust", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral"}
_MEN, _WOMEN = ("03", "10", "11", "12", "15"), ("08", "09", "13", "14", "16")  # one pair of each is a session
_SESSIONS = {speaker: pair for pair, speakers in enumerate(zip(_MEN, _WOMEN, strict=True), 1) for speaker in speakers}
# speaker - text - emotion - version. The letter in the name decides: label files of some copies are wrong.
_NAME = re.compile(r"(?P<speaker>\d\d)[ab]\d\d(?P<emotion>[WLEAFTN])[a-z]")
_FILES = "[0-9][0-9][ab][0-9][0-9][WLEAFTN][a-z].*"


def emodb(
    root: str | Path | None,
    emotions: Sequence[str] = ("angry", "bored", "disgust", "fearful", "happy", "sad", "neutral"),
) -> Corpus:
    """Read the recordings; everything is in the file names. Sessions are five pairs of a man and a woman.

    Args:
        root: the folder that holds ``wav``, or that folder itself.
        emotions: the classes in their order, of the seven of the corpus.

    Raises:
        SerError: the folder or its layout is not there, a speaker is not among the ten, or an emotion is unknown or
            has no recording.
    """
    folder = existing_root(root, "EMO-DB", _REMEDY)
    wanted = validate_emotions(emotions, tuple(_EMOTIONS.values()), "EMO-DB")
    layout = find_layout(folder, f"wav/{_FILES}") or find_layout(folder, _FILES)
    if layout is None:
        raise SerError(
            f"{folder} holds no recording named like 03a01Fa.wav, expected the folder wav of EMO-DB; {_REMEDY}."
        )
    layout = layout / "wav" if (layout / "wav").is_dir() else layout
    utterances = []
    for path, name in named_files(layout.iterdir(), _NAME):
        speaker, emotion = name["speaker"], _EMOTIONS[name["emotion"]]
        if speaker not in _SESSIONS:
            raise SerError(
                f"{path} is named after speaker {speaker}, expected one of {', '.join(_SESSIONS)}; "
                "remove the file or use data=manifest for another corpus."
            )
        gender = "M" if speaker in _MEN else "F"
        utterances.append(Utterance(path.stem, path, emotion, speaker, _SESSIONS[speaker], gender))
    return assemble("emodb", wanted, (u for u in utterances if u.emotion in wanted), layout)
