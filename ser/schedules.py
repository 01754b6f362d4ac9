"""Schedules over a run, as callbacks: alpha of the gradient reversal, and the learning rate by torch's schedulers."""

import logging
import math
from abc import ABC, abstractmethod
from typing import Any

import lightning
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
)

from ser.adversary import Adversary
from ser.errors import SerError, check_number

log = logging.getLogger(__name__)


class AlphaSchedule(lightning.Callback, ABC):
    """Sets ``alpha`` of the module's adversary before every step; does nothing without an adversary."""

    def __init__(self, max_alpha: float = 1.0) -> None:
        check_number("alpha_schedule.max_alpha", max_alpha, 0)
        self.max_alpha = max_alpha

    @abstractmethod
    def value(self, epoch: float, epochs: int) -> float:
        """Return alpha, between 0 and ``max_alpha``, after ``epoch`` (with its fraction) of ``epochs`` epochs."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Warn when there is an adversary that never acts."""
        epochs = int(trainer.max_epochs or 1)
        adversary = _adversary(pl_module)
        if adversary is not None and adversary.weight > 0 and self.value(epochs, epochs) == 0:
            log.warning("the adversary never acts: alpha, its strength, is 0 in all %d epochs (alpha_schedule)", epochs)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set alpha for this step."""
        if (adversary := _adversary(pl_module)) is not None:
            epoch = trainer.current_epoch + batch_idx / trainer.num_training_batches
            adversary.alpha.fill_(self.value(epoch, int(trainer.max_epochs or 1)))


def _adversary(module: lightning.LightningModule) -> Adversary | None:
    adversary: Adversary | None = module.adversary  # type: ignore[assignment]
    return adversary


class LinearAlpha(AlphaSchedule):
    """0 before ``start_epoch``, then linear up to ``max_alpha`` at the fraction ``end_fraction`` of all epochs."""

    def __init__(self, start_epoch: float = 5, end_fraction: float = 0.7, max_alpha: float = 1.0) -> None:
        super().__init__(max_alpha)
        check_number("alpha_schedule.start_epoch", start_epoch, 0)
        check_number("alpha_schedule.end_fraction", end_fraction, 0, 1)
        self.start_epoch, self.end_fraction = start_epoch, end_fraction

    def value(self, epoch: float, epochs: int) -> float:
        """Return alpha; it jumps to its maximum at ``start_epoch`` where few epochs leave no room for the line."""
        if epoch < self.start_epoch:
            return 0.0
        rise = self.end_fraction * epochs - self.start_epoch
        return self.max_alpha * (min(1.0, (epoch - self.start_epoch) / rise) if rise > 0 else 1.0)


class ConstantAlpha(AlphaSchedule):
    """``max_alpha`` from the first step on."""

    def value(self, epoch: float, epochs: int) -> float:
        """Return ``max_alpha``."""
        return self.max_alpha


class SigmoidAlpha(AlphaSchedule):
    """``max_alpha * (2 / (1 + exp(-steepness p)) - 1)``, p the fraction of training done (Ganin & Lempitsky 2015)."""

    def __init__(self, steepness: float = 10.0, max_alpha: float = 1.0) -> None:
        super().__init__(max_alpha)
        check_number("alpha_schedule.steepness", steepness, 0)
        self.steepness = steepness

    def value(self, epoch: float, epochs: int) -> float:
        """Return the value of the formula."""
        return self.max_alpha * (2.0 / (1.0 + math.exp(-self.steepness * epoch / epochs)) - 1.0)


class StepAlpha(AlphaSchedule):
    """0 before ``start_epoch``, then ``steps`` equal steps, one every ``every_epochs``, up to ``max_alpha``."""

    def __init__(self, start_epoch: float = 5, every_epochs: float = 5, steps: int = 4, max_alpha: float = 1.0) -> None:
        super().__init__(max_alpha)
        check_number("alpha_schedule.start_epoch", start_epoch, 0)
        check_number("alpha_schedule.every_epochs", every_epochs, 0, above=True)
        check_number("alpha_schedule.steps", steps, 1)
        self.start_epoch, self.every_epochs, self.steps = start_epoch, every_epochs, steps

    def value(self, epoch: float, epochs: int) -> float:
        """Return the height of the current step."""
        if epoch < self.start_epoch:
            return 0.0
        step = 1 + int((epoch - self.start_epoch) // self.every_epochs)
        return self.max_alpha * min(step, self.steps) / self.steps


class LearningRateSchedule(lightning.Callback, ABC):
    """Linear warm-up, then the torch scheduler that ``after_warmup`` makes; one step per optimizer step.

    The warm-up rises from a tenth of the learning rate in ``warmup_steps``, but takes at most ``warmup_fraction`` of
    all steps, since it could outlast a short run.

    Raises:
        SerError: a resumed run has another number of steps.
    """

    def __init__(self, warmup_steps: int = 0, warmup_fraction: float = 0.1) -> None:
        check_number("lr_schedule.warmup_steps", warmup_steps, 0)
        check_number("lr_schedule.warmup_fraction", warmup_fraction, 0, 1)
        self.warmup_steps, self.warmup_fraction = warmup_steps, warmup_fraction
        self.scheduler: LRScheduler
        self.total_steps = self.steps = 0
        self.restored: dict[str, Any] | None = None

    @abstractmethod
    def after_warmup(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Return the scheduler of the ``steps`` steps after the warm-up."""

    def prepare(self, optimizer: Optimizer, total_steps: int) -> int:
        """Make the scheduler of a run of ``total_steps`` and return the number of its warm-up steps."""
        warmup = min(self.warmup_steps, int(self.warmup_fraction * total_steps))
        self.total_steps = total_steps
        main = self.after_warmup(optimizer, max(1, total_steps - warmup))
        if warmup > 0:
            ramp = LinearLR(optimizer, start_factor=0.1, total_iters=warmup)
            main = SequentialLR(optimizer, [ramp, main], milestones=[warmup])
        self.scheduler = main
        return warmup

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make the scheduler, or continue the one of the checkpoint; report a shortened warm-up."""
        optimizer, total_steps = trainer.optimizers[0], int(trainer.estimated_stepping_batches)
        rates = [group["lr"] for group in optimizer.param_groups]
        warmup = self.prepare(optimizer, total_steps)
        if warmup < self.warmup_steps:
            log.info("the learning rate rises over the first %d of %d steps, not over %d: the run is short "
                     "(lr_schedule.warmup_fraction)", warmup, total_steps, self.warmup_steps)  # fmt: skip
        if self.restored is not None:
            if self.restored["total_steps"] != total_steps:
                raise SerError(
                    f"the checkpoint's learning-rate schedule has {self.restored['total_steps']} steps, this run has "
                    f"{total_steps}; give the same trainer.max_epochs and batches, or leave out resume=true."
                )
            self.scheduler.load_state_dict(self.restored["scheduler"])
            self.steps = self.restored["steps"]
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of the coming step."""
        if trainer.global_step > self.steps:  # not after a batch whose gradient was only accumulated
            self.scheduler.step()
            self.steps = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state and the numbers of steps."""
        return {"scheduler": self.scheduler.state_dict(), "steps": self.steps, "total_steps": self.total_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the scheduler is made."""
        self.restored = state_dict


class DecayingRate(LearningRateSchedule):
    """Base of the schedules that fall to ``min_lr``."""

    def __init__(self, warmup_steps: int = 1000, warmup_fraction: float = 0.1, min_lr: float = 1e-7) -> None:
        super().__init__(warmup_steps, warmup_fraction)
        check_number("lr_schedule.min_lr", min_lr, 0)
        self.min_lr = min_lr


class CosineRate(DecayingRate):
    """Half a cosine that ends at ``min_lr`` at the last step (Loshchilov & Hutter 2017, without restarts)."""

    def after_warmup(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Return torch's CosineAnnealingLR."""
        return CosineAnnealingLR(optimizer, max(1, steps - 1), eta_min=self.min_lr)


class CosineRestarts(DecayingRate):
    """Cosine annealing with warm restarts (Loshchilov & Hutter 2017) down to ``min_lr``.

    The first cycle takes ``first_cycle_fraction`` of the run's steps, each further one ``cycle_growth`` (a whole
    number) times as many as the one before.
    """

    def __init__(
        self,
        warmup_steps: int = 1000,
        warmup_fraction: float = 0.1,
        min_lr: float = 1e-7,
        first_cycle_fraction: float = 0.25,
        cycle_growth: int = 2,
    ) -> None:
        super().__init__(warmup_steps, warmup_fraction, min_lr)
        check_number("lr_schedule.first_cycle_fraction", first_cycle_fraction, 0, 1, above=True)
        check_number("lr_schedule.cycle_growth", cycle_growth, 1, whole=True)
        self.first_cycle_fraction, self.cycle_growth = first_cycle_fraction, cycle_growth

    def after_warmup(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Return torch's CosineAnnealingWarmRestarts."""
        first = max(1, round(self.first_cycle_fraction * self.total_steps))
        return CosineAnnealingWarmRestarts(optimizer, first, self.cycle_growth, eta_min=self.min_lr)


class ConstantRate(LearningRateSchedule):
    """The optimizer's own learning rate, after an optional warm-up."""

    def after_warmup(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Return torch's ConstantLR with factor 1."""
        return ConstantLR(optimizer, factor=1.0, total_iters=0)


class LinearRate(DecayingRate):
    """A straight line down to ``min_lr`` at the last step; groups with a factor end at that factor times ``min_lr``."""

    def after_warmup(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Return torch's LinearLR."""
        group = optimizer.param_groups[0]
        rate = group.get("initial_lr", group["lr"])
        end = min(1.0, self.min_lr / rate) if rate > 0 else 1.0
        return LinearLR(optimizer, start_factor=1.0, end_factor=end, total_iters=max(1, steps - 1))


class PlateauRate(ConstantRate):
    """Multiplies the learning rate by ``factor`` when ``monitor`` has not improved for ``patience`` epochs.

    ``mode`` is max where larger is better, min otherwise; the learning rate does not fall below ``min_lr``.
    """

    def __init__(
        self,
        monitor: str = "val/uar",
        mode: str = "max",
        patience: int = 3,
        factor: float = 0.5,
        min_lr: float = 1e-7,
        warmup_steps: int = 1000,
        warmup_fraction: float = 0.1,
    ) -> None:
        super().__init__(warmup_steps, warmup_fraction)
        check_number("lr_schedule.patience", patience, 0)
        check_number("lr_schedule.factor", factor, 0, 0.999, above=True)
        check_number("lr_schedule.min_lr", min_lr, 0)
        if mode not in ("max", "min"):
            raise SerError(f"lr_schedule.mode={mode} was given, expected max or min.")
        self.monitor = monitor
        self.settings = {"mode": mode, "patience": patience, "factor": factor, "min_lr": min_lr, "threshold": 0.0}
        self.plateau: ReduceLROnPlateau

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make both schedulers, or continue those of the checkpoint."""
        super().on_train_start(trainer, pl_module)
        self.plateau = ReduceLROnPlateau(trainer.optimizers[0], **self.settings)  # type: ignore[arg-type]
        if self.restored is not None:
            self.plateau.load_state_dict(self.restored["plateau"])

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at the metric of this epoch."""
        if not trainer.sanity_checking and self.monitor in trainer.callback_metrics:
            self.plateau.step(float(trainer.callback_metrics[self.monitor]))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both schedulers."""
        return {**super().state_dict(), "plateau": self.plateau.state_dict()}
