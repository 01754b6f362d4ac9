"""What belongs to one browser window, apart from every other one."""

import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ser.demo.history import History
from ser.demo.live import LiveSound
from ser.demo.models import Model
from ser.demo.recordings import Analysis
from ser.inference.speech_gate import SpeechGate

log = logging.getLogger(__name__)

MOST_SESSIONS = 50
IDLE_SECONDS = 2 * 3600.0


@dataclass
class Session:
    """One browser window.

    Attributes:
        folder: its clips; removed when it closes.
        model: name of the chosen model.
        language: key of ser.demo.texts.LANGUAGES.
        token: what its browser shows to be served; cannot be guessed.
        history: its answers.
        live: its microphone; None while it is closed.
        listened: the stretch of listening that is shown, also after its end.
        analysis: of the file tab.
        table: of the folder tab, with a column of reasons.
        table_model: name of the model that made it.
        used: clock of its last request.
    """

    folder: Path
    model: str
    language: str = "en"
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    history: History = field(default_factory=History)
    live: LiveSound | None = None
    listened: LiveSound | None = None
    analysis: Analysis | None = None
    table: pd.DataFrame | None = None
    table_model: str = ""
    used: float = 0.0
    turn: threading.RLock = field(default_factory=threading.RLock)

    def hear(self, model: Model, gate: SpeechGate, sample_rate: int) -> LiveSound:
        """The open microphone; a new one after a change of model or rate."""
        with self.turn:
            if self.live is None or self.live.model is not model or self.live.sample_rate != sample_rate:
                self.stop()
                self.live = self.listened = LiveSound(model, gate, sample_rate)
            return self.live

    def stop(self) -> None:
        """Close the microphone and put what was heard into the history."""
        with self.turn:
            live, self.live = self.live, None
            if live is None:
                return
            _end(live)
            if live.stream.seconds >= live.stream.window / live.sample_rate:
                clip = live.save_clip(self.folder / f"{secrets.token_hex(8)}.wav")
                started = time.strftime("%H:%M:%S", time.localtime(time.time() - live.stream.seconds))
                self.history.add("live", started, live.stream.seconds, live.mean(), live.model.name, clip)

    def keep(self, path: Path) -> Path | None:
        """The session's own copy of an uploaded file (without using disk, where links are possible)."""
        own = self.folder / f"{secrets.token_hex(8)}{path.suffix}"
        try:
            os.link(path, own)
        except OSError:
            try:
                shutil.copyfile(path, own)
            except OSError:
                return None  # the disk is full: no play back, all else works
        return own

    def close(self) -> None:
        """Close the microphone and delete everything."""
        with self.turn:
            live, self.live = self.live, None
            if live is not None:
                _end(live)
            self.history.clear()
            shutil.rmtree(self.folder, ignore_errors=True)


def _end(live: LiveSound) -> None:
    """Stop it; a defect that ended its thread is told to whoever runs the server, and the page goes on."""
    try:
        live.stop()
    except Exception:
        log.exception("the recognition of a microphone ended early")


class Sessions:
    """Open browser windows by their name in Gradio; old ones make room.

    Args:
        folder: where each gets a folder.
        model: that each begins with.
        most: windows at once.
        idle: seconds without a request after which one may be closed.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        most: int = MOST_SESSIONS,
        idle: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.model, self.most, self.idle = folder, model, most, idle
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._turn = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def of(self, name: str) -> Session:
        """The session of that name, opened where it is not."""
        with self._turn:
            closing = [] if name in self._open else self._make_room()
            if name not in self._open:
                folder = self.folder / secrets.token_hex(8)
                folder.mkdir(parents=True)
                self._open[name] = Session(folder, self.model)
            session = self._open[name]
            session.used = self._clock()
        for old in closing:
            old.close()
        return session

    def by_token(self, token: str) -> Session | None:
        """The session whose browser shows this token."""
        with self._turn:
            found = [session for session in self._open.values() if secrets.compare_digest(session.token, token)]
            for session in found:
                session.used = self._clock()
            return found[0] if found else None

    def close(self, name: str) -> None:
        """Close a session; an unknown name is no matter."""
        with self._turn:
            session = self._open.pop(name, None)
        if session is not None:
            session.close()

    def close_all(self) -> None:
        """Close every session."""
        for name in list(self._open):
            self.close(name)

    def _make_room(self) -> list[Session]:
        """Take out idle sessions, and the longest unused one where there are too many."""
        now = self._clock()
        leaving = [name for name, session in self._open.items() if now - session.used > self.idle]
        rest = sorted((name for name in self._open if name not in leaving), key=lambda name: self._open[name].used)
        leaving += rest[: max(0, len(rest) - self.most + 1)]
        return [self._open.pop(name) for name in leaving]
