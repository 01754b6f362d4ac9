"""``ser sweep``: what its command line means as one of ``ser train -m``."""

import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from rich import get_console

from ser.cli.train import listed, points, train
from ser.config import CONFIG_FOLDER, check_overrides, compose_config, instantiate, quoted, refuse_bare
from ser.errors import SerError, explain

BASELINES = ("statistics_logistic", "statistics_logistic_speaker")  # in every sweep, unless it names another baseline
_OWN_KEYS = ("variant", "fold", "seed", "baseline")  # of ser sweep, not of ser train
SWEEP_USAGE = """\
usage: ser sweep variant=a,b [fold=all] [seed=1,2,3] [baseline=a] [key=value ..]

Train every variant on every fold with every seed, one line per run as it ends,
then one summary with paired tests. The same command goes on where it stopped.

  variant    models or experiments of conf/, as gru,recommended,ladder/global
  fold       all (default), or numbers
  seed       1 (default), or several; what no seed changes runs with the first
  baseline   what the others are tested against; without it statistics_logistic,
             with and without speaker statistics, is added if no keys are swept
  key=value  as for ser train

  ser sweep variant=gru,enhanced_gru data=ravdess data.root=/path/to/RAVDESS
  ser sweep variant=recommended fold=1,2 optimizer.lr=1e-3,3e-4
  ser sweep variant=gru seed=1,2,3 hydra/launcher=joblib hydra.launcher.n_jobs=2
  ser sweep variant=gru seed=1,2,3 hydra/launcher=submitit_slurm
"""


def sweep() -> None:
    """Carry out ``ser train -m`` with the expanded arguments of the program; without any, show what is expected."""
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        get_console().print(SWEEP_USAGE, markup=False, highlight=False, soft_wrap=True)
        return
    try:
        sys.argv[1:] = expand(sys.argv[1:])
    except SerError as error:
        raise SystemExit(f"error: {error}") from None
    train()


def expand(words: Sequence[str]) -> list[str]:
    """The command line of ``ser train`` that a command line of ``ser sweep`` means.

    ``variant=`` becomes the models or experiments it names, ``fold=all`` the numbers of all folds; finished runs are
    skipped and interrupted ones resumed, unless ``resume=false`` is given. Without ``baseline=``, the baselines are
    added.

    Raises:
        SerError: a variant is neither a model nor an experiment, or the variants have different numbers of folds.
    """
    settings: dict[str, Any] = dict(zip(_OWN_KEYS, (None, "all", 1, None), strict=True))
    words = [quoted(word) for word in words]
    refuse_bare(words, key_of_options="variant")
    others, shared = [], []  # others: all but the sweep's own keys; shared: of those, what holds for every run
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        raise SerError(str(explain(error))) from error
    for word, override in zip(words, parsed, strict=True):
        if override.key_or_group in settings:
            settings[override.key_or_group] = points(override)
        else:
            others.append(word)
            shared += [] if override.is_sweep_override() else [word]
    if settings["variant"] is None:
        raise SerError("no variant was given, expected models or experiments; for example variant=gru,enhanced_gru.")
    baseline = next(iter(listed(settings["baseline"])), None)
    names = [str(name) for name in listed(settings["variant"])]
    group, variants = _variants(names if baseline else [*_baselines(names, parsed), *names])
    folds = [str(fold) for fold in listed(settings["fold"])]
    if folds == ["all"]:
        check_overrides([f"{group}={','.join(variants)}", *others], several=True)  # the folds are those of the corpus
        folds = _all_folds([f"{group}={variant}" for variant in variants], shared)
    seeds = [str(seed) for seed in listed(settings["seed"])]
    command = ["-m", f"{group}={','.join(variants)}", *others, f"seed={','.join(seeds)}", f"fold={','.join(folds)}"]
    command += [] if any(override.key_or_group == "resume" for override in parsed) else ["resume=true"]
    return [*command, *([f"hydra.callbacks.sweep.baseline='{baseline}'"] if baseline else [])]


def _baselines(names: Sequence[str], overrides: Sequence[Override]) -> list[str]:
    """The baselines to add to a sweep: those that every override applies to, each only once.

    They have no settings of the other models. What else is swept would only repeat them under several names.
    """
    others = [override for override in overrides if override.key_or_group not in _OWN_KEYS]
    keys = {override.key_or_group.partition(".")[0].partition("/")[0] for override in others}
    if "model" in keys or any(override.is_sweep_override() for override in others):
        return []
    return [
        name for name in BASELINES if name not in names and not (name.endswith("_speaker") and "normalization" in keys)
    ]


def _variants(names: Sequence[str]) -> tuple[str, list[str]]:
    """The group that the variants belong to, and their options in it.

    Hydra sweeps over one group; where models and experiments are mixed, each model becomes an experiment of its name
    that chooses it.
    """
    kinds = {}
    for name in names:
        found = [group for group in ("experiment", "model") if (CONFIG_FOLDER / group / f"{name}.yaml").is_file()]
        if not found:
            raise SerError(
                f"variant={name} was given, but there is no conf/model/{name}.yaml or conf/experiment/{name}.yaml; "
                "name models or experiments."
            )
        kinds[name] = found[0]
    if set(kinds.values()) <= {"model"}:
        return "model", list(kinds)
    for name, kind in kinds.items():
        if kind == "model":
            node = {"defaults": [{"override /model": name}]}
            ConfigStore.instance().store(group="experiment", name=name, node=node, package="_global_")
    return "experiment", list(kinds)


def _all_folds(variants: Sequence[str], shared: Sequence[str]) -> list[str]:
    counts = {}
    for variant in variants:
        cfg = compose_config([*shared, variant])
        counts[variant] = instantiate(cfg, "protocol").folds(instantiate(cfg, "data"))
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{variant}: {count}" for variant, count in counts.items())
        raise SerError(f"fold=all was given, but the variants have different numbers of folds ({told}); sweep them one "
                       "after another.")  # fmt: skip
    return [str(fold) for fold in range(1, next(iter(counts.values())) + 1)]
