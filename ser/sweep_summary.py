"""How a sweep ends: one summary for each folder of runs, then the runs that are missing."""

import json
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ser.config import variant_name
from ser.entry import FAILURE, remember_failures
from ser.errors import SerError
from ser.sweep_jobs import Job

if TYPE_CHECKING:
    from ser.evaluation.runs import Run

log = logging.getLogger(__name__)


def sweep_folder(run: Path) -> Path:
    """``outputs/<name>`` of a run folder ``outputs/<name>/<variant>/fold<k>/seed<s>``."""
    return run.parents[2]


def summarize_folders(folders: Iterable[Path], jobs: Sequence[Job], baseline: str | None) -> int:
    """Print and write one summary for each folder, then the runs that failed; 1 if any did."""
    from ser.evaluation.report.render import show_summary, write_summary  # noqa: PLC0415  pandas loads only here
    from ser.evaluation.runs import load_runs  # noqa: PLC0415
    from ser.evaluation.summary import summarize  # noqa: PLC0415

    for folder in folders:
        finished = [job.folder for job in jobs if job.finished and sweep_folder(job.folder) == folder]
        runs, left_out, _ = load_runs(finished)
        if not runs:
            continue
        summary = summarize(runs, _named(baseline, runs), left_out)
        show_summary(summary)
        write_summary(summary, folder)
        log.info("summary written to %s", folder)
    unfinished = [job for job in jobs if not job.finished]
    for job in unfinished:
        log.error("not finished: %s%s", job.folder, _reason(job.folder))
    return 1 if unfinished else 0


def _named(baseline: str | None, runs: Sequence["Run"]) -> str | None:
    """The variant that a baseline given as ``ladder/global`` means; with swept settings, the first point of it."""
    if baseline is None:
        return None
    name = variant_name(str(baseline), None)
    return next((run.variant for run in runs if run.variant == name or run.variant.startswith(f"{name},")), name)


class SummaryCallback(Callback):
    """Ends ``python train.py -m ...`` with the summary that sweep.py ends with."""

    def __init__(self) -> None:
        self.started = time.time()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarize every folder of runs that this sweep wrote into."""
        written = Path(config.paths.outputs).glob("*/*/fold*/seed*/.hydra/config.yaml")
        jobs = [Job(path.parents[1], ()) for path in sorted(written) if path.stat().st_mtime >= self.started - 1]
        remember_failures([job.folder for job in jobs if (job.folder / FAILURE).is_file()])
        try:
            summarize_folders(sorted({sweep_folder(job.folder) for job in jobs}), jobs, None)
        except SerError as error:  # the runs themselves are fine
            log.error("no summary: %s", error)


def _reason(folder: Path) -> str:
    failure = folder / FAILURE
    return f" ({json.loads(failure.read_text(encoding='utf-8'))['error']})" if failure.is_file() else ""
