"""Measures, and never uses, the test scores of each epoch."""

from typing import Any

import lightning
import torch

from ser.data.datamodule import EmotionDataModule
from ser.module import EmotionModule, emotion_metrics


class EpochOnTest(lightning.Callback):
    """Logs ``test/wa`` and ``test/uar`` after each validation.

    Nothing chooses by them: early stopping and checkpoints look at validation alone. They are there so that a report
    can show what choosing the epoch on the test part would have claimed. A search for hyperparameters has no test part
    (``test=false``), so there it does nothing.
    """

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """One pass over the test part."""
        datamodule: Any = getattr(trainer, "datamodule", None)
        if trainer.sanity_checking or not isinstance(datamodule, EmotionDataModule):
            return
        if not isinstance(pl_module, EmotionModule) or "test" not in datamodule.datasets:
            return
        metrics = emotion_metrics(len(pl_module.emotions), "test/").to(pl_module.device)
        for cpu_batch in datamodule.loader("test"):
            batch = trainer.strategy.batch_to_device(cpu_batch)
            with trainer.precision_plugin.val_step_context():
                metrics.update(pl_module(batch.frames, batch.lengths).emotion_logits, batch.emotion)
        scores = metrics.compute()  # of all processes together
        for name in ("test/wa", "test/uar"):
            pl_module.log(name, scores[name], on_epoch=True, sync_dist=True)
