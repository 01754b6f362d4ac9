"""Audio files open for reading: what is read of those that are cut or whose headers are wrong, and what is said."""

import logging
import mmap
import os
import re
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.data.mp3 import only_frames
from ser.errors import one_line

log = logging.getLogger(__name__)

# libsndfile cuts the frame count of a truncated file to what is there; only its log keeps the header's promise.
_SHORT = re.compile(r"^\s*(?:data|SSND|BODY|Data Size|riff) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_FRAMES = re.compile(r"^\s*(?:Frames|(?:Rows : \d+ +)?Cols|Data length) *:? (\d+)", re.MULTILINE)  # that it promises
_CUT_VOC = re.compile(r"^Length : (\d+).*^ Extended II : (\d+).*Seems to be a truncated", re.MULTILINE | re.DOTALL)
_VOC_HEADERS = 42  # bytes: the file's, and two of the block with the samples, of which the block counts 12
_NIST_COUNT = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)  # samples per channel; libsndfile does not compare
_NIST_HEADER = 1024  # bytes
# Its log of a file whose samples are followed by something else than a chunk, such as samples that nothing counts.
_NO_CHUNK = re.compile(r"Unknown chunk marker|Chunk size \d+ > file length")
_ABSENT = "there is no such file"
_POINTER = b"version https://git-lfs"
_LENGTH = re.compile(r"^Length : (\d+)", re.MULTILINE)  # of the file, bytes
_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "ALAW": 1, "ULAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4,
          "DOUBLE": 8}  # fmt: skip
_NO_BYTES = re.compile(r"^\s*(?:data|SSND) : 0\b", re.MULTILINE)  # of a W64 or AIFF that it reads all the same
_CUT_OGG = re.compile("Last page lacks an end-of-stream bit|Ogg ?: Junk after the last page")
_NO_SIZE = (bytes(4), b"\xff" * 4)  # of samples whose number is unknown
_READ_ON = "its header says 0 bytes of samples, or an unknown number, but some follow; read to its end"
_FEW_BYTES = 10_000  # fewer are not worth a warning
_UNKNOWN_SIZE = 0x7F000000  # bytes: programs that write WAV or AIFF to a pipe put the largest number there
UNKNOWN_FRAMES = 2**62  # libsndfile's count for streams of unknown length lies above
_MOST_CHUNKS = 1000  # before the samples
_AT_ONCE = 1 << 20  # samples that are left out

# Of phones, browsers and cameras: libsndfile cannot read these.
UNREADABLE = {".m4a", ".aac", ".amr", ".3gp", ".webm", ".mka", ".wma", ".ac3"}
UNREADABLE |= {".mp4", ".m4v", ".mov", ".mkv", ".avi", ".mpg", ".mpeg", ".wmv", ".flv"}


def files_below(folder: str | Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """The files in a folder and those inside it, also behind links, by name; hidden ones are left out.

    A link to a folder that it lies in is not followed; a folder that may not be read is told.
    """
    try:
        status = Path(folder).stat()
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        _tell_once(f"{printable(folder)} is left out, since it cannot be read ({error.strerror})")
        return
    if (here := (status.st_dev, status.st_ino)) in above:
        return
    folders = []
    for entry in entries:
        linked = entry.is_symlink() and Path(entry.path).is_dir()  # of a ring of links DirEntry cannot say
        if linked or entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        else:
            yield Path(entry.path)
    for inside in folders:
        yield from files_below(inside, above | {here})


def without_converted(files: Sequence[Path]) -> list[Path]:
    """The files without those that libsndfile cannot read and that lie beside another of the same name."""
    readable = {path.with_suffix("") for path in files if path.suffix.lower() not in UNREADABLE}
    return [path for path in files if path.suffix.lower() not in UNREADABLE or path.with_suffix("") not in readable]


def printable(path: str | Path) -> str:
    """The path as one line that can be shown and written as UTF-8, whatever bytes its name has."""
    return one_line(os.fsencode(path).decode("utf-8", "backslashreplace"))


def no_file(path: str | Path) -> str | None:
    """Why a path leads to no file; None where it does."""
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, ValueError):  # ValueError: a name that holds a zero
        return "the link leads nowhere" if os.path.islink(path) else _ABSENT  # noqa: PTH114  no error
    except OSError as error:
        return str(error.strerror)
    if stat.S_ISREG(mode):
        return None
    return "it is a folder" if stat.S_ISDIR(mode) else "it is a pipe or a device: save what comes from it as a file"


def no_audio(path: str | Path) -> str | None:
    """As ``no_file``, with the file of the same name that must be converted first, such as a video."""
    path, reason = Path(path), no_file(path)
    if reason != _ABSENT or not path.name:
        return reason
    odd = next((odd for odd in map(path.with_suffix, sorted(UNREADABLE)) if not no_file(odd)), None)
    return f"{reason}, but {printable(odd.name)}, which must be converted: ffmpeg -i IN OUT.wav" if odd else reason


def is_pointer(path: str | Path) -> bool:
    """Whether it is what Git LFS puts in a file's place until the file itself is fetched."""
    try:
        return _first_bytes(os.fsencode(path), len(_POINTER)) == _POINTER
    except OSError:
        return False


class AudioFile(soundfile.SoundFile):
    """An audio file that is read onwards.

    soundfile seeks to where it is after each read. At the end of a stream of unknown length that fails, and of an
    intact MP3 the decoder then writes complaints to standard error, so these do not count as seekable.
    """

    def seekable(self) -> bool:
        """Whether soundfile may seek in it."""
        return super().seekable() and self.format != "MP3" and self.frames < UNKNOWN_FRAMES

    def skip(self, count: int) -> None:
        """Leave out the first ``count`` samples of a file that was not read yet."""
        if super().seekable() and self.format != "MP3":
            self.seek(count)
            return
        while count > 0 and (left_out := len(self.block(min(count, _AT_ONCE)))):  # also GSM and other old codecs
            count -= left_out

    def block(self, count: int) -> NDArray[np.float32]:
        """The next ``count`` samples (N, channels); fewer only at the end, none beyond it."""
        return self.read(count, dtype="float32", always_2d=True)


def open_audio(path: str | Path) -> AudioFile:
    """An audio file open for reading, whatever the bytes of its name.

    One whose header does not say how many samples follow (a recorder that lost power, a pipe) is read to its end, and
    an Ogg that was cut as far as it goes, both with a warning. Samples that a header does not count are not read, which
    is told. An MP3 is read whole, whatever its header counts, and whatever lies between its frames.

    Raises:
        soundfile.SoundFileError: it cannot be decoded.
        OSError: it cannot be read.
    """
    name = os.fsencode(path)  # names that are not UTF-8 reach libsndfile unchanged
    try:
        file = AudioFile(only_frames(path) or name if Path(path).is_file() else name)
    except soundfile.LibsndfileError:
        if (mended := _as_rf64(path) or (_with_size(path) if Path(path).suffix.lower() == ".caf" else None)) is None:
            raise
        file = AudioFile(mended)
    seconds = file.frames / file.samplerate
    if not file.frames and (mended := _with_size(path)) is not None:
        file.close()
        return AudioFile(mended)
    if seconds and _NO_BYTES.search(file.extra_info):
        _tell_once(f"{printable(path)}: {_READ_ON}")
    elif _CUT_OGG.search(file.extra_info):
        _tell_once(f"{printable(path)} ends in the middle, after {seconds:.2f} s; copy the file again if it was longer")
    elif (left := _uncounted(file)) >= _FEW_BYTES:
        _tell_once(
            f"{printable(path)}: its header says {seconds:.2f} s, so {left} bytes more are not read; if they are "
            "sound: ffmpeg -ignore_length 1 -i IN OUT.wav"
        )
    return file


def _uncounted(file: AudioFile) -> int:
    """Bytes of an open file beside those samples that can be read, where it has no chunks that explain them."""
    length, width = _LENGTH.search(file.extra_info), _BYTES.get(file.subtype)
    odd = file.format == "AU" or _NO_CHUNK.search(file.extra_info)
    odd = odd or (file.format == "CAF" and not file.extra_info.rstrip().endswith("End"))  # of its chunks
    if length is None or width is None or not odd:
        return 0
    return int(length[1]) - file.frames * file.channels * width


def _as_rf64(path: str | Path) -> mmap.mmap | None:
    """A BW64 file (ITU-R BS.2088) by the name of what it is but for other chunks, an RF64; None: it is none."""
    if not Path(path).is_file() or _first_bytes(os.fsencode(path), 4) != b"BW64":
        return None
    with Path(path).open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    content[:4] = b"RF64"
    return content


def _with_size(path: str | Path) -> mmap.mmap | None:
    """The content of a file whose header does not say how many samples follow, as if it did; None of other files."""
    with Path(path).open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # the file itself stays as it is
    kind = content[:4]
    order: Literal["big", "little"] = "little" if kind in (b"RIFF", b"RF64", b"BW64") else "big"
    wide = 12 if kind == b"caff" else 8  # bytes of the header of a chunk: its name and its size
    chunk = _find_chunk(content, b"SSND" if kind == b"FORM" else b"data", 20 - wide, wide, order)
    begin, size = chunk + wide, content[chunk + 4 : chunk + wide]
    if kind in (b".snd", b"dns.") and len(content) > 24:  # AU: the size stands at 8
        content[8:12] = b"\xff" * 4
    elif not chunk or begin == len(content):
        return None
    elif kind == b"caff" and size[:4] == size[4:] in _NO_SIZE:
        content[begin - 8 : begin] = (len(content) - begin).to_bytes(8, "big")
    elif kind == b"FORM" and size == b"\0\0\0\x08":  # it counts 8 bytes before the samples
        if len(content) == begin + 8 or _is_chunk(content, begin + 8, order):
            return None
        content[begin - 4 : begin] = bytes(4)  # of 0 it is read to its end
    elif kind in (b"RIFF", b"RIFX", b"RF64", b"BW64") and size in _NO_SIZE:
        if _is_chunk(content, begin, order):
            return None
        even = (len(content) - begin) // 2 * 2  # an odd size would promise one more byte
        if order == "little":
            content[:4] = b"RIFF"  # of RF64 and BW64, whose ds64 chunk holds its sizes; a WAV ends at 4 GB
        if content[12:16] == b"ds64":
            content[12:16] = b"JUNK"
        content[begin - 4 : begin] = min(even, 2**32 - 2).to_bytes(4, order)
        content[4:8] = min(len(content) - 8, 2**32 - 1).to_bytes(4, order)
    else:
        return None
    _tell_once(f"{printable(path)}: {_READ_ON}")
    return content


def _find_chunk(content: mmap.mmap, name: bytes, place: int, wide: int, order: Literal["big", "little"]) -> int:
    """Where the chunk of that name begins, from that of the first one on; 0 where the chunks lead to none."""
    for _ in range(_MOST_CHUNKS):
        if content[place : place + 4] == name or place + wide > len(content):
            break
        size = int.from_bytes(content[place + 4 : place + wide], order)
        place += wide + size + size % 2 * (wide == 8)  # a CAF does not pad them
    return place if content[place : place + 4] == name and place + wide <= len(content) else 0


def _is_chunk(content: mmap.mmap, begin: int, order: Literal["big", "little"]) -> bool:
    """Whether a chunk begins there: a printable name, and a size that fits; 8-bit samples can look like a name."""
    name, size = content[begin : begin + 4], content[begin + 4 : begin + 8]
    printed = name.isascii() and name.decode().isprintable()
    return printed and begin + 8 + int.from_bytes(size, order) <= len(content)


@lru_cache(maxsize=1024)  # once per file, which several steps open
def _tell_once(message: str) -> None:
    log.warning(message)


def truncated(path: str, file: soundfile.SoundFile, frames: int) -> str | None:
    """What an open file lacks, of which so many frames could be read or are promised; None where it is whole."""
    found, unit, short = None, "frames", _SHORT.search(file.extra_info)
    some, promised = frames, max([file.frames, *map(int, _FRAMES.findall(file.extra_info))])
    if short:
        some, promised, unit = int(short[2]), int(short[1]), "bytes of samples"
    elif cut := _CUT_VOC.search(file.extra_info):
        some, promised, unit = int(cut[1]) - _VOC_HEADERS, int(cut[2]) - 12, "bytes of samples"
    elif file.format == "NIST" and (count := _NIST_COUNT.search(_first_bytes(file.name, _NIST_HEADER))):
        promised = int(count[1])
    most = UNKNOWN_FRAMES if soundfile.SoundFile.seekable(file) else _UNKNOWN_SIZE // 8 // file.channels  # of a pipe
    if some < promised < (_UNKNOWN_SIZE if short else most):
        found = f"{some} of {promised} {unit}"
    elif frames < file.frames < most:
        found = f"{frames} of {file.frames} frames"
    return found and f"{path} is truncated: {found} can be read, expected all; copy the file again or leave it out."


def _first_bytes(path: str | bytes, count: int) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  a name that is not UTF-8
        return file.read(count)
