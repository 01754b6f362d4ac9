"""How strongly the gradient reversal pushes speaker information out, over the course of training."""

import logging
import math
from abc import ABC, abstractmethod
from typing import Any

import lightning
from lightning.pytorch.utilities.types import STEP_OUTPUT

from ser.adversary import Adversary

log = logging.getLogger(__name__)


class AlphaSchedule(lightning.Callback, ABC):
    """Sets the module's ``alpha`` before every step and logs it; the value travels in the checkpoint."""

    def __init__(self, max_alpha: float = 1.0) -> None:
        self.max_alpha = max_alpha
        self.alpha = 0.0

    @abstractmethod
    def value(self, epoch: float, epochs: int) -> float:
        """Alpha after ``epoch`` (with fraction) of ``epochs`` epochs; between 0 and ``max_alpha``."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say so when there is an adversary that never gets to act."""
        epochs = int(trainer.max_epochs or 1)
        adversary = _adversary(pl_module)
        if adversary is not None and adversary.weight > 0 and self.value(epochs, epochs) == 0:
            log.warning("alpha stays 0 for all %d epochs of this run: the adversary never acts", epochs)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set alpha for this step."""
        if (adversary := _adversary(pl_module)) is not None:
            epoch = trainer.current_epoch + batch_idx / trainer.num_training_batches
            self.alpha = self.value(epoch, int(trainer.max_epochs or 1))
            adversary.alpha.fill_(self.alpha)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log alpha at Lightning's logging interval."""
        pl_module.log("alpha", self.alpha, on_step=True, on_epoch=False)

    def state_dict(self) -> dict[str, Any]:
        """The last value."""
        return {"alpha": self.alpha}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the last value."""
        self.alpha = state_dict["alpha"]


def _adversary(module: lightning.LightningModule) -> Adversary | None:
    adversary: Adversary | None = module.adversary  # type: ignore[assignment]
    return adversary


class LinearAlpha(AlphaSchedule):
    """0 before ``start_epoch``, then a straight line up to ``max_alpha`` at ``end_share`` of all epochs, then held."""

    def __init__(self, start_epoch: int = 5, end_share: float = 0.7, max_alpha: float = 1.0) -> None:
        super().__init__(max_alpha)
        self.start_epoch, self.end_share = start_epoch, end_share

    def value(self, epoch: float, epochs: int) -> float:
        """See the class."""
        if epoch < self.start_epoch:
            return 0.0
        rise = self.end_share * epochs - self.start_epoch
        # Where the line has no room (few epochs), alpha steps up at start_epoch.
        return self.max_alpha * (min(1.0, (epoch - self.start_epoch) / rise) if rise > 0 else 1.0)


class ConstantAlpha(AlphaSchedule):
    """``max_alpha`` from the first step on."""

    def value(self, epoch: float, epochs: int) -> float:
        """See the class."""
        return self.max_alpha


class SigmoidAlpha(AlphaSchedule):
    """``max_alpha * (2 / (1 + exp(-10 p)) - 1)`` with p the share of training done (Ganin & Lempitsky 2015)."""

    def __init__(self, steepness: float = 10.0, max_alpha: float = 1.0) -> None:
        super().__init__(max_alpha)
        self.steepness = steepness

    def value(self, epoch: float, epochs: int) -> float:
        """See the class."""
        return self.max_alpha * (2.0 / (1.0 + math.exp(-self.steepness * epoch / epochs)) - 1.0)


class StepAlpha(AlphaSchedule):
    """0 before ``start_epoch``, then ``steps`` equal stairs, one every ``every_epochs``, up to ``max_alpha``."""

    def __init__(self, start_epoch: int = 5, every_epochs: int = 5, steps: int = 4, max_alpha: float = 1.0) -> None:
        super().__init__(max_alpha)
        self.start_epoch, self.every_epochs, self.steps = start_epoch, every_epochs, steps

    def value(self, epoch: float, epochs: int) -> float:
        """See the class."""
        if epoch < self.start_epoch:
            return 0.0
        stair = 1 + int((epoch - self.start_epoch) // self.every_epochs)
        return self.max_alpha * min(stair, self.steps) / self.steps
