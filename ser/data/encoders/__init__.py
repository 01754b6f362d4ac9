"""From waveforms to frames; transformers is imported here (and by ser.models.finetuned), late.

Building an encoder reads nothing but the checkpoint's configuration. Weights are loaded at the first waveform, so a run
on a complete cache never loads them.
"""

from ser.data.encoders.contract import Encoder, UnfitWaveform
from ser.data.encoders.logmel import LogMel
from ser.data.encoders.speech import FULL, SpeechEncoder
from ser.data.encoders.waveform import Waveform
from ser.data.encoders.whisper import WhisperEncoder

__all__ = ["FULL", "Encoder", "LogMel", "SpeechEncoder", "UnfitWaveform", "Waveform", "WhisperEncoder"]
