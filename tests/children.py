"""Commands in forked children of the test process, which have everything imported already, and what can befall them.

A child may be killed at a chosen change of the file system, so that the same seed kills at the same place on any
machine, however fast.
"""

import logging
import os
import resource
import runpy
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import ser.io
from ser import cli, training  # noqa: F401  imported once here, not in each child
from ser.evaluation.report import render  # noqa: F401

ROOT = Path(ser.io.__file__).resolve().parent.parent
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATIENCE = 180  # seconds until a command counts as hanging
TINY = [
    "model.hidden_size=8",
    "trainer.max_epochs=3",
    "logger=csv",
    "callbacks.progress_bar=null",
    "batches.batch_size=8",
    "figures=false",
]


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: the signal), what it printed, and its changes to the file system."""

    code: int
    shown: str
    changes: list[str]
    peak_mb: float


@dataclass(frozen=True)
class Kill:
    """SIGKILL so many milliseconds after the change of that number (from 0)."""

    change: int
    milliseconds: float = 0.0


@dataclass(frozen=True)
class Child:
    """A child at work: its process id, and the files of what it prints and changes."""

    pid: int
    shown: Path
    changes: Path

    @property
    def running(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, patience=PATIENCE):
        """How it ended, within so many seconds."""
        status, usage = _wait(self.pid, patience)
        changes = self.changes.read_text().splitlines()
        shown = self.shown.read_text(errors="replace")
        return Ended(os.waitstatus_to_exitcode(status), shown, changes, usage.ru_maxrss / 1e3)


def command(folder, *words, kill=None, cwd=None, **environment):
    """Run ``train.py ...``, ``sweep.py ...`` or ``ser ...`` in a child.

    Args:
        folder: changes below it are counted; logs go beside it.
        words: as on a command line, the program first.
        kill: when to kill it.
        cwd: where to run it.
        environment: variables to set.
    """
    return begin(folder, lambda: run_words([str(word) for word in words], cwd, environment), kill=kill).wait()


def isolated(folder, work, memory_mb=None, patience=PATIENCE, kill=None):
    """Call ``work`` in a child, whose exit code it returns; the arguments are those of ``begin``."""
    return begin(folder, work, memory_mb, kill).wait(patience)


def begin(folder, work, memory_mb=None, kill=None):
    """A child that calls ``work``, which returns its exit code.

    Args:
        folder: changes below it are counted; logs go beside it.
        work: what to do.
        memory_mb: address space the child may add to what it starts with.
        kill: when to kill it.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shown, changes = (folder.with_name(f"{folder.name}.{kind}") for kind in ("shown", "changes"))
    for path in (shown, changes):
        path.write_text("")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            _redirect(shown)
            if memory_mb is not None:
                _limit(memory_mb)
            _watch(folder, changes, kill)
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return Child(child, shown, changes)


def run_words(words, cwd=None, environment=()):
    """Carry out a command in this process; its exit code."""
    program, *rest = words
    os.chdir(cwd or Path.cwd())
    os.environ.update(environment)
    sys.orig_argv = [sys.executable, *words]
    if program == "ser":
        return cli.main(rest)
    sys.argv = [program, *rest]
    logging.getLogger().handlers.clear()
    try:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)  # as Python does
            return 1
        return ended.code or 0
    return 0


def _redirect(path):
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(handle, number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)


def _limit(memory_mb):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    allowed = pages * os.sysconf("SC_PAGE_SIZE") + memory_mb * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def _watch(folder, changes, kill):
    """Note every change below ``folder`` before it happens, and die at the chosen one."""
    log = os.open(changes, os.O_WRONLY | os.O_APPEND)
    place, count = str(folder), [0]

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str | bytes) or not (flags or 0) & WRITING:
                return
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            path = arguments[1] if event == "os.rename" else arguments[0]
        else:
            return
        path = os.fsdecode(path)
        if not path.startswith(place):
            return
        os.write(log, f"{event} {path.removeprefix(place)}\n".encode())
        if kill is not None and count[0] == kill.change:
            if kill.milliseconds == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            timer = threading.Timer(kill.milliseconds / 1e3, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        count[0] += 1

    sys.addaudithook(hook)


def _wait(child, patience):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"no end after {patience} s")
