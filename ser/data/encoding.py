"""Decodes and encodes utterances in batches of similar length, undisturbed by bad files."""

import logging
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ser.data.audio import read_audio
from ser.data.audio_source import source_of
from ser.data.batching import length_batches
from ser.data.cache import Source
from ser.data.corpus import FrameSource, Utterance
from ser.encoders import Encoder, UnfitWaveform

log = logging.getLogger(__name__)

_BATCHES_AHEAD = 2  # decoded while the encoder is busy

Made = tuple[Utterance, Tensor, Source]


@dataclass
class Encoding:
    """Makes frames, counts them and shows how far it is."""

    maker: "FrameSource | Encoder"
    workers: int
    batch_seconds: float
    console: Console
    show_progress: bool
    failures: dict[str, str] = field(default_factory=dict)
    extracted: int = 0

    def frames(self, session: int, utterances: Sequence[Utterance], missing: set[str]) -> Generator[Made]:
        """Frames of the utterances named by ``missing``, longest first.

        Batches are formed over all utterances and then thinned, so that an interrupted run encodes the same batches as
        an undisturbed one and ends with the same bytes.
        """
        batches = [[u for u in batch if u.id in missing] for batch in utterance_batches(utterances, self.batch_seconds)]
        batches = [batch for batch in batches if batch]
        wanted = [utterance for batch in batches for utterance in batch]
        log.info("session %d: %d of %d utterances to extract", session, len(wanted), len(utterances))
        if callable(self.maker):
            made = self._encode(batches, self.maker)
        else:
            made = ((utterance, frames, None) for utterance, frames in self.maker.frames(wanted))
        with self._bar() if self.show_progress and self.console.is_terminal else nullcontext() as bar:
            task = bar.add_task(f"session {session}", total=len(wanted), speed=0.0) if bar else None
            seconds, started = 0.0, time.monotonic()
            for item in made:
                if bar and task is not None:
                    seconds += item[0].seconds
                    bar.update(task, advance=1, speed=seconds / max(time.monotonic() - started, 1e-3))
                yield item

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("utterances  {task.fields[speed]:.1f} s of audio/s "),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )

    def _encode(self, batches: Iterable[list[Utterance]], encoder: Encoder) -> Iterator[Made]:
        """Decode in threads, a few batches ahead of the encoder."""
        pool = ThreadPoolExecutor(max(1, self.workers))
        ahead: deque[list[tuple[Utterance, Future[tuple[Tensor, Source]]]]] = deque()
        try:
            for batch in batches:
                ahead.append([(utterance, pool.submit(_decode, utterance)) for utterance in batch])
                if len(ahead) > _BATCHES_AHEAD:
                    yield from self._encode_batch(ahead.popleft(), encoder)
            while ahead:
                yield from self._encode_batch(ahead.popleft(), encoder)
        finally:
            pool.shutdown(cancel_futures=True)

    def _encode_batch(
        self, batch: Iterable[tuple[Utterance, Future[tuple[Tensor, Source]]]], encoder: Encoder
    ) -> Iterator[Made]:
        decoded: list[tuple[Utterance, Tensor, Source]] = []
        for utterance, future in batch:
            try:
                decoded.append((utterance, *future.result()))
            except Exception as error:  # one bad file never stops the rest, whatever its decoder raises
                self.failures[utterance.id] = str(error) or type(error).__name__
        for (utterance, _, source), frames in zip(decoded, self._attempt(decoded, encoder), strict=True):
            if frames is not None:
                yield utterance, frames, source

    def _attempt(self, decoded: Sequence[Made], encoder: Encoder) -> list[Tensor | None]:
        """Frames of a batch; where it fails, one by one, so that only the culprit is left out."""
        if not decoded:
            return []
        try:
            return list(encoder([waveform for _, waveform, _ in decoded]))
        except (UnfitWaveform, torch.OutOfMemoryError) as error:
            if len(decoded) > 1:
                return [frames for single in decoded for frames in self._attempt([single], encoder)]
            self.failures[decoded[0][0].id] = str(error)
            return [None]


def utterance_batches(utterances: Sequence[Utterance], batch_seconds: float) -> list[list[Utterance]]:
    """Utterances of similar length together, longest first, within ``batch_seconds`` of padded audio."""
    ordered = sorted(utterances, key=lambda u: (-u.seconds, u.id))
    # Utterances of unknown length (0 s) count as a second, so that they do not all land in one batch.
    batches = length_batches([max(utterance.seconds, 1.0) for utterance in ordered], batch_seconds)
    return [[ordered[row] for row in batch] for batch in batches]


def _decode(utterance: Utterance) -> tuple[Tensor, Source]:
    """Waveform (N,) and the record by which a later run notices other audio."""
    return read_audio(utterance.path, utterance.start, utterance.end), source_of(utterance)
