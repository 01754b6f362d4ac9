"""``ser train`` and ``ser sweep``: the check of the command line, one job, and the objective of a search."""

import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich import get_console
from rich.markup import escape

from ser import fast_imports
from ser.config import CONFIG_FOLDER, check_overrides, compose_config
from ser.errors import SerError, explain

log = logging.getLogger(__name__)
INTERRUPTED, CLOSED_PIPE = 130, 141  # exit codes, as shells count SIGINT and SIGPIPE
_SEVERAL = ("-m", "--multirun")
SWEEP_USAGE = """\
usage: ser sweep variant=a,b [fold=all] [seed=1,2,3] [baseline=a] [key=value as for ser train ...]

Train every variant on every fold with every seed, one line per run as it ends, then one summary with paired tests.
The same command goes on where it stopped: finished runs are skipped, an interrupted one is resumed.

  variant    models (conf/model) or experiments (conf/experiment), for example gru,recommended,ladder/global
  fold       all (default), or numbers
  seed       1 (default), or several
  baseline   the variant that the others are tested against; by default statistics_logistic, which is then added with
             and without speaker statistics (seconds per run; not where settings of the model or other keys are swept)

  ser sweep variant=gru,enhanced_gru data=ravdess data.root=/path/to/RAVDESS
  ser sweep variant=recommended fold=1,2 optimizer.lr=1e-3,3e-4
  ser sweep variant=gru seed=1,2,3 hydra/launcher=joblib hydra.launcher.n_jobs=2
  ser sweep variant=gru seed=1,2,3 hydra/launcher=submitit_slurm
"""


class FailedRun(float):
    """NaN, which a failed run of several returns in place of its validation UAR, with the reason."""

    reason = ""


def train() -> None:
    """Train and test one fold, or with ``-m`` several, as the arguments of the program say."""
    launch(_hydra_main)


def sweep() -> None:
    """Carry out ``ser train -m`` with the expanded arguments of the program; without any, show what is expected."""
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        get_console().print(SWEEP_USAGE, markup=False, highlight=False, soft_wrap=True)
        return
    from ser.cli.sweep import expand  # noqa: PLC0415  imports this module

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
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
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
    options = [word for word in arguments if word.startswith("-")]
    if not set(options) <= set(_SEVERAL):
        return arguments
    overrides = [word for word in arguments if word not in options]
    if not options:
        compose_config(overrides)
        return arguments
    checked = check_overrides(overrides, several=True)
    for given, kept in zip(overrides, checked, strict=True):
        if given != kept:
            get_console().print(f"{escape(given)} names a point twice; it runs once: {escape(kept)}", highlight=False)
    return [*options, *checked]


def typed_command() -> str:
    """The command line that started this process, without the folders of Python and of the script."""
    words = sys.orig_argv[1:]
    script = Path(words[0]).name if words else ""
    python = ["python"] if script.startswith("-") or script.endswith(".py") else []
    return shlex.join([*python, script, *words[1:]])


def run_job(cfg: DictConfig) -> float:
    """Run one experiment; return its validation UAR, a FailedRun where one of several failed.

    Raises:
        SystemExit: bad input to a single run.
        SerError: a trial of a search failed; its sweeper leaves it out.
    """
    several = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
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
    log.info("validation UAR %.4f, mean over the folds %s", mean, ", ".join(map(str, cfg.search_folds)))
    return mean


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="train")
def _hydra_main(cfg: DictConfig) -> float:
    return run_job(cfg)
