"""IEMOCAP: five sessions of one female and one male actor each (Busso et al. 2008)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ser.data.corpora.parsing import (
    assemble,
    audio_files,
    existing_root,
    find_layout,
    named_files,
    relabelled,
    validate_emotions,
)
from ser.data.corpus import Corpus, Utterance
from ser.emotions import find_emotion
from ser.errors import SerError

_REMEDY = "set data.root=/path/to/IEMOCAP_full_release or the variable IEMOCAP_ROOT"
# oth and xxx (no majority) have no class
_CODES = ("neu", "hap", "ang", "sad", "exc", "fru", "sur", "fea", "dis")
_LABELS = {code: emotion.name for code in _CODES if (emotion := find_emotion(code))}
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

    The speaker is the session and the first letter of the id's *last* token: ``Ses01F_impro01_M000`` is spoken by
    Ses01M; the F only says who wore the motion-capture markers. An utterance whose wav is missing is kept with 0
    seconds, so that the extraction reports it.

    Neutral, happy, angry and sad, with excitement merged, are the standard 5,531 utterances.

    Raises:
        SerError: the folder or its layout is not there, or an emotion is unknown or has no utterance.
    """
    folder = existing_root(root, "IEMOCAP", _REMEDY)
    if scenario not in _SCENARIOS:
        raise SerError(f"data.scenario={scenario} was given, expected improvised, scripted or null (both).")
    labels = {code: relabelled(name, map) for code, name in _LABELS.items()}
    labels |= {"exc": labels["hap"]} if merge_excited else {}
    wanted = validate_emotions(emotions, tuple(dict.fromkeys(labels.values())), "IEMOCAP", map)
    release = find_layout(folder, "Session[0-9]/dialog/EmoEvaluation") or find_layout(
        folder, "Session[0-9]/**/EmoEvaluation"
    )
    if release is None:
        raise SerError(
            f"{folder} holds no Session1/dialog/EmoEvaluation, expected the IEMOCAP release with Session1 "
            f"to Session5; {_REMEDY}."
        )
    utterances = (
        Utterance(
            line["id"],
            files.get(line["id"], session / "sentences" / "wav" / f"{line['id']}.wav"),
            labels[line["label"]],
            speaker=f"Ses{line['session']}{line['gender']}",
            session=int(line["session"]),
            gender=line["gender"],
        )
        for session in sorted(release.glob("Session[0-9]"))
        for files in [_sentences(session)]
        for line in _labelled_lines(session)
        if labels.get(line["label"]) in wanted and _SCENARIOS[scenario] in line["id"]
    )
    return assemble("iemocap", wanted, utterances, release, all_occur=emotions is not None)


def _sentences(session: Path) -> dict[str, Path]:
    """Audio files of a session's utterances by their ids, in whatever folder they lie; .wav before other formats."""
    return {
        path.stem: path for path, _ in named_files(audio_files(session), re.compile(r"Ses\d\d[FM]_\w+_[FM][A-Z0-9]+"))
    }


def _labelled_lines(session: Path) -> Iterator[re.Match[str]]:
    """The utterance lines of a session's label files; headers and the annotators' votes do not match."""
    for file in sorted(session.glob("**/EmoEvaluation/*.txt")):
        if not file.name.startswith("."):  # the ._ twins of macOS
            yield from _UTTERANCE_LINE.finditer(file.read_text(encoding="latin-1"))
