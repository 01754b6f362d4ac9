"""Augmentation of training frames on the device they are on: per utterance, the batch at once, never in place.

Transforms take frames (B, L, D) whose padding is zero and lengths (B,), and return new frames, padding still zero, and
lengths. What happens to an utterance depends on its valid frames only. Random numbers come from torch's generator.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from scipy.special import betaincinv
from torch import Tensor

from ser.data.batching import valid_frames
from ser.errors import check_number


class Transform(ABC):
    """Changes each utterance with a given probability."""

    def __init__(self, probability: float) -> None:
        check_number(f"{type(self).__name__}.probability", probability, 0, 1)
        self.probability = probability

    def __call__(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Changed copy of frames (B, L, D), and its lengths (B,)."""
        return self.apply(frames, lengths, _uniform(frames) < self.probability)

    @abstractmethod
    def apply(self, frames: Tensor, lengths: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Frames and lengths with the utterances in ``chosen`` (B,) changed, the others the same bit for bit."""


class Augmentation:
    """Applies transforms one after the other, MixStyle and mixup where asked for; nothing by default.

    ``voices`` is for those who make the frames: the number of copies in other voices (``ser.extraction.voices``).
    """

    def __init__(
        self, transforms: Sequence[Transform] = (), mixup_alpha: float = 0.0, mixstyle: float = 0.0, voices: int = 0
    ) -> None:
        self.transforms = list(transforms)
        self.mixup = Mixup(mixup_alpha) if mixup_alpha else None
        self.mixstyle = MixStyle(mixstyle) if mixstyle else None
        self.voices = voices

    def __call__(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Transformed frames (B, L', D) and lengths (B,); the input stays as it was."""
        for transform in self.transforms:
            frames, lengths = transform(frames, lengths)
        return frames, lengths


class GaussianNoise(Transform):
    """Adds white noise with ``noise_factor`` times the std of each feature over the utterance."""

    def __init__(self, probability: float = 0.3, noise_factor: float = 0.1) -> None:
        super().__init__(probability)
        check_number("GaussianNoise.noise_factor", noise_factor, 0)
        self.noise_factor = noise_factor

    def apply(self, frames: Tensor, lengths: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Frames with noise on the valid frames of the chosen utterances."""
        _, std = _statistics(frames, lengths)  # (B, 1, D)
        noisy = frames + (self.noise_factor * std * torch.randn_like(frames)).to(frames.dtype)
        return torch.where(chosen[:, None, None] & _valid(frames, lengths), noisy, frames), lengths


class TimeStretch(Transform):
    """Resamples an utterance to ``1 - factor`` to ``1 + factor`` times its length by linear interpolation.

    The first and the last frame stay; at least one frame is left.
    """

    def __init__(self, probability: float = 0.2, factor: float = 0.1) -> None:
        super().__init__(probability)
        check_number("TimeStretch.factor", factor, 0, 0.999)
        self.factor = factor

    def apply(self, frames: Tensor, lengths: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Frames with each chosen utterance stretched by its own factor; L' is the longest new length."""
        rate = 1 + self.factor * (2 * _uniform(frames) - 1)  # (B,)
        new_lengths = torch.where(chosen, (lengths * rate).round().long().clamp_min(1), lengths)
        target = torch.arange(int(new_lengths.max()), device=frames.device)  # (L',)
        # Integers, so that an utterance that keeps its length keeps its frames exactly.
        steps = (new_lengths - 1).clamp_min(1)[:, None]
        place = torch.minimum(target, new_lengths[:, None] - 1) * (lengths - 1)[:, None]  # (B, L'), in 1/steps frames
        lower = place // steps
        upper = torch.minimum(lower + 1, (lengths - 1)[:, None])
        weight = (place % steps / steps).to(frames.dtype)[..., None]  # (B, L', 1)
        before, after = (
            frames.gather(1, index[..., None].expand(-1, -1, frames.shape[-1])) for index in (lower, upper)
        )
        mixed = before + weight * (after - before)  # (B, L', D)
        return mixed.masked_fill(target[None, :, None] >= new_lengths[:, None, None], 0.0), new_lengths


class FrameMask(Transform):
    """Scales one run of frames, ``fraction`` of the utterance, by ``scale``."""

    def __init__(self, probability: float = 0.2, fraction: float = 0.1, scale: float = 0.1) -> None:
        super().__init__(probability)
        check_number("FrameMask.fraction", fraction, 0, 1)
        self.fraction, self.scale = fraction, scale

    def apply(self, frames: Tensor, lengths: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Frames with a run, placed uniformly inside each chosen utterance, scaled."""
        width = (self.fraction * lengths).round().long()  # (B,)
        inside = _run(width, lengths, frames.shape[1]) & chosen[:, None]  # (B, L)
        return torch.where(inside[..., None], frames * self.scale, frames), lengths


class TimeMask(Transform):
    """Zeroes ``masks`` runs of frames, each up to ``fraction`` of the utterance (SpecAugment, Park et al. 2019).

    Zero is the mean of normalised frames.
    """

    def __init__(self, probability: float = 0.5, fraction: float = 0.1, masks: int = 1) -> None:
        super().__init__(probability)
        check_number(f"{type(self).__name__}.fraction", fraction, 0, 1)
        self.fraction, self.masks = fraction, masks

    def apply(self, frames: Tensor, lengths: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Frames with the runs of the chosen utterances zeroed."""
        for _ in range(self.masks):
            inside = _run(self._width(lengths), lengths, frames.shape[1]) & chosen[:, None]  # (B, L)
            frames = frames.masked_fill(inside[..., None], 0.0)
        return frames, lengths

    def _width(self, sizes: Tensor) -> Tensor:
        """Widths (B,) drawn uniformly from the whole numbers from 0 to ``fraction`` of ``sizes`` (B,)."""
        return (_uniform(sizes) * ((self.fraction * sizes).floor() + 1)).long()


class ChannelMask(TimeMask):
    """Zeroes ``masks`` bands of neighbouring features, each up to ``fraction`` of them (SpecAugment)."""

    def apply(self, frames: Tensor, lengths: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Frames with the bands zeroed in all frames of the chosen utterances."""
        channels = torch.full_like(lengths, frames.shape[-1])
        for _ in range(self.masks):
            inside = _run(self._width(channels), channels, frames.shape[-1]) & chosen[:, None]  # (B, D)
            frames = frames.masked_fill(inside[:, None, :], 0.0)
        return frames, lengths


class Mixup:
    """Mixes each utterance with another of the batch, frames and labels (Zhang et al. 2018).

    The weight lambda of an utterance follows Beta(alpha, alpha), folded to at least one half, so that it keeps its
    length and most of its label. The partner enters where both have frames, and the label takes as much from it as the
    frames did: (1 - lambda) times the fraction of the utterance that the partner covers.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        check_number("augmentation.mixup_alpha", alpha, 0, above=True)  # 0: no mixup, so none is made
        self.alpha = alpha

    def __call__(self, frames: Tensor, lengths: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed frames (B, L, D) and labels (B, C), from one-hot or soft ones; lengths (B,) stay."""
        own = _beta(frames, self.alpha)  # (B,)
        own = torch.maximum(own, 1 - own)
        partner = torch.randperm(len(frames), device=frames.device)  # (B,)
        overlap = torch.minimum(lengths, lengths[partner])
        mixed = torch.lerp(frames[partner], frames, own[:, None, None])
        taken = ((1 - own) * overlap / lengths)[:, None].to(torch.float32)  # (B, 1), fraction of the partner
        soft = (1 - taken) * labels + taken * labels[partner]
        return torch.where(_valid(frames, overlap), mixed, frames), soft


class MixStyle:
    """Mixes mean and std of an utterance with those of another speaker's utterance of the same emotion.

    Each feature is normalised over the utterance's valid frames and put on ``lambda`` times its own mean and std plus
    ``1 - lambda`` times the other's, with lambda from Beta(0.1, 0.1). So level and spread of a feature tell less of the
    speaker, and no more and no less of the emotion. Utterances without a partner in the batch stay as they are.

    Source: Zhou et al. 2021, "Domain generalization with MixStyle", there between layers of an image network.
    """

    def __init__(self, probability: float = 0.5) -> None:
        check_number("augmentation.mixstyle", probability, 0, 1)
        self.probability = probability

    def __call__(self, frames: Tensor, lengths: Tensor, emotion: Tensor, speaker: Tensor) -> Tensor:
        """Mixed frames (B, L, D), padding zero, of frames with ``lengths``, ``emotion`` and ``speaker`` (B,)."""
        allowed = (emotion[:, None] == emotion[None, :]) & (speaker[:, None] != speaker[None, :])  # (B, B)
        partner = (torch.rand(allowed.shape, device=frames.device) * allowed).argmax(dim=1)  # (B,)
        chosen = (_uniform(frames) < self.probability) & allowed.any(dim=1)
        own = _beta(frames, 0.1)[:, None, None]  # (B, 1, 1)
        mean, std = _statistics(frames, lengths)
        normalised = (frames - mean) / std.clamp_min(1e-3)
        mixed = normalised * torch.lerp(std[partner], std, own) + torch.lerp(mean[partner], mean, own)
        return torch.where(chosen[:, None, None] & _valid(frames, lengths), mixed.to(frames.dtype), frames)


def _statistics(frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of each feature over the valid frames, (B, 1, D) each."""
    valid, count = _valid(frames, lengths), lengths[:, None, None]
    mean = (frames * valid).sum(dim=1, keepdim=True, dtype=torch.float32) / count
    std = ((frames - mean).square() * valid).sum(dim=1, keepdim=True).div(count).sqrt()
    return mean, std


def _uniform(batch: Tensor) -> Tensor:
    """One draw from [0, 1) per utterance of ``batch``, (B,)."""
    return torch.rand(len(batch), device=batch.device)


def _beta(batch: Tensor, alpha: float) -> Tensor:
    """One draw from Beta(alpha, alpha) per utterance of ``batch``, (B,), by its quantiles."""
    quantile = _uniform(batch).double().cpu().numpy()
    return torch.from_numpy(betaincinv(alpha, alpha, quantile)).to(batch)


def _valid(frames: Tensor, lengths: Tensor) -> Tensor:
    return valid_frames(lengths, frames.shape[1])[..., None]  # (B, L, 1)


def _run(width: Tensor, lengths: Tensor, size: int) -> Tensor:
    """True on ``width`` (B,) neighbouring places, placed uniformly among the first ``lengths``: (B, ``size``)."""
    start = (_uniform(width) * (lengths - width + 1)).long()  # (B,)
    place = torch.arange(size, device=width.device)
    return (place >= start[:, None]) & (place < (start + width)[:, None])
