"""IEMOCAP: five sessions of one female and one male actor each (Busso et al. 2008)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ser.data.corpora.parsing import (
    assemble,
    audio_files,
    existing_root,
    find_layout,
    mapped_labels,
    named_files,
)
from ser.data.corpus import Corpus, Utterance
from ser.errors import SerError

_REMEDY = "set data.root=/path/to/IEMOCAP_full_release or the variable IEMOCAP_ROOT"
# oth and xxx (no majority) have no class
_LABELS = {"neu": "neutral", "hap": "happy", "ang": "angry", "sad": "sad", "exc": "excited", "fru": "frustrated",
           "sur": "surprised", "fea": "fearful", "dis": "disgust"}  # fmt: skip
_NAME = re.compile(r"Ses\d\d[FM]_\w+_[FM][A-Z0-9]+")  # of an audio file
_SCENARIOS = {None: "", "improvised": "_impro", "scripted": "_script"}
# [6.2901 - 8.2357]<TAB>Ses01F_impro01_F000<TAB>neu<TAB>[2.5000, 2.5000, 2.5000]
_UTTERANCE_LINE = re.compile(
    r"^\[[\d.]+ *- *[\d.]+\][ \t]+(?P<id>Ses(?P<session>\d\d)[FM]_\w+_(?P<gender>[FM])[A-Z0-9]+)[ \t]+"
    r"(?P<label>\w+)[ \t]+\[",
    re.MULTILINE,
)


def iemocap(
    root: str | Path | None,
    emotions: Sequence[str] | None = ("neutral", "happy", "angry", "sad"),
    merge_excited: bool = True,
    scenario: str | None = None,
    map: Mapping[str, str] | None = None,
) -> Corpus:
    """Read the labels of every ``SessionN/**/EmoEvaluation/*.txt`` and find the wav files below ``SessionN``.

    Copies without folders of sessions, one ``EmoEvaluation`` beside all wav files, are read, too.

    The speaker is the session and the first letter of the id's *last* token: ``Ses01F_impro01_M000`` is spoken by
    Ses01M; the F only says who wore the motion-capture markers. An utterance whose wav is missing is kept with 0
    seconds, so that the extraction reports it.

    Neutral, happy, angry and sad, with excitement merged, are the standard 5,531 utterances.

    Raises:
        SerError: the folder or its layout is not there, or an emotion is unknown or has no utterance.
    """
    given = existing_root(root, "IEMOCAP", _REMEDY)
    if scenario not in _SCENARIOS:
        raise SerError(f"data.scenario={scenario} was given, expected improvised, scripted or null (both).")
    names = {**_LABELS, "exc": "happy"} if merge_excited else _LABELS
    labels, wanted = mapped_labels(names, emotions, "IEMOCAP", map)
    patterns = ("Session[0-9]/dialog/EmoEvaluation", "Session[0-9]/**/EmoEvaluation", "EmoEvaluation")
    release = next(filter(None, (find_layout(given, pattern) for pattern in patterns)), None)
    if release is None:
        raise SerError(
            f"{given} holds no Session1/dialog/EmoEvaluation, expected the IEMOCAP release with Session1 "
            f"to Session5; {_REMEDY}."
        )
    utterances = []
    for folder in sorted(release.glob("Session[0-9]")) or [release]:
        files = {path.stem: path for path, _ in named_files(audio_files(folder), _NAME)}  # in whatever folder they lie
        for line in _labelled_lines(folder):
            name, label, gender = line["id"], labels.get(line["label"]), line["gender"]
            if label not in wanted or _SCENARIOS[scenario] not in name:
                continue
            path = files.get(name, folder / "sentences" / "wav" / f"{name}.wav")
            speaker, session = f"Ses{line['session']}{gender}", int(line["session"])
            utterances.append(Utterance(name, path, label, speaker, session, gender))
    return assemble("iemocap", wanted, utterances, release, all_occur=emotions is not None)


def _labelled_lines(session: Path) -> Iterator[re.Match[str]]:
    """The utterance lines of a session's label files; headers and the annotators' votes do not match."""
    for file in sorted(session.glob("**/EmoEvaluation/*.txt")):
        if not file.name.startswith("."):  # the ._ twins of macOS
            yield from _UTTERANCE_LINE.finditer(file.read_text(encoding="latin-1"))
