"""A recording window by window: timelines, and the mean over windows for files too long to be taken whole."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from ser.data.audio import LONGEST_SECONDS, SAMPLE_RATE, SHORTEST_SAMPLES, duration, prepare, read_audio
from ser.data.normalization import FrameStatistics
from ser.data.soundfiles import printable
from ser.errors import SerError
from ser.inference.recognizer import Prediction, Recognizer
from ser.inference.sources import file_source
from ser.inference.vad import Heard, SpeechGate, hear

log = logging.getLogger(__name__)
LONG_WINDOW, LONG_HOP = 10.0, 5.0  # seconds: windows that are averaged where a file is too long to be taken whole
SHORTEST_HOP = 0.01  # seconds
_WINDOWS_AT_ONCE = 16


def timeline(
    recognizer: Recognizer,
    path: str | Path,
    window: float = 5.0,
    hop: float = 1.0,
    statistics: FrameStatistics | None = None,
    gate: SpeechGate | None = None,
) -> pd.DataFrame:
    """Predictions of overlapping windows of a file, which is read block by block, so its length does not matter.

    Windows begin every ``hop`` seconds; the last one ends with the file, and a file shorter than the window is one.
    Those without speech by the gate get "no speech"; without a gate every window gets an emotion.

    Returns:
        Columns start and end (seconds), speech_seconds, predicted, confidence, ``p_<emotion>`` in class order.

    Raises:
        SerError: window or hop are impossible, or the file cannot be read.
    """
    check_windows(window, hop)
    read_audio(path, 0.0, window)  # refuses what is no intact audio file
    rows = []
    windows = _windows(path, window, hop)
    while portion := list(islice(windows, _WINDOWS_AT_ONCE)):
        waveforms = [prepare(samples, rate) for _, samples, rate in portion]
        predictions = predict_gated(recognizer, waveforms, statistics, gate)
        for (start, samples, rate), p in zip(portion, predictions, strict=True):
            times = {"start": start / rate, "end": (start + len(samples)) / rate, "speech_seconds": speech_of(p)}
            answer = {"predicted": p.label, "confidence": p.confidence}
            rows.append(times | answer | {f"p_{name}": value for name, value in p.probabilities.items()})
    return pd.DataFrame(rows, columns=timeline_columns(recognizer.emotions))


def timeline_columns(emotions: Sequence[str]) -> list[str]:
    """Columns of a timeline, also of one without rows."""
    return ["start", "end", "speech_seconds", "predicted", "confidence", *(f"p_{name}" for name in emotions)]


def check_windows(window: float, hop: float) -> None:
    """Refuse windows that the models cannot take, and hops that would skip audio."""
    shortest = SHORTEST_SAMPLES / SAMPLE_RATE
    if not (shortest <= window <= LONGEST_SECONDS and SHORTEST_HOP <= hop <= window):
        raise SerError(
            f"a window of {window:g} s with a hop of {hop:g} s was given, expected a window from {shortest:g} to "
            f"{LONGEST_SECONDS:g} s and a hop from {SHORTEST_HOP:g} s to the window; correct --window or --hop."
        )


def fit_windows(window: float, hop: float, path: Path) -> tuple[float, float]:
    """Window and hop for a file: of a file that is shorter than the window, its length, which is told."""
    length = duration(path)  # 0 where it is unknown
    if not SHORTEST_SAMPLES / SAMPLE_RATE <= length < window:
        return window, hop
    log.info("%s has %.1f s, so that is the length of the window", printable(path), length)
    return length, min(hop, length)


def _windows(path: str | Path, window: float, hop: float) -> Iterator[tuple[int, NDArray[np.float32], int]]:
    """First sample, samples (N, channels) and rate of each window; holds one window and one block."""
    source = file_source(path, realtime=False, block=1.0)
    rate = source.sample_rate
    size, begin, count, end = round(window * rate), 0, 0, 0
    kept = np.zeros((0, 1), np.float32)  # the samples from ``begin`` on
    for block in source.blocks:
        kept = np.concatenate((kept, block)) if len(kept) else block
        while (start := round(count * hop * rate)) + size <= begin + len(kept):
            yield start, kept[start - begin : start - begin + size], rate
            count, end = count + 1, start + size
        spare = min(round(count * hop * rate) - begin, len(kept) - size)  # the last window may begin ``size`` back
        if spare > 0:
            kept, begin = kept[spare:], begin + spare
    total = begin + len(kept)
    if end == 0 < total or total - end > rate / SAMPLE_RATE:  # less is rounding
        yield max(0, total - size), kept[-size:], rate


def predict_long(
    recognizer: Recognizer, path: str | Path, statistics: FrameStatistics | None = None, gate: SpeechGate | None = None
) -> Prediction:
    """One prediction for a file too long to be taken whole: mean over the 10 s windows that hold speech, every 5 s.

    Windows are shorter where training cut utterances (``max_seconds``), since the rest would be cut off.

    Raises:
        SerError: the file cannot be read.
    """
    window = min(LONG_WINDOW, recognizer.config.max_seconds or LONG_WINDOW)
    hop = min(LONG_HOP, window)
    table = timeline(recognizer, path, window, hop, statistics, gate)
    mean = table[[f"p_{name}" for name in recognizer.emotions]].mean()  # NaN, as without speech, does not count
    seconds, windows = float(table["end"].iloc[-1]), len(table)
    source = (statistics or recognizer.config.statistics).source
    facts = {"seconds": seconds, "normalization": source, "windows": windows}
    if gate is not None:  # windows overlap
        facts["speech_seconds"] = min(seconds, float(table["speech_seconds"].sum()) * hop / window)
    if mean.isna().all():
        return Prediction.without_speech(recognizer.emotions, **facts)
    return Prediction.of(recognizer.emotions, mean.tolist(), **facts)


def predict_gated(
    recognizer: Recognizer,
    waveforms: Sequence[Tensor],
    statistics: FrameStatistics | None,
    gate: SpeechGate | None,
    attention: bool = False,
) -> list[Prediction]:
    """Predictions of waveforms (N,) as one batch; the model is given what a gate hears of them."""
    heard = [hear(gate, waveform) for waveform in waveforms]
    spoken = [one.waveform for one in heard if len(one.waveform)]
    answers = iter(recognizer.predict_batch(spoken, statistics, attention) if spoken else [])
    source = (statistics or recognizer.config.statistics).source
    found = []
    for one, waveform in zip(heard, waveforms, strict=True):
        facts: dict[str, Any] = {"seconds": len(waveform) / SAMPLE_RATE, "speech_seconds": one.speech_seconds}
        if not len(one.waveform):
            found.append(Prediction.without_speech(recognizer.emotions, normalization=source, **facts))
            continue
        answer = next(answers)
        spread = _over_all(answer.attention, one, len(recognizer.heard(one.waveform)))
        found.append(replace(answer, attention=spread, **facts))
    return found


def _over_all(attention: NDArray[np.float32] | None, heard: Heard, used: int) -> NDArray[np.float32] | None:
    """Attention (L,) on the first samples of what was heard, over the frames of the whole waveform: else 0."""
    if attention is None or used == len(heard.kept):
        return attention
    places = np.flatnonzero(heard.kept.numpy())[:used]  # (M,)
    count, whole = len(attention), round(len(attention) * len(heard.kept) / len(places))
    middles = places[((np.arange(count) + 0.5) * len(places) / count).astype(int)]  # (L,) samples
    spread = np.zeros(whole, np.float32)
    np.add.at(spread, middles * whole // len(heard.kept), attention)
    return spread


def speech_of(prediction: Prediction) -> float:
    """Seconds of speech, NaN where no gate looked for it."""
    return math.nan if prediction.speech_seconds is None else round(prediction.speech_seconds, 3)
