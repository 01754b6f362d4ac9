"""Augmentation: per utterance, never in place, padding stays zero, seeded."""

import pytest
import torch
from torch.nn import functional as F

from ser.data.augmentation import (
    Augmentation,
    ChannelMask,
    FrameMask,
    GaussianNoise,
    MixStyle,
    Mixup,
    TimeMask,
    TimeStretch,
)
from ser.errors import SerError
from ser.extraction.voices import Voice

D = 20  # a tenth is two channels
LENGTHS = torch.tensor([40, 1, 100, 7])
TRANSFORMS = [GaussianNoise, TimeStretch, FrameMask, TimeMask, ChannelMask]


def batch(longer=0):
    generator = torch.Generator().manual_seed(0)
    frames = torch.zeros(len(LENGTHS), int(LENGTHS.max()) + longer, D)
    for row, length in zip(frames, LENGTHS, strict=True):
        row[:length] = torch.randn(int(length), D, generator=generator) * 2 + 1
    return frames


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def apply(transform, *given, seed=3):
    """The transform's answer with torch's generator seeded."""
    torch.manual_seed(seed)
    return transform(*given)


def everything(probability=1.0):
    return Augmentation([transform(probability) for transform in TRANSFORMS])


def assert_padding_zero(frames, lengths):
    for row, length in zip(frames, lengths, strict=True):
        assert (row[length:] == 0).all()


@pytest.mark.parametrize("transform", [*(t(1.0) for t in TRANSFORMS), everything()])
def test_input_is_untouched_padding_stays_zero_and_the_seed_decides(transform):
    frames, lengths = batch(longer=5), LENGTHS.clone()
    for seed in range(20):
        output, new_lengths = apply(transform, frames, lengths, seed=seed)
        assert torch.equal(frames, batch(longer=5))
        assert torch.equal(lengths, LENGTHS)
        assert_padding_zero(output, new_lengths)
        assert output.isfinite().all()
        again = apply(transform, frames, lengths, seed=seed)
        assert torch.equal(output, again[0])
        assert torch.equal(new_lengths, again[1])
    assert not torch.equal(apply(transform, frames, lengths, seed=100)[0], output)


@pytest.mark.parametrize("transform", [*(t(0.0) for t in TRANSFORMS), everything(0.0), Augmentation([])])
def test_probability_zero_changes_nothing(transform):
    output, lengths = apply(transform, batch(), LENGTHS)
    assert torch.equal(output, batch())
    assert torch.equal(lengths, LENGTHS)


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_utterances_that_are_not_chosen_stay_bit_for_bit(kind):
    frames = torch.randn(200, 30, D, generator=seeded())
    lengths = torch.full((200,), 30)
    output, new_lengths = apply(kind(0.3), frames, lengths)
    same = sum(
        new == 30 and torch.equal(row[:30], old) for row, old, new in zip(output, frames, new_lengths, strict=True)
    )
    assert 100 < same < 190  # 140 by the probability, and some chosen ones draw a width of zero


def test_noise_is_scaled_by_the_deviation_over_valid_frames():
    scale = torch.tensor([0.0, 1.0, 10.0])
    frames = torch.zeros(1, 8000, 3)
    frames[0, :4000] = torch.randn(4000, 3, generator=seeded()) * scale + 50
    output, _ = apply(GaussianNoise(1.0, noise_factor=0.2), frames, torch.tensor([4000]))
    noise = (output - frames)[0, :4000]
    torch.testing.assert_close(noise.std(0), 0.2 * scale, rtol=0.05, atol=1e-5)


@pytest.mark.parametrize("kind", [FrameMask, TimeMask, TimeStretch, ChannelMask])
def test_padding_does_not_change_what_happens_to_an_utterance(kind):
    short, lengths = apply(kind(1.0), batch(), LENGTHS)
    long, same_lengths = apply(kind(1.0), batch(longer=30), LENGTHS)
    assert torch.equal(lengths, same_lengths)
    for a, b, length in zip(short, long, lengths, strict=True):
        assert torch.equal(a[:length], b[:length])


def test_stretch_keeps_the_ends_and_interpolates_between():
    lengths = torch.tensor([2, 50, 101])
    ramp = torch.arange(101.0)[None, :, None].repeat(3, 1, D)
    ramp = ramp * (ramp < lengths[:, None, None])
    seen = set()
    for seed in range(20):
        output, new = apply(TimeStretch(1.0, factor=0.3), ramp, lengths, seed=seed)
        assert output.shape == (3, int(new.max()), D)
        assert ((new >= (0.7 * lengths).floor()) & (new <= (1.3 * lengths).ceil())).all()
        for row, length, old in zip(output, new, lengths, strict=True):
            expected = torch.linspace(0, float(old - 1), int(length)) if length > 1 else torch.zeros(1)
            torch.testing.assert_close(row[:length, 0], expected)
        seen.add(int(new[2]))
    assert min(seen) < 101 < max(seen)


def test_stretch_leaves_at_least_one_frame():
    output, lengths = apply(TimeStretch(1.0, factor=0.9), torch.ones(50, 1, D), torch.ones(50, dtype=torch.long))
    assert lengths.min() == 1
    assert (output[:, 0] == 1).all()


def test_frame_mask_scales_one_stretch_of_a_tenth_of_the_utterance():
    for seed in range(10):
        output, _ = apply(FrameMask(1.0), batch(), LENGTHS, seed=seed)
        for row, old, length in zip(output, batch(), LENGTHS, strict=True):
            changed = (row != old).any(-1).nonzero().flatten()
            assert len(changed) == round(0.1 * int(length))
            if len(changed):
                assert changed[-1] - changed[0] + 1 == len(changed)
                assert changed[-1] < length
                torch.testing.assert_close(row[changed], old[changed] * 0.1)


def test_time_and_channel_masks_are_single_zeroed_bands_of_bounded_width():
    frames, lengths = torch.ones(64, 50, 20), torch.full((64,), 50)
    in_time = apply(TimeMask(1.0, fraction=0.2), frames, lengths)[0][:, :, 0] == 0
    in_channels = apply(ChannelMask(1.0, fraction=0.2), frames, lengths)[0][:, 0] == 0
    for masked, widest in ((in_time, 10), (in_channels, 4)):
        width = masked.sum(1)
        assert width.min() == 0
        assert width.max() == widest
        edges = masked.int().diff(dim=1, prepend=torch.zeros(64, 1), append=torch.zeros(64, 1)).abs().sum(1)
        assert (edges[width > 0] == 2).all()


def test_mixup_labels_sum_to_one_and_follow_the_frames():
    labels = F.one_hot(torch.arange(4), 5)
    # Each utterance is filled with its own number in its own channel: the frames show how much of whom went in.
    frames = torch.zeros(4, 100, 5)
    for index, length in enumerate(LENGTHS):
        frames[index, :length, index] = 1
    partners = set()
    for seed in range(30):
        mixed, soft = apply(Mixup(0.2), frames, LENGTHS, labels, seed=seed)
        assert_padding_zero(mixed, LENGTHS)
        torch.testing.assert_close(soft.sum(1), torch.ones(4))
        assert (soft >= 0).all()
        torch.testing.assert_close(mixed.sum(1) / LENGTHS[:, None], soft, atol=1e-5, rtol=1e-5)
        assert (soft.diagonal() >= 0.5).all()
        again = apply(Mixup(0.2), frames, LENGTHS, labels, seed=seed)
        assert torch.equal(mixed, again[0])
        assert torch.equal(soft, again[1])
        partners |= {(i, j) for i, j in (soft > 1e-3).nonzero().tolist() if i != j}
    assert len(partners) > 6
    assert frames.sum() == LENGTHS.sum()


def test_mixup_keeps_the_frames_the_partner_does_not_reach():
    frames = batch()
    mixed, _ = apply(Mixup(0.2), frames, LENGTHS, torch.eye(4))
    assert torch.equal(mixed[2, 40:], frames[2, 40:])  # only the utterance itself is longer than 40


@pytest.mark.parametrize(
    "build",
    [
        lambda: GaussianNoise(1.5),
        lambda: GaussianNoise(0.3, -1),
        lambda: TimeStretch(0.2, 1.0),
        lambda: FrameMask(0.2, fraction=2),
        lambda: TimeMask(-0.1),
        lambda: Mixup(0),
        lambda: Augmentation(mixup_alpha=-1),
    ],
)
def test_settings_out_of_range_are_refused(build):
    with pytest.raises(SerError, match="expected"):
        build()


def channel_statistics(frames, lengths):
    rows = [row[:length] for row, length in zip(frames, lengths, strict=True)]
    return torch.stack([row.mean(0) for row in rows]), torch.stack([row.std(0, correction=0) for row in rows])


def test_mixstyle_takes_statistics_of_another_speaker_of_the_same_emotion():
    lengths = torch.tensor([30, 40, 50, 60])
    frames = torch.zeros(4, 60, D)
    for row, length, level in zip(frames, lengths, (0.0, 10.0, 20.0, 30.0), strict=True):
        row[:length] = (1 + level) * torch.randn(int(length), D) + level
    emotion, speaker = torch.tensor([0, 0, 1, 1]), torch.tensor([5, 6, 5, 5])
    seen = []
    for seed in range(30):
        output = apply(MixStyle(1.0), frames, lengths, emotion, speaker, seed=seed)
        assert_padding_zero(output, lengths)
        assert torch.equal(output[2:], frames[2:])  # no other speaker showed this emotion
        old, new = channel_statistics(frames, lengths), channel_statistics(output, lengths)
        for before, after in zip(old, new, strict=True):
            weight = (after[0] - before[0]) / (before[1] - before[0])  # towards the partner, one number per utterance
            torch.testing.assert_close(weight, weight.mean().expand(D), atol=1e-3, rtol=1e-3)
            assert -1e-3 <= float(weight.mean()) <= 1 + 1e-3
        seen.append(float(weight.mean()))
        shape = (output[0, :30] - new[0][0]) / new[1][0]
        torch.testing.assert_close(shape, (frames[0, :30] - old[0][0]) / old[1][0], atol=1e-3, rtol=1e-3)
    assert min(seen) < 0.1 and max(seen) > 0.9


def test_mixstyle_of_probability_zero_changes_nothing_and_constant_features_stay_finite():
    same = torch.zeros(4, dtype=torch.long)
    assert torch.equal(apply(MixStyle(0.0), batch(), LENGTHS, same, torch.arange(4)), batch())
    assert apply(MixStyle(1.0), torch.ones(4, 100, D), LENGTHS, same, torch.arange(4)).isfinite().all()


def test_a_voice_moves_pitch_and_pace_together():
    time = torch.arange(32_000) / 16_000
    tone = torch.sin(2 * torch.pi * 400 * time)
    factors = set()
    for number in range(1, 9):
        voice = Voice(number)
        factor = voice.factor(tone) / 100
        heard = voice(tone)
        assert len(heard) == pytest.approx(len(tone) / factor, abs=2)
        pitch = torch.fft.rfft(heard * torch.hann_window(len(heard))).abs().argmax() * 16_000 / len(heard)
        assert float(pitch) == pytest.approx(400 * factor, abs=1)
        assert torch.equal(heard, Voice(number)(tone))
        factors.add(factor)
    assert len(factors) > 3 and min(factors) >= 0.88 and max(factors) <= 1.12
