"""Which audio cached frames were made of, so that other audio under the same name is noticed."""

import zlib
from functools import lru_cache
from pathlib import Path

from ser.data.cache import FeatureFile
from ser.data.corpus import Utterance
from ser.errors import SerError


def source_of(utterance: Utterance) -> dict[str, object]:
    """Size, time of change, span and checksum of the utterance's audio file."""
    found = utterance.path.stat()
    return {
        "size": found.st_size,
        "mtime": found.st_mtime_ns,
        "start": utterance.start,
        "end": utterance.end,
        "crc32": _file_crc32(utterance.path, found.st_size, found.st_mtime_ns),
    }


def check_source(utterance: Utterance, file: FeatureFile) -> None:
    """Refuse cached frames of other audio. The content is only read where the time of change differs.

    Raises:
        SerError: naming both sides.
    """
    then = file.metadata["utterances"][utterance.id]["source"]
    if then is None:
        return
    before, after = f"{then['start']} to {then['end']} s", f"{utterance.start} to {utterance.end} s"
    if before == after:
        try:
            now = utterance.path.stat()
        except OSError:
            return  # frames outlive their audio
        if (now.st_size, now.st_mtime_ns) == (then["size"], then["mtime"]):
            return
        before, after = (
            f"{size} bytes, checksum {crc32:08x}"
            for size, crc32 in (
                (then["size"], then["crc32"]),
                (now.st_size, _file_crc32(utterance.path, now.st_size, now.st_mtime_ns)),
            )
        )
    if before != after:
        raise SerError(
            f"{utterance.id} was extracted from other audio ({before}) than {utterance.path} now holds "
            f"({after}); restore the audio, or delete {file.path} and run the same command again."
        )


@lru_cache(maxsize=4096)
def _file_crc32(path: Path, size: int, mtime: int) -> int:
    """Checksum of a file's content; size and time are there to notice a replaced file."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
