"""From waveforms to frames; the only package that imports transformers, and late.

Building an encoder reads the checkpoint's configuration only. Its weights are loaded by the first waveform, so a run
on a complete cache never loads them.
"""

from ser.encoders.base import Encoder, UnfitWaveform, encode
from ser.encoders.files import FrameFiles
from ser.encoders.logmel import LogMel
from ser.encoders.ssl import FULL, SpeechEncoder
from ser.encoders.whisper import WhisperEncoder

__all__ = ["FULL", "Encoder", "FrameFiles", "LogMel", "SpeechEncoder", "UnfitWaveform", "WhisperEncoder", "encode"]
