"""One look for every figure: palette, fonts, notes, files.

Colours are those of Okabe & Ito (2008, "Color universal design"), which stay apart under the common colour-vision
deficiencies. Figures are plain ``matplotlib.figure.Figure`` objects; no pyplot state is touched.
"""

import functools
import io
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from ser.io import atomic_path

P = ParamSpec("P")
R = TypeVar("R")

ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"
INK, FAINT = "#222222", "#D9D9D9"
SERIES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

_RC: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.framealpha": 0.8,
    "legend.edgecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "svg.fonttype": "none",
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "PingFang SC", "Microsoft YaHei", "SimHei")


@functools.cache
def _fonts() -> tuple[list[str], list[FT2Font]]:
    """The font families to draw with (Chinese, Japanese, Korean ones where installed) and their glyph tables."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in _CJK_FONTS if name in installed)]
    paths = [font_manager.findfont(font_manager.FontProperties(family=family)) for family in families]
    return families, [font_manager.get_font(path) for path in paths]


def drawable(text: object, width: int = 0) -> str:
    """``text`` with what no installed font can draw replaced by ``?``, shortened in its middle to ``width`` signs."""
    glyphs = _fonts()[1]
    shown = "".join(sign if any(font.get_char_index(ord(sign)) for font in glyphs) else "?" for sign in str(text))
    if width and len(shown) > width:
        kept = width - 1
        shown = f"{shown[: kept - kept // 2]}…{shown[len(shown) - kept // 2 :]}"
    return shown.replace("$", r"\$")  # matplotlib would take a pair of them for a formula


def variant_labels(names: Iterable[object], width: int = 34, most: int = 3) -> list[str]:
    """Names in at most ``most`` lines of ``width`` signs; those shortened to the same words get a number."""
    labels: list[str] = []
    for name in names:
        lines = _broken(drawable(name), width)
        if len(lines) > most:
            lines = _broken(drawable(name, (most - 1) * width), width)  # breaking behind separators costs a line
        if len(lines) > most:
            lines = textwrap.wrap(drawable(name, (most - 1) * width), width)
        label = "\n".join(lines)
        repeats = sum(earlier == label or earlier.startswith(f"{label} #") for earlier in labels)
        labels.append(f"{label} #{repeats + 1}" if repeats else label)
    return labels


def _broken(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` signs, broken behind a separator where a line has one."""
    lines = []
    while len(text) > width:
        behind = [
            max((place for place in range(width // 3, width + 1) if text[place - 1] in separators), default=0)
            for separators in (",-+/ ", "_=.")
        ]
        place = behind[0] or behind[1] or width
        lines.append(text[:place].rstrip())
        text = text[place:]
    return [*lines, text]


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run ``draw`` with the house style; the caller's matplotlib settings are the same afterwards."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context({**_RC, "font.family": _fonts()[0]}):
            return draw(*args, **kwargs)

    return inside


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
        figure.text(
            0.01,
            0.08 / height,
            "\n".join(wrapped),
            color=VERMILION,
            fontsize=9,
            fontweight="bold",
            ha="left",
            va="bottom",
        )
    return figure


def empty_panel(axes: Axes, message: str) -> None:
    """Say in an unused panel why nothing is drawn there."""
    axes.set_axis_off()
    axes.text(
        0.5,
        0.5,
        textwrap.fill(drawable(message), 34),
        ha="center",
        va="center",
        color="#666666",
        transform=axes.transAxes,
    )


@styled
def encode_figure(figure: Figure, kind: str = "png", dpi: int = 110) -> bytes:
    """The figure as the bytes of a ``png`` or ``svg`` file."""
    buffer = io.BytesIO()
    # A fixed date keeps two runs of the same command byte-identical.
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path, svg: bool = False) -> Path:
    """Write ``figure`` as PNG to ``path`` (and as SVG beside it), whole or not at all.

    Raises:
        SerError: the folder cannot be written.
    """
    path = Path(path).with_suffix(".png")
    for kind in ("png", "svg") if svg else ("png",):
        with atomic_path(path.with_suffix(f".{kind}")) as temporary:
            temporary.write_bytes(encode_figure(figure, kind))
    return path
