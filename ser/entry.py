"""What Hydra calls for each run: errors become one sentence, and a failed run never stops a sweep."""

import contextlib
import logging
import math
import os
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ser.config import check_keys, check_values
from ser.errors import SerError
from ser.io import write_json
from ser.sentences import sentence

log = logging.getLogger(__name__)
FAILURE = "failure.json"  # in the run folder; the next attempt removes it
INTERRUPTED = 130  # exit code, as shells count Ctrl-C
_FULL_ERROR = "HYDRA_FULL_ERROR"
_failed: list[Path] = []  # folders of the failed runs that are known of


def launch(main: Callable[[], Any]) -> None:
    """Call a Hydra main so that a command line that does not compose ends in one sentence, too.

    Raises:
        SystemExit: bad input, or a run of the sweep failed; Python prints the message and exits with code 1.
    """
    if os.environ.get(_FULL_ERROR) == "1":
        main()  # every traceback was asked for
        return
    os.environ[_FULL_ERROR] = "1"  # so that Hydra hands its exceptions on instead of printing them
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        if (told := sentence(error)) is None:
            raise
        raise SystemExit(f"error: {told}") from None
    finally:
        os.environ.pop(_FULL_ERROR)
        failed = list(_failed)
        _failed.clear()
    if failed:
        raise SystemExit(f"error: {len(failed)} of the runs failed, the first in {failed[0]}; see its {FAILURE}.")


def remember_failures(folders: Iterable[Path]) -> None:
    """Let ``launch`` know of runs that failed in other processes."""
    _failed.extend(folder for folder in folders if folder not in _failed)


def train(cfg: DictConfig) -> float:
    """Run one experiment; return its validation UAR (of a search the mean over folds), NaN where one of several failed.

    Raises:
        SystemExit: bad input to a single run; Python prints the message and exits with code 1.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    several = HydraConfig.get().mode == RunMode.MULTIRUN
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        check_keys(cfg)
        check_values(cfg, HydraConfig.get().runtime.choices)
        # torch loads only when something runs, so --help is quick
        from ser.search import mean_over_folds  # noqa: PLC0415
        from ser.training import run  # noqa: PLC0415

        return run(cfg) if cfg.search_folds is None else mean_over_folds(cfg, run)
    except Exception as error:
        told = sentence(error)
        if several:
            log.error("%s failed: %s", folder, told or error)
            _failed.append(folder)
            with contextlib.suppress(SerError):  # a full disk is no reason to stop the other runs
                write_json(folder / FAILURE, {"error": told or repr(error), "traceback": traceback.format_exc()})
            return math.nan
        if told is None:
            raise
        raise SystemExit(f"error: {told}") from None
