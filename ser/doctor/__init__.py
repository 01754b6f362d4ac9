"""``ser doctor``: what it looks at, in order."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ser.config import compose_config
from ser.doctor.experiment import Experiment
from ser.doctor.machine import (
    Check,
    Finding,
    check_audio,
    check_device,
    check_folder,
    check_optional,
    check_packages,
    run_checks,
    show,
)
from ser.errors import SerError

__all__ = ["Finding", "examine", "run_checks", "show"]


def examine(overrides: Sequence[str], deep: bool = False) -> Iterator[Finding]:
    """Findings about the installation and about the experiment that ``overrides`` describe.

    With ``deep``, every file is decoded, the encoder runs, and every checksum of the cache is verified.
    """
    checks: list[tuple[str, Check]] = [("packages", check_packages), ("audio", check_audio)]
    try:
        cfg = compose_config(overrides)
    except SerError as error:
        wrong = Finding("configuration", "problem", str(error))
        checks += [("device", partial(check_device, "cpu", "cpu")), ("configuration", lambda: [wrong])]
    else:
        checks.append(("device", partial(check_device, str(cfg.trainer.accelerator), str(cfg.extraction.device))))
        for key, folder in (("paths.outputs", cfg.paths.outputs), ("paths.cache", cfg.paths.cache)):
            checks.append((key, partial(check_folder, key, Path(folder))))
        checks.append(("experiment", Experiment(cfg, deep).findings))
    yield from run_checks([*checks, ("optional", check_optional)])
