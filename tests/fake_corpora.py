"""Writes corpora in the true layout and grammar of the licensed ones, with voices a network can learn from.

The pitch tells the speaker (level) and the emotion (level and movement); noise is seeded by the file name.
"""

import csv
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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


def iemocap_rows(
    utterances_per_speaker_and_emotion: int = 2, labels: Iterable[str] = ("neu", "hap", "exc", "ang", "sad")
) -> list[dict[str, str]]:
    """Rows like those of an index file: both speakers of a session talk in each other's dialogs."""
    rows = []
    for session in range(1, 6):
        dialogs = [f"Ses{session:02d}{marker}_{part}" for marker in "FM" for part in ("impro05a", "script01_1b")]
        for speaker in "FM":
            for label in labels:
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
            if row not in unused:
                last = name.rpartition("_")[2]
                write_voice(
                    session / "sentences" / "wav" / dialog / f"{name}.wav",
                    f"Ses{dialog[3:5]}{last[0]}",
                    _IEMOCAP.get(row["label"], "angry"),
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


def write_iemocap_6(root: Path, **settings: Any) -> Path:
    return write_iemocap(root, rows=iemocap_rows(2, ("neu", "hap", "exc", "ang", "sad", "fru")), **settings)


write_iemocap_5 = write_iemocap_6


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


def write_audformat(root: Path, **settings: Any) -> Path:
    """An audformat database: ``db.yaml``, tables of emotions and of speakers, and ``audio/``."""
    with write_manifest(root, **({"seconds": 0.3} | settings)).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    gender = {row["speaker"]: {"F": "female", "M": "male"}[row["gender"]] for row in rows}
    speakers = "".join(f"      {speaker}: {{gender: {value}}}\n" for speaker, value in gender.items())
    emotions = ", ".join(sorted({row["emotion"] for row in rows}))
    tables = "".join(
        f"  {table}:\n    type: filewise\n    columns:\n      {column}: {{scheme_id: {column}}}\n"
        for table, column in (("emotion", "emotion"), ("files", "speaker"))
    )
    (root / "db.yaml").write_text(
        f"name: toy\nsource: ''\nusage: unrestricted\nlanguages: []\nschemes:\n  emotion:\n    dtype: str\n"
        f"    labels: [{emotions}]\n  speaker:\n    dtype: str\n    labels:\n{speakers}tables:\n{tables}"
    )
    for table, column in (("emotion", "emotion"), ("files", "speaker")):
        lines = [f"file,{column}", *(f"{row['path']},{row[column]}" for row in rows)]
        (root / f"db.{table}.csv").write_text("\n".join(lines) + "\n")
    return root


def write_datasets(root: Path, **settings: Any) -> Path:
    """A dataset of ``Dataset.save_to_disk`` with class labels; the audio is inside it."""
    import datasets

    source = write_manifest(root / "source", **({"seconds": 0.3} | settings))
    with source.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["emotion"] for row in rows})
    paths = [source.parent / row["path"] for row in rows]
    table = datasets.Dataset.from_dict(
        {
            "audio": [{"path": str(path), "bytes": path.read_bytes()} for path in paths],
            "label": [names.index(row["emotion"]) for row in rows],
            "speaker_id": [int(row["speaker"].removeprefix("spk")) for row in rows],
            "gender": [row["gender"] for row in rows],
        }
    )
    table = table.cast_column("label", datasets.ClassLabel(names=names))
    table = table.cast_column("audio", datasets.Audio(decode=False))
    table.save_to_disk(root / "saved")
    return root / "saved"


def write_folder(root: Path, speakers: int = 6, repetitions: int = 1, seconds: float = 0.3) -> Path:
    """``root/anna1/angry/1.wav``: a folder per speaker, inside it one per emotion."""
    for number in range(speakers):
        for emotion in ("angry", "happy", "neutral", "sad"):
            for index in range(repetitions):
                path = root / f"anna{number}" / emotion / f"{index}.wav"
                write_voice(path, f"anna{number}", emotion, seconds, number % 2 == 0)
    return root


def crema_d_files() -> list[tuple[str, str, str]]:
    """Path, speaker and emotion of each of the 7,442 clips: 82 per actor, less 20 that were never released."""
    codes = {"NEU": "neutral", "HAP": "happy", "ANG": "angry", "SAD": "sad", "FEA": "fearful", "DIS": "disgust"}
    sentences = ("DFA", "IEO", "IOM", "ITH", "ITS", "IWL", "IWW", "MTI", "TAI", "TIE", "TSI", "WSI")
    found = []
    for number, actor in enumerate(range(1001, 1092)):
        for code, emotion in codes.items():
            for sentence in sentences:
                if sentence == "WSI" and number >= (86 if code == "NEU" else 88):
                    continue
                for level in ("LO", "MD", "HI") if sentence == "IEO" and code != "NEU" else ("XX",):
                    found.append((f"AudioWAV/{actor}_{sentence}_{code}_{level}", str(actor), emotion))
    return found


def esd_files() -> list[tuple[str, str, str]]:
    """The 35,000 sentences: 350 in each of five emotions by 20 speakers."""
    names = {"Neutral": "neutral", "Angry": "angry", "Happy": "happy", "Sad": "sad", "Surprise": "surprised"}
    return [
        (f"{speaker:04d}/{name}/{speaker:04d}_{350 * block + number:06d}", f"{speaker:04d}", emotion)
        for speaker in (*range(11, 21), *range(1, 11))
        for block, (name, emotion) in enumerate(names.items())
        for number in range(1, 351)
    ]


def tess_files() -> list[tuple[str, str, str]]:
    """The 2,800 clips: 200 words in seven emotions by two women; one file of the release lacks an F."""
    names = {"neutral": "neutral", "happy": "happy", "angry": "angry", "sad": "sad", "fear": "fearful",
             "disgust": "disgust", "ps": "surprised"}  # fmt: skip
    return [
        (f"{s}_{name}/{'OA' if (s, name, word) == ('OAF', 'neutral', 7) else s}_word{word}_{name}", s[:2], emotion)
        for s in ("OAF", "YAF")
        for name, emotion in names.items()
        for word in range(200)
    ]


def savee_files() -> list[tuple[str, str, str]]:
    """The 480 clips: four men, 15 sentences in six emotions and 30 neutral ones."""
    codes = {"n": "neutral", "h": "happy", "a": "angry", "sa": "sad", "f": "fearful", "d": "disgust", "su": "surprised"}
    return [
        (f"AudioData/{speaker}/{code}{number:02d}", speaker, emotion)
        for speaker in ("DC", "JE", "JK", "KL")
        for code, emotion in codes.items()
        for number in range(1, 31 if code == "n" else 16)
    ]


def casia_files() -> list[tuple[str, str, str]]:
    """The 1,200 public clips: four speakers, six emotions, 50 sentences."""
    names = {"neutral": "neutral", "happy": "happy", "angry": "angry", "sad": "sad", "fear": "fearful",
             "surprise": "surprised"}  # fmt: skip
    return [
        (f"{speaker}/{name}/{number}", speaker, emotion)
        for speaker in ("liuchanhg", "wangzhe", "zhaoquanyin", "ZhaoZuoxiang")
        for name, emotion in names.items()
        for number in range(201, 251)
    ]


def write_named(
    root: Path,
    files: Iterable[tuple[str, str, str]],
    most: int | None = 2,
    seconds: float | None = 0.2,
    speakers: int = 6,
) -> Path:
    """Some files of a corpus per speaker and emotion; all of them, and empty, with ``most=None, seconds=None``."""
    counts: dict[tuple[str, str], int] = {}
    for name, speaker, emotion in files:
        counts[speaker, emotion] = counts.get((speaker, emotion), 0) + 1
        chosen = list(dict.fromkeys(one for one, _ in counts)).index(speaker) < speakers
        if most is not None and (counts[speaker, emotion] > most or not chosen):
            continue
        path = root / f"{name}.wav"
        if seconds is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            write_voice(path, speaker, emotion, seconds, female=True)
    return root


def write_crema_d(root: Path, **settings: Any) -> Path:
    return write_named(root, crema_d_files(), **settings)


def write_esd(root: Path, **settings: Any) -> Path:
    return write_named(root, esd_files(), **settings)


def write_tess(root: Path, **settings: Any) -> Path:
    return write_named(root, tess_files(), **settings)


def write_savee(root: Path, **settings: Any) -> Path:
    return write_named(root, savee_files(), **settings)


def write_casia(root: Path, **settings: Any) -> Path:
    return write_named(root, casia_files(), **settings)


MELD_COUNTS = {  # of the three tables of the release
    "train": {
        "neutral": 4710,
        "joy": 1743,
        "surprise": 1205,
        "anger": 1109,
        "sadness": 683,
        "disgust": 271,
        "fear": 268,
    },
    "dev": {"neutral": 470, "joy": 163, "surprise": 150, "anger": 153, "sadness": 111, "disgust": 22, "fear": 40},
    "test": {"neutral": 1256, "joy": 402, "surprise": 281, "anger": 345, "sadness": 208, "disgust": 68, "fear": 50},
}
_MELD_FOLDERS = {"train": "train/train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}


def write_meld(root: Path, most: int | None = 4, seconds: float = 0.2) -> Path:
    """The three tables, whole with ``most=None`` and then without audio; main speakers occur in all of them."""
    names = {"joy": "happy", "anger": "angry", "sadness": "sad"}
    for part, counts in MELD_COUNTS.items():
        rows = []
        for emotion, count in counts.items():
            for number in range(count if most is None else most):
                name = f"dia{len(rows) // 10}_utt{len(rows) % 10}"
                speaker = ("Monica", "Ross", f"Guest {part}")[number % 3]
                rows.append(
                    f'{len(rows) + 1},"Well, hi.",{speaker},{emotion},neutral,{len(rows) // 10},{len(rows) % 10},1,1'
                )
                if most is not None:
                    path = root / _MELD_FOLDERS[part] / f"{name}.wav"
                    write_voice(path, f"{part}{speaker}", names.get(emotion, "neutral"), seconds, speaker == "Monica")
        table = root / ("train" if part == "train" else "") / f"{part}_sent_emo.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode"
        table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")
    return root


def write_msp_podcast(root: Path, per_class: int = 2, seconds: float = 0.2) -> Path:
    """``Labels/labels_consensus.csv`` and ``Audios/``, with labels and partitions that no run uses among them."""
    codes = {"N": "neutral", "H": "happy", "A": "angry", "S": "sad", "O": "neutral", "X": "neutral"}
    rows = []
    for number, part in enumerate(("Train", "Development", "Test1", "Test2", "Test3")):
        for place, (code, emotion) in enumerate(codes.items()):
            for _ in range(per_class):
                name = f"MSP-PODCAST_{len(rows):04d}_0001.wav"
                speaker, female = 10 * number + place % 2, place % 2 == 0
                rows.append(f"{name},{code},4.2,3.1,4.0,{speaker},{'Female' if female else 'Male'},{part}")
                write_voice(root / "Audios" / name, str(speaker), emotion, seconds, female)
    (root / "Labels").mkdir(parents=True)
    header = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    (root / "Labels" / "labels_consensus.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


def write_nemo(root: Path, rows: int = 54 * 2, seconds: float | None = 0.2) -> Path:
    """``data.tsv`` and ``samples/``: nine speakers, six emotions."""
    names = {"neutral": "neutral", "happiness": "happy", "anger": "angry", "sadness": "sad", "fear": "fearful",
             "surprised": "surprised"}  # fmt: skip
    lines = []
    for number in range(rows):
        speaker, label = f"SP{number % 9}", list(names)[number // 9 % 6]
        name = f"{speaker}_{label}_{number // 54}.wav"
        lines.append(
            f"{name}\t{label}\tZażółć.\tzażółć\t{speaker}\t{'female' if number % 9 < 4 else 'male'}\t{20 + number % 9}"
        )
        if seconds is not None:
            write_voice(root / "samples" / name, speaker, names[label], seconds, number % 9 < 4)
    (root / "samples").mkdir(parents=True, exist_ok=True)
    header = "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage"
    (root / "data.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return root
