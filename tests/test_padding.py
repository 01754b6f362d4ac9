"""Whatever the lengths, the padding and the batch mates: an utterance's logits are its own."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ser.models.bottleneck_gru import BottleneckGRU
from ser.models.enhanced_gru import EnhancedGRU
from ser.models.gru import GRU

NETWORKS = {
    "gru": partial(GRU, hidden_size=6),
    "enhanced_gru": partial(EnhancedGRU, hidden_size=4, layers=2, heads=2),
    "bottleneck_gru": partial(BottleneckGRU, hidden_size=6, heads=2),
}


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    longer=st.integers(0, 40),
    filling=st.sampled_from([0.0, -50.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_padding_and_batch_mates_change_nothing(name, lengths, longer, filling, seed):
    torch.manual_seed(seed)
    network = NETWORKS[name](5, 4).eval()
    utterances = [torch.randn(length, 5) for length in lengths]
    frames = torch.full((len(lengths), max(lengths) + longer, 5), filling)
    for row, utterance in zip(frames, utterances, strict=True):
        row[: len(utterance)] = utterance
    together = network(frames, torch.tensor(lengths))
    for index, utterance in enumerate(utterances):
        alone = network(utterance[None], torch.tensor([len(utterance)]))
        for part in ("emotion_logits", "pooled"):
            torch.testing.assert_close(getattr(together, part)[index], getattr(alone, part)[0], atol=2e-5, rtol=1e-4)
