"""Frames that another program made: emotion2vec, fairseq, openSMILE, a lab's own; read from files, never computed."""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ser.data.corpus import Utterance
from ser.encoders.base import Encoder
from ser.errors import SerError, check_number, first_line

log = logging.getLogger(__name__)

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt")
_USUAL_RATES = (100.0, 50.0, 25.0, 12.5)  # frames per second
_LOOKED_AT = 25  # files whose width is compared
_NO_AUDIO = (
    "this model was trained on frames that did not come from audio here (features=files, or a corpus of frames), so it "
    "takes no audio; make frames of the recordings in the same way: `ser predict frames/ --checkpoint RUN`."
)
_REMEDY = "set features.root=/path/to/frames, a folder with one .npy, .npz, .safetensors or .pt file per utterance"


class FrameSlice(NamedTuple):
    """Where the frames of an utterance lie: a file, or the rows from ``first`` to ``last`` of a file of many."""

    path: Path
    first: int = 0
    last: int | None = None


class FrameFiles(Encoder):
    """Frames (L, D), or one vector (D,) per utterance, from files; imported into the cache once.

    An utterance's file is named by the column ``frames`` of the manifest, by its id, or as its audio file. The flat
    layout of emotion2vec and fairseq is read, too: ``train.npy`` (all frames), ``train.lengths`` (one number per line)
    and the ids in ``train.emo``, ``train.jsonl`` (key) or ``train.tsv`` (names of audio files).

    Without ``frame_rate`` it is found from the lengths of the audio, where that is there; without ``dim`` it is that of
    most of the files. With ``transposed`` they hold (D, L). ``max_seconds`` needs the frame rate.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        frame_rate: float | None = None,
        transposed: bool = False,
        dim: int | None = None,
        average: int = 1,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__(average, max_seconds)
        if frame_rate is not None:
            check_number("features.frame_rate", frame_rate, 0, above=True)
        if max_seconds is not None and frame_rate is None:
            raise SerError(
                f"features.max_seconds={max_seconds:g} was given without the rate of the frames to cut; add "
                "features.frame_rate=50 (HuBERT, WavLM, emotion2vec), or features.max_seconds=null for all frames."
            )
        self.root = None if root is None else Path(root).expanduser()
        self.frame_rate = frame_rate or 0.0
        self.transposed, self._dim = transposed, dim
        self._flat: tuple[Path, NDArray[Any]] | None = None

    @property
    def dim(self) -> int:
        """Values per frame (D), of most of the files.

        Raises:
            SerError: none can be read, or no width is that of half of them.
        """
        if self._dim is None:
            widths: Counter[int] = Counter()
            for place in islice(self.entries.values(), _LOOKED_AT):
                try:
                    array = _read_array(place)
                except SerError:
                    continue
                widths[array.shape[0 if self.transposed and array.ndim > 1 else -1] if array.ndim else 0] += 1
            if not widths:
                raise SerError(f"{self.root} holds no readable frames in its first {_LOOKED_AT} files; {_REMEDY}.")
            width, files = widths.most_common(1)[0]
            if 2 * files < widths.total():
                raise SerError(
                    f"the first {widths.total()} files in {self.root} have frames of {len(widths)} widths, such as "
                    f"{width} in {files} of them, expected one; (D, L) is read by "
                    f"features.transposed={str(not self.transposed).lower()}, and features.dim=D takes one of them."
                )
            self._dim = width
        return self._dim

    def description(self) -> dict[str, Any]:
        """Width and layout; which frames they are is known by the content of their files."""
        cut = {} if self.max_seconds is None else {"frames": self._kept}
        return super().description() | {"encoder": "files", "dim": self.dim, "transposed": self.transposed} | cut

    @property
    def _kept(self) -> int | None:
        """Frames of an utterance that are kept; None: all."""
        return None if self.max_seconds is None else max(1, round(self.max_seconds * self.frame_rate))

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse waveforms: there is no encoder for them."""
        raise SerError(_NO_AUDIO)

    def load(self) -> None:
        """Refuse audio."""
        raise SerError(_NO_AUDIO)

    @cached_property
    def entries(self) -> dict[str, FrameSlice]:
        """Where frames lie, by the path below ``root`` without suffix, or by the id in a flat layout.

        Raises:
            SerError: the folder is not there, holds no frames, or a flat layout is not consistent.
        """
        if self.root is None or not self.root.is_dir():
            given = "features=files takes frames and no audio, but features.root was not given"
            raise SerError(f"{given if self.root is None else f'features.root={self.root} is no folder'}; {_REMEDY}.")
        found: dict[str, FrameSlice] = {}
        for path in sorted(self.root.rglob("*")):
            if path.suffix not in SUFFIXES or path.name.startswith("."):
                continue
            name = path.relative_to(self.root).with_suffix("").as_posix()
            found |= {identifier or name: place for identifier, place in places(path).items()}
        if not found:
            raise SerError(f"{self.root} holds no {', '.join(SUFFIXES)} files; {_REMEDY}.")
        return found

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Entries by the last part of their names, where frames lie in subfolders."""
        names: dict[str, list[str]] = {}
        for entry in self.entries:
            names.setdefault(entry.rpartition("/")[2], []).append(entry)
        return names

    def locate(self, utterance: Utterance) -> FrameSlice:
        """Where the frames of an utterance lie.

        Raises:
            SerError: nowhere, or at several places.
        """
        if utterance.frames is not None:
            path = (self.root or Path()) / utterance.frames
            if path.is_file() and path.suffix in SUFFIXES:
                return FrameSlice(path)
            raise SerError(f"{path}: no such file of frames; correct the column frames or features.root.")
        whole = utterance.start == 0 and utterance.end is None
        for name in (utterance.id, utterance.path.stem) if whole and utterance.path.name else (utterance.id,):
            if name in self.entries:
                return self.entries[name]
            if len(found := self._by_name.get(name, [])) == 1:
                return self.entries[found[0]]
            if found:
                several = f"{len(found)} files of frames: {found[0]}, {found[1]}"
                raise SerError(f"there are {several}, expected one; leave the others out.")
        raise SerError(f"no file of frames in {self.root}; correct features.root or add the file.")

    def read(self, place: FrameSlice) -> Tensor:
        """Frames (L, D), float32.

        Raises:
            SerError: they have another width, no rows, or values that are no finite numbers.
        """
        array = self._array(place)
        if array.ndim == 3 and len(array) == 1:
            array = array[0]  # (1, L, D), as encoders with a batch axis write it
        if array.ndim == 1:
            array = array[None]  # (1, D)
        elif self.transposed:
            array = array.T
        if array.ndim != 2 or array.shape[1] != self.dim:
            hint = f"; (D, L) is read with features.transposed={str(not self.transposed).lower()}"
            hint = hint if array.ndim == 2 and array.shape[0] == self.dim else ""
            raise SerError(f"{place.path} holds frames {array.shape}, expected (L, {self.dim}){hint}.")
        if not len(array):
            raise SerError(f"{place.path} holds no frames, expected at least one.")
        with np.errstate(over="ignore"):  # infinite values are refused below
            frames = torch.from_numpy(np.array(array[: self._kept], np.float32))
        if not bool(frames.isfinite().all()):
            raise SerError(f"{place.path} holds NaN or infinite values, expected finite ones.")
        return frames

    def _array(self, place: FrameSlice) -> NDArray[Any]:
        """The numbers of a place; a file of many utterances stays open from one to the next."""
        if place.last is None:
            return _read_array(place)
        if self._flat is None or self._flat[0] != place.path:
            self._flat = place.path, _read_array(FrameSlice(place.path))
        return self._flat[1][place.first : place.last]

    def settle_rate(self, lengths: Mapping[str, int], utterances: Iterable[Utterance]) -> None:
        """Find the frame rate from the frames and the seconds of the utterances, or compare it with them.

        Raises:
            SerError: it was not given and cannot be found.
        """
        whole = self.max_seconds or math.inf
        measured = [lengths[u.id] / u.seconds for u in utterances if 0 < u.seconds <= whole and u.id in lengths]
        if max(lengths.values()) == 1:
            self.frame_rate = self.frame_rate or 1.0  # of vectors, seconds say nothing
        elif not self.frame_rate and not measured:
            raise SerError(
                "features.frame_rate is not known, since there is no audio to compare with, expected the frames per "
                "second of the files; add features.frame_rate=50 for HuBERT, WavLM or emotion2vec."
            )
        elif measured:
            found = float(np.median(measured))
            usual = min(_USUAL_RATES, key=lambda rate: abs(found / rate - 1))
            found = usual if abs(found / usual - 1) < 0.05 else round(found, 2)
            if not self.frame_rate:
                log.info("features.frame_rate=%g, by the lengths of the audio", found)
                self.frame_rate = found
            elif abs(self.frame_rate / found - 1) > 0.1:
                log.warning("features.frame_rate=%g, but the audio's lengths say %g", self.frame_rate, found)


def places(path: Path) -> dict[str, FrameSlice]:
    """Where the frames of each id lie in a file: by the lists beside a file of many, else the whole file, without id.

    Raises:
        SerError: the lists are not consistent.
    """
    if path.suffix != ".npy" or not path.with_suffix(".lengths").is_file():
        return {"": FrameSlice(path)}
    try:
        lengths = [int(line) for line in path.with_suffix(".lengths").read_text(encoding="utf-8").split()]
        ids = list(_ids(path))
        if min(lengths, default=0) < 0:
            raise ValueError(f"a length of {min(lengths)}")
    except (ValueError, KeyError, TypeError) as error:  # no number, no JSON, no UTF-8; no key
        raise SerError(
            f"the lists beside {path} cannot be read ({first_line(error)}), expected whole numbers in "
            f"{path.stem}.lengths, and an id per line in {path.stem}.emo, {path.stem}.jsonl (key) or {path.stem}.tsv."
        ) from error
    if len(ids) != len(lengths) or len(set(ids)) < len(ids):
        raise SerError(
            f"{path.with_suffix('.lengths')} has {len(lengths)} lines, but {len(set(ids))} ids stand beside it, "
            f"expected one per line in {path.stem}.emo, {path.stem}.jsonl (key) or {path.stem}.tsv."
        )
    if (rows := len(_read_array(FrameSlice(path)))) != sum(lengths):
        raise SerError(f"{path} holds {rows} rows, but its .lengths add up to {sum(lengths)}; copy both files again.")
    ends = np.cumsum(lengths).tolist()
    return {name: FrameSlice(path, first, last) for name, first, last in zip(ids, [0, *ends], ends, strict=False)}


def _ids(path: Path) -> Iterator[str]:
    """The ids beside a flat layout, in the order of its lengths."""
    if (table := path.with_suffix(".emo")).is_file():
        yield from (line.split()[0] for line in table.read_text(encoding="utf-8").splitlines() if line.strip())
    elif (table := path.with_suffix(".jsonl")).is_file():
        yield from (json.loads(line)["key"] for line in table.read_text(encoding="utf-8").splitlines() if line.strip())
    elif (table := path.with_suffix(".tsv")).is_file():
        lines = table.read_text(encoding="utf-8").splitlines()[1:]  # the first names the folder of the audio
        yield from (Path(line.split("\t")[0]).stem for line in lines if line.strip())


def _read_array(place: FrameSlice) -> NDArray[Any]:
    """The numbers of a file, or its rows; nothing in it is executed, and .npy files are not read whole."""
    path = place.path
    try:
        if path.suffix == ".pt":
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            array = _only(loaded, path).float().numpy()
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415

            array = _only(load_file(path), path).float().numpy()  # NumPy has no bfloat16
        else:
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
            array = _only({name: loaded[name] for name in loaded.files}, path) if path.suffix == ".npz" else loaded
    except SerError:
        raise
    except Exception as error:  # damaged files lead the readers to errors of many kinds
        reason = (
            "it needs unpickling, which could run code"
            if re.search("pickle|Python objects", str(error))
            else first_line(error)
        )
        raise SerError(f"{path} cannot be read as an array of numbers ({reason}); save it again as one.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise SerError(f"{path} holds {getattr(array, 'dtype', type(array))}, expected numbers.")
    return array[place.first : place.last] if place.last is not None else array


def _only(content: Any, path: Path) -> Any:
    """The one array of a file."""
    if not isinstance(content, dict):
        return content
    if len(content) != 1:
        raise SerError(f"{path} holds {len(content)} arrays, expected one; save one file per utterance.")
    return next(iter(content.values()))
