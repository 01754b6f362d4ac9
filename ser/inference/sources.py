"""Where the samples of a stream come from: a file, at the pace it plays or at full speed, or a microphone."""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.data.audio import open_audio, printable, read_block
from ser.errors import SerError
from ser.io import told_writing

Block = NDArray[np.float32]
_SILENT_DEVICE = 3.0  # seconds without a block after which a microphone counts as gone


@dataclass(frozen=True)
class Source:
    """A stream of audio."""

    name: str  # shown to the user
    sample_rate: int  # Hz
    realtime: bool  # blocks come at the pace of a clock, so that a slow listener has to drop windows
    blocks: Iterator[Block]  # the samples (N, channels), block by block; read it once


def file_source(
    path: str | Path,
    realtime: bool = True,
    block: float = 0.1,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Source:
    """Read a file in blocks of so many seconds, with ``realtime`` when each would have been recorded.

    Raises:
        SerError: the file is missing or cannot be decoded.
    """
    try:
        file = open_audio(path)
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:
        raise _unreadable(path, error) from error
    return Source(
        printable(Path(path).name),
        int(file.samplerate),
        realtime,
        _file_blocks(path, file, realtime, block, clock, sleep),
    )


def _file_blocks(
    path: str | Path,
    file: soundfile.SoundFile,
    realtime: bool,
    block: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[Block]:
    begun, given = clock(), 0
    try:
        with file:
            while len(samples := read_block(file, max(1, round(block * file.samplerate)))):
                given += len(samples)
                if realtime:
                    sleep(max(0.0, begun + given / file.samplerate - clock()))
                yield samples
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(path, error) from error


def recorded(source: Source, path: Path) -> Source:
    """The same source, whose samples are also written to a new WAV file as they are heard.

    Its channels are those of the source's first block.

    Raises:
        SerError: the name does not end in .wav, the file is there already, or cannot be written.
    """
    if path.suffix.lower() != ".wav":
        raise SerError(f"--record {path} was given, expected a name that ends in .wav; rename it.")
    if path.exists() or path.with_suffix(".jsonl").exists():
        raise SerError(f"--record {path} is there already, expected a new file; give another name.")
    with told_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return replace(source, blocks=_written(source, path))


def _written(source: Source, path: Path) -> Iterator[Block]:
    with ExitStack() as stack:
        file = None
        for block in source.blocks:
            if file is None:
                channels = block.shape[1] if block.ndim == 2 else 1
                file = stack.enter_context(soundfile.SoundFile(path, "w", source.sample_rate, channels))
            file.write(block)
            yield block


def _unreadable(path: str | Path, error: Exception) -> SerError:
    reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return SerError(
        f"{path} cannot be read as audio ({reason}), expected an intact WAV, FLAC, MP3 or Ogg file; check "
        "the path or copy the file again."
    )


def microphone_source(device: int | str | None = None, block: float = 0.1) -> Source:
    """Listen to a microphone, by its number or part of its name, at its own sample rate, mono.

    Raises:
        SerError: sounddevice is not installed, there is no microphone, or (while listening) it stopped sending.
    """
    try:
        import sounddevice  # noqa: PLC0415
    except (ImportError, OSError) as error:  # OSError: the PortAudio library is missing
        raise SerError(
            f"the microphone needs sounddevice and PortAudio ({error}); pip install 'ser-lab[live]' (on Linux "
            "also apt install libportaudio2), or listen to a file with --input."
        ) from error
    try:
        found = sounddevice.query_devices(device, "input")
        rate = int(found["default_samplerate"])
    except (sounddevice.PortAudioError, ValueError) as error:
        raise SerError(
            f"there is no microphone{'' if device is None else f' {device}'} ({_first_line(error)}); plug "
            "one in, choose another with --microphone, or listen to a file with --input."
        ) from error
    return Source(str(found["name"]), rate, True, _microphone_blocks(sounddevice, device, rate, block))


def _microphone_blocks(sounddevice: Any, device: int | str | None, rate: int, block: float) -> Iterator[Block]:
    arriving: queue.SimpleQueue[Block] = queue.SimpleQueue()
    try:
        with sounddevice.InputStream(
            device=device,
            samplerate=rate,
            channels=1,
            blocksize=round(block * rate),
            callback=lambda samples, frames, times, status: arriving.put(samples.copy()),
        ):
            while True:
                yield arriving.get(timeout=_SILENT_DEVICE)
    except (sounddevice.PortAudioError, queue.Empty) as error:
        raise SerError(
            f"the microphone stopped sending ({_first_line(error)}); plug it in again and start anew."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no sound for 3 s"])[0]
