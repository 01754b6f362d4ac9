"""A table of results and the text of its cells: scores in percent with one decimal, differences in points."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from ser.config import name_parts, short_setting
from ser.evaluation.bootstrap import TOO_FEW

UNKNOWN = "–"


@dataclass(frozen=True)
class Table:
    """One table of results; every cell is text, the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    @property
    def explained(self) -> str:
        """The caption, with the meaning of ``[–]`` where a cell has it."""
        missing = any(f"[{UNKNOWN}]" in cell for row in self.rows for cell in row)
        return f"{self.caption} [{UNKNOWN}]: {TOO_FEW}." if missing else self.caption

    def is_numeric(self, column: int) -> bool:
        """Whether every cell of the column holds figures, so that they are aligned on the right; names never do."""
        return column > 0 and all(is_number(row[column]) for row in self.rows)


def percent(value: Any, signed: bool = False) -> str:
    """A fraction as ``83.7``, signed as ``+2.1``."""
    if pd.isna(value):
        return UNKNOWN
    rounded = round(100 * value, 1) + 0.0  # no -0.0
    return f"{rounded:+.1f}" if signed else f"{rounded:.1f}"


def interval(low: Any, high: Any, signed: bool = False) -> str:
    """``[79.9, 86.8]``, or that there are too few speakers for it."""
    return f"[{percent(low, signed)}, {percent(high, signed)}]" if pd.notna(low) else "too few speakers for an interval"


def bounds(value: Any, low: Any, high: Any, signed: bool = False) -> str:
    """``83.7 [79.9, 86.8]``; the table explains the dash in ``83.7 [–]``."""
    if pd.isna(value):
        return UNKNOWN
    return f"{percent(value, signed)} {interval(low, high, signed) if pd.notna(low) else f'[{UNKNOWN}]'}"


def measured(value: Any, low: Any, high: Any) -> str:
    """``83.7 [79.9, 86.8]``, or the figure alone where it has no interval."""
    return bounds(value, low, high) if pd.notna(low) else percent(value)


def bounds_of(row: Mapping[str, Any], key: str) -> str:
    """``bounds`` of the entries ``key``, ``key_low`` and ``key_high``."""
    return bounds(row.get(key), row.get(f"{key}_low"), row.get(f"{key}_high"))


def spread(mean: Any, std: Any) -> str:
    """``83.7 ± 2.1``, or the mean alone where there is no standard deviation."""
    return percent(mean) if pd.isna(mean) or pd.isna(std) else f"{percent(mean)} ± {percent(std)}"


def effect(value: Any) -> str:
    """``+0.25 small``: an effect size d with Cohen's (1988) word for its size."""
    if pd.isna(value):
        return UNKNOWN
    words = ((0.2, "negligible"), (0.5, "small"), (0.8, "medium"), (float("inf"), "large"))
    return f"{value:+.2f} {next(word for limit, word in words if abs(value) < limit)}"


def p_text(value: Any) -> str:
    """``0.031`` or ``<.001``."""
    if pd.isna(value):
        return UNKNOWN
    return "<.001" if value < 0.001 else f"{value:.3f}"


def number(value: Any, digits: int = 0) -> str:
    """A count or another quantity with thousands separators."""
    return UNKNOWN if value is None or pd.isna(value) else f"{value:,.{digits}f}"


def listed(names: Iterable[Any], most: int = 30) -> str:
    """Names separated by commas; of many, the first ones and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or UNKNOWN


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers separated by commas, neighbours as ``3-6``: short, for four emotions beside it in 80 columns."""
    groups = groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])  # the same for neighbours
    runs = [[value for _, value in group] for _, group in groups]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs) or UNKNOWN


def short_names(variants: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Each variant without the settings that all of them share, and those settings.

    Long values are cut, unless two names would be the same then.
    """
    parts = {name: name_parts(name) for name in variants}
    settings = [found[1:] for found in parts.values()]
    shared = [setting for setting in settings[0] if all(setting in found for found in settings)] if settings else []
    kept = {name: [found[0], *(one for one in found[1:] if one not in shared)] for name, found in parts.items()}
    cut = {name: ", ".join(map(short_setting, found)) for name, found in kept.items()}
    times = Counter(cut.values())
    return {name: cut[name] if times[cut[name]] == 1 else ", ".join(found) for name, found in kept.items()}, shared


def name_and_settings(variant: str) -> tuple[str, str]:
    """A variant's name for a heading, and its settings for a line below, empty where it has none."""
    name, *settings = name_parts(variant)
    return name, ", ".join(settings)


def sentence(text: str) -> str:
    """A phrase with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a data frame as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def is_number(cell: str) -> bool:
    """Whether a cell holds figures, with or without signs and units, or nothing."""
    if ", " in cell and "[" not in cell:
        return False  # a list of names that are numbers
    return cell == UNKNOWN or (cell[:1] in "[-+.<0123456789" and not any(sign.isalpha() for sign in cell))
