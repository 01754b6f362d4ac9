"""``protocol=everyone``: the last training before use, on all speakers, by what cross-validation found.

Nothing is held out, so no epoch can be chosen and nothing tested. Both come from the sweep of the same variant: the
median of the epochs that it kept, and its score on speakers who were not in training.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from statistics import median, median_low
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf, open_dict

from ser.config.identity import first_difference
from ser.errors import SerError
from ser.evaluation.leakage import leakage_table
from ser.evaluation.runs import Run, declared, pooled, scan_runs
from ser.evaluation.scores import scores
from ser.evaluation.significance import bootstrap_interval

# What a fold and the training on everyone may differ in.
_ITS_OWN = ("fold", "seed", "split", "protocol.*", "callbacks.early_stopping*", "callbacks.checkpoint.*", "model.grid")


@dataclass(frozen=True)
class Recipe:
    """How long to train on everyone, and what is known of the result."""

    runs: Sequence[Run] = field(repr=False)  # of the sweep; empty where the number of epochs was given
    record: dict[str, Any] | None  # cross-validated scores as in metrics.json and checkpoints; None without a sweep

    @property
    def facts(self) -> dict[str, str]:
        """For the run's identity: the model is another one if its score is."""
        text = json.dumps(self.record, sort_keys=True)
        return {"cross_validation": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse a sweep of other settings or data than those of ``identity``."""
        for run in self.runs[:1]:  # the others are like it
            old, new = (
                {key: value for key, value in found.items() if not any(fnmatch(key, own) for own in _ITS_OWN)}
                for found in (run.identity or {}, identity)
            )
            new.pop("cross_validation", None)
            if (difference := first_difference(old, new)) is not None:
                raise SerError(
                    f"epochs_from holds runs of other settings than this one ({difference}), expected the same recipe; "
                    "give its settings, or the folder of a sweep with these."
                )


def recipe_for(cfg: DictConfig, overrides: Sequence[str]) -> Recipe | None:
    """The recipe of a training on everyone, written into ``cfg``; None for every other protocol.

    Its callbacks are changed. The overrides, as typed, tell whether ``trainer.max_epochs`` was given.

    Raises:
        SerError: nothing says for how many epochs to train, or the sweep is not finished.
    """
    if not str(cfg.protocol.get("_target_")).endswith(".EveryoneProtocol"):
        if cfg.epochs_from is not None:
            raise SerError(
                f"epochs_from={cfg.epochs_from} was given, but only protocol=everyone takes its epochs from elsewhere; "
                "leave it out."
            )
        return None
    if cfg.epochs_from is None and not any(word.lstrip("+").startswith("trainer.max_epochs=") for word in overrides):
        raise SerError(
            "protocol=everyone holds nobody out, so no epoch can be chosen; give epochs_from=FOLDER, the sweep of this "
            "variant, or trainer.max_epochs=N (then nothing is known of how good the model is)."
        )
    if OmegaConf.select(cfg, "lr_schedule.factor") is not None:
        raise SerError(
            "lr_schedule=plateau follows the validation part, which protocol=everyone does not have; use another one, "
            "in the sweep as well."
        )
    runs = [] if cfg.epochs_from is None else read_sweep(str(cfg.epochs_from))
    record = cross_validation(runs, str(cfg.epochs_from)) if runs else None
    epochs = math.floor(median(record["epochs"]) + 0.5) if record else int(cfg.trainer.max_epochs)
    with open_dict(cfg):
        cfg.test = cfg.test_each_epoch = False
        cfg.callbacks.early_stopping = {"_target_": "ser.callbacks.StopAfter", "epochs": epochs}
        cfg.callbacks.checkpoint.monitor, cfg.callbacks.checkpoint.mode = None, "max"  # the last epoch
        if OmegaConf.select(cfg, "model.grid") is not None:
            cfg.model.grid = _one_value(list(cfg.model.grid), runs)
    return Recipe(runs, record)


def _one_value(grid: Sequence[float], runs: Sequence[Run]) -> list[float]:
    """The strength of the regularization that the folds chose, the median of them."""
    if not runs and len(grid) > 1:
        raise SerError("model.grid has several values, of which protocol=everyone cannot choose; give epochs_from=.")
    return [median_low(run.metrics["regularization_c"] for run in runs)] if runs else list(grid)


def read_sweep(folder: str) -> list[Run]:
    """The runs of one variant on all folds.

    Raises:
        SerError: there are several variants, or a fold is missing or damaged.
    """
    if not Path(folder).is_dir():
        raise SerError(f"epochs_from={folder} is no folder, expected that of one variant of a sweep; check the path.")
    runs, damaged = scan_runs(folder)
    if damaged:
        raise SerError(f"epochs_from={folder} has a damaged run: {damaged[0]}")
    variants = sorted({run.variant for run in runs})
    if len(variants) > 1 or not all(run.identity and "best_epoch" in run.metrics for run in runs):
        raise SerError(
            f"epochs_from={folder} holds {', '.join(variants)}, expected the runs of one variant; give its folder."
        )
    seeds = {run.seed for run in runs}
    wanted = {(fold, seed) for fold in range(1, int(runs[0].split["folds"]) + 1) for seed in seeds}
    if missing := sorted(wanted - {(run.fold, run.seed) for run in runs}):
        named = ", ".join(f"fold {fold} seed {seed}" for fold, seed in missing)
        raise SerError(
            f"epochs_from={folder} has {len(runs)} of {len(wanted)} runs (missing: {named}), expected all folds; "
            "finish the sweep first."
        )
    return runs


def cross_validation(runs: Sequence[Run], folder: str) -> dict[str, Any]:
    """Scores on speakers not in training, pooled over folds, in plain types; ``epochs`` per run.

    Where each run was probed, ``leakage`` holds what was found of the speaker, the mean over runs.
    """
    table, leakage = pooled(runs), leakage_table({runs[0].variant: runs}, runs[0].variant)
    overall, bounds = scores(table), bootstrap_interval(table)
    few = math.isnan(bounds.low)
    return {
        "folder": folder,
        "variant": runs[0].variant,
        "protocol": str(runs[0].split.get("protocol")),
        "folds": len({run.fold for run in runs}),
        "seeds": len({run.seed for run in runs}),
        "speakers": int(table["speaker"].nunique()),
        "utterances": int(table["id"].nunique()),
        "uar": overall["uar"],
        "uar_low": None if few else bounds.low,
        "uar_high": None if few else bounds.high,
        "wa": overall["wa"],
        "macro_f1": overall["macro_f1"],
        "recall": overall["recall"],
        "epochs": [int(run.metrics["best_epoch"]) + 1 for run in runs],
        **declared(runs),
        **({"leakage": _leakage(leakage)} if len(leakage) and leakage["runs"][0] == len(runs) else {}),
    }


def _leakage(table: pd.DataFrame) -> dict[str, float | None]:
    """The figures that a model card shows, of a leakage table with one row."""
    keys = ("speaker", "speaker_low", "speaker_high", "speaker_control", "chance", "eer", "eer_low", "eer_high")
    return {key: None if pd.isna(value := table[key][0]) else float(value) for key in keys}
