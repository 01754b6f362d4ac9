"""Processes of this machine that extract side by side: how they start, are told to stop, and end."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import SpawnProcess

import torch

from ser.errors import TERMINATED, SerError
from ser.extraction.sharing import LOOK, Filling

log = logging.getLogger(__name__)


def fill_together(filling: Filling, processes: int) -> None:
    """Fill with that many processes of this machine, which this one watches, and add up what they did.

    What a process that died has left undone is the task of the caller.

    Raises:
        SerError: what stopped one of them.
    """
    context = multiprocessing.get_context("spawn")  # a forked copy of a process with threads may hang
    part = Filling(filling.folder, filling.frames, filling.portions)
    workers: dict[Connection, SpawnProcess] = {}
    waiting: set[Connection] = set()
    try:
        for _ in range(processes):
            mine, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(max(1, usable_cores() // processes), theirs))
            with _without_ctrl_c():
                worker.start()
            theirs.close()
            workers[mine] = worker
        waiting |= set(workers)
        for mine in workers:
            with suppress(OSError):  # it died
                mine.send(part)
        while waiting:
            ready = wait_for(list(waiting), timeout=LOOK)
            for answer in [one for one in waiting if one in ready]:
                waiting.remove(answer)
                filling.add(answer, workers[answer])
            filling.folder.refresh()
            filling.show()
    finally:
        for answer, worker in workers.items():
            answer.close()
            if answer in waiting:  # it still works; what it has finished it writes
                worker.terminate()
        for worker in workers.values():
            worker.join()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that start inside the block ignore Ctrl-C, which a terminal sends to all; their parent ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(threads: int, asked_by: Connection) -> None:
    """Body of a worker process: it receives a Filling, runs it, and sends back the counts."""
    signal.signal(signal.SIGTERM, _end)
    torch.set_num_threads(threads)
    try:
        filling: Filling = asked_by.recv()
    except EOFError:  # which has ended
        return
    filling.asked_by, problem = asked_by, ""
    try:
        filling.run(wait=False)
    except SerError as error:
        problem = str(error)
    except SystemExit:
        os._exit(TERMINATED)
    with suppress(OSError):  # the parent has closed the pipe
        asked_by.send((filling.extracted, filling.folder.failures, filling.folder.suspects, problem))
    os._exit(0)  # everything is written; the usual end of a process takes seconds after torch has computed


def _end(*_: object) -> None:
    """Handle SIGTERM by an exception, so that finished utterances are written first."""
    raise SystemExit(TERMINATED)


@contextmanager
def interruptible() -> Iterator[None]:
    """Log on SIGTERM and Ctrl-C that finished work is kept; nothing is done where SIGTERM has a handler already."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ended:
        how = "interrupted" if isinstance(ended, KeyboardInterrupt) else "ended by SIGTERM"
        log.warning("extraction %s; what is finished is kept, and the same command goes on", how)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def usable_cores() -> int:
    """Cores that this process may use; a cluster often gives it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
