"""Which parameters the optimizer gets, and at what share of the learning rate."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


def parameter_groups(network: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
    """Trained parameters with their share of the learning rate, share 1 first.

    A module says with an attribute ``lr_factor`` that its parameters have another share; inner modules win.
    """
    factors: dict[int, float] = {}
    for module in network.modules():  # outer ones come first
        if isinstance(factor := getattr(module, "lr_factor", None), float | int):
            factors |= {id(parameter): float(factor) for parameter in module.parameters()}
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    return [(parameters, factor) for factor, parameters in groups.items() if parameters]


def make_optimizer(make: Callable[[Iterable[Any]], torch.optim.Optimizer], network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of what is trained, with a group and a learning rate of its own for each share."""
    groups = parameter_groups(network)
    optimizer = make([{"params": parameters} for parameters, _ in groups])
    for group, (_, factor) in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] *= factor
    return optimizer
