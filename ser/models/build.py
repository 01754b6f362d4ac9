"""Build objects from the plain descriptions that checkpoints carry, without trusting them."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from ser.errors import SerError, check_number
from ser.models.network import LinearErasure, Network

_DIRECTIVES = {"_target_", "_partial_"}


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
            "checkpoint that train.py wrote."
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
            "_target_, _partial_ and arguments; use a checkpoint that train.py wrote."
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
