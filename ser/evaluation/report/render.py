"""Tables of results on the screen, as Markdown and as HTML, and the blocks of an HTML page."""

import base64
import logging
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as ScreenTable
from rich.text import Text as ScreenText

from ser.errors import SerError
from ser.evaluation.comparison import compare
from ser.evaluation.leakage import Of, compare_over_runs, matched, write_leakage
from ser.evaluation.report.cells import Table, is_number, short_names
from ser.evaluation.report.leakage_tables import leakage_comparison_table, probe_tables
from ser.evaluation.report.tables import comparison_tables, summary_tables
from ser.evaluation.runs import Run, find_runs, warnings_in
from ser.evaluation.summary import Summary
from ser.evaluation.training_noise import ONE_SEED
from ser.io import safe_csv, write_json, write_text

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_NARROWEST_NAME, _WIDEST_TEXT = 18, 30  # characters; longer text is folded on the screen


@dataclass(frozen=True)
class Picture:
    """A figure and what to look for in it."""

    figure: "Figure"
    name: str
    caption: str

    @property
    def narrow(self) -> bool:
        """Whether a phone can show it whole and still readable."""
        return bool(self.figure.get_figwidth() < 8)

    @property
    def source(self) -> str:
        """The figure as a PNG data URI."""
        from ser.evaluation.figures.style import encode_figure  # noqa: PLC0415  only pages need matplotlib

        return "data:image/png;base64," + base64.b64encode(encode_figure(self.figure)).decode()


@dataclass(frozen=True)
class Listing:
    """Preformatted text (commands, configuration), folded when it is long."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    title: str
    blocks: Sequence[Table | Picture | Listing | str]  # a str is a paragraph


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str  # what it is about
    subtitle: str  # the facts in one line
    headline: Sequence[tuple[str, str, str]]  # name, value and meaning of the main figures
    warnings: Sequence[str]  # labels that these results must carry
    sections: Sequence[Section]  # the content


def show(tables: Sequence[Table], console: Console | None = None) -> None:
    """Print tables, each with its caption; on the screen unless another console is given."""
    console = console or get_console()
    for table in tables:
        console.print(*to_screen(table, console.width), sep="\n")
        if table.caption:
            console.print(ScreenText(table.explained, style="italic"), "", sep="\n")


def to_screen(table: Table, width: int) -> list[ScreenTable]:
    """The table for a screen of ``width`` characters; where it is wider, in parts that repeat the first column."""
    widths = [_width(table, column) for column in range(len(table.columns))]
    room = width - 3 - sum(one + 2 for one in widths[1:])  # a space on both sides of each column
    longest_word = max((len(word) for row in table.rows for word in row[0].split()), default=0)
    widths[0] = min(widths[0], max(room, longest_word, _NARROWEST_NAME))
    parts: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        if parts[-1] and widths[0] + sum(widths[one] + 2 for one in [*parts[-1], column]) > width - 3:
            parts.append([])
        parts[-1].append(column)
    return [_screen_part(table, (0, *part), widths, title=place == 0) for place, part in enumerate(parts)]


def _screen_part(table: Table, columns: Sequence[int], widths: Sequence[int], title: bool) -> ScreenTable:
    screen = ScreenTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_style="bold", title_justify="left")
    screen.title = ScreenText(table.title) if title else None
    for column in columns:
        aligned = table.is_numeric(column)
        heading = ScreenText("\n".join(textwrap.wrap(table.columns[column], widths[column])))
        screen.add_column(heading, justify="right" if aligned else "left", overflow="fold", no_wrap=aligned)
    for row in table.rows:
        screen.add_row(*(ScreenText(row[column]) for column in columns))
    return screen


def to_markdown(tables: Sequence[Table]) -> str:
    """Tables under headings, as a README or an issue shows them."""
    parts = []
    for table in tables:
        lines = [table.columns, ["---"] * len(table.columns), *table.rows]
        rows = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        parts += [f"## {table.title}", "\n".join(rows), *([table.explained] if table.caption else [])]
    return "\n\n".join(parts) + "\n"


def to_html(page: Page) -> str:
    """The page as HTML: style and images inside, nothing fetched, every text escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  only pages need it

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["code"] = _code
    return environment.get_template("report.html.j2").render(page=page)


def _code(text: str) -> "Markup":
    """Text in which what stands between backticks is shown as code."""
    from markupsafe import Markup, escape  # noqa: PLC0415  as jinja2

    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text))))


def write_summary(summary: Summary, folder: str | Path) -> list[Path]:
    """Write ``summary.csv``, ``summary_comparisons.csv``, ``summary.json`` and ``summary.md`` into ``folder``.

    Raises:
        SerError: a file cannot be written; each is whole or as it was before.
    """
    folder = Path(folder)
    paths = [folder / name for name in ("summary.csv", "summary_comparisons.csv", "summary.json", "summary.md")]
    for table, path in zip((summary.variants, summary.comparisons), paths, strict=False):
        write_text(path, safe_csv(table))
    write_json(paths[2], summary.to_dict())
    notes = "\n".join(f"- {note}" for note in summary.notes)
    text = f"# Summary\n\n{to_markdown(summary_tables(summary))}" + (f"\n## Notes\n\n{notes}\n" if notes else "")
    write_text(paths[3], text)
    return paths


def show_summary(summary: Summary) -> None:
    """Print the tables and notes of a sweep."""
    show(summary_tables(summary))
    for note in summary.notes:
        get_console().print(f"- {note}", markup=False, highlight=False)


def compare_and_show(a: str, b: str, allow_different_splits: bool = False, output: Path | None = None) -> None:
    """Compare two results, print the tables and write ``comparison.json`` into B, or beside it if it is a table.

    Raises:
        SerError: a result is missing or damaged, or the two were tested on different splits.
    """
    result = compare(a, b, allow_different_splits)
    before, after = matched(find_runs(a), find_runs(b))
    result["leakage"] = compare_over_runs(before, after) if before else None
    path = output or (Path(b) if Path(b).is_dir() else Path(b).parent) / "comparison.json"
    write_json(path, result)
    for line in _heading(result):
        get_console().print(line, highlight=False, markup=False)
    show(comparison_tables(result))
    if result["leakage"]:
        show([leakage_comparison_table(result["leakage"])])
    get_console().print(str(path), highlight=False, soft_wrap=True, markup=False)


def probe_and_show(path: str, of: Of) -> None:
    """Measure the speaker leakage of each run at or below ``path``, write its ``leakage.json``, and print the tables.

    See ``ser.evaluation.leakage.write_leakage``, also for ``of``.

    Raises:
        SerError: there is no run, or none of them can be measured.
    """
    if Path(path).suffix.lower() == ".csv":
        raise SerError(
            f"{path} is a table, but the probe needs a run folder with train_predictions.csv, "
            "train_embeddings.npy, predictions.csv and embeddings.npy; give such a folder."
        )
    variants: dict[str, list[tuple[Run, dict[str, Any]]]] = {}
    left_out = []
    for run in find_runs(path):
        try:
            leakage = write_leakage(run.folder, run.metrics.get("best_epoch"), of=of)
        except SerError as error:
            left_out.append(str(error))
            log.warning("left out: %s", error)
            continue
        variants.setdefault(run.variant, []).append((run, leakage))
    if not variants:
        raise SerError(left_out[0])
    show(probe_tables(variants))


def _heading(result: Mapping[str, Any]) -> list[str]:
    """Which results, their warnings, and what differs between their splits."""
    lines, (names, _) = [], short_names([result[name]["variant"] for name in ("a", "b")])
    for name in ("a", "b"):
        side = result[name]
        folds, seeds = (", ".join(map(str, side[key])) for key in ("folds", "seeds"))
        lines.append(f"{name.upper()}: {names[side['variant']]}, fold {folds}, seed {seeds} ({side['path']})")
        lines += [f"   {text}" for text in warnings_in(side)]
        if missing := len(side["folds"]) * len(side["seeds"]) - side["runs"]:
            lines.append(f"   {missing} combinations of fold and seed are missing; every utterance counts once")
    paired = result["paired"] or {}
    lines += [f"{result['speakers']}."] if result["speakers"] else []
    if result["same_split"]:
        lines.append("Both were tested on the same split.")
    else:
        lines += ["NOT the same split:", *(f"- {phrase}" for phrase in result["differences"])]
        used = "they have no utterance in common, so nothing is tested"
        if paired:
            used = f"the tests use the {paired['utterances']} utterances that both have"
        lines.append(f"The scores are of different test parts; {used}.")
    if single := paired.get("lack_seeds"):
        lines.append(f"{' and '.join(map(str.upper, single))}: {ONE_SEED}.")
    return lines


def _width(table: Table, column: int) -> int:
    """Characters that a column needs on the screen; text may be folded, figures and words may not."""
    cells = [row[column] for row in table.rows]
    heading = table.columns[column]
    longest = max(map(len, [*cells, *heading.split()]))
    if column == 0 or not all(map(is_number, cells)):
        return min(longest, _WIDEST_TEXT)
    while len(textwrap.wrap(heading, longest)) > 2:
        longest += 1
    return longest
