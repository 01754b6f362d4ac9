"""The built-in corpus: real wav files of a synthetic voice, laid out and labelled as IEMOCAP is.

With it every part of the program runs on a fresh clone. It is hard in the way real corpora are: speakers differ from
each other by more than their emotions do, and each shows one emotion more often than the others.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from filelock import FileLock
from rich.progress import track
from scipy.signal import lfilter, oaconvolve

from ser.data.audio import SAMPLE_RATE
from ser.data.corpora.synthetic_frames import EMOTIONS, GENDERS, SESSIONS, SMALLEST, dialog_of, draw_utterances
from ser.data.corpora.voice import Delivery, Signal, speak
from ser.data.corpus import Corpus, Utterance
from ser.errors import check_number
from ser.io import atomic_path, write_errors, write_text

log = logging.getLogger(__name__)

_VERSION = 1  # raise it when the same settings begin to give other files
_WAV_HEADER = 44  # bytes before the samples
_IEMOCAP_LABELS = {"neutral": "neu", "happy": "hap", "angry": "ang", "sad": "sad"}


@dataclass(frozen=True)
class Shift:
    """What an emotion does to a delivery."""

    pitch: float = 0.0  # log of the factor of mean pitch
    pitch_range: float = 0.0  # log of the factor of pitch range
    tempo: float = 0.0  # log of the factor of syllable rate
    level: float = 0.0  # decibels
    brightness: float = 0.0  # octaves of the source's cutoff
    breath: float = 0.0  # log of the factor of aspiration
    roughness: float = 0.0  # log of the factor of roughness


# Directions and order as reported for acted and natural speech (Scherer 2003, table 2).
_EMOTION_SHIFTS: Mapping[str, Shift] = {
    "neutral": Shift(),
    "happy": Shift(0.28, 0.75, 0.12, 3.0, 0.4, 0.0, 0.0),
    "angry": Shift(0.16, 0.40, 0.20, 6.5, 1.0, -0.4, 0.7),
    "sad": Shift(-0.10, -0.60, -0.32, -4.0, -0.8, 0.7, 0.0),
}
# Std of the same quantities between utterances, whatever the emotion.
_UTTERANCE_SPREAD = Shift(0.05, 0.2, 0.06, 1.2, 0.15, 0.2, 0.2)


@dataclass(frozen=True)
class _Room:
    """A session's acoustics: impulse response (taps,), noise level in dB to full scale, pole of the noise's colour."""

    response: Signal
    noise_level: float
    noise_pole: float


def synthetic(root: str | Path, utterances: int = 300, seed: int = 0) -> Corpus:
    """The synthetic corpus, written below ``root`` where it is not there yet.

    5 sessions, 10 speakers, IEMOCAP's class frequencies and lengths. Each number and seed has its own folder; files
    are written whole or not at all and those already there are kept, so an interrupted call can be repeated.
    Beside the wav files lie IEMOCAP's label files and ``manifest.csv``, so other tools can read the folder as either.

    Raises:
        SerError: too few utterances, or ``root`` cannot be written.
    """
    check_number("data.utterances", utterances, SMALLEST, whole=True)
    check_number("data.seed", seed, 0, whole=True)
    folder = Path(root) / f"{utterances}-utterances-seed-{seed}-v{_VERSION}"
    corpus = Corpus("synthetic", EMOTIONS, tuple(
        replace(drawn, path=_wav_path(folder, drawn)) for drawn in draw_utterances(utterances, seed)))  # fmt: skip
    if not _is_complete(folder, corpus.utterances):
        with write_errors(folder):  # the runs of a sweep may begin at once: one writes, the others wait for it
            folder.mkdir(parents=True, exist_ok=True)
            held = FileLock(folder / ".writing.lock").acquire()
        with held:
            if not _is_complete(folder, corpus.utterances):
                _write(folder, corpus.utterances, seed)
    return corpus


def _is_complete(folder: Path, utterances: Sequence[Utterance]) -> bool:
    return (folder / "manifest.csv").is_file() and all(map(_is_whole, utterances))


def _write(folder: Path, utterances: Sequence[Utterance], seed: int) -> None:
    """The wav files that are not there yet, and the labels."""
    missing = [utterance for utterance in utterances if not _is_whole(utterance)]
    log.info("writing %d of %d synthetic utterances to %s", len(missing), len(utterances), folder)
    voices, rooms = _draw_voices(seed), _draw_rooms(seed)
    for utterance in track(missing, description="synthetic speech"):
        waveform = _render(utterance, voices[utterance.speaker], rooms[utterance.session], seed)
        with atomic_path(utterance.path) as temporary:
            soundfile.write(temporary, waveform, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    _write_labels(folder, utterances)


def _wav_path(folder: Path, utterance: Utterance) -> Path:
    return folder / f"Session{utterance.session}/sentences/wav/{dialog_of(utterance.id)}/{utterance.id}.wav"


def _is_whole(utterance: Utterance) -> bool:
    expected = _WAV_HEADER + 2 * round(utterance.seconds * SAMPLE_RATE)  # 16 bits per sample
    return utterance.path.is_file() and utterance.path.stat().st_size == expected


def _draw_voices(seed: int) -> dict[str, Delivery]:
    """Each speaker's neutral delivery; within a gender every quantity is spread evenly and assigned at random."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    voices = {}
    for gender in GENDERS:
        lowest, highest, scale = (170.0, 245.0, 1.16) if gender == "F" else (92.0, 140.0, 1.0)
        places = np.stack([rng.permutation(SESSIONS) for _ in range(8)], axis=1) / (SESSIONS - 1)  # (5, 8) from 0 to 1
        for session, at in enumerate(places, start=1):
            voices[f"Ses{session:02d}{gender}"] = Delivery(
                pitch=lowest * (highest / lowest) ** at[0],
                pitch_range=0.10 + 0.08 * at[1],
                syllable_rate=4.0 + 1.4 * at[2],
                level=-37.0 + 5.0 * at[3],
                cutoff=1100.0 * 2 ** (1.2 * at[4]),
                formant_scale=scale * (0.94 + 0.12 * at[5]),
                roughness=0.006 + 0.02 * at[6],
                breath=0.1 + 0.3 * at[7],
            )
    return voices


def _draw_rooms(seed: int) -> dict[int, _Room]:
    """Each session's room: a direct path and an exponentially decaying tail."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    rooms = {}
    for session in range(1, SESSIONS + 1):
        decay = rng.uniform(0.12, 0.35)  # seconds until the tail has fallen by 60 dB
        time = np.arange(round(0.6 * decay * SAMPLE_RATE)) / SAMPLE_RATE
        tail = rng.standard_normal(len(time)) * np.exp(-6.9 * time / decay)
        response = rng.uniform(0.2, 0.5) * tail / np.sqrt(np.sum(tail**2))
        response[0] = 1.0
        rooms[session] = _Room(response, rng.uniform(-70.0, -64.0), rng.uniform(0.7, 0.95))
    return rooms


def _render(utterance: Utterance, voice: Delivery, room: _Room, seed: int) -> Signal:
    """The waveform (samples,) of one utterance, drawn from its own seed: the same in whatever order files are made."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 3, *utterance.id.encode()]))
    samples = round(utterance.seconds * SAMPLE_RATE)
    speech = speak(_delivery(voice, _EMOTION_SHIFTS[utterance.emotion], rng), samples, rng)
    noise = rng.standard_normal(samples)
    noise = lfilter([np.sqrt(1 - room.noise_pole**2)], [1, -room.noise_pole], noise)  # unit variance, falling spectrum
    heard = oaconvolve(speech, room.response)[:samples] + noise * 10 ** (room.noise_level / 20)
    return np.clip(heard, -0.999, 0.999)


def _delivery(voice: Delivery, shift: Shift, rng: np.random.Generator) -> Delivery:
    intensity = rng.uniform(0.9, 1.5)  # the same emotion is shown more or less strongly

    def moved(name: str) -> float:
        return float(intensity * getattr(shift, name) + getattr(_UTTERANCE_SPREAD, name) * rng.standard_normal())

    return Delivery(
        pitch=voice.pitch * np.exp(moved("pitch")),
        pitch_range=voice.pitch_range * np.exp(moved("pitch_range")),
        syllable_rate=voice.syllable_rate * np.exp(moved("tempo")),
        level=voice.level + moved("level"),
        cutoff=voice.cutoff * 2 ** moved("brightness"),
        formant_scale=voice.formant_scale,
        roughness=voice.roughness * np.exp(moved("roughness")),
        breath=voice.breath * np.exp(moved("breath")),
    )


def _write_labels(folder: Path, utterances: Sequence[Utterance]) -> None:
    """IEMOCAP's label file for every dialogue, and one manifest of all with paths relative to it."""
    dialogs: dict[tuple[int, str], list[Utterance]] = {}
    for utterance in utterances:
        dialogs.setdefault((utterance.session, dialog_of(utterance.id)), []).append(utterance)
    for (session, dialog), turns in dialogs.items():
        lines, clock = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], 0.0
        for turn in turns:
            end = clock + turn.seconds
            label = _IEMOCAP_LABELS[turn.emotion]
            lines.append(f"[{clock:.4f} - {end:.4f}]\t{turn.id}\t{label}\t[2.5000, 2.5000, 2.5000]")
            clock = end
        write_text(folder / f"Session{session}/dialog/EmoEvaluation/{dialog}.txt", "\n".join(lines) + "\n")
    table = pd.DataFrame(
        {key: [getattr(u, key) for u in utterances] for key in ("emotion", "speaker", "session", "gender")}
    )
    table.insert(0, "path", [u.path.relative_to(folder).as_posix() for u in utterances])
    write_text(folder / "manifest.csv", table.to_csv(index=False))
