"""Frames on disk: ``<root>/<corpus>/<fingerprint>/frames-<portion>-<n>.safetensors``, written once and checked.

A shard is a plain safetensors file with one fp16 tensor (L, D) per utterance, named by its id. Its metadata says what
each utterance's frames were made from (content hash of the audio, segment) and their checksum. ``__sum__`` and
``__square__`` (n, D) in double precision hold each utterance's sums over frames, in the order of the records, so that
normalisation needs no pass over the frames.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ser.data.audio import SAMPLE_RATE
from ser.errors import SerError
from ser.io import atomic_path, write_tensors

FORMAT = 2  # of the shards
FRAME_CODE = 2  # raise it when the same audio and encoder settings begin to give other frames
_SUMS = ("__sum__", "__square__")
_CONTENT = "ser"  # metadata key: checksum and JSON
_PACKAGES = ("torch", "torchaudio", "transformers", "soundfile")
_MAPPED_BYTES = 128_000_000  # read from memory maps before they are closed, so that they do not fill the memory

Frames = NDArray[np.float16]


class Recording(NamedTuple):
    """What an utterance's frames are made from: the content of its audio file, and the segment of it in seconds."""

    audio: str
    start: float
    end: float | None


@dataclass(frozen=True)
class Record:
    """One utterance of a shard."""

    id: str  # as the corpus called it that was extracted
    recording: Recording  # what the frames were made from
    length: int  # number of frames (L)
    crc32: int  # checksum of the frames


def fingerprint(description: Mapping[str, Any]) -> str:
    """Folder name of all frames that an encoder of this description makes."""
    text = json.dumps([FORMAT, FRAME_CODE, SAMPLE_RATE, description], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Versions of the packages that frames may depend on."""
    return {package: version(package) for package in _PACKAGES}


def write_shard(path: Path, frames: Mapping[str, Frames], recordings: Mapping[str, Recording], identity: str) -> None:
    """Write one shard, whole or not at all: frames (L, D) by id, and what they were made from.

    Raises:
        SerError: the folder cannot be written or the disk is full.
    """
    frames = {name: np.ascontiguousarray(value) for name, value in frames.items()}
    double = [value.astype(np.float64) for value in frames.values()]
    sums = [np.stack([value.sum(0) for value in double]), np.stack([np.square(value).sum(0) for value in double])]
    records = [Record(name, recordings[name], len(value), zlib.crc32(value.data)) for name, value in frames.items()]
    content = json.dumps(
        {
            "format": FORMAT,
            "fingerprint": identity,
            "dim": sums[0].shape[1],
            "versions": library_versions(),
            "sums_crc32": [zlib.crc32(table.data) for table in sums],
            "records": [asdict(record) for record in records],
        }
    )
    metadata = {_CONTENT: f"{zlib.crc32(content.encode()):08x} {content}"}  # one key: safetensors shuffles several
    with atomic_path(path) as temporary:
        write_tensors(temporary, {**frames, **dict(zip(_SUMS, sums, strict=True))}, metadata)


@dataclass
class Shard:
    """One file of the cache, opened by its metadata.

    Raises:
        SerError: the file is missing, damaged or of another format.
    """

    path: Path  # the file
    identity: str = field(init=False)  # fingerprint of the encoder
    dim: int = field(init=False)  # values per frame (D)
    records: dict[str, Record] = field(init=False, repr=False)  # the utterances by id
    versions: dict[str, str] = field(init=False, repr=False)  # of the libraries that made the frames

    def __post_init__(self) -> None:
        with _reading(self.path):
            metadata = safe_open(self.path, "numpy").metadata() or {}
        checksum, _, content = metadata.get(_CONTENT, "").partition(" ")
        if f"{zlib.crc32(content.encode()):08x}" != checksum:
            raise _damaged(self.path, "its metadata fails its checksum")
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise SerError(
                f"{self.path} has cache format {found['format']}, expected {FORMAT}; set paths.cache to another folder."
            )
        self.identity, self.dim, self.versions = found["fingerprint"], found["dim"], found["versions"]
        self._sums_crc32 = found["sums_crc32"]
        rows = [{**row, "recording": Recording(*row["recording"])} for row in found["records"]]
        self.records = {row["id"]: Record(**row) for row in rows}

    def frames(self, file: Any, name: str) -> Frames:
        """Frames (L, D) of one utterance from the open file, checked against their checksum."""
        record = self.records[name]
        frames: Frames = file.get_tensor(name)
        expected = (np.float16, (record.length, self.dim), record.crc32)
        if (frames.dtype, frames.shape, zlib.crc32(frames.data)) != expected:
            raise _damaged(self.path, f"the frames of {name} fail their checksum")
        return frames

    def sums(self) -> list[NDArray[np.float64]]:
        """Sums and sums of squares over the frames of each utterance, (n, D) each, in the order of the records."""
        with _reading(self.path):
            file = safe_open(self.path, "numpy")
            tables = [file.get_tensor(name) for name in _SUMS]
        if [zlib.crc32(table.data) for table in tables] != self._sums_crc32:
            raise _damaged(self.path, "the sums over frames fail their checksum")
        return tables


class FeatureCache:
    """The frames of a corpus; picklable, and safe in forked or spawned loader workers.

    It is made from the shard and the name inside it of each utterance.

    Raises:
        SerError: there are none, or their frames have different sizes.
    """

    def __init__(self, places: Mapping[str, tuple[Shard, str]]) -> None:
        if not places:
            raise SerError("there are no cached frames, expected at least one utterance; extract the corpus first.")
        self._places = dict(places)
        sizes = {shard.dim: shard.path for shard, _ in places.values()}
        if len(sizes) > 1:
            (one, first), (other, second) = list(sizes.items())[:2]
            raise SerError(f"{first} holds frames of {one} values and {second} of {other}, expected one encoder.")
        self.dim = next(iter(sizes))  # values per frame (D)
        records = {name: shard.records[inside] for name, (shard, inside) in places.items()}
        self.lengths = {name: record.length for name, record in records.items()}  # in frames
        self.recordings = {name: record.recording for name, record in records.items()}
        self._open: dict[Path, Any] = {}
        self._mapped = 0  # bytes read from the open files

    @classmethod
    def of_shards(cls, paths: Iterable[str | Path]) -> "FeatureCache":
        """All utterances of some shards."""
        shards = [Shard(Path(path)) for path in paths]
        return cls({name: (shard, name) for shard in shards for name in shard.records})

    @classmethod
    def joined(cls, caches: "Mapping[str, FeatureCache]") -> "FeatureCache":
        """All utterances of some caches, each id with the name of its cache before it."""
        return cls({f"{name}/{one}": place for name, cache in caches.items() for one, place in cache._places.items()})

    def fingerprint(self) -> str:
        """Hash of the audio content and segment of every utterance; part of a run's identity."""
        rows = sorted((name, *recording) for name, recording in self.recordings.items())
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def read(self, identifier: str) -> Frames:
        """Frames (L, D) in half precision, writable, checked against their checksum.

        Raises:
            SerError: the utterance is not cached, or its bytes are not those that were written.
        """
        shard, name = self._place(identifier)
        if self._mapped > _MAPPED_BYTES:
            self._open.clear()
            self._mapped = 0
        with _reading(shard.path):
            if shard.path not in self._open:
                self._open[shard.path] = safe_open(shard.path, "numpy")
            frames = shard.frames(self._open[shard.path], name)
        self._mapped += frames.nbytes
        return frames

    def sums(self, group_of: Mapping[str, int]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Number of frames (G,), their sums (G, D) and sums of squares (G, D), without reading the frames.

        ``group_of`` gives the group of each utterance to be counted, from 0.

        Raises:
            SerError: an utterance is not cached, or its bytes are not those that were written.
        """
        groups = max(group_of.values(), default=0) + 1
        counts = np.zeros(groups, np.int64)
        total, square = np.zeros((groups, self.dim)), np.zeros((groups, self.dim))
        wanted: dict[Path, tuple[Shard, dict[str, int]]] = {}
        for identifier, group in group_of.items():
            shard, name = self._place(identifier)
            wanted.setdefault(shard.path, (shard, {}))[1][name] = group
            counts[group] += self.lengths[identifier]
        for shard, names in wanted.values():
            row_of = {name: row for row, name in enumerate(shard.records)}
            rows, into = [row_of[name] for name in names], list(names.values())
            first, second = shard.sums()
            np.add.at(total, into, first[rows])
            np.add.at(square, into, second[rows])
        return counts, total, square

    def signatures(self) -> dict[str, str]:
        """A text per utterance that copies of one recording share in any format, as WAV and as FLAC.

        It is made of the number of frames and the means of eight columns, in stds of the utterance, but for rounding.
        """
        shards = {shard.path: shard for shard, _ in self._places.values()}
        columns = np.linspace(0, self.dim - 1, 8).astype(int)
        rows = {path: {name: row for row, name in enumerate(shard.records)} for path, shard in shards.items()}
        tables = {path: np.stack(shard.sums())[..., columns] for path, shard in shards.items()}  # (2, n, 8) each
        chosen = [tables[shard.path][:, rows[shard.path][name]] for shard, name in self._places.values()]
        lengths = [self.lengths[identifier] for identifier in self._places]
        mean, square = (np.stack(chosen) / np.array(lengths)[:, None, None]).transpose(1, 0, 2)  # (n, 8) each
        std = np.sqrt(np.maximum(square - mean**2, 0))
        scaled = np.round(mean / np.where(std > 1e-6, std, 1.0), 3) + 0.0  # no negative zeros
        texts = [f"{length} {zlib.crc32(row.tobytes()):08x}" for length, row in zip(lengths, scaled, strict=True)]
        return dict(zip(self._places, texts, strict=True))

    def _place(self, identifier: str) -> tuple[Shard, str]:
        if identifier not in self._places:
            raise SerError(f"{identifier} is not in the feature cache, expected frames of it; run `ser extract` again.")
        return self._places[identifier]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}, "_mapped": 0}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what safetensors or the system cannot read into a SerError."""
    try:
        yield
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise SerError(f"{path} cannot be read ({error}), expected a cache file; check its folder.") from error


def _damaged(path: Path, what: str) -> SerError:
    return SerError(f"{path} is damaged: {what}; delete that file and run the same command again to extract it anew.")
