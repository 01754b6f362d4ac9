"""What was recognised in one browser window, kept until it closes."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd

MOST_ENTRIES = 200
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Entry:
    """One answer.

    Attributes:
        number: from 1, in the order of the answers.
        when: local time.
        kind: live, file or folder.
        name: of the file or stretch of listening.
        seconds: its length.
        probabilities: of every emotion, in class order; empty where there was no speech.
        model: name of the model.
        clip: what can be played back; None without.
    """

    number: int
    when: datetime
    kind: str
    name: str
    seconds: float
    probabilities: dict[str, float]
    model: str
    clip: Path | None = None

    @property
    def emotion(self) -> str | None:
        """The most probable emotion; None means no speech."""
        return max(self.probabilities, key=self.probabilities.__getitem__) if self.probabilities else None

    @property
    def confidence(self) -> float | None:
        """Its probability."""
        return max(self.probabilities.values()) if self.probabilities else None


@dataclass(frozen=True)
class Filter:
    """Which entries are shown; None and an empty string let everything pass.

    Attributes:
        emotion: of the entry.
        kind: live, file or folder.
        words: part of the name, in any case.
    """

    emotion: str | None = None
    kind: str | None = None
    words: str = ""

    def passes(self, entry: Entry) -> bool:
        """Whether an entry is shown."""
        return (
            (self.emotion is None or entry.emotion == self.emotion)
            and (self.kind is None or entry.kind == self.kind)
            and self.words.strip().lower() in entry.name.lower()
        )


class History:
    """The newest entries; an older one goes together with its clip.

    Args:
        most: entries kept.
    """

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self.most, self.filter = most, Filter()
        self._entries: deque[Entry] = deque()
        self._count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self,
        kind: str,
        name: str,
        seconds: float,
        probabilities: dict[str, float],
        model: str,
        clip: Path | None = None,
    ) -> Entry:
        """Append an entry of now, whose clip from here on belongs to the history."""
        self._count += 1
        entry = Entry(self._count, datetime.now().astimezone(), kind, name, seconds, probabilities, model, clip)
        self._entries.append(entry)
        while len(self._entries) > self.most:
            _discard(self._entries.popleft())
        return entry

    def clear(self) -> None:
        """Forget everything and delete the clips."""
        while self._entries:
            _discard(self._entries.popleft())

    def shown(self) -> list[Entry]:
        """Entries that pass the filter, newest first."""
        return [entry for entry in reversed(self._entries.copy()) if self.filter.passes(entry)]

    def find(self, number: int) -> Entry | None:
        """The entry of that number, if it is still kept."""
        return next((entry for entry in self._entries.copy() if entry.number == number), None)

    def emotions(self) -> list[str]:
        """Emotions that occur, sorted."""
        return sorted({entry.emotion for entry in self._entries.copy() if entry.emotion is not None})


def entry_table(entries: Sequence[Entry]) -> pd.DataFrame:
    """One row an entry: number, time, source, name, seconds, predicted, confidence, model, ``p_<emotion>``.

    Classes that an entry's model does not have stay empty.
    """
    rows = [
        {
            "number": entry.number,
            "time": entry.when.isoformat(timespec="seconds"),
            "source": entry.kind,
            "name": entry.name,
            "seconds": round(entry.seconds, 3),
            "predicted": entry.emotion,
            "confidence": entry.confidence,
            "model": entry.model,
            **{f"p_{name}": value for name, value in entry.probabilities.items()},
        }
        for entry in entries
    ]
    columns = ["number", "time", "source", "name", "seconds", "predicted", "confidence", "model"]
    classes = dict.fromkeys(f"p_{name}" for entry in entries for name in entry.probabilities)
    return pd.DataFrame(rows, columns=[*columns, *classes])


def to_csv(table: pd.DataFrame) -> str:
    """A table as CSV in which no text can act as a spreadsheet's formula."""
    return table.map(
        lambda value: f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value
    ).to_csv(index=False)


def to_json(table: pd.DataFrame) -> str:
    """A table as JSON records; missing values are null."""
    records = json.loads(table.to_json(orient="records", double_precision=15))
    return json.dumps(records, indent=2, ensure_ascii=False) + "\n"


def _discard(entry: Entry) -> None:
    if entry.clip is not None:
        entry.clip.unlink(missing_ok=True)
