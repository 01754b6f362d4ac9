"""Callbacks of Lightning: early stopping, gradient check, progress bar, table of epochs; and checkpoint files."""

import io
import logging
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import CSVLogger

from ser.errors import SerError, check_number
from ser.io import DamagedCheckpointError, atomic_path, read_checkpoint_file
from ser.module import ConfusionMetric

log = logging.getLogger(__name__)

COLUMNS = (
    "train/loss", "train/emotion_loss", "train/speaker_loss", "train/auxiliary_loss", "train/l2", "train/wa",
    "train/uar", "train/f1", "train/speaker_accuracy", "val/loss", "val/wa", "val/uar", "val/f1", "test/wa", "test/uar",
)  # fmt: skip
_MOST_LINES = 20  # of epochs on the screen; train.log has all of them


class ResumableEarlyStopping(EarlyStopping):
    """Lightning's early stopping with two differences.

    A run resumed after its stop trains no further epoch: Lightning saves the count of epochs without improvement but
    not the decision, so it would train one more epoch before deciding again, and the resumed run would differ from the
    uninterrupted one.

    Patience begins once the score was clearly above chance. Deep recurrent networks on small corpora spend their first
    epochs at chance, where one lucky epoch would make all that follow look like no improvement.
    """

    def __init__(self, above_chance: float = 0.1, **keywords: Any) -> None:
        check_number("callbacks.early_stopping.patience", keywords.get("patience", 3), 1, whole=True)
        check_number("callbacks.early_stopping.above_chance", above_chance, 0, 1)
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


class StopAfter(lightning.Callback):
    """Ends training after so many epochs, while schedules go on as if all of ``trainer.max_epochs`` followed."""

    def __init__(self, epochs: int) -> None:
        check_number("callbacks.early_stopping.epochs", epochs, 1, whole=True)
        self.epochs = epochs

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop at once where a resumed run has had its epochs."""
        trainer.should_stop = trainer.current_epoch >= self.epochs

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop where this was the last one."""
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


class GradientCheck(lightning.Callback):
    """Reports, once, every trainable parameter whose gradient is missing or all zero in the first step.

    It finds parts of a network whose output is not used, or that were frozen by mistake. An adversary of weight 0 gets
    no gradient on purpose.
    """

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradients of the first step."""
        if trainer.global_step > 0:
            return
        adversary = getattr(pl_module, "adversary", None)
        meant = ("adversary.",) if adversary is not None and adversary.weight == 0 else ()
        without_gradient = [
            name
            for name, parameter in pl_module.named_parameters()
            if parameter.requires_grad
            and not name.startswith(meant)
            and (parameter.grad is None or not parameter.grad.any())
        ]
        if without_gradient:
            log.warning("no gradient in the first step reaches: %s", ", ".join(without_gradient))


class PercentProgressBar(RichProgressBar):
    """Lightning's bar: UAR in percent as on the rest of the screen, and no number of a logger."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Names and values to show beside the bar."""
        found = super().get_metrics(trainer, pl_module)
        found.pop("v_num", None)
        return {key: f"{100 * value:.1f}%" if key.endswith("/uar") else value for key, value in found.items()}  # type: ignore[operator]


class History(lightning.Callback):
    """Writes ``history.csv``: losses and their parts, metrics, rate, alpha, gradient norm, seconds, peak memory.

    What is no metric of the module goes to the loggers from here. The rows travel in the checkpoint, so that a resumed
    run continues the table, and the csv logger has the epochs before.
    """

    def __init__(self, folder: str | Path, confusion: bool = False) -> None:
        self.path, self.confusion = Path(folder) / "history.csv", confusion
        self.rows: list[dict[str, float]] = []
        self.norms: list[torch.Tensor] = []
        self.started = 0.0
        self.hidden = False  # whether the last row was not shown on the screen

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the table of a resumed run, which may have no epoch left."""
        if self.rows:
            self._write(trainer)
        for logger in trainer.loggers if trainer.is_global_zero else ():
            for row in self.rows if isinstance(logger, CSVLogger) else ():  # which deletes its file when it starts
                shown = {name: value for name, value in row.items() if not name.startswith("test/")}
                logger.log_metrics(shown, int(row["step"]))

    def _write(self, trainer: lightning.Trainer) -> None:
        if trainer.is_global_zero:
            with atomic_path(self.path) as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self.started = time.perf_counter()
        self.norms = []

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the gradient before it is clipped."""
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        self.norms.append(torch.nn.utils.get_total_norm(gradients))  # stays on the device: no wait each step

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add this epoch's row, write the table, and tell the loggers what the module does not log."""
        metrics = trainer.callback_metrics
        measured = {
            "seconds": time.perf_counter() - self.started,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "gradient_norm": float(torch.stack(self.norms).mean()) if self.norms else math.nan,
            "peak_memory_mb": peak_memory_mb(),
        }
        if pl_module.adversary is not None:
            measured["alpha"] = float(pl_module.adversary.alpha)  # type: ignore[arg-type, union-attr]
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step - 1, **measured}
        row |= {name: float(metrics[name]) for name in COLUMNS if name in metrics}
        self.rows.append(row)
        every = max(1, math.ceil((trainer.max_epochs or 1) / _MOST_LINES))
        self._log_row(logging.DEBUG if trainer.current_epoch % every else logging.INFO)
        self._write(trainer)
        pl_module.log_dict(measured, rank_zero_only=True)
        if self.confusion and trainer.is_global_zero:
            self._show_confusion(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the last epoch, if it was not."""
        if self.hidden:
            self._log_row(logging.INFO)

    def _log_row(self, level: int) -> None:
        """Log the last row in one line: on the screen too, or (debug) in train.log alone."""
        row, self.hidden = self.rows[-1], level < logging.INFO
        shown = [
            f"{part} loss {row[f'{key}/loss']:.3f} UAR {100 * row.get(f'{key}/uar', math.nan):.1f}%"
            for part, key in (("train", "train"), ("validation", "val"))
            if f"{key}/loss" in row
        ]
        log.log(level, "epoch %d: %s (%.1f s)", row["epoch"], ", ".join(shown), row["seconds"])

    def _show_confusion(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        from ser.evaluation.figures import log_image  # noqa: PLC0415  rarely needed
        from ser.evaluation.figures.run import draw_confusion  # noqa: PLC0415
        from ser.evaluation.figures.style import encode_figure  # noqa: PLC0415

        metric: ConfusionMetric = pl_module.val_metrics["uar"]  # type: ignore[index, assignment]
        figure = draw_confusion(metric.counts.cpu().numpy(), pl_module.emotions)  # type: ignore[arg-type]
        log_image("validation_confusion", encode_figure(figure), trainer.loggers, trainer.global_step - 1)

    def state_dict(self) -> dict[str, Any]:
        """All rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the rows so far."""
        self.rows = state_dict["rows"]


def peak_memory_mb() -> float:
    """Most memory so far in MB: of the GPU where one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # macOS counts bytes, Linux kilobytes


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written beside the target and renamed, and verified when they are read.

    Lightning's own writes into the system's folder for temporary files and moves the result. Where that is another
    file system the move is a copy, and a process killed during it leaves a part of a checkpoint in place of the last
    whole one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            SerError: the folder cannot be written or the disk is full; what was there before is intact.
        """
        content = io.BytesIO()  # straight into a file, torch reports a full disk in its own terms
        torch.save(checkpoint, content)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read it on the CPU, where the strategy takes it from; never unpickles.

        Raises:
            SerError: it is damaged or cannot be read.
        """
        path = Path(path)
        try:
            return read_checkpoint_file(path)
        except (DamagedCheckpointError, OSError) as error:
            raise SerError(
                f"{path} is damaged ({error}), expected a whole checkpoint; delete {path.parent} and train again "
                "without resume=true."
            ) from error
