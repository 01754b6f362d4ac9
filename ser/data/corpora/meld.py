"""MELD: 13,708 utterances of the TV series Friends, in given partitions (Poria et al. 2019)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ser.data.corpora.parsing import AUDIO_SUFFIXES, assemble, existing_root, mapped_labels, named_files
from ser.data.corpus import Corpus, Utterance
from ser.data.soundfiles import UNREADABLE, files_below
from ser.errors import SerError, first_line

_REMEDY = "set data.root=/path/to/MELD (or the variable MELD_ROOT), the folder of train_sent_emo.csv"
_LABELS = {"neutral": "neutral", "joy": "happy", "sadness": "sad", "anger": "angry", "surprise": "surprised",
           "fear": "fearful", "disgust": "disgust"}  # fmt: skip
_PARTITIONS = {"train": "train", "dev": "validation", "test": "test"}  # the first word of a table's name
_COLUMNS = ("Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
_NAME = re.compile(r"dia\d+_utt\d+")


def meld(
    root: str | Path | None,
    emotions: Sequence[str] | None = ("neutral", "happy", "sad", "angry"),
    map: Mapping[str, str] | None = None,
) -> Corpus:
    """Read ``{train,dev,test}_sent_emo.csv`` and find ``dia0_utt0.wav`` in the folder that is named after each part.

    The release holds videos (``train_splits/dia0_utt0.mp4``, ``dev_splits_complete``, ``output_repeated_splits_test``):
    write their sound beside them, ``ffmpeg -i dia0_utt0.mp4 -ac 1 -ar 16000 dia0_utt0.wav``. Speakers occur in several
    partitions, which ``protocol=given`` labels; each partition is a session. (github.com/declare-lab/MELD)

    Raises:
        SerError: the folder or a table is not there, or an emotion is unknown or has no utterance.
    """
    folder = existing_root(root, "MELD", _REMEDY)
    labels, wanted = mapped_labels(_LABELS, emotions, "MELD", map)
    utterances: list[Utterance] = []
    below = [path for path in files_below(folder) if path.suffix.lower() in {*AUDIO_SUFFIXES, *UNREADABLE}]
    for session, (part, partition) in enumerate(_PARTITIONS.items(), 1):
        table = next(folder.rglob(f"{part}_sent_emo.csv"), None)
        if table is None:
            raise SerError(f"{folder} holds no {part}_sent_emo.csv, expected the three tables of MELD; {_REMEDY}.")
        within = [path for path in below if part in path.parent.relative_to(folder).as_posix()]
        files = {path.stem: path.with_suffix(".wav") for path in within}  # of videos: where their sound is to be
        files |= {path.stem: path for path, _ in named_files(within, _NAME)}
        for number, row in enumerate(_rows(table), 2):
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            if (emotion := labels.get(row["Emotion"].strip().lower())) is None:
                raise SerError(
                    f"{table}, line {number}: the emotion is {row['Emotion']!r}, expected one of {', '.join(_LABELS)}; "
                    "copy the table again."
                )
            path = files.get(name, folder / f"{part}_splits" / f"{name}.wav")
            utterances.append(
                Utterance(f"{part}_{name}", path, emotion, row["Speaker"].strip(), session, "", partition=partition)
            )
    chosen = (u for u in utterances if u.emotion in wanted)
    return assemble("meld", wanted, chosen, folder, all_occur=emotions is not None)


def _rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table of MELD."""
    try:
        found = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # of pandas' parser, too
        raise SerError(f"{table} cannot be read as UTF-8 CSV ({first_line(error)}); copy it again.") from error
    if missing := [column for column in _COLUMNS if column not in found]:
        raise SerError(f"{table} lacks the column {missing[0]}, expected {', '.join(_COLUMNS)}; copy it again.")
    return found[list(_COLUMNS)].to_dict("records")  # type: ignore[return-value]
