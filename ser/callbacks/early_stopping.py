"""Early stopping that remembers across an interruption that it had stopped."""

import lightning
from lightning.pytorch.callbacks import EarlyStopping


class ResumableEarlyStopping(EarlyStopping):
    """Lightning's early stopping, except that a run resumed after its stop trains no further epoch.

    Lightning saves the count of epochs without improvement but not the decision, so it would train one more epoch
    before deciding again, and the resumed run would differ from the uninterrupted one.
    """

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop at once when the restored state says that the run had stopped."""
        if self.stopped_epoch > 0 or self.wait_count >= self.patience:
            trainer.should_stop = True
