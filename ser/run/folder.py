"""The folder of one run: what is written into it, in which order, and by one process at a time."""

import logging
import logging.handlers
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from ser.callbacks import WholeFileCheckpointIO
from ser.config.identity import first_difference, read_identity
from ser.errors import SerError
from ser.evaluation.leakage import write_leakage
from ser.evaluation.predictions import read_embeddings, write_embeddings, write_predictions
from ser.evaluation.runs import UntestedRunError, load_run
from ser.io import leftovers, read_json, write_errors, write_json
from ser.run.results import Part, score_parts

log = logging.getLogger(__name__)

RESULTS = (
    "run.json", "split.json", "metrics.json", "history.csv", "predictions.csv", "embeddings.npy",
    "train_predictions.csv", "train_embeddings.npy", "train_statistics.npy", "leakage.json", "report.html",
    "train.log", "checkpoints", "tensorboard", "csv", "wandb", "figures", "figures.partial", "attention.json",
    "enrolment.csv", "enrolment.png",
)  # fmt: skip


class RunFolder:
    """``outputs/<name>/<variant>/fold<k>/seed<s>``; ``metrics.json`` comes last and marks a finished run.

    A run that replaces a finished one works in a folder beside it, which takes its place at the very end: what is
    finished stays whole, however many attempts fail.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = self.work = Path(path).absolute()  # work: where this run writes
        self.started = time.time()
        self._attempt, self._replaced, self._lock = (
            self.path.with_name(f".{self.path.name}.{kind}") for kind in ("attempt", "replaced", "lock")
        )
        self._log: logging.handlers.MemoryHandler | None = None

    @property
    def best_checkpoint(self) -> Path:
        """The epoch that is kept: the best by validation UAR, or the last."""
        return self.work / "checkpoints" / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        """The last complete epoch, from which an interrupted run goes on."""
        return self.work / "checkpoints" / "last.ckpt"

    def read_metrics(self) -> dict[str, Any] | None:
        """The figures of a finished run; None where there are none, or its files are damaged."""
        metrics = read_json(self.path / "metrics.json")
        if metrics is None or not {"validation", "cross_validation"} & metrics.keys():
            return None
        try:
            run = load_run(self.path)
            read_embeddings(self.path / "embeddings.npy", len(run.predictions))
            _ = run.history
        except UntestedRunError:
            return metrics
        except SerError as error:
            log.warning("not finished, since it cannot be read: %s", error)
            return None
        return metrics

    def read_best(self) -> dict[str, Any]:
        """The content of the best checkpoint.

        Raises:
            SerError: there is none, or it is not the file that was written.
        """
        if not self.best_checkpoint.exists():
            raise SerError(
                f"no epoch was kept as {self.best_checkpoint}, expected one; correct the settings of "
                "callbacks.checkpoint, trainer.check_val_every_n_epoch or trainer.limit_train_batches."
            )
        return WholeFileCheckpointIO().load_checkpoint(self.best_checkpoint)

    def choose(self, identity: Mapping[str, Any], *, resume: bool, test: bool) -> dict[str, Any] | None:
        """The metrics if this run is already finished, else None; then ``work`` is the folder to run in.

        With ``resume`` what is finished is skipped, and an interrupted run goes on where it stopped. With ``test`` a
        run without a test result is not finished.

        Raises:
            SerError: with ``resume``, the folder holds a run of another identity.
        """
        if is_first() and (self._replaced.exists() or (self._attempt / "metrics.json").exists()):
            with self.hold():
                self.replace_earlier()  # a process was killed when all but this was done
        metrics = self.read_metrics()
        if metrics is None:
            if resume and self.last_checkpoint.is_file():
                self._refuse_other(self.path, identity, "an interrupted run")
                WholeFileCheckpointIO().load_checkpoint(self.last_checkpoint)
            return None
        if not resume:
            self.work = self._attempt
            with suppress(SerError):  # an unreadable identity cannot be compared
                if (difference := first_difference(read_identity(self.path), identity)) is not None:
                    log.warning("this run will replace the finished one in %s, which has %s", self.path, difference)
            return None
        if first_difference(read_identity(self.path), identity) is None:
            return metrics if "test" in metrics or not test else None
        self.work = self._attempt
        if not self.last_checkpoint.is_file():
            self._refuse_other(self.path, identity, "a finished run")
        self._refuse_other(self._attempt, identity, "an interrupted run")
        WholeFileCheckpointIO().load_checkpoint(self.last_checkpoint)
        return None

    def start(self, record: Mapping[str, Any], split: Mapping[str, Any], *, resume: bool) -> Path | None:
        """Write ``run.json`` and ``split.json``; return the checkpoint to go on from, or None to start anew.

        Only the process that holds the folder may call it.

        Raises:
            SerError: another process has finished the run meanwhile.
        """
        checkpoint = self.last_checkpoint if resume and self.last_checkpoint.is_file() else None
        if not is_first():  # the first process has done the rest, and may have begun to write
            return checkpoint
        if self.work == self.path and checkpoint is None and self.read_metrics() is not None:
            raise SerError(f"{self.path} was finished by another process meanwhile; run the same command again.")
        with write_errors(self.work):
            if checkpoint is None and self.work == self._attempt:
                shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True, exist_ok=True)
            for path in leftovers(self.work):
                path.unlink(missing_ok=True)
            for name in RESULTS if checkpoint is None else ():
                if (path := self.work / name).is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        if checkpoint is None:
            write_json(self.work / "run.json", record)
        write_json(self.work / "split.json", split)
        if self._log is not None:
            file = logging.FileHandler(self.work / "train.log", encoding="utf-8")
            file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
            self._log.setTarget(file)
            self._log.capacity = 1  # from now on each message is written at once
        return checkpoint

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let no other process use the folder inside the block.

        Raises:
            SerError: another process holds it, or its parent cannot be written.
        """
        if not is_first():
            yield
            return
        lock = FileLock(self._lock)
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            self._lock.write_text(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%H:%M:%S')}")
        except Timeout:
            holder = self._lock.read_text(encoding="utf-8").strip() or "another process"
            raise SerError(
                f"{self.path} is in use by {holder}; wait for it, or give this run a folder of its own by variant=."
            ) from None
        except (OSError, NotImplementedError) as error:
            lock.release()
            raise SerError(
                f"could not write in {self.path.parent} ({getattr(error, 'strerror', None) or error}), expected a "
                "writable folder; choose another by paths.outputs=."
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Copy all log messages inside the block into ``train.log``: the first ones once ``start`` has made it."""
        if not is_first():
            yield
            return
        self._log = handler = logging.handlers.MemoryHandler(100_000, logging.CRITICAL + 1, flushOnClose=False)
        logging.getLogger().addHandler(handler)
        try:
            yield
        except Exception:
            log.debug("the run stopped here", exc_info=True)  # the screen shows it in one line
            raise
        finally:
            logging.getLogger().removeHandler(handler)
            if handler.target is not None:
                handler.flush()
                handler.target.close()
            handler.close()
            self._log = None

    def finish(self, parts: Mapping[str, Part], facts: Mapping[str, Any], probe: bool = False) -> dict[str, Any]:
        """Write tables and features, then ``metrics.json``, and return its content.

        With ``probe`` the speaker leakage is measured before, since metrics.json marks a finished run.
        """
        for part, prefix in (("test", ""), ("train", "train_")):
            if part not in parts:
                continue  # a search leaves the test part closed
            write_predictions(self.work / f"{prefix}predictions.csv", parts[part].table)
            write_embeddings(self.work / f"{prefix}embeddings.npy", parts[part].pooled)
            if part == "train" and (statistics := parts[part].statistics) is not None:
                write_embeddings(self.work / "train_statistics.npy", statistics)
        if probe and "test" in parts:
            try:
                write_leakage(self.work, facts.get("best_epoch"))
            except SerError as error:
                log.warning("the run goes without the speaker probe: %s", error)
        metrics = score_parts(parts, facts, self.started)
        write_json(self.work / "metrics.json", metrics)
        return metrics

    def replace_earlier(self) -> None:
        """Put a finished attempt in the place of the earlier run; repeatable after a kill at any point."""
        with write_errors(self.path):
            if (self._attempt / "metrics.json").exists():
                if self.path.exists():
                    shutil.rmtree(self._replaced, ignore_errors=True)
                    self.path.rename(self._replaced)
                self._attempt.rename(self.path)
            elif self._replaced.exists() and not self.path.exists():
                self._replaced.rename(self.path)
            for kept in self._replaced.iterdir() if self._replaced.exists() else ():
                if kept.name not in RESULTS and not (self.path / kept.name).exists():
                    kept.rename(self.path / kept.name)  # exports and notes of the user
            shutil.rmtree(self._replaced, ignore_errors=True)
        self.work = self.path

    def _refuse_other(self, folder: Path, identity: Mapping[str, Any], what: str) -> None:
        if (difference := first_difference(read_identity(folder), identity)) is not None:
            raise SerError(
                f"{folder} holds {what} of other settings: {difference}; use these settings again, give this run a "
                "folder of its own by variant=, or replace what is there by resume=false."
            )


def is_first() -> bool:
    """Whether this is the first of the processes that train together."""
    return getattr(rank_zero_only, "rank", 0) == 0
