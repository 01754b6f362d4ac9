"""MP3 files as libsndfile reads them whole: frames alone, and one in front that counts them.

libsndfile takes their number from the first frame or, where that does not say, from its bit rate and the size of the
file. So it ends too early where files were joined or the bit rate changes, and misses frames where tags lie.
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import NamedTuple

# Kilobits per second by the number in a frame's header: layer 3 of MPEG 1, of MPEG 2 and 2.5 (ISO 11172-3, 13818-3).
_KILOBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by the version's two bits
_AFTER_SIDE = {(True, True): 21, (True, False): 36, (False, True): 13, (False, False): 21}  # (MPEG 1, mono): bytes
_ROOMY = 9  # number of a bit rate whose frame holds the count at every sampling rate
_COUNTS = re.compile(rb"(?:Xing|Info)...(.)(....)|VBRI.{10}(....)", re.DOTALL)  # flags, of which the last bit: counted
_COUNTS_WITHIN = 64  # bytes of a frame
_TAG = 10  # bytes of the header of an ID3v2 tag
_BEGIN = re.compile(rb"ID3[\2-\4]|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")  # of a tag or a frame
_SURE = 3  # so many frames in a row are no chance
_FIRST_WITHIN = 1 << 16  # bytes
_IN_MEMORY = 64 << 20  # bytes; longer files, which last an hour, are copied to the disk
_OTHERS = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM", b"caff", b".snd")  # how other files begin


class _Run(NamedTuple):
    """Frames with nothing between them."""

    begin: int  # bytes
    end: int
    frames: int


def only_frames(path: str | Path) -> "SpooledTemporaryFile[bytes] | None":
    """The frames of an MP3 without what is between them, and one in front that counts them.

    None: the file is no MP3, or libsndfile reads it right as it is.
    """
    with Path(path).open("rb") as file:
        if file.read(4) in (b"", *_OTHERS):
            return None
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if not (runs := list(_runs(content))):
        return None
    counted, frames, parts = _counted(content, runs[0].begin), 0, []
    for begin, end, number in runs:
        counts = _counted(content, begin) is not None
        frames += number - counts
        parts.append((begin + counts * _frame_size(content, begin), end))
    front = _counting_frame(content[runs[0].begin : runs[0].begin + 4], frames)
    if len(runs) == 1 and counted is not None and counted >= frames:
        front, parts = b"", [(begin, end)]  # it says more than the number
        if end == len(content) or content[end : end + 3] == b"TAG":
            return None
    new = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  whoever reads it closes it
    new.write(front)
    with memoryview(content) as view:
        for begin, end in parts:
            new.write(view[begin:end])
    new.seek(0)
    return new


def _runs(content: mmap.mmap) -> Iterator[_Run]:
    """The frames of the file, behind and between its tags and whatever else is no frame."""
    place, latest = 0, _FIRST_WITHIN
    while place < min(latest, len(content)):
        if content[place : place + 3] == b"ID3":
            size = content[place + 6 : place + _TAG]
            place += _TAG + sum(byte << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=False))
            latest = max(latest, place + _FIRST_WITHIN)
            continue
        end, frames = place, 0
        while length := _frame_size(content, end):
            end, frames = end + length, frames + 1
        if frames >= _SURE:
            yield _Run(place, min(end, len(content)), frames)
            place, latest = end, len(content)
        else:
            found = _BEGIN.search(content, place + 1)
            place = found.start() if found else len(content)


def _counted(content: mmap.mmap, place: int) -> int | None:
    """How many frames follow, by the one that begins there; None: that holds sound and counts nothing."""
    if (found := _COUNTS.search(content, place, place + _COUNTS_WITHIN)) is None:
        return None
    if found[3] is not None:
        return int.from_bytes(found[3], "big")
    return int.from_bytes(found[2], "big") if found[1][0] & 1 else 0


def _counting_frame(kind: bytes, frames: int) -> bytes:
    """A frame of the kind of another, of which the 4 bytes of the header are given, that counts those that follow."""
    header = bytearray(kind)
    header[1] |= 1  # no checksum
    header[2] = _ROOMY << 4 | header[2] & 0b1100
    frame = bytearray(_frame_size(bytes(header), 0))
    frame[:4] = header
    begin = _AFTER_SIDE[bool(header[1] & 8), header[3] >> 6 == 3]
    frame[begin : begin + 12] = b"Xing\0\0\0\1" + frames.to_bytes(4, "big")
    return bytes(frame)


def _frame_size(content: bytes | mmap.mmap, place: int) -> int:
    """Bytes of the frame of layer 3 that begins there; 0 where none does."""
    if len(content) < place + 4 or content[place] != 0xFF or content[place + 1] & 0xE6 != 0xE2:
        return 0
    version, number, rate = content[place + 1] >> 3 & 3, content[place + 2] >> 4, content[place + 2] >> 2 & 3
    if version not in _RATES or number in (0, 15) or rate == 3:
        return 0
    first = version == 3
    bits = (144 if first else 72) * 1000 * _KILOBITS[1 if first else 2][number]
    return bits // _RATES[version][rate] + (content[place + 2] >> 1 & 1)
