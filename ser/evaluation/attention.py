"""Where a network attends in utterances that it answered rightly and wrongly, kept as ``attention.json`` of a run."""

import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ser.errors import SyntheticVoiceWarning
from ser.evaluation.predictions import probabilities
from ser.evaluation.runs import load_run
from ser.io import read_json, write_json

if TYPE_CHECKING:  # figures need no torch
    from ser.data.cache import FeatureCache
    from ser.data.corpus import Utterance
    from ser.encoders import Encoder
    from ser.inference.recognizer import Prediction

FILE = "attention.json"
_EACH = 2  # right and wrong answers


@dataclass(frozen=True)
class Attended:
    """One utterance: its title, length in seconds, lowest and highest samples (N, 2), and weights per frame (L,)."""

    title: str
    seconds: float
    envelope: Any
    weights: Any

    @classmethod
    def of(cls, name: str, waveform: Any, prediction: "Prediction", truth: str = "") -> "Attended":
        """From a waveform (N,) at 16 kHz and its prediction with attention."""
        from ser.data.audio import envelope  # noqa: PLC0415

        answer = f"{prediction.label} ({100 * prediction.confidence:.0f}%)"
        title = f"{name}: {truth}, answered {answer}" if truth else f"{name}: {answer}"
        peaks, weights = envelope(np.asarray(waveform)), np.asarray(prediction.attention)
        return cls(title, prediction.seconds, peaks.tolist(), weights.tolist())


def write_attention(folder: Path, utterances: "Iterable[Utterance]", encoder: "Encoder", cache: "FeatureCache") -> None:
    """Write ``attention.json`` about the surest right and wrong answers; nothing for a network without attention.

    Args:
        folder: of a finished run.
        utterances: of its corpus.
        encoder: that the run used; only compared, since the frames are cached.
        cache: frames of the corpus.

    Raises:
        SerError: the run or a recording cannot be read.
    """
    import torch  # noqa: PLC0415

    from ser.data.audio import SAMPLE_RATE, read_audio  # noqa: PLC0415
    from ser.inference.recognizer import Recognizer  # noqa: PLC0415

    table = load_run(folder).predictions
    table = table.assign(confidence=probabilities(table).max(axis=1)).sort_values("confidence", ascending=False)
    right = table["emotion"] == table["predicted"]
    chosen = pd.concat([table[right].head(_EACH), table[~right].head(_EACH)])
    by_id = {utterance.id: utterance for utterance in utterances}
    with warnings.catch_warnings(action="ignore", category=SyntheticVoiceWarning):
        recognizer = Recognizer.from_checkpoint(folder, encoder=encoder)
    blank = torch.zeros(8, recognizer.config.input_size)
    if recognizer.score([blank], recognizer.config.statistics, attention=True).attention is None:
        return
    found = []
    for identifier in chosen["id"]:
        utterance = by_id[identifier]
        waveform = recognizer.heard(read_audio(utterance.path, utterance.start, utterance.end))
        frames = torch.from_numpy(cache.read(identifier)).float()
        (prediction,) = recognizer.classify([frames], [len(waveform) / SAMPLE_RATE], attention=True)
        found.append(asdict(Attended.of(identifier, waveform, prediction, utterance.emotion)))
    write_json(folder / FILE, {"utterances": found})


def read_attention(folder: Path) -> list[Attended]:
    """What ``write_attention`` wrote; nothing where it did not, or the file is damaged."""
    try:
        return [Attended(**entry) for entry in (read_json(folder / FILE) or {}).get("utterances", [])]
    except TypeError:
        return []
