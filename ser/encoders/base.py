"""What every encoder offers, how a list of waveforms goes through one, and the loop over transformer layers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ser.cpu import float32_products
from ser.data.audio import SAMPLE_RATE
from ser.data.batching import length_batches
from ser.errors import SerError, check_number, first_line

FRAME_SAMPLES, HOP_SAMPLES = 400, 320  # 25 ms every 20 ms at 16 kHz


class UnfitWaveform(SerError):  # noqa: N818 - says what is wrong with one waveform; others may be fine
    """A waveform that no frame can be made of."""


class Encoder(nn.Module, ABC):
    """Turns padded 16 kHz mono waveforms into frames; batch mates change no frame (1e-4 of its size in float32).

    Extraction, prediction, streaming, fine-tuning and the exported graph all call this one ``forward``.

    Args:
        average: number of consecutive frames that the readers of the frames average into one; 1 keeps every frame.
            ``forward``, ``frame_rate`` and ``description`` are those before averaging.
        max_seconds: the encoder hears only so much of each waveform, from its beginning; None: all of it. ``encode``
            and the exported graph cut; ``forward`` does not.
    """

    frame_rate: float = SAMPLE_RATE / HOP_SAMPLES  # frames per second, before averaging
    shortest: int = FRAME_SAMPLES  # samples that a waveform must have at least
    voice: Callable[[Tensor], Tensor] | None = None  # changes each waveform (N,) before ``encode`` hears it
    _place: Tensor

    def __init__(self, average: int = 1, max_seconds: float | None = None) -> None:
        super().__init__()
        check_number("features.average", average, 1, whole=True)
        if max_seconds is not None:
            check_number("features.max_seconds", max_seconds, 0.1)
        self.average, self.max_seconds = average, max_seconds
        self.register_buffer("_place", torch.empty(0), persistent=False)  # says where weights are loaded to
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the encoder computes."""
        return self._place.device

    @property
    @abstractmethod
    def dim(self) -> int:
        """Values per frame (D)."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Plain settings and weight hash that determine the frames: the key of the feature cache."""
        voice = {} if self.voice is None else {"voice": type(self.voice).__name__, **vars(self.voice)}
        return voice | ({} if self.max_seconds is None else {"max_seconds": float(self.max_seconds)})

    @property
    def longest(self) -> int | None:
        """Samples of a waveform that are heard; None: all."""
        return None if self.max_seconds is None else round(self.max_seconds * SAMPLE_RATE)

    @abstractmethod
    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, L, D) in float32 and lengths (B,) of waveforms (B, N), zero beyond ``lengths`` (B,) samples."""

    def load(self) -> None:
        """Load what the first waveform would load."""

    def computed_samples(self, samples: int) -> int:
        """Samples that a waveform of ``samples`` costs in a batch."""
        return samples


@torch.inference_mode()
def encode(encoder: Encoder, waveforms: Sequence[Tensor], batch_seconds: float | None = None) -> list[Tensor]:
    """Frames (L, D) of each waveform (N,), or of its first ``max_seconds``, in float32, not averaged, on its device.

    One forward pass holds ``batch_seconds`` of padded audio; None: 10 on a CPU, where larger batches cost more time
    than they save (HuBERT base: a third more with 60), 120 elsewhere.

    Raises:
        UnfitWaveform: a waveform is shorter than one frame.
        SerError: the encoder's checkpoint cannot be read.
    """
    if encoder.voice is not None:
        waveforms = [encoder.voice(waveform) for waveform in waveforms]
    waveforms = [waveform[: encoder.longest] for waveform in waveforms]
    for waveform in waveforms:
        if len(waveform) < encoder.shortest:
            given, wanted = (
                f"{count} samples ({1000 * count / SAMPLE_RATE:.1f} ms)" for count in (len(waveform), encoder.shortest)
            )
            raise UnfitWaveform(f"the waveform has {given}, expected at least one frame of {wanted}; leave it out.")
    if batch_seconds is None:
        batch_seconds = 10.0 if encoder.device.type == "cpu" else 120.0
    found: dict[int, Tensor] = {}
    sizes = [encoder.computed_samples(len(waveform)) for waveform in waveforms]
    for rows in length_batches(sizes, batch_seconds * SAMPLE_RATE):
        batch = [waveforms[row].to(encoder.device, torch.float32) for row in rows]
        lengths = torch.tensor([len(waveform) for waveform in batch], device=encoder.device)
        frames, counts = encoder(pad_sequence(batch, batch_first=True), lengths)
        for row, padded, count in zip(rows, frames, counts.tolist(), strict=True):
            found[row] = padded[:count].clone()  # a view would keep the padded batch alive
    return [found[row] for row in range(len(waveforms))]


def usable_device(name: str, remedy: str) -> torch.device:
    """The device of that name.

    Raises:
        SerError: this machine has none; ``remedy`` says how to choose another.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # no such name, no such device, no driver
        raise SerError(f"device {name!r} is not usable here ({first_line(error)}); {remedy}.") from error


def all_full(lengths: Tensor, longest: int) -> bool:
    """Whether no utterance of the batch is padded, so that masks can be left out; never in an exported graph."""
    return not torch.compiler.is_exporting() and bool((lengths == longest).all())


class Layers(nn.Module):
    """Consecutive transformer layers, with the model's own final norm where it has one.

    The loop is ours because transformers' models cannot start in the middle (fine-tuning), run at another length than
    30 s or under a mask (Whisper), or be exported with batch and time left open. Of WavLM, the first layer must hold
    the relative positions.
    """

    def __init__(self, layers: nn.ModuleList, norm: nn.Module | None) -> None:
        super().__init__()
        self.layers, self.norm = layers, norm
        for layer in layers:
            if _is_wavlm(layer):
                layer.attention.register_forward_pre_hook(_lay_out)  # type: ignore[union-attr]

    def forward(self, hidden: Tensor, mask: Tensor | None) -> list[Tensor]:
        """States (B, L, D) before the first layer and after each, from the first one.

        The mask (B, L) is True at valid frames, or a number added to the attention to each frame; None: all are valid.
        """
        with float32_products(on_cpu=hidden.device.type == "cpu"):
            return self._run(hidden, mask)

    def _run(self, hidden: Tensor, mask: Tensor | None) -> list[Tensor]:
        states, positions, key_mask = [hidden], None, None
        if mask is not None and mask.dtype != torch.bool:
            key_mask = mask[:, None, None, :]
        elif mask is not None:
            lowest = torch.finfo(hidden.dtype).min  # not -inf: the row of an empty window would become NaN
            key_mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, lowest)[:, None, None, :]
        for layer in self.layers:
            if _is_wavlm(layer):
                hidden, positions = layer(hidden, attention_mask=mask, position_bias=positions)
            else:
                hidden = layer(hidden, attention_mask=key_mask)
            states.append(hidden)
        if self.norm is not None:
            states[-1] = self.norm(states[-1])
        return states


def _is_wavlm(layer: nn.Module) -> bool:
    return hasattr(getattr(layer, "attention", None), "gru_rel_pos_linear")


def _lay_out(attention: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs in the order of memory that WavLM's attention wants, (L, B, D): else it copies its weights per frame."""
    hidden, *others = inputs
    return (hidden.transpose(0, 1).contiguous().transpose(0, 1), *others)


def joined(states: Sequence[Tensor], join: str) -> Tensor:
    """States (B, L, D) each: side by side, (B, L, D * count), or their mean (B, L, D)."""
    return torch.cat(list(states), dim=-1) if join == "concatenate" else torch.stack(list(states)).mean(dim=0)
