"""The parts of a report page and how they become one self-contained HTML text."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from ser.evaluation.figures.style import encode_figure

_LONGEST_LIST = 12


@dataclass(frozen=True)
class Table:
    """Columns and rows of ready-made text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """A figure with the sentence that says what to look for."""

    figure: Figure
    name: str
    caption: str
    kind: str = "picture"

    @property
    def narrow(self) -> bool:
        """Whether a phone can show it whole and still readable."""
        return bool(self.figure.get_figwidth() < 8)

    @property
    def source(self) -> str:
        """The figure as a PNG data URI."""
        return "data:image/png;base64," + base64.b64encode(encode_figure(self.figure)).decode()


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Listing:
    """Preformatted text (commands, configuration), folded away when it is long."""

    title: str
    text: str
    folded: bool = False
    kind: str = "listing"


Block = Table | Picture | Text | Listing


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """A whole report: what it is about, its two scores by name, warnings, sections."""

    title: str
    subtitle: str
    headline: Sequence[tuple[str, str, str]]  # name, value, what it means
    labels: Sequence[str]
    sections: Sequence[Section]


def number(value: Any, digits: int = 3) -> str:
    """A figure as text; an en dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def interval(bounds: Sequence[Any] | None) -> str:
    """``[low, high]`` as text."""
    if bounds is None or any(bound is None or math.isnan(bound) for bound in bounds):
        return "–"
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


def listed(names: Sequence[Any], most: int = 30) -> str:
    """Names in a row; of many, the first and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more or "–"


def p_value(value: Any) -> str:
    """A p-value as text, never as zero."""
    words = number(value)
    return "<.001" if words == "0.000" else words


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested plain content as (dotted key, value) rows; short lists become text, long ones are no reading matter."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for place, entry in enumerate(value):
                yield from flat(entry, f"{prefix}{key}.{place}.")
        elif isinstance(value, list | tuple) and len(value) <= _LONGEST_LIST:
            yield f"{prefix}{key}", listed([number(entry) for entry in value])
        elif not isinstance(value, list | tuple):
            yield f"{prefix}{key}", value


def render(page: Page) -> str:
    """The page as HTML: style and images inside, nothing fetched, every text escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.tests["numeric"] = _is_number
    return environment.get_template("report.html.j2").render(page=page)


def _is_number(cell: str) -> bool:
    return cell == "–" or (cell[:1] in "[-+.<0123456789" and not any(sign.isalpha() for sign in cell))
