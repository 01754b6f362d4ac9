"""MP3 files of variable bit rate without a header that counts their frames, which libsndfile ends too early."""

import io
import mmap
from pathlib import Path

# Kilobits per second by the number in a frame's header: layer 3 of MPEG 1, of MPEG 2 and 2.5 (ISO 11172-3, 13818-3).
_KILOBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by the version's two bits
_COUNTED = (b"Xing", b"Info", b"VBRI")
_AFTER_SIDE = {(True, True): 21, (True, False): 36, (False, True): 13, (False, False): 21}  # (MPEG 1, mono): bytes
_ROOMY = 9  # number of a bit rate whose frame holds the count at every sampling rate
_TAG = 10  # bytes of the header of an ID3v2 tag


def with_frame_count(path: str | Path) -> io.BytesIO | None:
    """The content of an MP3 whose bit rate changes and whose frames nothing counts, with a frame in front that does.

    libsndfile takes the number of frames from the bit rate of the first one, and reads no further. None: the file says
    how many it has, or all have one bit rate.
    """
    with Path(path).open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # hours of sound do not lie in memory
    first = _first_frame(content)
    if not (size := _frame_size(content, first)) or any(mark in content[first : first + size] for mark in _COUNTED):
        return None
    place, count, kinds = first, 0, set()
    while size := _frame_size(content, place):
        kinds.add(content[place + 2] >> 4)
        place, count = place + size, count + 1
    if len(kinds) == 1:
        return None
    header = bytearray(content[first : first + 4])
    header[1] |= 1  # no checksum
    header[2] = _ROOMY << 4 | header[2] & 0b1100
    counting = bytearray(_frame_size(bytes(header), 0))
    counting[:4] = header
    begin = _AFTER_SIDE[bool(header[1] & 8), header[3] >> 6 == 3]
    counting[begin : begin + 12] = b"Xing\0\0\0\1" + count.to_bytes(4, "big")
    return io.BytesIO(bytes(counting) + content[first:])


def _first_frame(content: bytes | mmap.mmap) -> int:
    """Where the first frame begins, behind an ID3v2 tag."""
    if content[:3] != b"ID3" or len(content) < _TAG:
        return 0
    return _TAG + sum(byte << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))


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
