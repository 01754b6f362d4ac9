"""One session's file of the feature cache, and how it comes to be filled."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ser.data.audio_source import check_source
from ser.data.cache import FeatureFile, Item, Origin, write_items
from ser.data.corpus import Utterance
from ser.data.encoding import Encoding

PART_BYTES = 64_000_000  # frames held in memory before they are written
PART_SECONDS = 60.0  # work that a killed process may lose


@dataclass
class SessionFrames:
    """One session's file, the parts of it that are not merged yet, and what the corpus wants of it."""

    folder: Path
    number: int
    origin: Origin
    utterances: list[Utterance]

    @property
    def path(self) -> Path:
        """The merged file."""
        return self.folder / f"session{self.number}.safetensors"

    def parts(self) -> list[Path]:
        """What an unfinished extraction has written, in order."""
        return sorted(self.folder.glob(f"session{self.number}.part*.safetensors"))

    def complete(self) -> bool:
        """Whether nothing is to be done; needs no lock, so a shared cache may be read-only."""
        return not self.parts() and self.path.exists() and not self.missing(self.stored([self.path]))

    def stored(self, paths: Sequence[Path]) -> dict[str, FeatureFile]:
        """Where each utterance lies, after checking that it was made from the same audio by the same encoder."""
        found: dict[str, FeatureFile] = {}
        for path in paths:
            if path.exists():
                file = FeatureFile(path)
                self.origin.check(path, file.metadata)
                found |= dict.fromkeys(file.lengths, file)
        for utterance in self.utterances:
            if utterance.id in found:
                check_source(utterance, found[utterance.id])
        return found

    def missing(self, stored: dict[str, FeatureFile]) -> set[str]:
        """Ids of the utterances that ``stored`` lacks."""
        return {utterance.id for utterance in self.utterances} - stored.keys()

    def fill(self, encoding: Encoding) -> None:
        """Encode what is missing, part by part, then merge; the caller holds the session's lock."""
        for leftover in self.folder.glob(f".session{self.number}.*.tmp.safetensors"):
            leftover.unlink()  # of a killed process: nobody else writes while the lock is held
        missing = self.missing(self.stored([*self.parts(), self.path]))
        items: list[Item] = []
        held, written = 0, time.monotonic()
        made = encoding.frames(self.number, self.utterances, missing)
        try:
            for utterance, frames, source in made:
                half = frames.to("cpu", torch.float16).numpy()  # (L, D)
                item = Item.of(utterance.id, half, source)
                if not np.isfinite(item.sums[1]).all():  # one bad value anywhere shows in its column's sum
                    encoding.failures[utterance.id] = (
                        f"the features are not finite in half precision (largest "
                        f"{frames.abs().max().item():.4g}, expected at most 65504)"
                    )
                    continue
                encoding.extracted += 1
                items.append(item)
                held += half.nbytes
                if held > PART_BYTES or time.monotonic() - written > PART_SECONDS:
                    self._write_part(items)
                    held, written = 0, time.monotonic()
        finally:  # Ctrl-C loses nothing that was finished
            made.close()  # stops the decoders and the bar
            if items:
                self._write_part(items)
        self._merge()

    def _write_part(self, items: list[Item]) -> None:
        """Write the next part and empty ``items``."""
        parts = self.parts()
        number = int(parts[-1].name.split(".part")[1].split(".")[0]) + 1 if parts else 1
        write_items(self.folder / f"session{self.number}.part{number:04d}.safetensors", items, self.origin)
        items.clear()

    def _merge(self) -> None:
        """One file of the parts and the file that was there, then the parts go."""
        parts = self.parts()
        stored = self.stored([*parts, self.path])  # the merged file last: after a kill parts may repeat it
        if any(file.path != self.path for file in stored.values()):
            write_items(self.path, [stored[name].item(name) for name in sorted(stored)], self.origin)
        for part in parts:
            part.unlink(missing_ok=True)
