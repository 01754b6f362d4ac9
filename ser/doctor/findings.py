"""Findings of ``ser doctor``: each with its remedy, and the table of all."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Column, Table

from ser.errors import explain

Status = Literal["ok", "warning", "problem"]
_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    check: str  # what was examined
    status: Status  # ok, warning (worth knowing) or problem (training or extraction would fail)
    text: str  # what was found
    remedy: str = ""  # what to do; empty where nothing is to be done


Check = Callable[[], Iterable[Finding]]


def run_checks(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Findings of all checks in order; an exception in one is a problem and does not stop the others."""
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Finding(name, "problem", explain(error) or f"{type(error).__name__}: {error}")


def show(findings: Sequence[Finding]) -> int:
    """Print findings as a table that fits 80 columns; 1 where there is a problem, else 0."""
    table = Table(
        Column("check", no_wrap=True), Column("", no_wrap=True), Column("found", overflow="fold"), box=SIMPLE_HEAD
    )
    for finding in findings:
        text = escape(finding.text) + (f"\n[bold]->[/] {escape(finding.remedy)}" if finding.remedy else "")
        table.add_row(finding.check, f"[{_STYLES[finding.status]}]{finding.status}[/]", text)
    counts = Counter(finding.status for finding in findings)
    console = get_console()
    console.print(table)
    console.print(f"ok: {counts['ok']}, warnings: {counts['warning']}, problems: {counts['problem']}", highlight=False)
    return int(counts["problem"] > 0)
