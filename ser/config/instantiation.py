"""Objects from their descriptions in the configuration; what their constructors refuse is one line."""

import inspect
from functools import partial
from typing import Any, get_args, get_type_hints

import hydra.utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from ser.errors import SerError


def instantiate(cfg: DictConfig, key: str, **keywords: Any) -> Any:
    """The object that ``cfg[key]`` describes by its ``_target_`` (a partial: a function that raises the same errors).

    Raises:
        SerError: naming the overrides and the target's reason.
    """
    node = OmegaConf.select(cfg, key)
    _refuse_text(node, key)
    made = _build(key, hydra.utils.instantiate, node, **keywords)
    return partial(_build, key, made) if isinstance(made, partial) else made


def _refuse_text(node: Any, where: str) -> None:
    """Refuse text for a parameter that its target declares as a number: ``patience=abc`` would fail in mid-training."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return
    target = _build(where, hydra.utils.get_object, node["_target_"])
    for owner in reversed(inspect.getmro(target)) if inspect.isclass(target) else [target]:
        try:
            hints = get_type_hints(owner.__init__ if inspect.isclass(owner) else owner)
        except (TypeError, NameError):  # names that only a type checker knows
            continue
        for key, hint in hints.items():
            numeric = all(kind in (int, float, bool, type(None)) for kind in get_args(hint) or (hint,))
            if numeric and isinstance(node.get(key), str):
                raise SerError(f"{where}.{key}={node[key]} was given, expected a number; correct {where}.")


def _build(where: str, target: Any, *arguments: Any, **keywords: Any) -> Any:
    try:
        return target(*arguments, **keywords)
    except (TypeError, ValueError, ImportError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, SerError):
            raise cause from error
        group = where.partition(".")[0]
        words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        given = [word for word in words if word.lstrip("+~").startswith((f"{group}.", f"{group}=", f"{group}@"))]
        reason = " ".join(str(cause).split()).rstrip(". ")
        raise SerError(f"{' '.join(given) or where} was given, but {reason}; correct {where}.") from error
