"""What all figures share: the list of them, palette, fonts, axes, warnings, files.

Colours are those of Okabe & Ito (2008, "Color universal design"), which stay apart for colour-blind readers. Figures
are ``matplotlib.figure.Figure`` objects; pyplot's state is not touched.
"""

import functools
import io
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import FuncFormatter

from ser.config import short_setting
from ser.errors import SerError
from ser.io import atomic_path

P = ParamSpec("P")
R = TypeVar("R")
Inputs = Iterable[tuple[str, tuple[Any, ...]]]
Look = dict[str, Any]  # keywords of a drawing call

ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"
INK, FAINT = "#222222", "#D9D9D9"
SERIES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY, INK)
PERCENT = FuncFormatter(lambda value, _: f"{round(100 * value, 6):g}")  # fractions as percent without a sign
FORMATS = ("png", "pdf", "svg")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

_RC: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.edgecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # text stays text
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "PingFang SC", "Microsoft YaHei", "SimHei")


@functools.cache
def _fonts() -> tuple[list[str], list[FT2Font]]:
    """Names of the fonts to draw with (Chinese, Japanese, Korean ones where installed) and the fonts themselves."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in _CJK_FONTS if name in installed)]
    paths = [font_manager.findfont(font_manager.FontProperties(family=family)) for family in families]
    return families, [font_manager.get_font(path) for path in paths]


def drawable(text: object, width: int = 0) -> str:
    """``text`` with ``?`` for what no installed font can draw, shortened in its middle to ``width`` characters."""
    glyphs = _fonts()[1]
    shown = "".join(sign if any(font.get_char_index(ord(sign)) for font in glyphs) else "?" for sign in str(text))
    if width and len(shown) > width:
        kept = width - 1
        shown = f"{shown[: kept - kept // 2]}…{shown[len(shown) - kept // 2 :]}"
    return shown.replace("$", r"\$")  # matplotlib would take a pair of them for a formula


def variant_labels(names: Iterable[object], width: int = 34, most: int = 3) -> list[str]:
    """Names in at most ``most`` lines of ``width`` characters; those shortened to the same text get a number.

    What does not fit loses the ends of its values, then its own.
    """
    labels: list[str] = []
    for name in names:
        lines = _broken(drawable(name), width)
        if len(lines) > most:
            lines = _broken(drawable(", ".join(short_setting(one, 10) for one in str(name).split(", "))), width)
        if len(lines) > most:
            lines = [*lines[: most - 1], f"{lines[most - 1][: width - 1].rstrip(', …')}…"]
        label = "\n".join(lines)
        repeats = sum(earlier == label or earlier.startswith(f"{label} #") for earlier in labels)
        labels.append(f"{label} #{repeats + 1}" if repeats else label)
    return labels


def _broken(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` signs, broken behind a separator where a line has one."""
    lines = []
    while len(text) > width:
        ends = [re.match(rf".{{{width // 3},{width - 1}}}[{separators}]", text) for separators in (",+/ -", "_=.")]
        place = next((end.end() for end in ends if end), width)
        lines.append(text[:place].rstrip())
        text = text[place:]
    return [*lines, text]


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """``draw`` with these settings of matplotlib; the caller's settings are unchanged afterwards."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context({**_RC, "font.family": _fonts()[0]}):
            return draw(*args, **kwargs)

    return inside


@dataclass(frozen=True)
class Entry:
    """One figure of the list."""

    name: str  # of its file
    caption: str  # what to look for in it
    source: str  # ``run`` or ``sweep``: what it is drawn of
    inputs: Callable[[Any], Inputs]  # variant (empty for all) and arguments of draw per figure
    draw: Callable[..., Figure]  # makes the figure of its arguments; takes a ``note``, the warning at its foot


FIGURES: list[Entry] = []  # in the order of the report; filled by the decorator below


def of_predictions(run: Any) -> Inputs:
    """The prediction table of a run."""
    yield "", (run.predictions,)


def figure(
    name: str, caption: str, source: str = "run", inputs: Callable[[Any], Inputs] = of_predictions
) -> Callable[[Callable[P, Figure]], Callable[P, Figure]]:
    """Put a drawing function on the list of figures and give it the common style."""

    def register(draw: Callable[P, Figure]) -> Callable[P, Figure]:
        drawn = styled(draw)
        FIGURES.append(Entry(name, caption, source, inputs, drawn))
        return drawn

    return register


def percent_axis(axis: Axis, high: float = 1.0) -> None:
    """Show fractions on this axis as percent, from 0 to ``high``, with ticks at each fifth."""
    axis.axes.set(**{f"{axis.axis_name}lim": (0.0, high)})  # type: ignore[attr-defined]
    axis.set_ticks(np.linspace(0, 1, 6))
    axis.set_major_formatter(PERCENT)


def new_figure(width: float, height: float, title: str, note: str = "") -> Figure:
    """An empty figure of ``width`` by ``height`` inches under a title; ``note`` is a warning drawn at its foot."""
    wrapped = textwrap.wrap(drawable(note), max(20, int(width * 11)))
    title = "\n".join(textwrap.wrap(drawable(title), max(20, int(width * 9.5))))
    foot = 0.2 * len(wrapped) + 0.1 if wrapped else 0.0
    height += foot
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", rect=(0, foot / height, 1, 1 - foot / height), h_pad=0.08, w_pad=0.08)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    if wrapped:
        warning: Look = {"color": VERMILION, "fontsize": 9, "fontweight": "bold", "va": "bottom"}
        figure.text(0.01, 0.08 / height, "\n".join(wrapped), **warning)
    return figure


def empty_panel(axes: Axes, message: str) -> None:
    """Write into an unused panel why nothing is drawn there."""
    axes.set_axis_off()
    centred: Look = {"ha": "center", "va": "center", "color": "#666666", "transform": axes.transAxes}
    axes.text(0.5, 0.5, textwrap.fill(drawable(message), 34), **centred)


@styled
def encode_figure(figure: Figure, kind: str = "png", dpi: int = 110) -> bytes:
    """The figure as the bytes of a ``png``, ``pdf`` or ``svg`` file."""
    buffer = io.BytesIO()
    # Without dates two runs of the same command give identical files.
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with mpl.rc_context({"svg.hashsalt": "ser"}):
        if kind == "png" and isinstance(figure.canvas, FigureCanvasAgg):
            figure.dpi = dpi
            figure.canvas.print_png(buffer, metadata=metadata)  # savefig draws twice, the first time for the layout
        else:
            figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def figure_formats(setting: object) -> list[str]:
    """The formats that ``figures=`` names: a list, one name, ``true`` for png or ``false`` for none.

    Raises:
        SerError: one of them is unknown.
    """
    if setting is None or isinstance(setting, bool):
        return ["png"] * bool(setting)
    formats = [str(kind) for kind in ([setting] if isinstance(setting, str) else list(setting))]  # type: ignore[call-overload]
    for kind in formats:
        if kind not in FORMATS:
            raise SerError(f"{kind!r} is not a format of figures; choose among {', '.join(FORMATS)}.")
    return formats


def save_figure(figure: Figure, path: str | Path, formats: Iterable[str] = ("png",)) -> None:
    """Write ``figure`` to ``path`` with each format as suffix, each file whole or not at all.

    Raises:
        SerError: a format is unknown, or the folder cannot be written.
    """
    for kind in figure_formats(formats):
        target = Path(path)
        with atomic_path(target.with_name(f"{target.name}.{kind}")) as temporary:
            temporary.write_bytes(encode_figure(figure, kind))
