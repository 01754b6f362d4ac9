"""Where the samples of a stream come from, a file at any pace or a microphone, and the buffer of the last ones."""

import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.data.audio import SAMPLE_RATE
from ser.data.soundfiles import no_file, open_audio, printable, truncated
from ser.errors import SerError

log = logging.getLogger(__name__)

Block = NDArray[np.float32]
_BLOCK = 0.1  # seconds
_SILENT_DEVICE = 3.0  # seconds without a block after which a microphone counts as gone
_OPENING = 10.0  # seconds that it may take to open one
_NEXT_ATTEMPT = 1.0  # seconds until a microphone that is gone is looked for again


@dataclass(frozen=True)
class Source:
    """A stream of audio."""

    name: str  # shown to the user
    sample_rate: int  # Hz
    realtime: bool  # blocks come at the pace of a clock, so that a slow listener has to drop windows
    blocks: Iterator[Block]  # samples (N, channels); an empty one: sound is missing here. Read it once


def file_source(
    path: str | Path,
    realtime: bool = True,
    block: float = _BLOCK,
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

    def blocks() -> Iterator[Block]:
        begun, given = clock(), 0
        try:
            with file:
                while len(samples := file.block(max(1, round(block * file.samplerate)))):
                    given += len(samples)
                    if realtime:
                        sleep(max(0.0, begun + given / file.samplerate - clock()))
                    yield samples
                if not given:
                    raise SerError(f"{printable(path)} holds no samples, expected audio; copy the file again.")
                if missing := truncated(printable(path), file, given):
                    log.warning(missing)
        except (soundfile.SoundFileError, OSError) as error:
            raise _unreadable(path, error) from error

    return Source(printable(Path(path).name), int(file.samplerate), realtime, blocks())


def _unreadable(path: str | Path, error: Exception) -> SerError:
    reason = no_file(path) or str(getattr(error, "error_string", error)).strip().rstrip(".")
    return SerError(
        f"{printable(path)} cannot be read as audio ({reason}), expected an intact WAV, FLAC, MP3 or Ogg file; check "
        "the path, convert it (ffmpeg -i IN OUT.wav) or copy the file again."
    )


def microphone_source(device: int | str | None = None) -> Source:
    """Listen to a microphone, by its number or part of its name, at its own rate, mono; waits where it is unplugged.

    Raises:
        SerError: sounddevice is not installed, or there is no microphone.
    """
    with _captured(device, None) as (told, _):
        if not told.get("installed", True):
            raise SerError(
                f"the microphone needs sounddevice and PortAudio ({told['error']}); pip install 'ser-lab[live]' (on "
                "Linux also apt install libportaudio2), or listen to a file with --input."
            )
        if "error" in told:
            raise SerError(
                f"no microphone{'' if device is None else f' {device}'} can be opened ({told['error']}); plug "
                "one in, choose another with --microphone, or listen to a file with --input."
            )
    return Source(told["name"], told["rate"], True, _microphone_blocks(device, told))


def _microphone_blocks(device: int | str | None, known: Mapping[str, Any]) -> Iterator[Block]:
    """Blocks of a microphone; while it is away an empty one per attempt to open it again."""
    lost, refused = None, False  # when it went away; whether it is there but cannot be opened
    while True:
        with _captured(device, known["rate"]) as (told, blocks):
            for samples in blocks:
                if lost is not None:
                    log.warning("listening again, to %s, after %.0f s", told["name"], time.monotonic() - lost)
                    lost, refused = None, False
                yield samples
        reason = told.get("error", "no sound comes from it")
        if lost is None:
            lost, device = time.monotonic(), known["device"] if isinstance(device, int) else device  # numbers change
            log.warning("the microphone is gone (%s); plug it in again to go on, Ctrl-C ends", reason)
        elif told.get("found") and not refused:
            refused = True
            log.warning("the microphone is there, but cannot be opened (%s)", reason)
        yield np.zeros((0, 1), np.float32)
        time.sleep(_NEXT_ATTEMPT)


@contextmanager
def _captured(device: int | str | None, rate: int | None) -> Iterator[tuple[dict[str, Any], Iterator[Block]]]:
    """What a new process of ser.inference.capture tells first, and its blocks (N, 1), until 3 s bring none."""
    settings = json.dumps({"device": device, "rate": rate, "block": _BLOCK})
    command = [sys.executable, "-m", "ser.inference.capture", settings]
    arriving: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read(stream: IO[bytes]) -> None:
        first = stream.readline()
        arriving.put(first)
        size = 4 * round(_BLOCK * json.loads(first or "{}").get("rate", SAMPLE_RATE))  # bytes
        while len(samples := stream.read(size)) == size:
            arriving.put(samples)
        arriving.put(b"")

    def blocks() -> Iterator[Block]:
        while samples := _next_or_nothing(arriving, _SILENT_DEVICE):
            yield np.frombuffer(samples, np.float32)[:, None]

    # Its own session: Ctrl-C does not reach it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            told = json.loads(_next_or_nothing(arriving, _OPENING) or '{"error": "it does not open"}')
            yield told, iter(()) if "error" in told else blocks()
        finally:
            process.kill()
            reader.join()


def _next_or_nothing(arriving: queue.SimpleQueue[bytes], timeout: float) -> bytes:
    """The next of a queue; empty where none comes in so many seconds."""
    try:
        return arriving.get(timeout=timeout)
    except queue.Empty:
        return b""


class RingBuffer:
    """The last ``size`` samples of a stream, zeros where none have come yet; safe between threads."""

    def __init__(self, size: int) -> None:
        self._samples = np.zeros(size, np.float32)
        self.clock = 0  # samples ever written
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._samples)

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append (N,) samples; the oldest make room."""
        size = len(self._samples)
        with self._lock:
            kept = samples[-size:]
            self._samples = np.concatenate((self._samples, kept))[-size:]
            self.clock += len(samples)

    def latest(self) -> NDArray[np.float32]:
        """A copy of the buffer (size,), oldest sample first."""
        with self._lock:
            return self._samples.copy()
