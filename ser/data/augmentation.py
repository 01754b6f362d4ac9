"""Augmentation of frames on the device they are on: per utterance, the batch at once, never in place.

All transforms take frames (B, L, D) whose padding is zero, lengths (B,) and an optional generator, and return new
frames, padding still zero, and lengths. What happens to an utterance depends on its valid frames only.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from scipy.special import betaincinv
from torch import Tensor

from ser.errors import SerError


class Transform(ABC):
    """Changes each utterance with a given probability.

    Raises:
        SerError: ``probability`` is not between 0 and 1.
    """

    def __init__(self, probability: float) -> None:
        self.probability = _share("probability", probability)

    def __call__(
        self, frames: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the changed copy of (B, L, D) and its lengths (B,)."""
        chosen = _uniform(len(frames), frames, generator) < self.probability  # (B,)
        return self.apply(frames, lengths, chosen, generator)

    @abstractmethod
    def apply(
        self, frames: Tensor, lengths: Tensor, chosen: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Change the utterances marked in ``chosen`` (B,), leave the others bit for bit."""


class Augmentation:
    """Applies transforms one after the other; an empty list changes nothing."""

    def __init__(self, transforms: Sequence[Transform] = ()) -> None:
        self.transforms = list(transforms)

    def __call__(
        self, frames: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return augmented frames (B, L', D) and lengths (B,); the input is left as it was.

        Args:
            frames: (B, L, D), zero behind each utterance.
            lengths: (B,) int64.
            generator: source of all randomness; best on the device of ``frames``, the global one when None.
        """
        for transform in self.transforms:
            frames, lengths = transform(frames, lengths, generator)
        return frames, lengths


class GaussianNoise(Transform):
    """Adds white noise of ``noise_factor`` times each feature's own standard deviation over the utterance."""

    def __init__(self, probability: float = 0.3, noise_factor: float = 0.1) -> None:
        super().__init__(probability)
        if noise_factor < 0:
            raise SerError(f"noise_factor is {noise_factor}, expected 0 or more; 0.1 is usual.")
        self.noise_factor = noise_factor

    def apply(
        self, frames: Tensor, lengths: Tensor, chosen: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Add the noise to the valid frames of the chosen utterances."""
        valid = _valid(frames, lengths)  # (B, L, 1)
        count = lengths[:, None, None]
        mean = (frames * valid).sum(dim=1, keepdim=True, dtype=torch.float32) / count  # (B, 1, D)
        deviation = ((frames - mean).square() * valid).sum(dim=1, keepdim=True).div(count).sqrt()  # (B, 1, D)
        noise = _draw(torch.randn, frames.shape, frames, generator)
        noisy = frames + (self.noise_factor * deviation * noise).to(frames.dtype)
        return torch.where(chosen[:, None, None] & valid, noisy, frames), lengths


class TimeStretch(Transform):
    """Resamples an utterance to ``1 - factor`` to ``1 + factor`` times its length by linear interpolation.

    The first and the last frame stay; at least one frame is left.
    """

    def __init__(self, probability: float = 0.2, factor: float = 0.1) -> None:
        super().__init__(probability)
        if not 0 <= factor < 1:
            raise SerError(f"the time stretch factor is {factor}, expected 0 <= factor < 1; 0.1 stretches by 10%.")
        self.factor = factor

    def apply(
        self, frames: Tensor, lengths: Tensor, chosen: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Stretch the chosen utterances, each by its own draw; the batch gets as long as its longest utterance."""
        rate = 1 + self.factor * (2 * _uniform(len(frames), frames, generator) - 1)  # (B,)
        stretched = (lengths * rate).round().long().clamp_min(1)
        new_lengths = torch.where(chosen, stretched, lengths)
        target = torch.arange(int(new_lengths.max()), device=frames.device)  # (L',)
        # Integers, so that an utterance that keeps its length keeps its frames exactly.
        steps = (new_lengths - 1).clamp_min(1)[:, None]
        place = torch.minimum(target, new_lengths[:, None] - 1) * (lengths - 1)[:, None]  # (B, L'), in 1/steps frames
        lower = place // steps
        upper = torch.minimum(lower + 1, (lengths - 1)[:, None])
        weight = (place % steps / steps).to(frames.dtype)[..., None]  # (B, L', 1)
        channels = frames.shape[-1]
        before = frames.gather(1, lower[..., None].expand(-1, -1, channels))
        after = frames.gather(1, upper[..., None].expand(-1, -1, channels))
        mixed = before + weight * (after - before)  # (B, L', D)
        return mixed.masked_fill(target[None, :, None] >= new_lengths[:, None, None], 0.0), new_lengths


class FrameMask(Transform):
    """Scales one contiguous stretch, ``share`` of the frames of the utterance, by ``scale``."""

    def __init__(self, probability: float = 0.2, share: float = 0.1, scale: float = 0.1) -> None:
        super().__init__(probability)
        self.share = _share("share", share)
        self.scale = scale

    def apply(
        self, frames: Tensor, lengths: Tensor, chosen: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Scale the stretch, placed uniformly inside each chosen utterance."""
        width = (self.share * lengths).round().long()  # (B,)
        inside = _stretch(width, lengths, frames.shape[1], frames, generator) & chosen[:, None]  # (B, L)
        return torch.where(inside[..., None], frames * self.scale, frames), lengths


class TimeMask(Transform):
    """Zeroes ``masks`` stretches of frames, each up to ``share`` of the utterance (SpecAugment, Park et al. 2019).

    Zero is the mean of normalised frames.
    """

    def __init__(self, probability: float = 0.5, share: float = 0.1, masks: int = 1) -> None:
        super().__init__(probability)
        self.share = _share("share", share)
        self.masks = masks

    def apply(
        self, frames: Tensor, lengths: Tensor, chosen: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Zero the stretches of the chosen utterances."""
        for _ in range(self.masks):
            width = _width(self.share * lengths, frames, generator)
            inside = _stretch(width, lengths, frames.shape[1], frames, generator) & chosen[:, None]  # (B, L)
            frames = frames.masked_fill(inside[..., None], 0.0)
        return frames, lengths


class ChannelMask(Transform):
    """Zeroes ``masks`` bands of neighbouring features, each up to ``share`` of them (SpecAugment)."""

    def __init__(self, probability: float = 0.5, share: float = 0.1, masks: int = 1) -> None:
        super().__init__(probability)
        self.share = _share("share", share)
        self.masks = masks

    def apply(
        self, frames: Tensor, lengths: Tensor, chosen: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Zero the bands of the chosen utterances in all their frames."""
        channels = torch.full_like(lengths, frames.shape[-1])
        for _ in range(self.masks):
            width = _width(self.share * channels, frames, generator)
            inside = _stretch(width, channels, frames.shape[-1], frames, generator) & chosen[:, None]  # (B, D)
            frames = frames.masked_fill(inside[:, None, :], 0.0)
        return frames, lengths


class Mixup:
    """Mixes each utterance with another of the batch, frames and labels (Zhang et al. 2018).

    The share lambda of an utterance follows Beta(alpha, alpha), folded to at least one half, so that it keeps its
    length and remains the louder one. The partner enters where both have frames, and the label takes as much from
    it as the frames did: (1 - lambda) times the fraction of the utterance that it covers.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        if alpha <= 0:
            raise SerError(f"mixup alpha is {alpha}, expected more than 0; 0.2 is usual.")
        self.alpha = alpha

    def __call__(
        self, frames: Tensor, lengths: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return mixed frames (B, L, D), the same lengths (B,) and soft labels (B, C).

        Args:
            frames: (B, L, D), zero behind each utterance.
            lengths: (B,) int64.
            labels: (B, C), one-hot or soft.
            generator: source of all randomness; the global one when None.
        """
        quantile = _uniform(len(frames), frames, generator).double().cpu().numpy()
        own = torch.from_numpy(betaincinv(self.alpha, self.alpha, quantile)).to(frames)  # (B,)
        own = torch.maximum(own, 1 - own)
        partner = _draw(torch.rand, (len(frames),), frames, generator).argsort()  # (B,), a permutation
        overlap = torch.minimum(lengths, lengths[partner])
        both = _valid(frames, overlap)  # (B, L, 1)
        mixed = torch.lerp(frames[partner], frames, own[:, None, None])
        taken = ((1 - own) * overlap / lengths)[:, None].to(torch.float32)  # (B, 1), share of the partner
        soft = (1 - taken) * labels + taken * labels[partner]
        return torch.where(both, mixed, frames), lengths, soft


def _share(name: str, value: float) -> float:
    """Check that a probability or a share lies between 0 and 1."""
    if not 0 <= value <= 1:
        raise SerError(f"the augmentation's {name} is {value}, expected between 0 and 1; give a value in that range.")
    return value


def _draw(
    sample: Callable[..., Tensor], shape: Sequence[int], frames: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Random numbers on the device of ``frames``, drawn where the generator lives."""
    device = frames.device if generator is None else generator.device
    return sample(shape, generator=generator, device=device).to(frames.device)


def _uniform(count: int, frames: Tensor, generator: torch.Generator | None) -> Tensor:
    """``count`` draws from [0, 1)."""
    return _draw(torch.rand, (count,), frames, generator)


def _valid(frames: Tensor, lengths: Tensor) -> Tensor:
    """True at the frames before the end of each utterance: (B, L, 1)."""
    return (torch.arange(frames.shape[1], device=frames.device) < lengths[:, None])[..., None]


def _width(longest: Tensor, frames: Tensor, generator: torch.Generator | None) -> Tensor:
    """Widths (B,) drawn uniformly from the whole numbers 0 ... floor(``longest``)."""
    return (_uniform(len(longest), frames, generator) * (longest.floor() + 1)).long()


def _stretch(width: Tensor, lengths: Tensor, size: int, frames: Tensor, generator: torch.Generator | None) -> Tensor:
    """True on ``width`` (B,) neighbouring places, placed uniformly among the first ``lengths``: (B, ``size``)."""
    start = (_uniform(len(width), frames, generator) * (lengths - width + 1)).long()  # (B,)
    place = torch.arange(size, device=frames.device)
    return (place >= start[:, None]) & (place < (start + width)[:, None])
