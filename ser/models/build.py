"""Build objects from the plain descriptions that checkpoints carry, without trusting them."""

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from ser.errors import SerError
from ser.models.network import LinearErasure, Network

_DOTTED = re.compile(r"ser(\.[a-z_][a-z0-9_]*)+\.[A-Za-z_]\w*", re.ASCII)
_DIRECTIVES = {"_target_", "_partial_"}


def build_network(description: Mapping[str, Any]) -> Network:
    """Return the network of ``checkpoint["config"]["network"]``, randomly initialised.

    An entry ``erase`` is the rank of the linear erasure between body and head.

    Raises:
        SerError: the description names anything but what is defined below ``ser.models``, or does not fit it.
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
        network.erase = LinearErasure(network.pooled_size, int(description["erase"]))
    return network


def construct(description: Mapping[str, Any], package: str) -> Any:
    """Call the class or function that ``_target_`` names with the other entries as arguments.

    Nested descriptions are built first; ``_partial_`` gives a callable that waits for more arguments. This is the part
    of Hydra's ``instantiate`` that checkpoints need; unlike it, only what a module at or below ``package`` itself
    defines can be called, so that a checkpoint from a stranger cannot name ``os.system``, nor reach it by way of a
    module that imports it.

    Raises:
        SerError: a target elsewhere, an unknown directive, or arguments that do not fit.
    """
    name = description.get("_target_")
    target = _find(name, package)
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


def _nested(value: Any, package: str) -> Any:
    if isinstance(value, Mapping):
        return construct(value, package) if "_target_" in value else {k: _nested(v, package) for k, v in value.items()}
    return [_nested(item, package) for item in value] if isinstance(value, list | tuple) else value


def _find(name: Any, package: str) -> Callable[..., Any]:
    """The class or function of that name, if a module at or below ``package`` defines it."""
    if not (isinstance(name, str) and _DOTTED.fullmatch(name) and name.startswith(f"{package}.")):
        raise SerError(
            f"the checkpoint asks for {name!r}, expected a class below {package}; nothing of it was run, so "
            "use a checkpoint from a source you trust."
        )
    module_name, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise SerError(
            f"the checkpoint needs {name}, which this version of ser does not have; use the version that wrote it."
        ) from error
    # A package may offer what its own modules define, but nothing that they import.
    home = str(getattr(found, "__module__", ""))
    own = home == module_name or home.startswith(f"{module_name}.")
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not own:
        raise SerError(
            f"the checkpoint asks for {name}, which {module_name} does not define; nothing of it was run, "
            "so use a checkpoint from a source you trust."
        )
    return found
