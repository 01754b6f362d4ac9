"""Learning-rate schedules, set before every optimizer step."""

import logging
import math
from abc import ABC, abstractmethod
from typing import Any

import lightning
from lightning.pytorch.utilities.types import STEP_OUTPUT

log = logging.getLogger(__name__)


class LearningRateSchedule(lightning.Callback, ABC):
    """Warms up, then follows ``value``; sets every parameter group relative to its own initial rate.

    Args:
        warmup_steps: optimizer steps of linear warm-up from ``warmup_start`` times the rate.
        warmup_share: the warm-up is capped at this share of all steps, since with few data it could outlast the run.
        warmup_start: factor of the rate at the first step.
    """

    def __init__(self, warmup_steps: int = 0, warmup_share: float = 0.1, warmup_start: float = 0.1) -> None:
        self.warmup_steps, self.warmup_share, self.warmup_start = warmup_steps, warmup_share, warmup_start
        self.total_steps = 0
        self.warmup = 0

    @abstractmethod
    def value(self, rate: float, step: int, steps: int) -> float:
        """The rate ``step`` steps after the warm-up, of ``steps`` such steps, for an initial rate of ``rate``."""

    def rate_at(self, rate: float, step: int) -> float:
        """The rate of optimizer step ``step`` (from 0)."""
        if step < self.warmup:
            return rate * (self.warmup_start + (1 - self.warmup_start) * step / self.warmup)
        return self.value(rate, step - self.warmup, max(1, self.total_steps - self.warmup))

    def prepare(self, total_steps: int) -> None:
        """Fix the length of the run and with it the warm-up."""
        self.total_steps = total_steps
        self.warmup = min(self.warmup_steps, int(self.warmup_share * total_steps))

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Learn the length of the run; say when the warm-up was cut."""
        self.prepare(int(trainer.estimated_stepping_batches))
        if self.warmup < self.warmup_steps:
            log.info(
                "warm-up cut from %d to %d steps (%.0f%% of the run's %d)",
                self.warmup_steps,
                self.warmup,
                100 * self.warmup_share,
                self.total_steps,
            )
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the rate of the coming step."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate_at(group["initial_lr"], trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the rate at Lightning's logging interval."""
        pl_module.log("learning_rate", trainer.optimizers[0].param_groups[0]["lr"], on_step=True, on_epoch=False)

    def state_dict(self) -> dict[str, Any]:
        """Length of the run and of the warm-up."""
        return {"total_steps": self.total_steps, "warmup": self.warmup}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        self.total_steps, self.warmup = state_dict["total_steps"], state_dict["warmup"]


class CosineRestarts(LearningRateSchedule):
    """Cosine annealing with warm restarts (Loshchilov & Hutter 2017) down to ``min_lr``.

    The first cycle lasts ``first_cycle_share`` of the run's steps, each further one ``cycle_growth`` times the last.
    """

    def __init__(
        self,
        warmup_steps: int = 1000,
        warmup_share: float = 0.1,
        min_lr: float = 1e-7,
        first_cycle_share: float = 0.25,
        cycle_growth: int = 2,
    ) -> None:
        super().__init__(warmup_steps, warmup_share)
        self.min_lr, self.first_cycle_share, self.cycle_growth = min_lr, first_cycle_share, cycle_growth

    def value(self, rate: float, step: int, steps: int) -> float:
        """See the class."""
        cycle = max(1.0, self.first_cycle_share * self.total_steps)
        done = float(step)
        while done >= cycle:
            done -= cycle
            cycle *= self.cycle_growth
        return self.min_lr + (rate - self.min_lr) * (1 + math.cos(math.pi * done / cycle)) / 2


class ConstantRate(LearningRateSchedule):
    """The optimizer's own rate, after an optional warm-up."""

    def value(self, rate: float, step: int, steps: int) -> float:
        """See the class."""
        return rate


class LinearRate(LearningRateSchedule):
    """A straight line down to ``min_lr`` at the last step."""

    def __init__(self, warmup_steps: int = 1000, warmup_share: float = 0.1, min_lr: float = 1e-7) -> None:
        super().__init__(warmup_steps, warmup_share)
        self.min_lr = min_lr

    def value(self, rate: float, step: int, steps: int) -> float:
        """See the class."""
        return self.min_lr + (rate - self.min_lr) * max(0.0, 1 - step / steps)


class PlateauRate(LearningRateSchedule):
    """Multiplies the rate by ``factor`` when ``monitor`` has not risen for ``patience`` epochs."""

    def __init__(
        self,
        monitor: str = "val/uar",
        patience: int = 3,
        factor: float = 0.5,
        min_lr: float = 1e-7,
        warmup_steps: int = 1000,
        warmup_share: float = 0.1,
    ) -> None:
        super().__init__(warmup_steps, warmup_share)
        self.monitor, self.patience, self.factor, self.min_lr = monitor, patience, factor, min_lr
        self.best = -math.inf
        self.waited = 0
        self.scale = 1.0

    def value(self, rate: float, step: int, steps: int) -> float:
        """See the class."""
        return max(self.min_lr, rate * self.scale)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Count epochs without a rise."""
        if trainer.sanity_checking or self.monitor not in trainer.callback_metrics:
            return
        current = float(trainer.callback_metrics[self.monitor])
        if current > self.best:
            self.best, self.waited = current, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.factor, 0

    def state_dict(self) -> dict[str, Any]:
        """What the plateau has seen, too."""
        return {**super().state_dict(), "best": self.best, "waited": self.waited, "scale": self.scale}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore all of it."""
        super().load_state_dict(state_dict)
        self.best, self.waited, self.scale = state_dict["best"], state_dict["waited"], state_dict["scale"]
