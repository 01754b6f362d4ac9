import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ser.data.batching import LengthBatches, average_frames, length_batches
from ser.errors import SerError

lengths_lists = st.lists(st.integers(1, 2000), min_size=8, max_size=200)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_lists, batch_size=st.integers(1, 40), world=st.integers(1, 4), epoch=st.integers(0, 5))
def test_every_utterance_exactly_once_over_all_ranks(lengths, batch_size, world, epoch):
    seen, counts = [], set()
    for rank in range(world):
        batches = LengthBatches(lengths, batch_size, seed=3, rank=rank, world_size=world)
        batches.set_epoch(epoch)
        listed = list(batches)
        assert len(listed) == len(batches)
        counts.add(len(listed))
        seen += [row for batch in listed for row in batch]
    assert sorted(seen) == list(range(len(lengths)))
    assert len(counts) == 1  # every rank takes the same number of steps


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_lists, limit=st.integers(50, 5000), world=st.integers(1, 3), epoch=st.integers(0, 3))
def test_each_epoch_has_one_version_of_each_utterance(lengths, limit, world, epoch):
    count = len(lengths)
    versions = np.array([lengths, [2 * length for length in lengths], [1] * count])  # (V, n)
    seen = []
    for rank in range(world):
        batches = LengthBatches(versions, 8, limit, seed=3, rank=rank, world_size=world)
        batches.set_epoch(epoch)
        listed = list(batches)
        assert len(listed) == len(batches)
        fits = [len(rows) == 1 or len(rows) * versions.flat[rows].max() <= limit for rows in listed]
        assert world > 1 or all(fits)  # with several, the shortest may be paired
        seen += [row for rows in listed for row in rows]
    assert sorted(row % count for row in seen) == list(range(count))
    assert count < 30 or {row // count for row in seen} == {0, 1, 2}


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_lists, limit=st.integers(50, 5000), epoch=st.integers(0, 3))
def test_frame_limit_holds_in_every_epoch(lengths, limit, epoch):
    batches = LengthBatches(lengths, 32, limit, seed=1)
    batches.set_epoch(epoch)
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= limit


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_lists, batch_size=st.integers(1, 40), epoch=st.integers(0, 3), shuffle=st.booleans())
def test_padding_is_at_most_one_batch_of_the_spread(lengths, batch_size, epoch, shuffle):
    """Sorted batches pad at most what lies between the longest and the shortest utterance, once for each row of a
    batch; jitter stretches that by its share of the longest."""
    batches = LengthBatches(lengths, batch_size, shuffle=shuffle, seed=2)
    batches.set_epoch(epoch)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches) - sum(lengths)
    slack = 4 * batches.jitter * max(lengths) * len(batches)
    assert padded <= batch_size * (max(lengths) - min(lengths) + slack)


def test_order_follows_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(10, 500, 300)

    def order(seed, epoch):
        batches = LengthBatches(lengths, 16, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert {frozenset(batch) for batch in order(1, 0)} != {frozenset(batch) for batch in order(1, 1)}


def test_padding_is_small_on_spread_lengths():
    lengths = np.random.default_rng(0).lognormal(5.2, 0.6, 5531).astype(int) + 1
    batches = LengthBatches(lengths, 32)
    computed = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert computed / lengths.sum() <= 1.07


def test_more_jitter_separates_more_batch_mates_between_epochs():
    lengths = np.random.default_rng(0).lognormal(5.2, 0.6, 3000).astype(int) + 1

    def kept(jitter):
        batches, pairs = LengthBatches(lengths, 32, jitter=jitter), []
        for epoch in range(2):
            batches.set_epoch(epoch)
            pairs.append({(min(a, b), max(a, b)) for batch in batches for a in batch for b in batch if a != b})
        return len(pairs[0] & pairs[1]) / len(pairs[0])

    assert kept(0.0) == 1.0 and kept(0.005) > kept(0.02) > kept(0.05) and kept(0.05) < 0.25


@settings(max_examples=60, deadline=None)
@given(count=st.integers(6, 200), batch_size=st.integers(5, 40), epoch=st.integers(0, 2))
def test_no_batch_of_one_or_two_where_there_are_enough(count, batch_size, epoch):
    batches = LengthBatches(list(range(10, 10 + count)), batch_size)
    batches.set_epoch(epoch)
    assert min(len(batch) for batch in batches) >= 3


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_lists, limit=st.none() | st.integers(1, 5000), size=st.none() | st.integers(1, 40))
def test_length_batches_hold_every_row_once_longest_first_within_both_limits(lengths, limit, size):
    batches = length_batches(lengths, limit, size)
    rows = [row for batch in batches for row in batch]
    assert rows == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    for batch in batches:
        assert limit is None or len(batch) == 1 or len(batch) * lengths[batch[0]] <= limit
        assert size is None or len(batch) <= size
    for batch in batches[:-1]:  # as full as the limits allow
        grown = len(batch) + 1
        assert (size is not None and grown > size) or (limit is not None and grown * lengths[batch[0]] > limit)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), count=st.integers(1, 9), seed=st.integers(0, 9))
def test_averaged_frames_are_means_of_each_utterances_own_frames(lengths, count, seed):
    frames = torch.randn(len(lengths), max(lengths) + 2, 3, generator=torch.Generator().manual_seed(seed))
    means, counts = average_frames(frames, torch.tensor(lengths), count)  # what lies beyond the lengths is noise
    for row, length in enumerate(lengths):
        expected = torch.stack([group.mean(0) for group in frames[row, :length].split(count)])
        assert counts[row] == len(expected)
        torch.testing.assert_close(means[row, : len(expected)], expected)
        assert count == 1 or not means[row, len(expected) :].any()
    with pytest.raises(SerError, match="average=0"):
        average_frames(frames, torch.tensor(lengths), 0)


def test_evaluation_order_never_changes():
    batches = LengthBatches([5, 9, 2, 7], 2, shuffle=False)
    first = list(batches)
    batches.set_epoch(4)
    assert list(batches) == first == [[1, 3], [0, 2]]


def test_more_processes_than_utterances_is_refused():
    with pytest.raises(SerError, match="shared by 3"):
        LengthBatches([4, 5], 32, world_size=3)
