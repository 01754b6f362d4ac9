"""Frames of utterances from their audio or their files; what is wrong with one is its reason and stops no other."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ser.data.audio import read_audio
from ser.data.corpus import FrameSource, Utterance
from ser.data.inventory import CacheFolder
from ser.encoders import Encoder, FrameFiles, UnfitWaveform, encode
from ser.errors import SerError

_BATCHES_AHEAD = 2  # decoded while the encoder is busy

Maker = FrameSource | Encoder


@dataclass
class Encoding:
    """Makes the frames of utterances that a cache folder lacks."""

    folder: CacheFolder  # has the content hashes of the audio and takes the reasons of what fails
    maker: Maker  # makes the frames
    workers: int  # threads that decode audio ahead of the encoder

    def frames(self, batches: Sequence[list[Utterance]]) -> Generator[tuple[Utterance, Tensor]]:
        """Each utterance of the batches with its frames (L, D) in half precision, but for those that fail."""
        if isinstance(self.maker, FrameFiles):
            made = self._import([utterance for batch in batches for utterance in batch], self.maker)
        elif isinstance(self.maker, Encoder):
            made = self._encode([batch for batch in batches if batch], self.maker)
        else:
            made = self.maker.frames([utterance for batch in batches for utterance in batch])
        for utterance, frames in made:
            half = frames.to("cpu", torch.float16)
            if bool(half.isfinite().all()):
                yield utterance, half
            else:
                self.folder.failures[utterance.id] = (
                    f"the features are not finite in half precision (largest {frames.abs().max().item():.4g}, "
                    "expected at most 65504)"
                )

    def _import(self, utterances: Iterable[Utterance], files: FrameFiles) -> Iterator[tuple[Utterance, Tensor]]:
        """Frames from files; what is wrong with one is its reason and stops no other."""
        for utterance in utterances:
            try:
                place = files.locate(utterance)
                frames = files.read(place)
                self._check_current(place.path)
            except SerError as error:
                self.folder.failures[utterance.id] = str(error)
            else:
                yield utterance, frames

    def _encode(self, batches: Iterable[list[Utterance]], encoder: Encoder) -> Iterator[tuple[Utterance, Tensor]]:
        """Decode in threads, a few batches ahead of the encoder."""
        pool = ThreadPoolExecutor(max(1, self.workers))
        ahead: deque[list[tuple[Utterance, Future[Tensor]]]] = deque()
        try:
            for batch in batches:
                ahead.append([(utterance, pool.submit(self._decode, utterance)) for utterance in batch])
                if len(ahead) > _BATCHES_AHEAD:
                    yield from self._encode_batch(ahead.popleft(), encoder)
            while ahead:
                yield from self._encode_batch(ahead.popleft(), encoder)
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, utterance: Utterance) -> Tensor:
        """Waveform (N,) of the audio that was hashed."""
        waveform = read_audio(utterance.path, utterance.start, utterance.end)
        self._check_current(utterance.path)
        return waveform

    def _check_current(self, path: Path) -> None:
        if not self.folder.hashes.is_current(path):
            raise SerError(f"{path} was replaced while it was read; run the same command again.")

    def _encode_batch(
        self, batch: Iterable[tuple[Utterance, "Future[Tensor]"]], encoder: Encoder
    ) -> Iterator[tuple[Utterance, Tensor]]:
        decoded: list[tuple[Utterance, Tensor]] = []
        for utterance, future in batch:
            try:
                decoded.append((utterance, future.result()))
            except Exception as error:  # one bad file never stops the rest, whatever its decoder raises
                self.folder.failures[utterance.id] = str(error) or type(error).__name__
        for (utterance, _), frames in zip(decoded, self._attempt(decoded, encoder), strict=True):
            if frames is not None:
                yield utterance, frames

    def _attempt(self, decoded: Sequence[tuple[Utterance, Tensor]], encoder: Encoder) -> list[Tensor | None]:
        """Frames of a batch; where it fails, one by one, so that only the culprit is left out."""
        if not decoded:
            return []
        try:
            return list(encode(encoder, [waveform for _, waveform in decoded]))
        except (UnfitWaveform, torch.OutOfMemoryError) as error:
            if len(decoded) > 1:
                return [frames for single in decoded for frames in self._attempt([single], encoder)]
            self.folder.failures[decoded[0][0].id] = str(error)
            return [None]
