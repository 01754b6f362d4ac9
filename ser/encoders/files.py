"""Frames that another program made: emotion2vec, fairseq, openSMILE, a lab's own; read from files, never computed."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ser.data.corpus import Utterance
from ser.encoders.arrays import SUFFIXES, FrameSlice, places, read_array
from ser.encoders.base import Encoder
from ser.errors import SerError, check_number

log = logging.getLogger(__name__)

_USUAL_RATES = (100.0, 50.0, 25.0, 12.5)  # frames per second
_LOOKED_AT = 25  # files whose width is compared, before all where they differ
_NAMED = 3  # files of another width
_NO_AUDIO = (
    "this model was trained on frames that did not come from audio here (features=files, or a corpus of frames), so it "
    "takes no audio; make frames of the recordings in the same way: `ser predict frames/ --checkpoint RUN`."
)
_REMEDY = "set features.root=/path/to/frames, a folder with one .npy, .npz, .safetensors or .pt file per utterance"


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
            SerError: none can be read, or no width is that of more than half of them.
        """
        if self._dim is None:
            entries = list(self.entries)
            widths = self._widths(entries[:: -(-len(entries) // _LOOKED_AT)])
            if not widths:
                raise SerError(f"{self.root} holds no readable frames in {_LOOKED_AT} of its files; {_REMEDY}.")
            if len(widths) > 1:
                widths = self._widths(entries)
            self._dim = max(widths, key=lambda width: len(widths[width]))
            self._tell_others(widths, self._dim)
        return self._dim

    def _widths(self, names: Iterable[str]) -> dict[int, list[str]]:
        """The entries of each width, without those that cannot be read."""
        found: dict[int, list[str]] = {}
        for name in names:
            with suppress(SerError):  # told where it is read
                array = read_array(self.entries[name])
                width = array.shape[0 if self.transposed and array.ndim > 1 else -1] if array.ndim else 0
                found.setdefault(width, []).append(name)
        return found

    def _tell_others(self, widths: Mapping[int, Sequence[str]], width: int) -> None:
        """Say which entries have another width than most, and refuse where most have none."""
        total = sum(map(len, widths.values()))
        others = sorted((found for found in widths if found != width), key=lambda found: -len(widths[found]))
        listed = "; ".join(
            f"{found} in {len(widths[found]):,} ({', '.join(widths[found][:_NAMED])}"
            f"{' ...' if len(widths[found]) > _NAMED else ''})"
            for found in others[:_NAMED]
        )
        more = f" and {len(others) - _NAMED} more widths" if len(others) > _NAMED else ""
        if 2 * len(widths[width]) <= total:
            raise SerError(
                f"the {total:,} files in {self.root} have frames of {len(widths)} widths: {width} in "
                f"{len(widths[width]):,}; {listed}{more}; expected one; keep one kind of files there; (D, L) is read "
                f"by features.transposed={str(not self.transposed).lower()}, and features.dim=D takes one width."
            )
        if others:
            log.warning("%s: %d of %d files have another width than %d and are left out: %s%s", self.root,
                        total - len(widths[width]), total, width, listed, more)  # fmt: skip

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
            return read_array(place)
        if self._flat is None or self._flat[0] != place.path:
            self._flat = place.path, read_array(FrameSlice(place.path))
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
