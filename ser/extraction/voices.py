"""Recordings as other speakers would sound: copies for training, made once and cached as frames are."""

import copy
import zlib

import numpy as np
import torchaudio
from torch import Tensor

from ser.encoders.base import Encoder
from ser.encoders.files import FrameFiles
from ser.errors import SerError, check_number

MOST_VOICES = 50  # copies; each takes as much time and room as the corpus itself


class Voice:
    """Plays a recording faster or slower, which moves pitch, formants and pace together.

    The factor lies between 0.88 and 1.12, and depends on the ``number`` of the copy and the samples alone, so that
    every process and every repetition hears the same.

    Source: Ko et al. 2015, "Audio augmentation for speech recognition", there with the factors 0.9 and 1.1.
    """

    def __init__(self, number: int, widest: int = 12) -> None:
        self.number, self.widest = number, widest  # percent faster or slower at most; 12 is the only one that was tried

    def factor(self, waveform: Tensor) -> int:
        """Percent of the original speed at which a waveform (N,) is played."""
        generator = np.random.default_rng([self.number, zlib.crc32(waveform.cpu().numpy().tobytes())])
        return int(generator.integers(100 - self.widest, 100 + self.widest + 1))

    def __call__(self, waveform: Tensor) -> Tensor:
        """The waveform (N,) at another speed, (100 N / factor,)."""
        # Resampled from a rate that is so much higher: whole percents keep the filters short.
        return torchaudio.functional.resample(waveform, self.factor(waveform), 100)


def other_voices(encoder: Encoder, count: int, own_frames: bool = False) -> list[Encoder]:
    """The encoder as often as there are copies, each hearing every recording in another voice.

    Raises:
        SerError: the corpus or the encoder has frames and no audio.
    """
    check_number("augmentation.voices", count, 0, MOST_VOICES, whole=True)
    if count and (own_frames or isinstance(encoder, FrameFiles)):
        raise SerError(
            f"augmentation.voices={count} was given for a corpus that has its own frames, expected audio to change; "
            "add augmentation.voices=0."
        )
    copies = [copy.copy(encoder) for _ in range(count)]  # shallow: the weights are those of the encoder
    for number, one in enumerate(copies, 1):
        one.voice = Voice(number)
    return copies
