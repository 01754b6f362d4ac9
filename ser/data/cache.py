"""Frames on disk: ``<root>/<corpus>/<fingerprint>/session<k>.safetensors``, memory-mapped and checked at each read.

One fp16 tensor (L, D) an utterance, named by its id; ``__sum__`` and ``__square__`` (n, D) in double precision hold
each utterance's sums over frames, rows in the order of the tensors, so that normalisation needs no pass over frames.
The file is plain safetensors; its layout (8-byte length, JSON header, tensors back to back) is read here because
checksums and memory-mapped single reads need the offsets.
"""

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ser.data.audio import SAMPLE_RATE
from ser.errors import SerError
from ser.io import atomic_path

FORMAT = 1
_SUMS = ("__sum__", "__square__")
_LONGEST_HEADER = 100_000_000  # bytes: safetensors' own limit
_WINDOW = 1 << 16  # bytes that Linux maps around a touched page
_PACKAGES = ("ser", "torch", "torchaudio", "transformers")

Frames = NDArray[np.float16]
Source = dict[str, Any] | None


def fingerprint(description: dict[str, Any]) -> str:
    """Folder name of everything that one encoder setting produces."""
    text = json.dumps([FORMAT, SAMPLE_RATE, description], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Origin:
    """What frames were made from; a file of another origin is refused."""

    corpus: str
    corpus_fingerprint: str
    encoder: dict[str, Any]

    def metadata(self) -> dict[str, Any]:
        """The part of a file's metadata that says so."""
        return {
            "format": FORMAT,
            "sample_rate": SAMPLE_RATE,
            "corpus": self.corpus,
            "encoder": self.encoder,
            "corpus_fingerprint": self.corpus_fingerprint,
            "versions": {package: version(package) for package in _PACKAGES},
        }

    def check(self, path: Path, found: dict[str, Any]) -> None:
        """Refuse a file of another format, sample rate, corpus or encoder.

        The corpus fingerprint may differ: it covers labels, which leave frames as they are; boundaries are checked
        utterance by utterance.

        Raises:
            SerError: naming both sides of the first difference.
        """
        expected = self.metadata()
        for key in ("format", "sample_rate", "corpus", "encoder"):
            ours, theirs = expected[key], found.get(key)
            if ours == theirs:
                continue
            if isinstance(ours, dict) and isinstance(theirs, dict):
                names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
                ours, theirs = ({name: side.get(name) for name in names} for side in (ours, theirs))
            raise SerError(
                f"{path} was made with {key} {theirs}, expected {key} {ours}; delete that file or choose "
                "another cache folder, then extract again."
            )


@dataclass(frozen=True)
class Item:
    """One utterance to be written: ``read`` gives its frames (L, D) when their turn comes."""

    id: str
    length: int
    crc32: int
    source: Source
    sums: tuple[NDArray[np.float64], NDArray[np.float64]]
    read: Callable[[], Frames]

    @classmethod
    def of(cls, identifier: str, frames: Frames, source: Source) -> "Item":
        """An item of frames held in memory."""
        double = frames.astype(np.float64)
        sums = double.sum(axis=0), np.square(double).sum(axis=0)
        return cls(identifier, len(frames), zlib.crc32(np.ascontiguousarray(frames).data), source, sums, lambda: frames)


def write_items(path: Path, items: Sequence[Item], origin: Origin) -> None:
    """Write one file, whole or not at all, holding one utterance in memory at a time.

    Raises:
        SerError: the folder cannot be written or the disk is full.
    """
    dim = len(items[0].sums[0])
    sums = [np.ascontiguousarray([item.sums[row] for item in items]) for row in range(2)]  # (n, D) each
    header: dict[str, Any] = {}
    offset = 0
    sizes = [(name, "F64", [len(items), dim], len(items) * dim * 8) for name in _SUMS]
    sizes += [(item.id, "F16", [item.length, dim], item.length * dim * 2) for item in items]
    for name, dtype, shape, size in sizes:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    metadata = origin.metadata() | {
        "sums_crc32": [zlib.crc32(row.data) for row in sums],
        "utterances": {item.id: {"crc32": item.crc32, "source": item.source} for item in items},
    }
    header["__metadata__"] = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    header["__metadata__"]["header_crc32"] = str(_header_crc32(header))
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # safetensors aligns the data
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for row in sums:
            file.write(row.data)
        for item in items:
            file.write(np.ascontiguousarray(item.read()).data)


@dataclass
class FeatureFile:
    """One cache file, opened by its header.

    Attributes:
        path: where it lies.
        metadata: what its header says, decoded.
        dim: values a frame (D).
        lengths: frames of each utterance.
    """

    path: Path
    metadata: dict[str, Any] = field(init=False, repr=False)
    dim: int = field(init=False)
    lengths: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._map: mmap.mmap | None = None
        self._sums: list[NDArray[np.float64]] | None = None
        try:
            with self.path.open("rb") as file:
                self._parse(file)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _parse(self, file: BinaryIO) -> None:
        try:
            self._read_header(file)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _damaged(self.path, "its header is not what was written") from error

    def _read_header(self, file: BinaryIO) -> None:
        """Fill the attributes; every field of the header is under a checksum."""
        size = int.from_bytes(file.read(8), "little")
        if not 0 < size < _LONGEST_HEADER:
            raise ValueError("header size")
        header = json.loads(file.read(size))
        if int(header["__metadata__"].pop("header_crc32")) != _header_crc32(header):
            raise ValueError("header checksum")
        self.metadata = {key: json.loads(value) for key, value in header.pop("__metadata__").items()}
        self.dim = header[_SUMS[0]]["shape"][1]
        ends = [entry["data_offsets"][1] for entry in header.values()]
        found = os.fstat(file.fileno())  # of the handle: the path may be replaced at any time
        if found.st_size != 8 + size + max(ends):
            raise _damaged(self.path, f"it holds {found.st_size} bytes and not {8 + size + max(ends)}")
        self._offsets = {name: tuple(8 + size + end for end in entry["data_offsets"]) for name, entry in header.items()}
        self.lengths = {name: entry["shape"][0] for name, entry in header.items() if name not in _SUMS}
        self._rows = {name: row for row, name in enumerate(self.lengths)}
        self._signature = _signature(found)

    def read(self, identifier: str) -> Frames:
        """Frames (L, D) of one utterance, checked against their checksum.

        Raises:
            SerError: the bytes are not those that were written.
        """
        content = self._bytes(identifier)
        if zlib.crc32(content) != self.metadata["utterances"][identifier]["crc32"]:
            raise _damaged(self.path, f"the frames of {identifier} fail their checksum")
        return np.frombuffer(content, np.float16).reshape(-1, self.dim)  # (L, D)

    def sums(self, identifier: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum and sum of squares over the frames of one utterance, (D,) each.

        Raises:
            SerError: the bytes are not those that were written.
        """
        if self._sums is None:
            tables = [self._bytes(name) for name in _SUMS]
            if [zlib.crc32(table) for table in tables] != self.metadata["sums_crc32"]:
                raise _damaged(self.path, "the sums over frames fail their checksum")
            self._sums = [np.frombuffer(table).reshape(-1, self.dim) for table in tables]  # (n, D)
        row = self._rows[identifier]
        return self._sums[0][row], self._sums[1][row]

    def item(self, identifier: str) -> Item:
        """The utterance as it would be written again."""
        entry = self.metadata["utterances"][identifier]
        return Item(
            identifier,
            self.lengths[identifier],
            entry["crc32"],
            entry["source"],
            self.sums(identifier),
            lambda: self.read(identifier),
        )

    def _bytes(self, name: str) -> bytearray:
        """A copy of one tensor's bytes; its pages leave this process's memory again at once."""
        mapped = self._open()
        begin, end = self._offsets[name]
        content = bytearray(memoryview(mapped)[begin:end])
        if hasattr(mmap, "MADV_DONTNEED"):
            # Neighbouring pages were mapped along; without them an epoch would slowly map the whole file.
            first = begin // _WINDOW * _WINDOW
            mapped.madvise(mmap.MADV_DONTNEED, first, min(end + _WINDOW, len(mapped)) - first)
        return content

    def _open(self) -> mmap.mmap:
        """The map of the file, made at the first read of each process."""
        if self._map is None:
            try:
                with self.path.open("rb") as file:
                    if _signature(os.fstat(file.fileno())) != self._signature:  # merged with more utterances since
                        self._parse(file)
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise _unreadable(self.path, error) from error
        return self._map

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None, "_sums": None}


class FeatureCache:
    """The frames of a corpus over its session files; picklable, and safe in forked or spawned loader workers.

    Attributes:
        dim: values a frame (D).
        lengths: frames of each cached utterance.

    Args:
        paths: session files.
        origin: what they must have been made from; None takes them as they are.

    Raises:
        SerError: there is no file, one is damaged or of another origin, or their frame sizes differ.
    """

    def __init__(self, paths: Iterable[Path], origin: Origin | None = None) -> None:
        files = [FeatureFile(Path(path)) for path in paths]
        if not files:
            raise SerError("there are no cached frames, expected at least one session file; extract the corpus first.")
        for file in files:
            if origin is not None:
                origin.check(file.path, file.metadata)
            if file.dim != files[0].dim:
                raise SerError(
                    f"{file.path} holds frames of {file.dim} values and {files[0].path} of {files[0].dim}, "
                    "expected one encoder; delete the wrong one and extract again."
                )
        self.dim = files[0].dim
        self.lengths = {name: length for file in files for name, length in file.lengths.items()}
        self._file_of = {name: file for file in files for name in file.lengths}

    def read(self, identifier: str) -> Frames:
        """Frames (L, D) in half precision, writable, checked against their checksum.

        Raises:
            SerError: the utterance is not cached, or its bytes are not those that were written.
        """
        return self._file(identifier).read(identifier)

    def sums(self, identifiers: Iterable[str]) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
        """Number of frames, their sum (D,) and sum of squares (D,) over utterances, without reading the frames.

        Raises:
            SerError: an utterance is not cached, or its bytes are not those that were written.
        """
        count, total, square = 0, np.zeros(self.dim), np.zeros(self.dim)
        for identifier in identifiers:
            row = self._file(identifier).sums(identifier)
            count, total, square = count + self.lengths[identifier], total + row[0], square + row[1]
        return count, total, square

    def _file(self, identifier: str) -> FeatureFile:
        if identifier not in self._file_of:
            raise SerError(f"{identifier} is not in the feature cache, expected frames of it; run `ser extract` again.")
        return self._file_of[identifier]


def _header_crc32(header: dict[str, Any]) -> int:
    """Checksum of everything in a header but the checksum itself."""
    return zlib.crc32(json.dumps(header, sort_keys=True).encode())


def _signature(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _damaged(path: Path, what: str) -> SerError:
    return SerError(f"{path} is damaged: {what}; delete that file and run the same command again to extract it anew.")


def _unreadable(path: Path, error: OSError) -> SerError:
    return SerError(f"{path} cannot be read ({error.strerror}), expected a readable cache file; check its folder.")
