"""Which frames a file holds: one array, or those of many utterances by the lists beside it; nothing is executed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ser.errors import SerError, first_line

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt")


class FrameSlice(NamedTuple):
    """Where the frames of an utterance lie: a file, or the rows from ``first`` to ``last`` of a file of many."""

    path: Path
    first: int = 0
    last: int | None = None


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
    if (rows := len(read_array(FrameSlice(path)))) != sum(lengths):
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


def read_array(place: FrameSlice) -> NDArray[Any]:
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
