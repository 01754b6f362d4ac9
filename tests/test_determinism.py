"""The same seed gives the same run to the last bit; interruptions are in test_resume.py."""

import pytest
from small_runs import figures

from ser import training

WORDS = [
    "model=enhanced_gru",
    "model.hidden_size=8",
    "trainer.max_epochs=2",
    "augmentation=strong",
    "augmentation.mixup_alpha=0.2",
]
TABLES = ("predictions.csv", "train_predictions.csv", "embeddings.npy", "train_embeddings.npy")


@pytest.fixture
def once(configure, tmp_path):
    def carry_out(name, *words):
        training.run(configure(*WORDS, *words, folder=tmp_path / name))
        return figures(tmp_path / name), [(tmp_path / name / table).read_bytes() for table in TABLES]

    return carry_out


def test_a_seed_decides_every_bit_whatever_reads_the_batches(once):
    first = once("first")
    assert once("again") == first
    assert once("workers", "batches.workers=2") == first
    assert once("other", "seed=2")[1] != first[1]
