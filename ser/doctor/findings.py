"""What a check finds, and how checks are run so that one never stops the others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ser.sentences import sentence

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        check: what was looked at.
        status: ok, warning (something is worth knowing) or problem (training or extraction would fail).
        text: what was found.
        remedy: what to do; empty where nothing is to be done.
    """

    check: str
    status: Status
    text: str
    remedy: str = ""


Check = Callable[[], Iterable[Finding]]


def run_checks(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Findings of all checks in order; what a check raises is its own problem and nobody else's."""
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Finding(name, "problem", sentence(error) or f"{type(error).__name__}: {error}")


def size(count: float) -> str:
    """A number of bytes for people: ``1.9 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
