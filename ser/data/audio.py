"""Audio files and arrays to what every encoder takes: float32, 16 kHz, mono."""

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.data.soundfiles import (
    UNKNOWN_FRAMES,
    AudioFile,
    is_pointer,
    no_audio,
    no_file,
    open_audio,
    printable,
    truncated,
)
from ser.errors import AudioError, SerError, first_line

if TYPE_CHECKING:  # a wrong folder of a corpus is told before PyTorch loads
    from torch import Tensor
    from torchaudio.transforms import Resample

Waveform: TypeAlias = "NDArray[Any] | Tensor"

SAMPLE_RATE = 16000  # Hz
LONGEST_SECONDS = 60.0  # attention is quadratic; longer recordings are predicted window by window
SHORTEST_SAMPLES = 400  # 25 ms at 16 kHz: one frame of every encoder
_LARGEST_INTEGER = 4  # bytes
_LOUDEST = 256.0  # float samples above were scaled as integers

_LOWEST_RATE, _HIGHEST_RATE = 1000, 768_000  # Hz: outside lies no recording of speech but a broken header
# torchaudio's kernel holds up * down values; past this (22,254 Hz against 16,000) it takes hundreds of megabytes.
_LARGEST_KERNEL = 4_000_000


def read_audio(path: str | Path, start: float = 0.0, end: float | None = None) -> "Tensor":
    """Decode a file, or the segment from ``start`` to ``end`` of it, to (N,) float32 samples at 16 kHz.

    Only the segment is read. Channels are averaged. An ``end`` past the end of the file means its end, since label
    files round up.

    The path is in any format libsndfile reads (WAV, FLAC, MP3, Ogg, AIFF ...); times are in seconds.

    Raises:
        SerError: the file is not there, is no audio, is empty, truncated or holds NaN or infinite samples, or the
            segment is empty or starts beyond its end.
    """
    path, name = Path(path), printable(path)
    if reason := no_audio(path):
        raise SerError(f"{name} is no audio file ({reason}); check the path and the corpus root.")
    if path.stat().st_size == 0:
        raise AudioError(f"{name} is empty (0 bytes), expected audio; copy the file again or leave it out.", "empty")
    try:
        with open_audio(path) as file:
            samples, rate = _read_segment(name, file, start, end), file.samplerate
    except (soundfile.SoundFileError, TypeError, OSError) as error:  # TypeError: a headerless format such as .raw
        if is_pointer(path):
            message = f"{name} is a pointer of Git LFS, not the audio; fetch that: git lfs pull."
            raise AudioError(message, "undecodable") from error
        reason = str(getattr(error, "error_string", getattr(error, "strerror", error))).strip().rstrip(".")
        raise AudioError(
            f"{name} cannot be decoded as audio ({reason}); expected an intact WAV, FLAC, MP3 or Ogg file, "
            "so convert it (ffmpeg -i IN OUT.wav), copy it again or leave it out.",
            "undecodable",
        ) from error
    if not np.isfinite(samples).all():
        raise AudioError(
            f"{name} holds NaN or infinite samples, expected finite ones; export the file again or leave it out.",
            "not_finite",
        )
    try:
        return resample_mono(samples, rate)
    except AudioError as error:
        raise AudioError(f"{name}: {error}", error.fault) from error


def duration(path: str | Path) -> float:
    """Length in seconds by the file's header; 0.0 where it is missing, unreadable or does not say."""
    if no_file(path):  # a pipe would wait for a writer
        return 0.0
    try:
        with open_audio(path) as file:
            return file.frames / file.samplerate if file.frames < UNKNOWN_FRAMES else 0.0
    except (soundfile.SoundFileError, TypeError, ValueError, OSError):
        return 0.0


def resample_mono(samples: "NDArray[np.floating] | Tensor", sample_rate: int) -> "Tensor":
    """Samples (N',) float32 at 16 kHz from samples (N,) or (N, channels) of any rate; channels are averaged.

    Raises:
        SerError: the array has another shape, or the rate lies outside 1 to 768 kHz.
    """
    import torch  # noqa: PLC0415

    waveform = torch.as_tensor(samples).to(torch.float32)
    if waveform.ndim == 2:
        waveform = waveform.mean(dim=1)  # (N, channels) -> (N,)
    if waveform.ndim != 1:
        raise SerError(
            f"got samples of shape {tuple(waveform.shape)}, expected (N,) or (N, channels); "
            "pass one recording at a time."
        )
    if not (_LOWEST_RATE <= sample_rate <= _HIGHEST_RATE and sample_rate == int(sample_rate)):
        raise AudioError(
            f"a sample rate of {sample_rate} Hz is not supported, expected a whole number from "
            f"{_LOWEST_RATE} to {_HIGHEST_RATE}; convert the recording to {SAMPLE_RATE} Hz.",
            "rate",
        )
    if sample_rate == SAMPLE_RATE or not len(waveform):
        return waveform
    divisor = math.gcd(int(sample_rate), SAMPLE_RATE)
    up, down = SAMPLE_RATE // divisor, int(sample_rate) // divisor
    if up * down > _LARGEST_KERNEL:
        from scipy.signal import resample_poly  # noqa: PLC0415  half a second; most files have the rate already

        return torch.from_numpy(resample_poly(waveform.cpu().numpy(), up, down).astype(np.float32))
    return _resampler(down, up)(waveform)


@lru_cache(maxsize=16)
def _resampler(original: int, wanted: int) -> "Resample":
    """The filter for one rate, computed once per process."""
    from torchaudio.transforms import Resample  # noqa: PLC0415

    return Resample(original, wanted)


def prepare(waveform: Waveform, sample_rate: Any) -> "Tensor":
    """A copy of samples of any rate and number type, mono, (N,) float32 at 16 kHz.

    They are (N,), (N, channels) or (channels, N); the longer axis is time. Floating point lies in [-1, 1], integers
    of 8 to 32 bits fill the range of their type. The rate in Hz may be a text.

    Raises:
        SerError: too short, too long, NaN or infinite samples, another shape, an impossible rate.
    """
    import torch  # noqa: PLC0415

    try:
        if isinstance(waveform, torch.Tensor):
            waveform = waveform.detach().cpu().float() if waveform.is_floating_point() else waveform.detach().cpu()
        samples = np.asarray(waveform)
        rate = int(sample_rate) if float(sample_rate) == int(float(sample_rate)) else sample_rate
        if samples.dtype.kind not in "fiu" or samples.ndim not in (1, 2):
            raise ValueError(f"samples of type {samples.dtype} and shape {samples.shape}")
    except (TypeError, ValueError, OverflowError) as error:
        shown = type(sample_rate).__name__ if np.ndim(sample_rate) else repr(sample_rate)
        raise SerError(
            f"got {first_line(error)}, with {shown} as the rate, expected numbers of shape (N,) or "
            "(N, channels), then a rate in Hz; pass one recording at a time."
        ) from error
    if samples.dtype.kind in "iu":
        if samples.dtype.itemsize > _LARGEST_INTEGER:
            raise SerError(
                f"got integers of type {samples.dtype}, whose range no sound fills, expected 8 to 32 bits; give them "
                "the type that they were recorded with, such as samples.astype('int16')."
            )
        half = 2.0 ** (8 * samples.dtype.itemsize - 1)
        samples = samples.astype(np.float64) / half - (samples.dtype.kind == "u")
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T  # (channels, N) -> (N, channels)
    if not np.isfinite(samples).all():
        raise AudioError(
            "the recording holds NaN or infinite samples, expected finite ones; record or export it again.",
            "not_finite",
        )
    if (peak := np.abs(samples).max(initial=0.0)) > _LOUDEST:
        raise AudioError(f"the samples reach {peak:.6g}, expected -1 to 1; divide them, 16-bit ones by 32768.", "loud")
    prepared = resample_mono(torch.from_numpy(np.array(samples, np.float32)), rate)
    if len(prepared) < SHORTEST_SAMPLES:
        raise AudioError(
            f"the recording has {len(prepared)} samples at {SAMPLE_RATE} Hz, expected at least "
            f"{SHORTEST_SAMPLES} ({1000 * SHORTEST_SAMPLES / SAMPLE_RATE:.0f} ms); leave it out.",
            "short",
        )
    if len(prepared) > LONGEST_SECONDS * SAMPLE_RATE:
        raise SerError(
            f"the recording lasts {len(prepared) / SAMPLE_RATE:.1f} s, expected at most "
            f"{LONGEST_SECONDS:.0f} s at once; save it as a file and use a timeline (--window 5)."
        )
    return prepared


def _read_segment(path: str, file: AudioFile, start: float, end: float | None) -> NDArray[np.float32]:
    """The samples (N, channels) between two times, after checking that the file holds what it promises."""
    if missing := truncated(path, file, file.frames):
        raise AudioError(missing, "truncated")
    if file.frames == 0:
        raise AudioError(
            f"{path} is empty (a header without samples), expected audio; copy the file again or leave it out.",
            "empty",
        )
    first = round(start * file.samplerate)
    last = file.frames if end is None else min(file.frames, round(end * file.samplerate))
    if start < 0 or first >= file.frames:
        raise SerError(
            f"{path} is {file.frames / file.samplerate:.3f} s long, so no segment can start at {start:g} s; "
            "correct the start."
        )
    if last <= first:
        raise SerError(
            f"{path}: the segment from {start:g} s to {end:g} s is empty, expected start < end; correct the two."
        )
    if first:
        file.skip(first)
    if file.frames >= UNKNOWN_FRAMES:
        blocks: list[NDArray[np.float32]] = [np.zeros((0, file.channels), np.float32)]
        wanted = last - first
        while wanted > 0 and len(block := file.block(min(wanted, 1 << 20))):
            blocks.append(block)
            wanted -= len(block)
        samples = np.concatenate(blocks)
    else:
        samples = file.block(last - first)
    if len(samples) < last - first and (missing := truncated(path, file, first + len(samples))):
        raise AudioError(missing, "truncated")
    return samples


def envelope(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lowest and highest sample (at most 500, 2) of equal parts of (N,) samples."""
    parts = np.array_split(samples, max(1, min(500, len(samples))))
    return np.array([(part.min(), part.max()) if len(part) else (0, 0) for part in parts], np.float32)
