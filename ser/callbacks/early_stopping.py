"""Early stopping that remembers across an interruption that it had stopped, and waits for training to take hold."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import EarlyStopping


class ResumableEarlyStopping(EarlyStopping):
    """Lightning's early stopping with two differences.

    A run resumed after its stop trains no further epoch: Lightning saves the count of epochs without improvement but
    not the decision, so it would train one more epoch before deciding again, and the resumed run would differ from the
    uninterrupted one.

    Patience begins once the score was clearly above chance. Deep recurrent networks on small corpora spend their first
    epochs at chance, where one lucky epoch would make all that follow look like no improvement.

    Args:
        above_chance: how far above 1 / classes the best score has to be before epochs without improvement count.
        keywords: Lightning's own (``monitor``, ``patience``, ``mode`` ...).
    """

    def __init__(self, above_chance: float = 0.1, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.above_chance = above_chance

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop at once when the restored state says that the run had stopped."""
        if self.stopped_epoch > 0 or self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Forget the epochs that were spent at chance."""
        emotions: list[str] = pl_module.emotions  # type: ignore[assignment]
        if self.mode == "max" and float(self.best_score) < 1 / len(emotions) + self.above_chance:
            self.wait_count = 0
