"""Corpora whose file names say everything: one row of a table each with a file in conf/data/, and any other folder.

Sources of the names: RAVDESS, Livingstone & Russo 2018 (zenodo.org/record/1188976); EMO-DB, Burkhardt et al. 2005
(emodb.bilderbar.info/docu), version 2: github.com/audeering/emodb; CREMA-D, Cao et al. 2014
(github.com/CheyneyComputerScience/CREMA-D, genders from its VideoDemographics.csv); ESD, Zhou et al. 2021 (its
ReadMe.txt); TESS, Pichora-Fuller & Dupuis 2020 (doi.org/10.5683/SP2/E8H2MF); SAVEE, Haq & Jackson 2010 (its Info.txt);
CASIA, the 1,200 public recordings.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ser.data.corpora.parsing import (
    AUDIO_SUFFIXES,
    assemble,
    audio_files,
    existing_root,
    identifier,
    log,
    mapped_labels,
    match_name,
    named_files,
    speaker_groups,
    validate_emotions,
)
from ser.data.corpus import Corpus, Utterance
from ser.data.soundfiles import UNREADABLE, files_below, printable, without_converted
from ser.emotions import find_emotion
from ser.errors import SerError


@dataclass(frozen=True)
class Names:
    """How a corpus names its files."""

    title: str  # of the corpus
    pattern: str  # of the last parts of a path without suffix: speaker, emotion, and id if it is not all of it
    emotions: Mapping[str, str]  # class of each code, in the order of the corpus
    example: str  # of a file
    inner: str = "-"  # pattern of a folder inside the corpus, so that a root one level too low is found
    women: str | None = None  # pattern of the speakers that are women, the others being men; None: not known
    sessions: Mapping[str, int] | None = None  # of each speaker; None: groups balanced by gender and utterances
    prefix: str = ""  # of the speakers' names

    def gender(self, speaker: str) -> str:
        """``F`` or ``M``; empty where it is not known."""
        return "" if self.women is None else "F" if re.fullmatch(self.women, speaker) else "M"


_RAVDESS_CODES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # 01 to 08
_EMODB_MEN, _EMODB_WOMEN = ("03", "10", "11", "12", "15"), ("08", "09", "13", "14", "16")  # a pair is a session
_CREMA_D_WOMEN = (
    "10(0[2-46-9]|1[0238]|2[01458]|29|30|37|4[3679]|5[2-68]|6[013]|7[2-689]|8[249]|91)"  # of VideoDemographics.csv
)
CORPORA = {
    "ravdess": Names(
        "RAVDESS",
        # modality 03 (audio) - channel 01 (speech, 02 is song) - emotion - intensity - statement - repetition - actor
        r"03-01-0(?P<emotion>[1-8])-\d\d-\d\d-\d\d-(?P<speaker>\d\d)",
        {str(code): name for code, name in enumerate(_RAVDESS_CODES, 1)},
        "Actor_01/03-01-01-01-01-01-01.wav",
        inner=r"Actor_\d\d",
        women=r"\d[02468]",
        sessions={f"{actor:02d}": (actor - 1) // 4 + 1 for actor in range(1, 25)},
        prefix="Actor_",
    ),
    "emodb": Names(
        "EMO-DB",
        # speaker - text - emotion - version. The letter decides: label files of some copies are wrong. Version 2 has
        # laryngograms of the same names, in a folder or (before it was published) as second channel.
        r"(?<!laryngo/)(?<!wav_laryng/)(?P<speaker>\d\d)[ab]\d\d(?P<emotion>[WLEAFTN])[a-z]?",
        {"W": "angry", "L": "bored", "E": "disgust", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral"},
        "wav/03a01Fa.wav",
        women="|".join(_EMODB_WOMEN),
        sessions={
            speaker: pair
            for pair, speakers in enumerate(zip(_EMODB_MEN, _EMODB_WOMEN, strict=True), 1)
            for speaker in speakers
        },
    ),
    "crema_d": Names(
        "CREMA-D",
        r"(?P<speaker>1\d{3})_[A-Z]{3}_(?P<emotion>[A-Z]{3})_[A-Z]{1,2}",  # actor - sentence - emotion - level
        {"ANG": "angry", "DIS": "disgust", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad"},
        "AudioWAV/1001_DFA_ANG_XX.wav",
        women=_CREMA_D_WOMEN,
    ),
    "esd": Names(
        "ESD",
        # the ReadMe's own layout has train/, evaluation/ or test/ before the file
        r"(?P<speaker>\d{4})/(?P<emotion>\w+)/(?:\w+/)?(?P<id>(?P=speaker)_\d{6})",
        {"Neutral": "neutral", "Angry": "angry", "Happy": "happy", "Sad": "sad", "Surprise": "surprised"},
        "0011/Angry/0011_000351.wav",
        inner=r"\d{4}",
        women=r"00(0[12379]|1[5-9])",
    ),
    "tess": Names(
        "TESS",
        r"(?P<speaker>OA|YA)F?_\w+_(?P<emotion>angry|disgust|fear|happy|neutral|ps|sad)",  # one file is OA_bite_neutral
        {"angry": "angry", "disgust": "disgust", "fear": "fearful", "happy": "happy", "neutral": "neutral",
         "ps": "surprised", "sad": "sad"},
        "OAF_angry/OAF_back_angry.wav",
        women=".*",
        sessions={"OA": 1, "YA": 2},
    ),
    "savee": Names(
        "SAVEE",
        r"(?P<speaker>DC|JE|JK|KL)[_/](?P<emotion>a|d|f|h|n|sa|su)\d\d",
        {"a": "angry", "d": "disgust", "f": "fearful", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprised"},
        "AudioData/DC/a01.wav",
        women="",
        sessions={"DC": 1, "JE": 2, "JK": 3, "KL": 4},
    ),
    "casia": Names(
        "CASIA",
        r"(?P<speaker>\w+)/(?P<emotion>angry|fear|happy|neutral|sad|surprise)/\d+",
        {"angry": "angry", "fear": "fearful", "happy": "happy", "neutral": "neutral", "sad": "sad",
         "surprise": "surprised"},
        "wangzhe/angry/201.wav",
        women="liuchang|liuchanhg|zhaoquanyin",
    ),
}  # fmt: skip


def named(
    name: str,
    root: str | Path | None,
    emotions: Sequence[str] | None,
    map: Mapping[str, str] | None = None,
    speakers: str | None = None,
) -> Corpus:
    """Read a corpus by its file names; copies (``name (1).wav``) and second formats count once.

    Raises:
        SerError: the folder is not there or holds no such file, a speaker is not one of the corpus, or an emotion is
            unknown or has no recording.
    """
    names = CORPORA[name]
    remedy = f"set data.root=/path/to/{name} (or the variable {name.upper()}_ROOT), the folder of {names.example}"
    folder = existing_root(root, names.title, remedy)
    if re.fullmatch(names.inner, folder.resolve().name):
        folder = folder.resolve().parent
    labels, wanted = mapped_labels(names.emotions, emotions, names.title, map)
    files = list(named_files(audio_files(folder), re.compile(names.pattern)))
    if not files:
        raise SerError(
            f"{folder} holds no recording named like {names.example}, expected those of the corpus; {remedy}."
        )
    utterances = []
    for path, match in files:
        speaker, label = match["speaker"], labels.get(match["emotion"])
        if names.sessions is not None and speaker not in names.sessions:
            raise SerError(
                f"{path} is named after speaker {speaker}, expected one of {', '.join(names.sessions)}; "
                "remove the file or use data=manifest for another corpus."
            )
        session, gender = 0 if names.sessions is None else names.sessions[speaker], names.gender(speaker)
        speaker = f"{names.prefix}{speaker}"
        if label not in wanted or (speakers is not None and not re.fullmatch(speakers, speaker)):
            continue
        utterances.append(Utterance(identifier(match), path, label, speaker, session, gender))
    if speakers is not None and not utterances:
        raise SerError(f"data.speakers={speakers} matches no speaker, expected some such as {speaker}; correct it.")
    if names.sessions is None:
        group = speaker_groups((u.speaker, u.gender) for u in utterances)
        utterances = [replace(u, session=group[u.speaker]) for u in utterances]
    return assemble(name, wanted, utterances, folder, all_occur=emotions is not None)


_REMEDY = "set data.root to a folder such as recordings/anna/angry/1.wav or recordings/anna_angry_1.wav"
_UNKNOWN = "unknown"  # one speaker for all: there is then no interval over speakers
_NAMED = ("ravdess", "emodb", "crema_d", "tess", "savee")  # corpora whose file names alone say emotion and speaker


class _Label(NamedTuple):
    """What the path of a recording says."""

    emotion: str
    speaker: str
    source: str  # how the speaker was found
    gender: str = ""


def folder(root: str | Path | None, emotions: Sequence[str] | None = None) -> Corpus:
    """Read the audio files below ``root``, labelled by their names; files without an emotion are left out.

    Files named as those of RAVDESS, EMO-DB, CREMA-D, TESS or SAVEE have that emotion and speaker. Of others, the
    emotion is the word of the file name (``anna_angry_1.wav``) or of the nearest folder that is one of
    ``ser.emotions``, with its aliases. The speaker is the first folder below ``root`` that is no emotion, else what
    stands before the first ``_`` or ``-`` of the file name if several files begin so, else unknown.

    Raises:
        SerError: the folder is not there, or no two emotions are found in it.
    """
    base = existing_root(root, "recordings", _REMEDY)
    found = list(files_below(base))
    audio = sorted(path.relative_to(base) for path in found if path.suffix.lower() in AUDIO_SUFFIXES)
    files = _without_copies(audio, base)
    if odd := [path for path in without_converted(found) if path.suffix.lower() in UNREADABLE]:
        example = printable(min(odd).relative_to(base))
        log.warning("%s: %d files such as %s cannot be read; convert them (ffmpeg -i IN OUT.wav)",
                    printable(base), len(odd), example)  # fmt: skip
    labels = _labels(files)
    possible = sorted({label.emotion for label in labels.values()})
    if len(possible) < 2:
        raise SerError(
            f"{base} has {len(files)} audio files, whose paths name {possible[0] if possible else 'no emotion'}, "
            f"expected two emotions or more; {_REMEDY}."
        )
    if without := len(files) - len(labels):
        log.warning("%s: %d of %d files have no emotion in their names", printable(base), without, len(files))
    wanted = validate_emotions(possible if emotions is None else emotions, possible, str(base))
    kept = {path: label for path, label in labels.items() if label.emotion in wanted}
    _tell_sources(base, kept)
    session = speaker_groups((label.speaker, label.gender) for label in kept.values())
    return assemble(
        "folder",
        wanted,
        (
            Utterance(str(path.with_suffix("")), base / path, it.emotion, it.speaker, session[it.speaker], it.gender)
            for path, it in kept.items()
        ),
        base,
    )


def _without_copies(files: Sequence[Path], base: Path) -> list[Path]:
    """The files without second copies and formats of those that are named as a known corpus's."""
    copies: set[Path] = set()
    for pattern in (re.compile(CORPORA[name].pattern) for name in _NAMED):
        named = {path for path in files if match_name(path, pattern)}
        copies |= named - {path for path, _ in named_files(named, pattern)}
    if copies:
        log.warning(
            "%s: left out %d copies of recordings, such as %s", printable(base), len(copies), printable(min(copies))
        )
    return [path for path in files if path not in copies]


def _labels(files: Sequence[Path]) -> dict[Path, _Label]:
    """What the paths below the root say, of those that have an emotion."""
    labels = {path: label for name in _NAMED for path, label in _by_corpus(files, CORPORA[name])}
    others = {path: emotion for path in files if path not in labels and (emotion := _emotion(path)) is not None}
    first_words = Counter(_words(path.stem)[0] for path in others)
    labels |= {path: _Label(emotion, *_speaker(path, first_words)) for path, emotion in others.items()}
    return dict(sorted(labels.items()))


def _tell_sources(base: Path, labels: Mapping[Path, _Label]) -> None:
    """Say on one line each where the speakers were found; warn where all files count as one."""
    for source, number in Counter(label.source for label in labels.values()).items():
        path, label = next((path, label) for path, label in labels.items() if label.source == source)
        shown = (printable(base), number, source, printable(path), printable(label.speaker), label.emotion)
        log.info("%s: %d files, speaker by %s; for example %s: speaker %s, %s", *shown)
    if len({label.speaker for label in labels.values()}) == 1:
        log.warning(
            "%s: all %d files count as one speaker, so there is no interval over speakers; name folders or files "
            "after the speakers (anna/angry/1.wav, anna_angry_1.wav), or list them in a table (--manifest)",
            printable(base),
            len(labels),
        )


def _by_corpus(files: Sequence[Path], names: Names) -> Iterator[tuple[Path, _Label]]:
    """Emotion and speaker of the files that are named as those of a known corpus."""
    for path, match in named_files(files, re.compile(names.pattern)):
        if match["emotion"] in names.emotions:
            speaker, source = match["speaker"], f"the file names of {names.title}"
            yield path, _Label(names.emotions[match["emotion"]], names.prefix + speaker, source, names.gender(speaker))


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\s_.-]+", name) if word] or [name]


def _emotion(path: Path) -> str | None:
    """The only emotion in the file name, else in the nearest folder that has one; None where there are none or two."""
    for name in (path.stem, *(parent.name for parent in path.parents)):
        found = {emotion.name for word in _words(name) if (emotion := find_emotion(word))}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _speaker(path: Path, first_words: Counter[str]) -> tuple[str, str]:
    """Speaker, and how the speaker was found."""
    for part in path.parts[:-1]:
        if not any(find_emotion(word) for word in _words(part)):
            return part, "the first folder"
    words = _words(path.stem)
    if len(words) > 1 and not find_emotion(words[0]) and first_words[words[0]] > 1:
        return words[0], "the first word of the file name"
    return _UNKNOWN, "nothing"
