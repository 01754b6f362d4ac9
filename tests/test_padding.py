"""Whatever the lengths, the padding and the batch mates: an utterance's logits are its own."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ser.config import CONFIG_FOLDER, compose_config, instantiate

NETWORKS = sorted(file.stem for file in (CONFIG_FOLDER / "model").glob("*.yaml"))  # a new one is covered
SMALL = {"hidden_size": 8, "layers": 2}


@cache
def composed(name):
    return compose_config([f"model={name}"])


def small_network(name):
    """A network of 5 values per frame and 4 emotions, with the settings of conf/model but narrower."""
    cfg = composed(name)
    small = {key: value for key, value in SMALL.items() if key in cfg.model}
    return instantiate(cfg, "model", **small)(5, 4).eval()


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
    network = small_network(name)
    utterances = [torch.randn(length, 5) for length in lengths]
    frames = torch.full((len(lengths), max(lengths) + longer, 5), filling)
    for row, utterance in zip(frames, utterances, strict=True):
        row[: len(utterance)] = utterance
    together = network(frames, torch.tensor(lengths))
    for index, utterance in enumerate(utterances):
        alone = network(utterance[None], torch.tensor([len(utterance)]))
        for part in ("emotion_logits", "pooled"):
            torch.testing.assert_close(getattr(together, part)[index], getattr(alone, part)[0], atol=2e-5, rtol=1e-4)
