"""Names parameters that the loss does not reach."""

import logging

import lightning
import torch

log = logging.getLogger(__name__)


class GradientCheck(lightning.Callback):
    """Reports, once, every trainable parameter whose gradient is missing or all zero in the first step.

    A part of a network that is computed and thrown away, or frozen by mistake, shows here instead of nowhere.
    """

    def __init__(self) -> None:
        self.without_gradient: list[str] = []

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradients of the first step."""
        if trainer.global_step > 0:
            return
        self.without_gradient = [
            name
            for name, parameter in pl_module.named_parameters()
            if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
        ]
        if self.without_gradient:
            log.warning("no gradient in the first step reaches: %s", ", ".join(self.without_gradient))
