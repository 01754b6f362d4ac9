"""What belongs to one browser window, apart from every other one."""

import logging
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ser.demo import text
from ser.demo.live import LiveSettings, LiveSound
from ser.demo.recognition import Analysis, Model
from ser.errors import SerError
from ser.inference.vad import SpeechGate

log = logging.getLogger(__name__)


class History:
    """The newest ``most`` answers with clips of at most ``most_bytes``; an older one goes together with its clip."""

    def __init__(self, most: int = 200, most_bytes: float = 300e6) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._rows: deque[tuple[dict[str, Any], Path | None, int]] = deque()  # row of the table, clip, its bytes
        self._count = 0
        self._turn = threading.RLock()

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        source: str,
        name: str,
        seconds: float,
        probabilities: dict[str, float],
        model: str,
        clip: Path | None = None,
    ) -> None:
        """Append an answer of now, from live, file or folder; its clip from here on belongs to the history.

        Without speech it has no probabilities.
        """
        with self._turn:
            self._count += 1
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            row = {"number": self._count, "time": now, "source": source, "name": name}
            row |= {"predicted": max(probabilities, key=probabilities.__getitem__) if probabilities else None}
            row |= {"confidence": max(probabilities.values(), default=None), "seconds": seconds, "model": model}
            row |= {f"p_{emotion}": value for emotion, value in probabilities.items()}
            self._rows.append((row, clip, clip.stat().st_size if clip else 0))
            while len(self) > self.most or (len(self) > 1 and sum(row[2] for row in self._rows) > self.most_bytes):
                self._drop()

    def clear(self) -> None:
        """Forget everything and delete the clips."""
        with self._turn:
            while self._rows:
                self._drop()

    def find(self, number: int) -> tuple[str, Path] | None:
        """Name and clip of the answer of that number, if they are still kept."""
        with self._turn:
            return next(
                (((row["name"], clip)) for row, clip, _ in self._rows if clip and row["number"] == number), None
            )

    def table(self) -> pd.DataFrame:
        """One row per answer, newest first: number, time, source, name, predicted, confidence, seconds, model, p_*.

        Classes that an answer's model does not have stay empty.
        """
        with self._turn:
            return pd.DataFrame([row for row, _, _ in reversed(self._rows)])

    def _drop(self) -> None:
        _, clip, _ = self._rows.popleft()
        if clip is not None:
            clip.unlink(missing_ok=True)


@dataclass
class Session:
    """One browser window."""

    folder: Path  # its clips; removed when it closes
    model: str  # name of the chosen model
    client: str  # address of its computer
    language: str = "en"  # key of ser.demo.LANGUAGES
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))  # the browser sends it with each request
    history: History = field(default_factory=History)
    settings: LiveSettings = field(default_factory=LiveSettings)
    live: LiveSound | None = None  # its microphone; None while it is closed
    listened: LiveSound | None = None  # what is shown of the microphone, also after its end
    analysis: Analysis | None = None  # of the file tab
    table: pd.DataFrame | None = None  # of the folder tab
    used: float = 0.0  # clock of its last request
    turn: threading.RLock = field(default_factory=threading.RLock)

    def hear(self, model: Model, gate: SpeechGate, sample_rate: int) -> LiveSound:
        """The open microphone; a new one after a change of model, rate or settings."""
        with self.turn:
            live = self.live
            if live is not None:
                if (live.model, live.sample_rate, live.settings) == (model, sample_rate, self.settings):
                    return live
                self.stop()
            self.live = self.listened = live = LiveSound(model, gate, sample_rate, self.settings, self.folder)
            return live

    def stop(self) -> None:
        """Close the microphone and put what was heard into the history."""
        with self.turn:
            live = self._end()
            if live is not None and live.stream.seconds >= live.settings.window:
                clip = live.save_clip(self.folder / f"{secrets.token_hex(8)}.wav")
                started = time.strftime("%H:%M:%S", time.localtime(time.time() - live.stream.seconds))
                self.history.add("live", started, live.stream.seconds, live.mean(), live.model.name, clip)

    def keep(self, path: Path) -> Path | None:
        """The session's own copy of an uploaded file; None where the disk is full: no playback, all else works."""
        own = self.folder / f"{secrets.token_hex(8)}{path.suffix}"
        try:
            shutil.copyfile(path, own)
        except OSError:
            own.unlink(missing_ok=True)
            return None
        return own

    def close(self) -> None:
        """Close the microphone and delete everything."""
        with self.turn:
            self._end()
            self.history.clear()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> LiveSound | None:
        """Close the microphone and return what was open; a defect that ended its thread before is only logged."""
        live, self.live = self.live, None
        try:
            if live is not None:
                live.stop()
        except Exception:
            log.exception("the recognition of a microphone ended early")
        return live


class Sessions:
    """Open browser windows by their name in Gradio.

    Names come from the browser and may be invented, so a new one never ends another: where there are too many, it is
    refused. Only windows that were idle for long make room.

    ``most`` may be open at once, ``per_client`` of one computer; ``idle`` is in seconds.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        most: int = 200,
        per_client: int = 60,
        idle: float = 2 * 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.model, self.most, self.per_client, self.idle = folder, model, most, per_client, idle
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._turn = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def of(self, name: str, client: str = "", language: str = "en") -> Session:
        """The session of that name, opened where it is not.

        Raises:
            SerError: too many are open.
        """
        now = self._clock()
        with self._turn:
            leaving = [key for key, session in self._open.items() if key != name and now - session.used > self.idle]
            idle = [self._open.pop(key) for key in leaving]
            own = sum(session.client == client for session in self._open.values())
            full = name not in self._open and (own >= self.per_client or len(self._open) >= self.most)
            if not full:
                if name not in self._open:
                    folder = self.folder / secrets.token_hex(8)
                    folder.mkdir(parents=True)
                    self._open[name] = Session(folder, self.model, client, language)
                self._open[name].used = now
                found = self._open[name]
        for session in idle:
            session.close()
        if full:
            raise SerError(text(language, "too_many_windows"))
        return found

    def by_token(self, token: str) -> Session | None:
        """The session whose browser shows this token."""
        shown = token.encode()
        with self._turn:
            for session in self._open.values():
                if secrets.compare_digest(session.token.encode(), shown):
                    session.used = self._clock()
                    return session
        return None

    def close(self, name: str) -> None:
        """Close a session, if there is one of that name."""
        with self._turn:
            session = self._open.pop(name, None)
        if session is not None:
            session.close()

    def close_all(self) -> None:
        """Close every session."""
        for name in list(self._open):
            self.close(name)
