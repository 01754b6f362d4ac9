import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser.data.batching import LengthBatches

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
    assert computed / lengths.sum() <= 1.05


def test_evaluation_order_never_changes():
    batches = LengthBatches([5, 9, 2, 7], 2, shuffle=False)
    first = list(batches)
    batches.set_epoch(4)
    assert list(batches) == first == [[1, 3], [0, 2]]


def test_more_processes_than_utterances_is_refused():
    with pytest.raises(ValueError, match="shared by 3"):
        LengthBatches([4, 5], 32, world_size=3)
