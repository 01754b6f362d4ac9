"""Who says what, how and for how long in the synthetic corpora: everything but the sound."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser.data.corpus import Utterance
from ser.errors import SerError

EMOTIONS = ("neutral", "happy", "angry", "sad")
IEMOCAP_COUNTS = (1708, 1636, 1103, 1084)  # utterances an emotion in the standard four-class set
IEMOCAP_SIZE = sum(IEMOCAP_COUNTS)  # 5,531
SESSIONS = 5
GENDERS = ("F", "M")  # each session is a dialogue of these two
SAMPLE_RATE = 16_000  # Hz
SMALLEST = 40  # utterances; below this some speakers would lack an emotion that their neighbours have

# Quantiles of the utterance lengths of IEMOCAP's four-class set: share of utterances, seconds.
_LENGTH_SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1)
_LENGTH_SECONDS = (0.58, 1.09, 1.19, 1.39, 1.68, 2.13, 2.55, 3.0, 3.58, 4.25, 5.18, 6.53, 8.69, 11.06, 14.1, 15.54,
                   17.97, 24.24, 34.14)  # fmt: skip
_FAVOURITE_WEIGHT = 2.5  # how much oftener a speaker shows the emotion that is theirs
_DIALOG_SIZE = 30  # utterances a dialogue, both speakers together


def draw_seconds(number: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Utterance lengths distributed as IEMOCAP's (mean 4.57 s, median 3.58 s, 5% and 95% at 1.39 and 11.06 s).

    The shares are spaced evenly and only their order is drawn, so the total hardly depends on the seed.

    Returns:
        Seconds (number,), whole samples at 16 kHz.
    """
    shares = (rng.permutation(number) + 0.5) / number
    # Between quantiles the logarithm is interpolated: the distribution is close to log-normal.
    seconds = np.exp(np.interp(shares, _LENGTH_SHARES, np.log(_LENGTH_SECONDS)))
    return np.asarray(np.round(seconds * SAMPLE_RATE) / SAMPLE_RATE)


def draw_utterances(number: int, seed: int) -> list[Utterance]:
    """The utterances of 5 sessions and 10 speakers with IEMOCAP's class shares, lengths and way of naming.

    Each speaker shows one emotion oftener than the others, and which one is drawn, so a classifier that recognises
    training speakers learns shares that do not hold for other speakers. ``path`` is empty.

    Raises:
        SerError: fewer than 40 utterances.
    """
    if number < SMALLEST:
        raise SerError(f"a synthetic corpus of {number} utterances was asked for, but ten speakers with four emotions "
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
    for _ in range(50):  # iterative proportional fitting: speakers alike in size, emotions with their shares
        weights *= number / len(weights) / weights.sum(axis=1, keepdims=True)
        weights *= totals / weights.sum(axis=0)
    return np.stack([_round_to(total, column) for total, column in zip(totals, weights.T, strict=True)], axis=1)


def _round_to(total: int, parts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers nearest to ``parts`` that add up to ``total`` (largest remainders are rounded up)."""
    whole = np.floor(parts).astype(np.int64)
    rest = np.argsort(whole - parts, kind="stable")[: total - int(whole.sum())]
    whole[rest] += 1
    return whole
