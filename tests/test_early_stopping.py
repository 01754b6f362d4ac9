from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from ser.callbacks import ResumableEarlyStopping

MODULE = SimpleNamespace(emotions=["neutral", "happy", "angry", "sad"])


def epochs_until_stop(scores, **settings):
    """How many epochs are trained when validation gives ``scores``."""
    stopping = ResumableEarlyStopping(monitor="val/uar", mode="max", check_on_train_epoch_end=True, **settings)
    trainer = SimpleNamespace(
        callback_metrics={}, fast_dev_run=False, should_stop=False, sanity_checking=False, current_epoch=0,
        state=SimpleNamespace(fn=TrainerFn.FITTING), world_size=1, global_rank=0,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
    )  # fmt: skip
    stopping.on_train_start(trainer, MODULE)
    for epoch, score in enumerate(scores):
        if trainer.should_stop:
            return epoch
        trainer.current_epoch = epoch
        stopping.on_train_epoch_start(trainer, MODULE)
        trainer.callback_metrics = {"val/uar": torch.tensor(score)}
        stopping.on_train_epoch_end(trainer, MODULE)
    return len(scores)


def test_patience_counts_from_the_best_score():
    assert epochs_until_stop([0.5, 0.6, 0.4, 0.4, 0.4, 0.4], patience=3) == 5


@pytest.mark.parametrize("chance", [0.25, 0.34])
def test_epochs_at_chance_are_no_reason_to_stop(chance):
    scores = [chance, *[0.25] * 10, 0.5, 0.4, 0.4, 0.4]
    assert epochs_until_stop(scores, patience=2) == 14
    assert epochs_until_stop(scores, patience=2, above_chance=0.0) == 3
