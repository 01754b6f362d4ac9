"""Frames made of numbers alone, at any size up to 16 times IEMOCAP's: for benchmarks and for experiments on method.

A frame is a linear mixture of a few hidden tracks, as encoder features are to a first approximation: the emotion moves
some of them and modulates others in time, the speaker shifts and scales a subspace that overlaps with the emotion's,
the session shifts a third, and correlated noise is everywhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch import Tensor

from ser.data.corpora.synthetic_labels import EMOTIONS, IEMOCAP_SIZE, SAMPLE_RATE, draw_utterances
from ser.data.corpus import Corpus, Utterance
from ser.errors import SerError

Array = NDArray[np.float32]

FRAME_RATE = 50.0  # frames a second
LARGEST_SCALE = 16.0
_VERSION = 1  # raise it when the same settings begin to give other frames
_WINDOW, _HOP = 400, 320  # samples; HuBERT's
_TRACKS = 32  # hidden tracks mixed into the values of a frame
_SPEAKER = slice(0, 6)  # tracks that the speaker moves; fewer than training speakers, so these can show all of them
_EMOTION = slice(4, 10)  # tracks that the emotion moves; the first two are the speaker's too
_RHYTHM = slice(10, 12)  # tracks that the emotion modulates in time without moving their mean
_SESSION = slice(12, 16)  # tracks that the session moves
_RHYTHM_RATES = (2.0, 3.5, 5.0, 1.0)  # Hz, one an emotion
_NOISE_ROWS = 8192  # frames in the table of white noise


def synthetic_features(scale: float = 1.0, dim: int = 768, seed: int = 0) -> Corpus:
    """A corpus without audio whose frames are made on demand by ``frame_source``.

    5 sessions, 10 speakers, IEMOCAP's class shares and length distribution.

    Args:
        scale: size relative to IEMOCAP (1.0: 5,531 utterances, 1.26 million frames), above 0 and at most 16.
        dim: values a frame, at least 32.
        seed: determines labels and frames.

    Raises:
        SerError: ``scale`` or ``dim`` out of range.
    """
    if not 0 < scale <= LARGEST_SCALE:
        raise SerError(f"scale={scale} was given, but the synthetic features come in sizes above 0 and up to "
                       f"{LARGEST_SCALE:g} times IEMOCAP's; choose a scale in that range.")  # fmt: skip
    utterances = draw_utterances(round(IEMOCAP_SIZE * scale), seed)
    return Corpus("synthetic_features", EMOTIONS, tuple(utterances), SyntheticFrames(dim, seed))


class SyntheticFrames:
    """Makes each utterance's frames from its id, speaker, session, emotion and length: the same in any order.

    Values have a deviation of about 1 and stay far inside the range of fp16.

    Attributes:
        dim: values a frame.
        frame_rate: frames a second.
    """

    def __init__(self, dim: int = 768, seed: int = 0) -> None:
        if dim < _TRACKS:
            raise SerError(f"dim={dim} was given, but the synthetic features need at least {_TRACKS} values a frame; "
                           "raise dim.")  # fmt: skip
        self.dim = dim
        self.frame_rate = FRAME_RATE
        self._seed = seed
        rng = self._rng("corpus")
        basis, _ = np.linalg.qr(rng.standard_normal((dim, _TRACKS)))
        # Orthonormal rows, enlarged so that a track of deviation 1 gives each value its even share of the variance.
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
            yield utterance, self._render(utterance, speakers[utterance.speaker], sessions[utterance.session])

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self._seed, *name.encode()]))

    def _speaker(self, name: str) -> "_Speaker":
        rng = self._rng(f"speaker {name}")
        return _Speaker(2.0 * rng.standard_normal(_width(_SPEAKER)), rng.uniform(0.7, 1.4, _TRACKS))

    def _render(self, utterance: Utterance, speaker: "_Speaker", session: NDArray[np.float64]) -> Tensor:
        length = frames_of(utterance.seconds)
        rng = self._rng(f"utterance {utterance.id}")
        emotion = EMOTIONS.index(utterance.emotion)
        rows = np.arange(length) + rng.integers(_NOISE_ROWS)  # (L,) white noise is read from the table, not drawn

        # Slow noise: first-order autoregressive, deviation 0.6, correlated over about 10 frames.
        slow = rng.standard_normal((length, _TRACKS), dtype=np.float32)
        slow = lfilter([np.float32(0.6 * np.sqrt(1 - 0.9**2))], np.array([1, -0.9], np.float32), slow, axis=0)
        tracks = slow * speaker.scale.astype(np.float32)  # (L, tracks)
        centre = 0.6 * rng.standard_normal(_TRACKS)  # how this one utterance differs from the rest
        centre[_SPEAKER] += speaker.offset
        centre[_SESSION] += session
        centre[_EMOTION] += rng.uniform(0.6, 1.4) * self._emotions[emotion]
        tracks += centre.astype(np.float32)
        angle = 2 * np.pi * (_RHYTHM_RATES[emotion] * np.arange(length) / FRAME_RATE + rng.random())
        tracks[:, _RHYTHM] += np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

        frames = tracks @ self._mixing  # (L, D)
        frames += self._noise.take(rows, axis=0, mode="wrap")
        return torch.from_numpy(frames)


@dataclass(frozen=True)
class _Speaker:
    """What a speaker adds to their tracks, and by how much they enlarge the movement of every track."""

    offset: NDArray[np.float64]
    scale: NDArray[np.float64]


def frames_of(seconds: float) -> int:
    """Frames of an utterance: HuBERT's count, one every 320 samples from windows of 400."""
    return max((round(seconds * SAMPLE_RATE) - _WINDOW) // _HOP + 1, 1)


def _width(tracks: slice) -> int:
    return int(tracks.stop - tracks.start)
