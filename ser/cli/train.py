"""``ser train``: the check of the command line, one job, and the objective of a search."""

import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from shutil import which
from textwrap import TextWrapper
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.markup import escape

from ser import fast_imports
from ser.config import (
    CONFIG_FOLDER,
    check_overrides,
    compose_config,
    instantiate,
    quoted,
    refuse_bare,
    refuse_processes,
)
from ser.config.identity import depends_on_seed
from ser.errors import INTERRUPTED, SerError, explain

log = logging.getLogger(__name__)
CLOSED_PIPE = 141  # exit code, as shells count SIGPIPE
_SEVERAL = ("-m", "--multirun")


class FailedRun(float):
    """NaN, which a failed run of several returns in place of its validation UAR, with the reason."""

    reason = ""


class LeftOutRun(float):
    """NaN, which a run of several returns that would only repeat the result of the first seed."""


def train() -> None:
    """Train and test one fold, or with ``-m`` several, as the arguments of the program say."""
    launch(_hydra_main)


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


class _Lines(TextWrapper):
    """Folds a line at spaces, and a value that refers to others before these."""

    wordsep_simple_re = re.compile(r"(\s+|(?<=[,/-])(?=\$\{))")


@contextmanager
def folded_lines() -> Iterator[None]:
    """Print what is printed inside with its long lines folded to the width of the screen, below their beginning."""
    try:
        with redirect_stdout(StringIO()) as shown:
            yield
    finally:  # Hydra ends the process
        for line in shown.getvalue().splitlines():
            indent = " " * (len(line) - len(line.lstrip()) + 2)
            print(_Lines(get_console().width, subsequent_indent=indent, break_on_hyphens=False).fill(line))


def check_arguments(arguments: list[str]) -> list[str]:
    """The command line with repeated points of a sweep dropped; other options than ``-m`` are left to Hydra.

    Raises:
        SerError: it would not compose.
    """
    arguments = [quoted(word) for word in arguments]
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
    if "hydra/launcher=submitit_slurm" in checked and which("srun") is None:
        raise SerError("hydra/launcher=submitit_slurm was given, but this computer has no srun; start the sweep on one "
                       "of a Slurm cluster, or take hydra/launcher=joblib.")  # fmt: skip
    for given, kept in zip(overrides, checked, strict=True):
        if given != kept:
            get_console().print(f"{escape(given)} names a point twice; it runs once: {escape(kept)}", highlight=False)
    parsed = OverridesParser.create().parse_overrides(checked)
    seeds = next((points(override) for override in parsed if override.key_or_group == "seed"), [])
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
    """Refuse a missing corpus folder before PyTorch and Lightning load, which takes five seconds."""
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
    refuse_processes(cfg, "search_folds")
    found = []
    for fold in cfg.search_folds:
        one = cfg.copy()
        one.fold, one.search_folds = fold, None
        one.paths.run = str(Path(cfg.paths.run) / f"fold{fold}" / f"seed{cfg.seed}")
        found.append(run(one))
    mean = sum(found) / len(found)
    log.info("validation UAR %.1f%%, mean over the folds %s", 100 * mean, ", ".join(map(str, cfg.search_folds)))
    return mean


def points(override: Override) -> list[Any]:
    """The values that an override sweeps over, or its only one."""
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else listed(override.value())


def listed(value: Any) -> list[Any]:
    """A value as a list: a list as it is, None as an empty one."""
    return value if isinstance(value, list) else [] if value is None else [value]


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="train")
def _hydra_main(cfg: DictConfig) -> float:
    return run_job(cfg)


if __name__ == "__main__":  # a further process of trainer=ddp
    train()
