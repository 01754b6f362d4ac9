"""What the cache holds of a corpus: which audio its utterances are, and where their frames lie."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ser.data.cache import Recording, Shard, fingerprint, library_versions
from ser.data.corpus import Corpus, FrameSource, Utterance
from ser.data.soundfiles import no_audio
from ser.encoders import Encoder, FrameFiles
from ser.errors import SerError
from ser.io import read_json, write_text

_READERS = 8  # threads that hash audio

Place = tuple[Shard, str]  # a shard and the utterance's name inside it


class AudioHashes:
    """Content hashes of audio files, remembered in one JSON file by path, size, time of change and inode.

    So content is read once, and again only where one of these differs. The file need not exist, and is not written
    where its folder is read-only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, list[Any]] = read_json(path) or {}  # not there or damaged: the audio is read again

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Hash of each file; files that cannot be read are left out."""
        found: dict[Path, str] = {}
        unknown: list[Path] = []
        for path in dict.fromkeys(paths):
            signature = _signature(path)
            if signature is not None and self._known.get(str(path), [])[:3] == signature:
                found[path] = self._known[str(path)][3]
            elif signature is not None:
                unknown.append(path)
        if unknown:
            with ThreadPoolExecutor(_READERS) as pool:
                hashed = list(pool.map(_hash_file, unknown))
            new = {str(path): entry for path, entry in zip(unknown, hashed, strict=True) if entry is not None}
            found |= {path: new[str(path)][3] for path in unknown if str(path) in new}
            self._known = (read_json(self.path) or {}) | self._known | new
            with suppress(SerError):  # a shared cache may be read-only
                write_text(self.path, json.dumps(self._known))
        return found

    def is_current(self, path: Path) -> bool:
        """Whether the file still is the one that was hashed."""
        return self._known.get(str(path), [])[:3] == _signature(path)

    def changed(self, paths: Iterable[Path]) -> list[Path]:
        """Files whose content differs from the remembered one although size, time and inode are the same."""
        suspects = [path for path in dict.fromkeys(paths) if self.is_current(path)]
        with ThreadPoolExecutor(_READERS) as pool:
            hashed = list(pool.map(_hash_file, suspects))
        return [path for path, entry in zip(suspects, hashed, strict=True) if entry != self._known[str(path)]]


@dataclass
class CacheFolder:
    """What the cache holds of a corpus for one encoder."""

    path: Path  # the folder of the shards
    identity: str  # fingerprint of the encoder
    hashes: AudioHashes  # content hashes of the audio
    recordings: dict[str, Recording] = field(default_factory=dict)  # what each utterance's frames have to be made from
    failures: dict[str, str] = field(default_factory=dict)  # reason of each utterance whose audio is missing
    suspects: dict[str, str] = field(default_factory=dict)  # what is odd about recordings that were encoded
    places: dict[str, Place] = field(default_factory=dict)  # where the frames of utterances lie
    trusted: list[str] = field(default_factory=list)  # utterances with missing audio whose frames are taken by their id
    shards: dict[Path, Shard] = field(default_factory=dict)
    _named: dict[Recording, list[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, corpus: Corpus, maker: "FrameSource | Encoder", cache_root: str | Path, trust_cache: bool = False
    ) -> "CacheFolder":
        """Look at the cache without changing it, except for remembering the hashes of audio read now.

        Raises:
            SerError: a shard is damaged, or belongs to another encoder; or there is no folder of frames from files.
        """
        identity = fingerprint(maker.description())
        root = Path(cache_root) / corpus.name
        folder = cls(root / identity, identity, AudioHashes(root / "audio.json"))
        if corpus.frame_source is not None:
            folder.recordings = {u.id: _made_up(u) for u in corpus.utterances}
        else:
            if isinstance(maker, FrameFiles) and not trust_cache and any(u.frames is None for u in corpus.utterances):
                _ = maker.entries  # a folder that is not there is one error, not one per utterance
            places = folder._locate(corpus.utterances, maker)
            found = folder.hashes.of(path for path, _, _ in places.values())
            folder.recordings = {
                name: Recording(found[path], start, end) for name, (path, start, end) in places.items() if path in found
            }
        for name, recording in folder.recordings.items():
            folder._named.setdefault(recording, []).append(name)
        folder.refresh()
        folder._trust([u for u in corpus.utterances if u.id not in folder.recordings], trust_cache)
        return folder

    def _locate(
        self, utterances: Iterable[Utterance], maker: "FrameSource | Encoder"
    ) -> dict[str, tuple[Path, float, float | None]]:
        """File and segment that the frames of each utterance are made from; rows where the file holds frames."""
        if not isinstance(maker, FrameFiles):
            return {u.id: (u.path, u.start, u.end) for u in utterances}
        places = {}
        for utterance in utterances:
            try:
                places[utterance.id] = maker.locate(utterance)
            except SerError as error:
                self.failures[utterance.id] = str(error)
        return {name: (path, float(first), last) for name, (path, first, last) in places.items()}

    def refresh(self) -> None:
        """Read the shards that were written since, and find the utterances in them."""
        for path in sorted(self.path.glob("[!.]*.safetensors")):
            if path not in self.shards:
                shard = self.shards[path] = Shard(path)
                if shard.identity != self.identity:
                    raise SerError(
                        f"{path} holds frames of another encoder (fingerprint {shard.identity}), expected "
                        f"{self.identity}; move that file out of this folder."
                    )
                for record in shard.records.values():
                    for name in self._named.get(record.recording, ()):
                        self.places.setdefault(name, (shard, record.id))

    def _trust(self, absent: Sequence[Utterance], trust_cache: bool) -> None:
        """Take frames of utterances without audio by their id and segment, where that is allowed and unambiguous."""
        by_name: dict[tuple[str, float, float | None], dict[str, Place]] = {}
        for shard in self.shards.values():
            for record in shard.records.values():
                audio, start, end = record.recording
                by_name.setdefault((record.id, start, end), {})[audio] = (shard, record.id)
        for utterance in absent:
            cached = by_name.get((utterance.id, utterance.start, utterance.end), {})
            absence = (
                f"{utterance.path}: {no_audio(utterance.path) or 'it cannot be read'}; check the path and data.root"
            )
            if utterance.path == Path():
                absence = "the table names no audio; add its column path, or take features=files for frames"
            reason = self.failures.pop(utterance.id, absence).rstrip(".")
            if len(cached) == 1 and trust_cache:
                ((audio, place),) = cached.items()
                self.recordings[utterance.id] = Recording(audio, utterance.start, utterance.end)
                self.places[utterance.id] = place
                self.trusted.append(utterance.id)
            elif len(cached) > 1:
                self.failures[utterance.id] = f"{reason} (frames of {len(cached)} different files are cached as it)."
            elif cached:
                self.failures[utterance.id] = f"{reason}, or set extraction.trust_cache=true to use its cached frames."
            else:
                self.failures[utterance.id] = f"{reason}."

    def other_versions(self) -> dict[str, tuple[str, str]]:
        """Packages that made the frames in another version than the installed one, with both."""
        ours = library_versions()
        used = {shard.path: shard.versions for shard, _ in self.places.values()}.values()
        unknown = "(unknown version)"
        others = {name: sorted({versions.get(name, unknown) for versions in used} - {ours[name]}) for name in ours}
        return {name: (", ".join(found), ours[name]) for name, found in others.items() if found}

    def missing(self, utterances: Iterable[Utterance]) -> list[Utterance]:
        """The utterances that are to be extracted."""
        return [u for u in utterances if u.id not in self.places and u.id not in self.failures]


def _made_up(utterance: Utterance) -> Recording:
    """Stands for the audio of an utterance whose frames are computed: what they depend on, besides the description."""
    u = utterance
    text = json.dumps([u.id, u.emotion, u.speaker, u.session, u.seconds])
    return Recording(hashlib.sha256(text.encode()).hexdigest()[:32], u.start, u.end)


def _signature(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino] if path.is_file() else None


def _hash_file(path: Path) -> list[Any] | None:
    """Signature and content hash of a file; None where it cannot be read."""
    signature = _signature(path)
    try:
        with path.open("rb") as file:
            return [*(signature or []), hashlib.file_digest(file, "sha256").hexdigest()[:32]]
    except OSError:
        return None
