"""The contract of every network, and its safe construction from the plain description that checkpoints carry."""

import functools
import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ser.errors import SerError, check_number

_DIRECTIVES = {"_target_", "_partial_"}


class NetworkOutput(NamedTuple):
    """What a network returns for a batch."""

    emotion_logits: Tensor  # (B, C)
    pooled: Tensor  # (B, P), one vector per utterance, the input of the head
    attention: Tensor | None  # (B, L, L), row t has the weights of query t; None unless asked for, or without attention
    statistics: Tensor  # (B, F), the output of the body, before erasure and bottleneck


class LinearErasure(nn.Module):
    """Removes directions from the pooled statistics: ``x - (x - mean) @ read @ write``.

    Does nothing until ``mean``, ``read`` and ``write`` are set. An adversary (ser.adversary) that erases sets them
    during training. They are buffers, so every checkpoint and exported file has them.
    """

    mean: Tensor
    read: Tensor
    write: Tensor

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("read", torch.zeros(size, rank))
        self.register_buffer("write", torch.zeros(rank, size))

    def forward(self, statistics: Tensor) -> Tensor:
        """Return the pooled statistics (B, F) without the directions."""
        return statistics - (statistics - self.mean) @ self.read @ self.write


class Network(nn.Module, ABC):
    """Base of the networks: ``body``, ``erase`` where an adversary asked for it, ``reduce``, ``head``.

    Subclasses are made with the sizes ``input_size`` (D) and ``emotions`` (C), and with the settings that conf/model
    explains. They define ``body`` and set ``head`` and ``pooled_size``; those with a bottleneck define ``reduce`` and
    ``statistics_size`` too. They know nothing of speakers.
    """

    head: nn.Module  # pooled features (B, P) to emotion logits (B, C)
    pooled_size: int  # P
    erase: LinearErasure | None  # linear map between body and bottleneck; None for most networks
    seeded: ClassVar[bool] = True  # whether training draws random numbers, so that another seed gives another result

    def __init__(self) -> None:
        super().__init__()
        self.erase = None

    @abstractmethod
    def body(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return pooled statistics (B, F) of normalised frames (B, L, D), and the attention (B, L, L) or None.

        ``lengths`` (B,) int64 are the valid frames of each utterance, at least 1.
        """

    @property
    def statistics_size(self) -> int:
        """F, width of what ``body`` returns."""
        return self.pooled_size

    def reduce(self, statistics: Tensor) -> Tensor:
        """Return the pooled features (B, P) of pooled statistics (B, F); the same values without a bottleneck."""
        return statistics

    def forward(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> NetworkOutput:
        """Classify frames (B, L, D) of ``lengths`` (B,); the arguments are those of ``body``."""
        statistics, attention = self.body(frames, lengths, return_attention)
        pooled = self.reduce(statistics if self.erase is None else self.erase(statistics))
        return NetworkOutput(self.head(pooled), pooled, attention, statistics)


def check_settings(hidden_size: int, layers: int, dropout: float, smallest: int = 1) -> None:
    """Refuse sizes that a network cannot have."""
    check_number("model.hidden_size", hidden_size, smallest, whole=True)
    check_number("model.layers", layers, 1, whole=True)
    check_number("model.dropout", dropout, 0, 1)


class ClassifierHead(nn.Sequential):
    """Linear(-> H) - ReLU - Dropout - Linear(-> H/2) - ReLU - Dropout - Linear(-> classes)."""

    def __init__(self, input_size: int, classes: int, hidden_size: int = 256, dropout: float = 0.3) -> None:
        super().__init__(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, hidden_size // 2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size // 2, classes),
        )


def build_network(description: Mapping[str, Any]) -> Network:
    """Return the network of ``checkpoint["config"]["network"]``, randomly initialised.

    An entry ``erase`` is the rank of the linear erasure between body and bottleneck.

    Raises:
        SerError: the description names anything but a class of ``ser.models``, or does not fit it.
    """
    # A group file is partial because the sizes are filled in later; in a checkpoint they are there.
    settings = {key: value for key, value in description.items() if key not in ("_partial_", "erase")}
    network = construct(settings, "ser.models")
    if not isinstance(network, Network):
        raise SerError(
            f"the checkpoint's network is a {type(network).__name__}, expected a network of ser; use a "
            "checkpoint that `ser train` wrote."
        )
    if "erase" in description:
        check_number("erase of the checkpoint's network", description["erase"], 1, network.statistics_size, whole=True)
        network.erase = LinearErasure(network.statistics_size, description["erase"])
    return network


def construct(description: Mapping[str, Any], package: str) -> Any:
    """Return an object of the class that ``_target_`` names, with the other entries as arguments.

    Nested descriptions are built first; ``_partial_`` gives a callable that waits for more arguments. This is the part
    of Hydra's ``instantiate`` that checkpoints need, but nothing is imported by a name that a checkpoint holds: the
    name is looked up in the list of the package's own classes.

    Raises:
        SerError: another name, an unknown directive, or arguments that do not fit.
    """
    name = description.get("_target_")
    target = classes(package).get(name) if isinstance(name, str) else None
    if target is None:
        raise SerError(
            f"the checkpoint asks for {name!r}, expected a class of {package}; nothing was run. Use the version of ser "
            "that wrote it, and only a checkpoint from a source you trust."
        )
    unknown = {key for key in description if str(key).startswith("_")} - _DIRECTIVES
    if unknown:
        raise SerError(
            f"the checkpoint's description of {name} holds {', '.join(sorted(unknown))}, expected only "
            "_target_, _partial_ and arguments; use a checkpoint that `ser train` wrote."
        )
    arguments = {key: _nested(value, package) for key, value in description.items() if key not in _DIRECTIVES}
    if description.get("_partial_"):
        return functools.partial(target, **arguments)
    try:
        return target(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SerError(
            f"the checkpoint describes a {name} that cannot be built ({error}); use a checkpoint that this "
            "version of ser wrote."
        ) from error


@functools.cache
def classes(package: str) -> dict[str, Callable[..., Any]]:
    """Return the classes that the modules of ``package`` define, and those that the package itself offers, by name."""
    root = importlib.import_module(package)
    names = [module.name for module in pkgutil.iter_modules(root.__path__, f"{package}.")]
    return {
        f"{module.__name__}.{name}": value
        for module in (root, *map(importlib.import_module, names))
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ in (names if module is root else [module.__name__])
    }


def _nested(value: Any, package: str) -> Any:
    if isinstance(value, Mapping):
        return construct(value, package) if "_target_" in value else {k: _nested(v, package) for k, v in value.items()}
    return [_nested(item, package) for item in value] if isinstance(value, list | tuple) else value
