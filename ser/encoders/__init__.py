"""From waveforms to frames; transformers is imported here (and by ser.models.finetuned), late.

Building an encoder reads nothing but the checkpoint's configuration. Weights are loaded at the first waveform, so a run
on a complete cache never loads them.
"""

from ser.encoders.base import Encoder, UnfitWaveform
from ser.encoders.logmel import LogMel
from ser.encoders.ssl import FULL, SpeechEncoder
from ser.encoders.waveform import Waveform
from ser.encoders.whisper import WhisperEncoder

__all__ = ["FULL", "Encoder", "LogMel", "SpeechEncoder", "UnfitWaveform", "Waveform", "WhisperEncoder"]
