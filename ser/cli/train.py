"""``ser train`` and ``ser sweep``: the check of the command line, one job, the objective of a search, many runs."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.markup import escape

from ser import fast_imports
from ser.cli.folding import folded_lines
from ser.config import CONFIG_FOLDER, check_overrides, compose_config, instantiate, refuse_bare
from ser.errors import SerError, explain
from ser.run.identity import depends_on_seed

log = logging.getLogger(__name__)
INTERRUPTED, CLOSED_PIPE = 130, 141  # exit codes, as shells count SIGINT and SIGPIPE
_SEVERAL = ("-m", "--multirun")
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


class FailedRun(float):
    """NaN, which a failed run of several returns in place of its validation UAR, with the reason."""

    reason = ""


class LeftOutRun(float):
    """NaN, which a run of several returns that would only repeat the result of the first seed."""


def train() -> None:
    """Train and test one fold, or with ``-m`` several, as the arguments of the program say."""
    launch(_hydra_main)


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


def launch(main: Callable[[], Any]) -> None:
    """Call a ``hydra.main`` function after a check of ``sys.argv``, so that no bad input ends in a traceback.

    Raises:
        SystemExit: bad input, which Python prints, with exit code 1; Ctrl-C (130); output that nobody reads (141).
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra passes errors on, and does not print them itself
    try:
        sys.argv[1:] = check_arguments(sys.argv[1:])
        with folded_lines() if {"-h", "--help"} & set(sys.argv[1:]) else nullcontext():
            main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        if set(_SEVERAL) & set(sys.argv):  # the screen has no messages of single runs
            again = "" if "resume=true" in sys.argv else " with resume=true"
            log.warning("interrupted; the same command%s goes on", again)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # train.py --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails again when it flushes at exit
        raise SystemExit(CLOSED_PIPE) from None
    except Exception as error:
        if (reason := explain(error)) is None:
            raise
        raise SystemExit(f"error: {reason}") from None


def check_arguments(arguments: list[str]) -> list[str]:
    """The command line with repeated points of a sweep dropped; other options than ``-m`` are left to Hydra.

    Raises:
        SerError: it would not compose.
    """
    refuse_bare(arguments)
    options = [word for word in arguments if word.startswith("-")]
    if not set(options) <= set(_SEVERAL):
        if {"--cfg", "-c"} & set(options) and not any(word.startswith("--config") for word in options):
            compose_config([word for word in arguments if "=" in word and word not in options])
        return arguments
    overrides = [word for word in arguments if word not in options]
    if not options:
        compose_config(overrides)
        return arguments
    checked = check_overrides(overrides, several=True)
    for given, kept in zip(overrides, checked, strict=True):
        if given != kept:
            get_console().print(f"{escape(given)} names a point twice; it runs once: {escape(kept)}", highlight=False)
    parsed = OverridesParser.create().parse_overrides(checked)
    seeds = next((_points(override) for override in parsed if override.key_or_group == "seed"), [])
    return [*options, *checked, *([f"hydra.callbacks.sweep.first_seed={seeds[0]}"] if len(seeds) > 1 else [])]


def typed_command() -> str:
    """The command line that started this process, without the folders of Python and of the script."""
    words = sys.orig_argv[1:]
    script = Path(words[0]).name if words else ""
    python = ["python"] if script.startswith("-") or script.endswith(".py") else []
    return shlex.join([*python, script, *words[1:]])


def run_job(cfg: DictConfig) -> float:
    """Run one experiment; return its validation UAR, a FailedRun where one of several failed, or a LeftOutRun.

    Raises:
        SystemExit: bad input to a single run.
        SerError: a trial of a search failed; its sweeper leaves it out.
    """
    several = HydraConfig.get().mode == RunMode.MULTIRUN
    first = first_seed(HydraConfig.get()) if several else None
    try:
        if first not in (None, cfg.seed) and not depends_on_seed(cfg):
            return LeftOutRun("nan")
        refuse_missing_folder(cfg)
        with fast_imports():
            from ser.training import run  # noqa: PLC0415  torch loads only when something runs, so --help is quick

        return run(cfg) if cfg.search_folds is None else mean_over_folds(cfg, run)
    except Exception as error:
        reason = explain(error)
        if not several:
            if reason is None:
                raise
            raise SystemExit(f"error: {reason}") from None
        if reason is None:
            log.error("failed: %r", error, exc_info=True)  # the progress line tells of bad input
        if HydraConfig.get().runtime.choices["hydra/sweeper"] != "basic":
            raise SerError(reason or repr(error)) from None
        failed = FailedRun("nan")
        failed.reason = reason or repr(error)
        return failed


def refuse_missing_folder(cfg: DictConfig) -> None:
    """Let a corpus without its folder say so before PyTorch and Lightning load, which takes five seconds."""
    given = [cfg.data[key] for key in ("root", "manifest") if key in cfg.data and not OmegaConf.is_dict(cfg.data[key])]
    missing = [place for place in given if place and not Path(place).expanduser().exists()]
    if given and (missing or not any(given)) and "synthetic" not in cfg.data["_target_"]:
        instantiate(cfg, "data")


def first_seed(settings: HydraConf) -> int | None:
    """The first of several seeds that a sweep has, from Hydra's own settings; None of a search, whose trials differ."""
    found: int | None = settings.callbacks["sweep"]["first_seed"]
    return found if settings.runtime.choices["hydra/sweeper"] == "basic" else None


def mean_over_folds(cfg: DictConfig, run: Callable[[DictConfig], float]) -> float:
    """Train the folds ``cfg.search_folds`` one after the other and return their mean validation UAR.

    Each fold has a folder ``fold<k>/seed<s>`` in the run folder; ``run`` carries it out.

    Raises:
        SerError: there are no folds, or the test part is open: a search that has seen it tells nothing.
    """
    if not cfg.search_folds:
        raise SerError(f"search_folds={cfg.search_folds} was given, expected numbers; for example search_folds=[1,2].")
    if cfg.test:
        raise SerError("search_folds was set with test=true, but a search must not see the test part; give test=false.")
    found = []
    for fold in cfg.search_folds:
        one = cfg.copy()
        one.fold, one.search_folds = fold, None
        one.paths.run = str(Path(cfg.paths.run) / f"fold{fold}" / f"seed{cfg.seed}")
        found.append(run(one))
    mean = sum(found) / len(found)
    log.info("validation UAR %.1f%%, mean over the folds %s", 100 * mean, ", ".join(map(str, cfg.search_folds)))
    return mean


def expand(words: Sequence[str]) -> list[str]:
    """The command line of ``ser train`` that a command line of ``ser sweep`` means.

    ``variant=`` becomes the models or experiments it names, ``fold=all`` the numbers of all folds; finished runs are
    skipped and interrupted ones resumed, unless ``resume=false`` is given. Without ``baseline=``, the baselines are
    added.

    Raises:
        SerError: a variant is neither a model nor an experiment, or the variants have different numbers of folds.
    """
    settings: dict[str, Any] = dict(zip(_OWN_KEYS, (None, "all", 1, None), strict=True))
    refuse_bare(words, key_of_options="variant")
    others, shared = [], []  # others: all but the sweep's own keys; shared: of those, what holds for every run
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        raise SerError(str(explain(error))) from error
    for word, override in zip(words, parsed, strict=True):
        if override.key_or_group in settings:
            settings[override.key_or_group] = _points(override)
        else:
            others.append(word)
            shared += [] if override.is_sweep_override() else [word]
    if settings["variant"] is None:
        raise SerError("no variant was given, expected models or experiments; for example variant=gru,enhanced_gru.")
    baseline = next(iter(_listed(settings["baseline"])), None)
    names = [str(name) for name in _listed(settings["variant"])]
    group, variants = _variants(names if baseline else [*_baselines(names, parsed), *names])
    folds = [str(fold) for fold in _listed(settings["fold"])]
    if folds == ["all"]:
        folds = _all_folds([f"{group}={variant}" for variant in variants], shared)
    seeds = [str(seed) for seed in _listed(settings["seed"])]
    command = ["-m", f"{group}={','.join(variants)}", *others, f"seed={','.join(seeds)}", f"fold={','.join(folds)}"]
    command += [] if any(override.key_or_group == "resume" for override in parsed) else ["resume=true"]
    return [*command, *([f"hydra.callbacks.sweep.baseline='{baseline}'"] if baseline else [])]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _points(override: Override) -> list[Any]:
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else _listed(override.value())


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


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="train")
def _hydra_main(cfg: DictConfig) -> float:
    return run_job(cfg)
