"""Many runs as one: variants x folds x seeds through Hydra's launcher, then one summary."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf, open_dict
from rich import get_console
from rich.logging import RichHandler
from rich.markup import escape

from ser.config import CONFIG_FOLDER, register_resolvers
from ser.entry import FAILURE, train
from ser.sentences import sentence
from ser.sweep_jobs import Job, list_jobs, read_words
from ser.sweep_summary import summarize_folders, sweep_folder

log = logging.getLogger(__name__)

USAGE = "usage: python sweep.py [variant=a,b] [fold=all] [seed=1,2,3] [baseline=a] [key=value as for train.py ...]"
_LOOK = 0.5  # seconds between looks at what has ended


def main(words: Sequence[str]) -> int:
    """Run what is missing of a sweep and print its summary; the exit code says whether every run finished."""
    if {"-h", "--help"} & set(words):
        get_console().print(USAGE, markup=False)
        get_console().print((CONFIG_FOLDER / "sweep.yaml").read_text(encoding="utf-8"), markup=False)
        return 0
    register_resolvers()
    version.setbase("1.3")
    try:
        return _sweep(words)
    except Exception as error:
        if (told := sentence(error)) is None:
            raise
        get_console().print(f"[bold red]error:[/] {escape(told)}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        get_console().print("interrupted; the same command goes on where it stopped")
        return 130


def _sweep(words: Sequence[str]) -> int:
    settings, shared, swept = read_words(words)
    hydra = Hydra.create_main_hydra2("train", create_config_search_path(str(CONFIG_FOLDER)))
    jobs = list_jobs(hydra, settings, shared, swept)
    missing = [job for job in jobs if not job.finished]
    log_to_screen()
    log.info("%d runs, %d finished already", len(jobs), len(jobs) - len(missing))
    if missing:
        with progress(missing):
            _launch(hydra, shared, missing)
    return summarize_folders(sorted({sweep_folder(job.folder) for job in jobs}), jobs, settings["baseline"])


def _launch(hydra: Hydra, shared: list[str], jobs: Sequence[Job]) -> None:
    """Hand the runs to Hydra's launcher, the way its own sweepers do."""
    words = [*shared, "hydra.mode=MULTIRUN"]  # as -m does: each run then knows that it is one of several
    cfg = hydra.compose_config("train", words, run_mode=RunMode.MULTIRUN, with_log_configuration=True)
    with open_dict(cfg):
        cfg.hydra.callbacks = {}  # the summary comes once, at the end
    # The launcher would list every run's words.
    OmegaConf.update(cfg, "hydra.hydra_logging.root.level", "WARNING", force_add=True)
    launcher = Plugins.instance().instantiate_launcher(
        HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg)), train, cfg
    )
    launcher.launch([[*shared, *job.overrides] for job in jobs], initial_job_idx=0)


@contextmanager
def progress(jobs: Sequence[Job]) -> Iterator[None]:
    """Print a line whenever runs end, whichever launcher and machine runs them: their folders tell."""
    for job in jobs:
        (job.folder / FAILURE).unlink(missing_ok=True)  # an earlier attempt's
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(jobs, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(jobs: Sequence[Job], done: threading.Event) -> None:
    started, reported, over = time.monotonic(), 0, False
    while not over:
        over = done.wait(_LOOK)
        failed = sum((job.folder / FAILURE).is_file() for job in jobs)
        ended = failed + sum(job.finished for job in jobs)
        if ended == reported:
            continue
        reported, seconds = ended, time.monotonic() - started
        failures = f", {failed} of them failed" if failed else ""
        left = "" if ended == len(jobs) else f", about {_duration(seconds / ended * (len(jobs) - ended))} left"
        get_console().print(f"{ended} of {len(jobs)} runs ended in {_duration(seconds)}{failures}{left}", style="bold")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def log_to_screen() -> None:
    """The same plain messages as a run's."""
    handler = RichHandler(show_time=False, show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
