"""The objective of a search for hyperparameters: validation UAR, averaged over folds, with the test parts closed."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from ser.errors import SerError

log = logging.getLogger(__name__)


def mean_over_folds(cfg: DictConfig, run: Callable[[DictConfig], float]) -> float:
    """Train the folds ``cfg.search_folds`` one after the other and return their mean validation UAR.

    Each fold gets its own run folder, ``fold<k>/seed<s>`` inside the trial's folder.

    Args:
        cfg: a run's configuration.
        run: carries out one fold in the folder that Hydra names.

    Raises:
        SerError: there are no folds, or the test part is open: a search that has seen it tells nothing.
    """
    if not cfg.search_folds:
        raise SerError(f"search_folds={cfg.search_folds} was given, expected numbers; for example search_folds=[1,2].")
    if cfg.test:
        raise SerError("search_folds was set with test=true, but a search must not see the test part; give test=false.")
    trial = Path(HydraConfig.get().runtime.output_dir)
    found = []
    for fold in cfg.search_folds:
        one = cfg.copy()
        with open_dict(one):
            one.fold, one.search_folds = fold, None
        _enter(trial / f"fold{fold}" / f"seed{cfg.seed}")
        found.append(run(one))
    _enter(trial)
    mean = sum(found) / len(found)
    log.info("validation UAR %.4f, mean over the folds %s", mean, ", ".join(map(str, cfg.search_folds)))
    return mean


def _enter(folder: Path) -> None:
    """Make ``folder`` the one that ``${hydra:runtime.output_dir}`` names."""
    runtime: Any = HydraConfig.get().runtime
    with read_write(runtime):
        runtime.output_dir = str(folder)
