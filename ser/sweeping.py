"""Many runs as one: variants x folds x seeds through Hydra's launcher, then one summary."""

import contextlib
import itertools
import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.logging import RichHandler
from rich.markup import escape

from ser.configuration import CONFIG_FOLDER, register_resolvers, variant_name
from ser.entry import FAILURE, train
from ser.errors import SerError

log = logging.getLogger(__name__)

USAGE = "usage: python sweep.py [variant=a,b] [fold=all] [seed=1,2,3] [baseline=a] [key=value as for train.py ...]"


@dataclass(frozen=True)
class Job:
    """One run of a sweep: its folder and the words that make train.py fill it."""

    folder: Path
    overrides: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run has its metrics."""
        return (self.folder / "metrics.json").is_file()


def main(words: Sequence[str]) -> int:
    """Run what is missing of a sweep and print its summary; the exit code says whether every run finished."""
    if {"-h", "--help"} & set(words):
        get_console().print(USAGE, markup=False)
        get_console().print((CONFIG_FOLDER / "sweep.yaml").read_text(), markup=False)
        return 0
    register_resolvers()
    try:
        return _sweep(words)
    except (SerError, HydraException) as error:
        get_console().print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}", soft_wrap=True)
        return 1


def _sweep(words: Sequence[str]) -> int:
    settings, shared, swept = read_words(words)
    hydra = Hydra.create_main_hydra2("train", create_config_search_path(str(CONFIG_FOLDER)))
    jobs = list_jobs(hydra, settings, shared, swept)
    missing = [job for job in jobs if not job.finished]
    log_to_screen()
    log.info("%d runs, %d finished already", len(jobs), len(jobs) - len(missing))
    if missing:
        _launch(hydra, shared, missing)
    return summarize_folders(sorted({sweep_folder(job.folder) for job in jobs}), jobs, settings["baseline"])


def read_words(words: Sequence[str]) -> tuple[dict[str, Any], list[str], list[list[str]]]:
    """Part the command line into the sweep's settings, words for every run, and further swept words.

    Returns:
        settings ``variant, fold, seed, baseline``; words that hold for all runs; for each swept word its points.
    """
    settings: dict[str, Any] = dict(OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / "sweep.yaml")))  # type: ignore[arg-type]
    shared: list[str] = []
    swept: list[list[str]] = []
    for word, override in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
        if override.key_or_group in settings:
            settings[override.key_or_group] = _points(override)
        elif override.is_sweep_override():
            swept.append([f"{override.get_key_element()}={point}" for point in override.sweep_string_iterator()])
        else:
            shared.append(word)
    for key in ("variant", "fold", "seed"):
        settings[key] = settings[key] if isinstance(settings[key], list) else [settings[key]]
    if isinstance(settings["baseline"], list):
        settings["baseline"] = settings["baseline"][0]
    return settings, shared, swept


def _points(override: Override) -> list[Any]:
    if override.is_sweep_override():
        return [_number(point) for point in override.sweep_string_iterator()]
    value = override.value()
    return list(value) if isinstance(value, list) else [value]


def _number(word: str) -> int | str:
    return int(word) if word.isdigit() else word


def list_jobs(hydra: Hydra, settings: dict[str, Any], shared: list[str], swept: list[list[str]]) -> list[Job]:
    """Every run of the sweep: folds within seeds within variants.

    Raises:
        SerError: a variant is neither a model nor an experiment, or the configuration does not compose.
    """
    jobs = []
    for variant in settings["variant"]:
        for points in itertools.product(*swept):
            name = variant_name(str(variant), ",".join(points))
            words = [variant_word(str(variant)), *points, f"variant='{name}'"]
            cfg = hydra.compose_config("train", [*shared, *words], run_mode=RunMode.RUN)
            HydraConfig.instance().set_config(cfg)  # the folder's name asks it for the choices
            base = Path(cfg.paths.outputs) / str(cfg.name) / str(cfg.variant)
            for seed, fold in itertools.product(settings["seed"], fold_numbers(settings["fold"], cfg)):
                overrides = (*words, f"fold={fold}", f"seed={seed}", "resume=true")
                jobs.append(Job(base / f"fold{fold}" / f"seed{seed}", overrides))
    return jobs


def variant_word(variant: str) -> str:
    """The override that a variant's name stands for.

    Raises:
        SerError: there is no such model or experiment.
    """
    for group in ("experiment", "model"):
        if (CONFIG_FOLDER / group / f"{variant}.yaml").is_file():
            return f"{group}={variant}"
    raise SerError(
        f"variant={variant} was given, but there is no conf/model/{variant}.yaml or conf/experiment/{variant}.yaml; "
        "name models or experiments."
    )


def fold_numbers(folds: list[Any], cfg: DictConfig) -> list[int]:
    """The folds asked for; ``all`` asks the protocol how many the corpus has."""
    if folds != ["all"]:
        return [int(fold) for fold in folds]
    from ser.sentences import instantiate  # noqa: PLC0415  torch loads only when a corpus has to be read

    corpus = instantiate(cfg.data)
    return list(range(1, instantiate(cfg.protocol).folds(corpus) + 1))


def _launch(hydra: Hydra, shared: list[str], jobs: Sequence[Job]) -> None:
    """Hand the runs to Hydra's launcher, the way its own sweepers do."""
    cfg = hydra.compose_config("train", list(shared), run_mode=RunMode.MULTIRUN, with_log_configuration=True)
    launcher = Plugins.instance().instantiate_launcher(
        HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg)), train, cfg
    )
    launcher.launch([[*shared, *job.overrides] for job in jobs], initial_job_idx=0)


def sweep_folder(run: Path) -> Path:
    """``outputs/<name>`` of a run folder ``outputs/<name>/<variant>/fold<k>/seed<s>``."""
    return run.parents[2]


def summarize_folders(folders: Iterable[Path], jobs: Sequence[Job], baseline: str | None) -> int:
    """Print and write one summary for each folder, then the runs that failed; 1 if any did."""
    from ser.evaluation.runs import load_run  # noqa: PLC0415  pandas and scikit-learn load only for the summary
    from ser.evaluation.summary import summarize  # noqa: PLC0415
    from ser.evaluation.summary_tables import to_tables, write_summary  # noqa: PLC0415

    for folder in folders:
        runs = [load_run(job.folder) for job in jobs if job.finished and sweep_folder(job.folder) == folder]
        if not runs:
            continue
        summary = summarize(runs, baseline)
        for table in to_tables(summary):
            get_console().print(table)
        for note in summary.notes:
            get_console().print(f"- {note}", markup=False)
        write_summary(summary, folder)
        log.info("summary written to %s", folder)
    unfinished = [job for job in jobs if not job.finished]
    for job in unfinished:
        log.error("not finished: %s%s", job.folder, _reason(job.folder))
    return 1 if unfinished else 0


class SummaryCallback(Callback):
    """Ends ``python train.py -m ...`` with the summary that sweep.py ends with."""

    def __init__(self) -> None:
        self.started = time.time()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarize every folder of runs that this sweep wrote into."""
        written = Path(config.paths.outputs).glob("*/*/fold*/seed*/.hydra/config.yaml")
        jobs = [Job(path.parents[1], ()) for path in written if path.stat().st_mtime >= self.started]
        with contextlib.suppress(SerError):  # runs that failed tell so themselves
            summarize_folders(sorted({sweep_folder(job.folder) for job in jobs}), jobs, None)


def _reason(folder: Path) -> str:
    failure = folder / FAILURE
    return f" ({json.loads(failure.read_text())['error']})" if failure.is_file() else ""


def log_to_screen() -> None:
    """The same plain messages as a run's."""
    handler = RichHandler(show_time=False, show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
