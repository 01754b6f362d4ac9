"""What Hydra calls for each run: errors become one sentence, and a failed run never stops a sweep."""

import logging
import math
import traceback
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ser.errors import SerError
from ser.files import write_json

log = logging.getLogger(__name__)
FAILURE = "failure.json"  # in the run folder; the next attempt removes it


def train(cfg: DictConfig) -> float:
    """Run one experiment; return its validation UAR, or NaN where a run of a sweep failed.

    Raises:
        CompactHydraException: bad input to a single run; Hydra prints it without a traceback.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    several = HydraConfig.get().mode == RunMode.MULTIRUN
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        from ser.training import run  # noqa: PLC0415  torch loads only when something runs, so --help is quick

        return run(cfg)
    except Exception as error:
        sentence = _sentence(error)
        if several:
            log.error("%s failed: %s", folder, sentence or error)
            write_json(folder / FAILURE, {"error": sentence or repr(error), "traceback": traceback.format_exc()})
            return math.nan
        if sentence is None:
            raise
        raise CompactHydraException(f"error: {sentence}") from None


def _sentence(error: BaseException) -> str | None:
    """What the user is to read, or None where the error is a defect of the program and needs its traceback."""
    cause: BaseException | None = error
    while cause is not None:  # Hydra wraps what a constructor raises
        if isinstance(cause, SerError):
            return str(cause)
        cause = cause.__cause__
    if isinstance(error, HydraException | OmegaConfBaseException):
        return " ".join(str(error).split())
    return None
