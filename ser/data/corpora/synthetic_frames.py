"""The synthetic corpora's labels, and frames made of numbers alone, at any size up to 16 times IEMOCAP's.

Labels, speakers and lengths follow IEMOCAP. A frame is a linear mixture of a few hidden tracks, as encoder features are
to a first approximation: the emotion moves some of them and modulates others in time, the speaker shifts and scales a
subspace that overlaps with the emotion's, the session shifts a third, and correlated noise is everywhere.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch import Tensor

from ser.data.audio import SAMPLE_RATE
from ser.data.corpus import Corpus, Utterance
from ser.errors import SerError, check_number

EMOTIONS = ("neutral", "happy", "angry", "sad")
IEMOCAP_COUNTS = (1708, 1636, 1103, 1084)  # utterances per emotion in the standard four-class set
IEMOCAP_SIZE = sum(IEMOCAP_COUNTS)  # 5,531
SESSIONS = 5
GENDERS = ("F", "M")  # each session is a dialogue of these two
SMALLEST = 40  # utterances; below this some speakers would lack an emotion that their neighbours have

# Quantiles of the utterance lengths of IEMOCAP's four-class set: fraction of utterances, seconds.
_LENGTH_QUANTILES = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995,
                     0.999, 1)  # fmt: skip
_LENGTH_SECONDS = (0.58, 1.09, 1.19, 1.39, 1.68, 2.13, 2.55, 3.0, 3.58, 4.25, 5.18, 6.53, 8.69, 11.06, 14.1, 15.54,
                   17.97, 24.24, 34.14)  # fmt: skip
_FAVOURITE_WEIGHT = 2.5  # how much more often a speaker shows their favourite emotion
_DIALOG_SIZE = 30  # utterances per dialogue, both speakers together

FRAME_RATE = 50.0  # frames per second
LARGEST_SCALE = 16.0
_VERSION = 1  # raise it when the same settings begin to give other frames
_WINDOW, _HOP = 400, 320  # samples; HuBERT's
_TRACKS = 32  # hidden tracks mixed into the values of a frame
_SPEAKER = slice(0, 6)  # tracks that the speaker moves; fewer than training speakers, so these can show all of them
_EMOTION = slice(4, 10)  # tracks that the emotion moves; the first two are the speaker's too
_RHYTHM = slice(10, 12)  # tracks that the emotion modulates in time without moving their mean
_SESSION = slice(12, 16)  # tracks that the session moves
_RHYTHM_RATES = (2.0, 3.5, 5.0, 1.0)  # Hz, one per emotion
_NOISE_ROWS = 8192  # frames in the table of white noise


def synthetic_features(scale: float = 1.0, dim: int = 768, seed: int = 0) -> Corpus:
    """Corpus without audio; ``frame_source`` computes the frames on demand.

    5 sessions, 10 speakers, IEMOCAP's class frequencies and length distribution.
    """
    check_number("data.scale", scale, 0, LARGEST_SCALE, above=True)
    utterances = draw_utterances(round(IEMOCAP_SIZE * scale), seed)
    return Corpus("synthetic_features", EMOTIONS, tuple(utterances), SyntheticFrames(dim, seed))


class SyntheticFrames:
    """Computes frames from an utterance's id, speaker, session, emotion and length, the same in any order.

    Values have a std of about 1 and stay far inside the range of fp16.
    """

    def __init__(self, dim: int = 768, seed: int = 0) -> None:
        check_number("data.dim", dim, _TRACKS, whole=True)
        self.dim = dim
        self.frame_rate = FRAME_RATE
        self._seed = seed
        rng = self._rng("corpus")
        basis, _ = np.linalg.qr(rng.standard_normal((dim, _TRACKS)))
        # Orthonormal rows, enlarged so that a track of std 1 gives each value an equal part of the variance.
        self._mixing = (basis.T * np.sqrt(dim / _TRACKS)).astype(np.float32)  # (tracks, D)
        self._noise = 0.6 * rng.standard_normal((_NOISE_ROWS, dim), dtype=np.float32)
        # Corners of a regular tetrahedron in a random position: no two emotions are closer than others by accident.
        corners, _ = np.linalg.qr(rng.standard_normal((_width(_EMOTION), len(EMOTIONS))))
        self._emotions = 1.6 * (corners.T - corners.T.mean(axis=0))  # (emotions, emotion tracks)

    def description(self) -> dict[str, Any]:
        """Everything that determines the frames."""
        return {"frames": "synthetic", "version": _VERSION, "dim": self.dim, "seed": self._seed,
                "frame_rate": self.frame_rate}  # fmt: skip

    def frames(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, Tensor]]:
        """Yield each utterance with its frames (L, D), float32."""
        speakers = {name: self._speaker(name) for name in sorted({u.speaker for u in utterances})}
        sessions = {
            number: 0.8 * self._rng(f"session {number}").standard_normal(_width(_SESSION))
            for number in sorted({u.session for u in utterances})
        }
        for utterance in utterances:
            yield utterance, self._render(utterance, *speakers[utterance.speaker], sessions[utterance.session])

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self._seed, *name.encode()]))

    def _speaker(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What a speaker adds to their tracks, and by how much they enlarge the movement of every track."""
        rng = self._rng(f"speaker {name}")
        return 2.0 * rng.standard_normal(_width(_SPEAKER)), rng.uniform(0.7, 1.4, _TRACKS)

    def _render(
        self,
        utterance: Utterance,
        offset: NDArray[np.float64],
        scale: NDArray[np.float64],
        session: NDArray[np.float64],
    ) -> Tensor:
        length = frames_of(utterance.seconds)
        rng = self._rng(f"utterance {utterance.id}")
        emotion = EMOTIONS.index(utterance.emotion)
        rows = np.arange(length) + rng.integers(_NOISE_ROWS)  # (L,) white noise is read from the table, not drawn

        # Slow noise: first-order autoregressive, std 0.6, correlated over about 10 frames.
        slow = rng.standard_normal((length, _TRACKS), dtype=np.float32)
        slow = lfilter([np.float32(0.6 * np.sqrt(1 - 0.9**2))], np.array([1, -0.9], np.float32), slow, axis=0)
        tracks = slow * scale.astype(np.float32)  # (L, tracks)
        centre = 0.6 * rng.standard_normal(_TRACKS)  # how this one utterance differs from the rest
        centre[_SPEAKER] += offset
        centre[_SESSION] += session
        centre[_EMOTION] += rng.uniform(0.6, 1.4) * self._emotions[emotion]
        tracks += centre.astype(np.float32)
        angle = 2 * np.pi * (_RHYTHM_RATES[emotion] * np.arange(length) / FRAME_RATE + rng.random())
        tracks[:, _RHYTHM] += np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

        frames = tracks @ self._mixing  # (L, D)
        frames += self._noise.take(rows, axis=0, mode="wrap")
        return torch.from_numpy(frames)


def frames_of(seconds: float) -> int:
    """Frames of an utterance: HuBERT's count, one every 320 samples from windows of 400."""
    return max((round(seconds * SAMPLE_RATE) - _WINDOW) // _HOP + 1, 1)


def _width(tracks: slice) -> int:
    return int(tracks.stop - tracks.start)


def draw_seconds(number: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Seconds (number,), whole samples, distributed as IEMOCAP's lengths (median 3.58; 5% and 95%: 1.39 and 11.06).

    The fractions are spaced evenly and only their order is drawn, so the total hardly depends on the seed.
    """
    fractions = (rng.permutation(number) + 0.5) / number
    # Between quantiles the logarithm is interpolated: the distribution is close to log-normal.
    seconds = np.exp(np.interp(fractions, _LENGTH_QUANTILES, np.log(_LENGTH_SECONDS)))
    return np.asarray(np.round(seconds * SAMPLE_RATE) / SAMPLE_RATE)


def draw_utterances(number: int, seed: int) -> list[Utterance]:
    """The utterances of 5 sessions and 10 speakers with IEMOCAP's class frequencies, lengths and ids.

    Each speaker shows one random emotion more often than the others, so a classifier that recognises training
    speakers learns class frequencies that do not hold for other speakers. ``path`` is empty.

    Raises:
        SerError: fewer than 40 utterances.
    """
    if number < SMALLEST:
        raise SerError(f"a synthetic corpus of {number} utterances was given, but ten speakers with four emotions "
                       f"need at least {SMALLEST}; raise the number or the scale.")  # fmt: skip
    rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
    speakers = [(session, gender) for session in range(1, SESSIONS + 1) for gender in GENDERS]
    counts = _speaker_counts(number, rng)
    seconds = iter(draw_seconds(number, rng))
    utterances = []
    for session in range(1, SESSIONS + 1):
        turns = [
            (gender, emotion)
            for row, (where, gender) in enumerate(speakers)
            for column, emotion in enumerate(EMOTIONS)
            for _ in range(counts[row, column])
            if where == session
        ]
        order = rng.permutation(len(turns))
        spoken: dict[tuple[str, str], int] = {}
        for position, turn in enumerate(order):
            gender, emotion = turns[turn]
            dialog = _dialog(session, position // _DIALOG_SIZE)
            index = spoken.get((dialog, gender), 0)
            spoken[dialog, gender] = index + 1
            name, length = f"{dialog}_{gender}{index:03d}", float(next(seconds))
            speaker = f"Ses{session:02d}{gender}"
            utterances.append(Utterance(name, Path(), emotion, speaker, session, gender, length))
    return utterances


def dialog_of(utterance_id: str) -> str:
    """The dialogue an utterance belongs to: its id without the last part."""
    return utterance_id.rpartition("_")[0]


def _dialog(session: int, index: int) -> str:
    # As in IEMOCAP the letter names one of the two partners and says nothing of who speaks.
    return f"Ses{session:02d}{GENDERS[index % 2]}_impro{index // 2 + 1:02d}"


def _speaker_counts(number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Utterances of each speaker and emotion (10, 4), with the exact class totals and nearly equal speaker totals."""
    totals = _round_to(number, number * np.array(IEMOCAP_COUNTS) / IEMOCAP_SIZE)
    weights = np.ones((SESSIONS * len(GENDERS), len(EMOTIONS)))
    for gender in range(len(GENDERS)):
        favourites = np.append(rng.permutation(4), rng.integers(4))
        weights[np.arange(SESSIONS) * len(GENDERS) + gender, favourites] = _FAVOURITE_WEIGHT
    for _ in range(50):  # iterative proportional fitting: speakers alike in size, emotions with their totals
        weights *= number / len(weights) / weights.sum(axis=1, keepdims=True)
        weights *= totals / weights.sum(axis=0)
    return np.stack([_round_to(total, column) for total, column in zip(totals, weights.T, strict=True)], axis=1)


def _round_to(total: int, parts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers nearest to ``parts`` that add up to ``total`` (largest remainders are rounded up)."""
    whole = np.floor(parts).astype(np.int64)
    rest = np.argsort(whole - parts, kind="stable")[: total - int(whole.sum())]
    whole[rest] += 1
    return whole
