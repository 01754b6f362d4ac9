"""What a multirun shows: one line per run as it ends, what the running one does, and the summary of all."""

import atexit
import itertools
import json
import logging
import os
import shlex
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.text import Text

from ser.cli.train import FailedRun, LeftOutRun, first_seed, typed_command
from ser.config import compose_page, name_parts, short_setting, variant_name
from ser.config.identity import depends_on_seed
from ser.errors import SerError, explain
from ser.io import append_line

log = logging.getLogger(__name__)
_LOOK = 0.5  # seconds between looks at what has ended
_ALONE = "last_sweep"  # the folder of a summary without the runs of earlier sweeps


class _Messages(logging.Handler):
    """Keeps the warnings of a run, which the sweep shows once, and its latest message, which says how far it is."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.warnings: dict[str, None] = {}  # in their order, each once
        self.latest = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.latest = record.getMessage().strip()
        if logging.WARNING <= record.levelno < logging.ERROR:
            self.warnings[self.latest] = None


class SweepCallback(Callback):
    """Shows one line per run of a multirun as it ends, and a summary after the last.

    Runs may be in other processes or on other machines: each appends to one file in the outputs folder, and a thread
    of the first process shows what is new in it. What a run says meanwhile is in its train.log; errors that are no bad
    input are shown at once.

    Without ``baseline`` the others are tested against statistics_logistic, gru, or else the first variant. Jobs read
    ``first_seed``, of a sweep of several, from the configuration.
    """

    def __init__(self, baseline: str | None = None, first_seed: int | None = None) -> None:
        self.baseline = baseline
        self.record: Path | None = None  # None outside a multirun
        self.started = self.job_started = 0.0
        self.total = self.shown = 0
        self.quiet = False
        self.shared: set[str] = set()  # overrides of every run
        self.kinds: set[str] = set()  # swept keys that runs of one length share; none in a search
        self.left: Counter[str] = Counter()  # runs to come, by ``_kind``
        self.watcher: threading.Thread | None = None
        self.ended: threading.Event | None = None
        self.messages: _Messages | None = None  # of the run that this process carries out
        self.run = ""

    def __getstate__(self) -> dict[str, Any]:
        """What goes to workers: all but the thread."""
        return {**self.__dict__, "watcher": None, "ended": None, "messages": None}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Count the runs and begin to watch them."""
        typed = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # 'variant=mine-${model.cell}'
        overrides = OverridesParser.create().parse_overrides(typed)  # type: ignore[arg-type]
        swept = [o for o in overrides if o.is_sweep_override() and o.is_discrete_sweep()]
        self.shared = {o.input_line or "" for o in overrides if not o.is_sweep_override()}
        trials = OmegaConf.select(config, "hydra.sweeper.n_trials")
        points = [[f"{o.get_key_element()}={one}" for one in o.sweep_string_iterator()] for o in swept]
        self.kinds = set() if trials else {o.get_key_element() for o in swept} - {"fold", "seed"}
        runs, once = ([], []) if trials else self._worked(list(itertools.product(*points)), first_seed(config.hydra))
        self.left = Counter({"": trials}) if trials else Counter(map(self._kind, runs))
        self.total = self.left.total()
        self.record = Path(config.paths.outputs).absolute() / f".sweep.{os.getpid()}.tmp"
        try:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            self.record.unlink(missing_ok=True)
            atexit.register(self.record.unlink, missing_ok=True)  # an interrupted or failed search has no end
        except OSError as error:
            raise SystemExit(f"error: {explain(error) or error}") from None
        self.quiet = not config.hydra.verbose
        if self.quiet:
            line = f"{self.total} runs; details go into the train.log of each run (hydra.verbose=ser shows them here)"
            get_console().print(line, highlight=False, soft_wrap=True)
            if once:
                names = ", ".join(one.removeprefix("model=").removeprefix("experiment=") for one in once) or "they"
                line = f"{names} run with seed {first_seed(config.hydra)} only: no seed changes the result"
                get_console().print(line, highlight=False, soft_wrap=True, markup=False)
        self.started, self.ended = time.time(), threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start the clock of this run, and keep its messages off the screen."""
        self.job_started = time.time()
        place = f"fold {config.fold}" if config.search_folds is None else f"folds {config.search_folds}"
        shared = name_parts(variant_name("", None, ",".join(self.shared)))  # as they stand in names
        name = ", ".join(short_setting(part) for part in name_parts(config.variant) if part not in shared)
        self.run = f"{name} {place} seed {config.seed}"
        if self.record is not None and self.quiet:
            for handler in logging.getLogger().handlers:  # those of conf/hydra/job_logging, made anew for each run
                handler.setLevel(logging.ERROR)
            self.messages = _Messages()
            logging.getLogger().addHandler(self.messages)
            logging.captureWarnings(True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record how this run ended."""
        if self.record is None:
            return
        value = None
        try:
            value = job_return.return_value
            reason = value.reason if isinstance(value, FailedRun) else None
        except Exception as error:  # of a trial of a search; Hydra raises it again
            reason = explain(error) or repr(error)
        if isinstance(value, LeftOutRun):
            return
        folder = Path(config.paths.run).absolute()
        found = folder / "metrics.json"
        entry = {"folder": str(folder), "run": self.run, "error": reason, "number": config.hydra.job.num,
                 "seconds": time.time() - self.job_started, "uar": None, "tested": config.test,
                 "skipped": found.is_file() and found.stat().st_mtime < self.job_started,
                 "kind": self._kind(config.hydra.overrides.task),
                 "warnings": list(self.messages.warnings) if self.messages else []}  # fmt: skip
        self.messages = None  # Hydra makes the handlers anew for the next run
        if reason is None:
            metrics = json.loads(found.read_text(encoding="utf-8")) if config.test and found.is_file() else {}
            entry["uar"] = metrics.get("test", {}).get("uar", value)
        try:
            append_line(self.record, json.dumps(entry))
        except SerError as error:  # a full disk: no line can be shown by way of the record
            log.error("%s: %s (%s)", self.run, reason or "finished", error)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the summary of each folder of runs, then the runs that failed."""
        if self.ended is not None and self.watcher is not None:
            self.ended.set()
            self.watcher.join()
            logging.captureWarnings(False)
        entries = sorted(self._entries(), key=lambda entry: int(entry["number"]))  # as started, not as ended
        if self.record is not None:
            self.record.unlink(missing_ok=True)
        done = list(dict.fromkeys(Path(entry["folder"]) for entry in entries if not entry["error"] and entry["tested"]))
        for folder in dict.fromkeys(run.parents[2] for run in done):
            try:
                _summarize(folder, [run for run in done if run.parents[2] == folder], self.baseline)
            except SerError as error:  # the runs themselves are fine
                log.error("no summary of %s: %s", folder, error)
        failed = [entry for entry in entries if entry["error"]]
        for entry in failed:
            log.error("not finished: %s (%s)", entry["folder"], entry["error"])
        if failed or len(entries) < self.total:
            raise SystemExit(f"error: {max(len(failed), self.total - len(entries))} of {self.total} runs failed; "
                             "the same command runs only those again.")  # fmt: skip

    def _entries(self) -> list[dict[str, Any]]:
        if self.record is None or not self.record.is_file():
            return []
        lines = self.record.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _watch(self) -> None:
        """Show what is new: warnings that no run before had, a line per run, and on a terminal the run in progress."""
        console, over = get_console(), False
        warned: set[str] = set()
        worked: dict[str, list[float]] = {}  # seconds of runs that were not finished before, by kind
        spent = 0.0  # seconds of all
        with console.status("") if console.is_terminal and self.quiet else nullcontext() as status:
            while not over:
                over = self.ended is None or self.ended.wait(_LOOK)
                for entry in self._entries()[self.shown :]:
                    self.shown += 1
                    for warning in entry["warnings"]:
                        if warning not in warned:
                            console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
                    warned |= set(entry["warnings"])
                    self.left[entry["kind"]] -= 1
                    spent += entry["seconds"]
                    if not (entry["skipped"] or entry["error"]):
                        worked.setdefault(entry["kind"], []).append(entry["seconds"])
                    line, at_once = self._line(entry), spent / (time.time() - self.started)
                    if worked and self.shown < self.total:
                        line += f"; about {_duration(seconds_left(worked, self.left) / at_once)} left"
                    console.print(line, style="bold", markup=False, highlight=False, soft_wrap=True)
                if status is not None:
                    running = f": {self.run}: {self.messages.latest}".rstrip(": ") if self.messages else ""
                    text = f"{self.shown} of {self.total} runs done{running}".splitlines()[0]
                    status.update(Text(text, overflow="ellipsis", no_wrap=True))

    def _line(self, entry: dict[str, Any]) -> str:
        """How a run ended."""
        result = f"failed: {entry['error']}" if entry["error"] else f"UAR {100 * entry['uar']:.1f}%"
        took = "finished already" if entry["skipped"] else _duration(entry["seconds"])
        return f"{self.shown} of {self.total}: {entry['run']}: {result} ({took})"

    def _worked(self, runs: Sequence[tuple[str, ...]], first: int | None) -> tuple[list[tuple[str, ...]], list[str]]:
        """The runs of a sweep that no job leaves out, and the kinds of which some are: no seed changes them."""
        seeded: dict[str, bool] = {}
        for run in runs if first is not None else ():
            if (kind := self._kind(run)) not in seeded:
                try:
                    seeded[kind] = depends_on_seed(compose_page([*self.shared, *run]))
                except SerError:  # the run itself will say it
                    seeded[kind] = True
        worked = [run for run in runs if seeded.get(self._kind(run), True) or f"seed={first}" in run]
        return worked, [kind for kind, matters in seeded.items() if not matters]

    def _kind(self, overrides: Iterable[str]) -> str:
        """What the runs of a sweep share that take equally long: the swept overrides but fold and seed."""
        return " ".join(sorted(one for one in overrides if one.partition("=")[0] in self.kinds))


def seconds_left(worked: Mapping[str, Sequence[float]], left: Mapping[str, int]) -> float:
    """Seconds of runs to come, one after the other: each the mean of its kind, or of all where its kind has none yet.

    Args:
        worked: seconds of finished runs by kind, at least one.
        left: number of runs to come of each kind.
    """
    usual = fmean(itertools.chain(*worked.values()))
    return sum(count * (fmean(worked[kind]) if kind in worked else usual) for kind, count in left.items())


def _summarize(folder: Path, runs: Sequence[Path], baseline: str | None) -> None:
    """Print and write the summary of all runs in ``outputs/<name>``, those of earlier sweeps too.

    Where these do not fit (other classes, settings), the summary has ``runs`` alone and is written into a folder beside
    the one that is there.
    """
    from ser.evaluation.report.render import show_summary, write_summary  # noqa: PLC0415  pandas loads only here
    from ser.evaluation.runs import load_runs, scan_runs  # noqa: PLC0415
    from ser.evaluation.summary import summarize  # noqa: PLC0415

    try:
        loaded, left_out = scan_runs(folder)
        summary = summarize(loaded, baseline, left_out)
        earlier = [run for run in loaded if run.folder not in runs]
        notes = [f"{len(earlier)} of {len(loaded)} runs are of earlier sweeps in {folder}."] if earlier else []
    except SerError as error:
        loaded, left_out, _ = load_runs(runs)
        if not loaded:
            raise SerError(f"none of its {len(runs)} runs can be read: {left_out[0]}") from error
        summary, earlier = summarize(loaded, baseline, left_out), []
        notes, folder = [f"Only the runs of this sweep: {error}"], folder / _ALONE
    command = "" if earlier else typed_command()
    summary = replace(summary, command=command, notes=[*summary.notes, *notes])
    show_summary(summary)
    write_summary(summary, folder)
    log.info("summary written to %s", folder)
    if folder.name != _ALONE:  # the name of a manifest's folder has a hash that nobody can guess
        near = folder.is_relative_to(Path.cwd())
        log.info("a page of it: ser report %s", shlex.quote(str(folder.relative_to(Path.cwd()) if near else folder)))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
