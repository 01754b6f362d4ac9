"""Writes corpora in the true layout and grammar of the licensed ones, with voices a network can learn from.

The pitch tells the speaker (level) and the emotion (level and movement); noise is seeded by the file name.
"""

import csv
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000  # Hz
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \xff\xfe"  # how a ._ twin begins
# emotion -> (pitch factor, vibrato in semitones, loudness)
_MANNER = {
    "neutral": (1.0, 0.2, 0.1),
    "calm": (0.95, 0.3, 0.08),
    "happy": (1.4, 3.0, 0.2),
    "sad": (0.8, 0.5, 0.05),
    "angry": (1.3, 1.0, 0.4),
    "fearful": (1.6, 2.0, 0.15),
    "disgust": (0.9, 1.5, 0.15),
    "bored": (0.85, 0.1, 0.06),
    "surprised": (1.7, 4.0, 0.25),
}
_IEMOCAP = {"neu": "neutral", "hap": "happy", "exc": "happy", "ang": "angry", "sad": "sad"}
_IEMOCAP_UNUSED = ("fru", "sur", "fea", "dis", "oth", "xxx")
_RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_EMODB = {"W": "angry", "L": "bored", "E": "disgust", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral"}
_EMODB_SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
_VOTES = (
    "C-E2:\tNeutral;\t()\nC-E3:\tHappiness; Other;\t(caf\xe9)\nC-F1:\tNeutral;\t(curious)\n"
    "A-E3:\tval 3; act 2; dom  2;\t()\nA-F1:\tval 3; act 2; dom  1;\t()\n\n"
)


def voice(name: str, speaker: str, emotion: str, seconds: float, female: bool) -> np.ndarray:
    """(N,) float32: three harmonics with vibrato over a little noise."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    factor, vibrato, loudness = _MANNER[emotion]
    pitch = (200 if female else 110) * (1 + (zlib.crc32(speaker.encode()) % 21 - 10) / 50) * factor  # Hz
    time = np.arange(max(1, round(seconds * RATE))) / RATE
    semitones = vibrato * np.sin(2 * np.pi * (5 * time + rng.random()))
    phase = 2 * np.pi * np.cumsum(pitch * 2 ** (semitones / 12)) / RATE
    tone = sum(np.sin(k * phase) / k for k in (1, 2, 3))
    return (loudness * (tone / 2 + 0.05 * rng.standard_normal(len(time)))).astype(np.float32)


def write_voice(path: Path, speaker: str, emotion: str, seconds: float, female: bool, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = voice(path.stem, speaker, emotion, seconds, female)
    soundfile.write(path, np.stack([samples] * channels, axis=1), RATE, subtype="PCM_16")
    return path


def _twin(path: Path) -> None:
    path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)


def iemocap_rows(utterances_per_speaker_and_emotion: int = 2) -> list[dict[str, str]]:
    """Rows like those of an index file: both speakers of a session talk in each other's dialogs."""
    rows = []
    for session in range(1, 6):
        dialogs = [f"Ses{session:02d}{marker}_{part}" for marker in "FM" for part in ("impro05a", "script01_1b")]
        for speaker in "FM":
            for label in ("neu", "hap", "exc", "ang", "sad"):
                # hap and exc together make the asked number of happy ones
                count = {
                    "hap": (utterances_per_speaker_and_emotion + 1) // 2,
                    "exc": utterances_per_speaker_and_emotion // 2,
                }.get(label, utterances_per_speaker_and_emotion)
                for index in range(count):
                    dialog = dialogs[index % len(dialogs)]
                    rows.append({"utterance": f"{dialog}_{speaker}{len(rows) % 1000:03d}", "label": label})
    return rows


def write_iemocap(
    root: Path,
    utterances_per_speaker_and_emotion: int = 2,
    seconds: float = 0.5,
    rows: Iterable[Mapping[str, str]] | None = None,
) -> Path:
    """``rows`` (columns utterance and label) replace the invented ones, to build the tree of a true index."""
    by_dialog: dict[str, list[Mapping[str, str]]] = {}
    for row in iemocap_rows(utterances_per_speaker_and_emotion) if rows is None else rows:
        by_dialog.setdefault(row["utterance"].rpartition("_")[0], []).append(row)
    for dialog, members in by_dialog.items():
        session = root / f"Session{int(dialog[3:5])}"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"]
        unused = [{"utterance": f"{dialog}_{'FM'[n % 2]}9{n:02d}", "label": x} for n, x in enumerate(_IEMOCAP_UNUSED)]
        for number, row in enumerate([*members, *unused]):
            start, name = 6.2901 + number, row["utterance"]
            lines.append(f"[{start:.4f} - {start + seconds:.4f}]\t{name}\t{row['label']}\t[2.5000, 2.5000, 2.5000]\n")
            lines.append(_VOTES)
            if row["label"] in _IEMOCAP:
                last = name.rpartition("_")[2]
                write_voice(
                    session / "sentences" / "wav" / dialog / f"{name}.wav",
                    f"Ses{dialog[3:5]}{last[0]}",
                    _IEMOCAP[row["label"]],
                    seconds,
                    last[0] == "F",
                )
        labels = session / "dialog" / "EmoEvaluation" / f"{dialog}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(lines), encoding="latin-1")
        _twin(labels)
        _twin(session / "sentences" / "wav" / dialog / f"{members[0]['utterance']}.wav")
        raters = labels.parent / "Categorical" / f"{dialog}_e2_cat.txt"
        raters.parent.mkdir(exist_ok=True)
        raters.write_text(f"{members[0]['utterance']} :Neutral state; ()\n", encoding="latin-1")
    return root


def write_ravdess(
    root: Path, actors: int = 24, seconds: float = 0.3, repetitions: int = 2, suffix: str = ".wav"
) -> Path:
    """Both sentences in both intensities (neutral has one): 60 files an actor; actor 1's neutral ones are stereo."""
    for actor in range(1, actors + 1):
        folder = root / f"Actor_{actor:02d}"
        for code, emotion in enumerate(_RAVDESS, 1):
            for intensity in (1,) if emotion == "neutral" else (1, 2):
                for sentence in (1, 2):
                    for repetition in range(1, repetitions + 1):
                        name = f"03-01-{code:02d}-{intensity:02d}-{sentence:02d}-{repetition:02d}-{actor:02d}"
                        write_voice(
                            folder / f"{name}{suffix}",
                            folder.name,
                            emotion,
                            seconds,
                            actor % 2 == 0,
                            channels=2 if actor == 1 and code == 1 else 1,
                        )
        _twin(folder / f"{name}{suffix}")
        soundfile.write(folder / f"03-02-01-01-01-01-{actor:02d}.wav", np.zeros(160), RATE)  # a song: not speech
    return root


def write_emodb(root: Path, texts: int = 2, seconds: float = 0.3) -> Path:
    for speaker in _EMODB_SPEAKERS:
        for letter, emotion in _EMODB.items():
            for text in range(1, texts + 1):
                path = root / "wav" / f"{speaker}a{text:02d}{letter}a.wav"
                write_voice(path, speaker, emotion, seconds, speaker in ("08", "09", "13", "14", "16"))
    _twin(path)
    (root / "erkennung.txt").write_text("Satz\tErkennung\nf\xfcr\t90\n", encoding="latin-1")
    return root


def write_manifest(
    root: Path,
    speakers: int = 6,
    emotions: Iterable[str] = ("angry", "happy", "neutral", "sad"),
    utterances_per_speaker_and_emotion: int = 2,
    seconds: float = 0.5,
    session: bool = False,
) -> Path:
    """The path of ``root/manifest.csv``; speakers alternate F, M; with ``session`` two share one (s1, s2, ...)."""
    rows = []
    for number in range(speakers):
        speaker, gender = f"spk{number + 1}", "FM"[number % 2]
        for emotion in emotions:
            for index in range(utterances_per_speaker_and_emotion):
                path = Path("audio") / f"{speaker}_{emotion}_{index}.wav"
                write_voice(root / path, speaker, emotion, seconds, gender == "F")
                row = {"path": path.as_posix(), "emotion": emotion, "speaker": speaker, "gender": gender}
                rows.append(row | ({"session": f"s{number // 2 + 1}"} if session else {}))
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / "manifest.csv"


def write_folder(root: Path, speakers: int = 6, repetitions: int = 1, seconds: float = 0.3) -> Path:
    """``root/anna1/angry/1.wav``: a folder per speaker, inside it one per emotion."""
    for number in range(speakers):
        for emotion in ("angry", "happy", "neutral", "sad"):
            for index in range(repetitions):
                path = root / f"anna{number}" / emotion / f"{index}.wav"
                write_voice(path, f"anna{number}", emotion, seconds, number % 2 == 0)
    return root
