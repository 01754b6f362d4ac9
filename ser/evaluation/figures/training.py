"""What happened during training: the six panels of ``history.csv``, and where a network listened."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ser.errors import SerError
from ser.evaluation.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    empty_panel,
    new_figure,
    styled,
)

_PANELS: tuple[tuple[str, tuple[tuple[str, str, str, str], ...]], ...] = (
    (
        "loss",
        (
            ("train/loss", "train", BLUE, "-"),
            ("train/emotion_loss", "train, emotion part", SKY, "--"),
            ("train/speaker_loss", "train, speaker part", PURPLE, ":"),
            ("val/loss", "validation", ORANGE, "-"),
        ),
    ),
    (
        "accuracy",
        (
            ("train/wa", "train WA", BLUE, "-"),
            ("val/wa", "validation WA", ORANGE, "-"),
            ("val/uar", "validation UAR (chooses)", VERMILION, "--"),
            ("test/uar", "test UAR (watched only)", GREY, ":"),
        ),
    ),
    ("macro F1", (("train/f1", "train", BLUE, "-"), ("val/f1", "validation", ORANGE, "-"))),
    ("learning rate", (("learning_rate", "learning rate", GREEN, "-"),)),
    ("alpha of the gradient reversal", (("alpha", "alpha", PURPLE, "-"),)),
    ("validation loss in detail", (("val/loss", "validation", ORANGE, "-"),)),
)
_WAVEFORM_POINTS = 2000


def _one_row_an_epoch(history: pd.DataFrame) -> pd.DataFrame:
    """Rows by epoch; a resumed run that repeated an epoch keeps the later row."""
    if "epoch" not in history or history.empty:
        raise SerError(
            "the history has no epochs to draw; expected a column 'epoch' and at least one row, "
            "as the history.csv of a run has."
        )
    return history.drop_duplicates("epoch", keep="last").sort_values("epoch")


def _lines(axes: Axes, history: pd.DataFrame, lines: tuple[tuple[str, str, str, str], ...], log: bool) -> bool:
    """Draw the columns that are there and hold a number; say whether there was one."""
    drawn = False
    for column, label, colour, dashes in lines:
        if column not in history:
            continue
        values = pd.to_numeric(history[column], errors="coerce").replace([np.inf, -np.inf], np.nan)
        values = values.where(values > 0) if log else values
        known = values.notna()
        if not known.any():
            continue
        marker = "o" if known.sum() <= 2 else ""
        axes.plot(
            history["epoch"][known],
            values[known],
            dashes,
            color=colour,
            label=label,
            marker=marker,
            markersize=4,
            linewidth=1.7,
        )
        drawn = True
    return drawn


@styled
def training_panel(history: pd.DataFrame, note: str = "") -> Figure:
    """Loss, accuracy, macro F1, learning rate (log axis), alpha and the validation loss in detail, by epoch.

    Args:
        history: one row an epoch, the columns of ``history.csv``; missing ones are left out.
        note: a warning drawn at the foot.

    Raises:
        SerError: there is no epoch.
    """
    history = _one_row_an_epoch(history)
    figure = new_figure(11, 7, "Training", note)
    panels = figure.subplots(2, 3).ravel()
    best = None
    if "val/uar" in history and history["val/uar"].notna().any():
        best = history["epoch"].iloc[int(np.nanargmax(history["val/uar"]))]
    for axes, (title, lines) in zip(panels, _PANELS, strict=True):
        log = title == "learning rate"
        if not _lines(axes, history, lines, log):
            empty_panel(axes, f"{title}: not recorded")
            continue
        if log:
            _log_axis(axes)
        marked = best is not None and title in {"accuracy", "validation loss in detail"}
        if marked:
            axes.axvline(best, color=GREY, linewidth=1.2, linestyle="-.", label="best validation UAR")
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid(color=FAINT, linewidth=0.6)
        if len(history) == 1:
            axes.set_xlim(history["epoch"].iloc[0] - 0.6, history["epoch"].iloc[0] + 0.6)
        if len(lines) > 1 or marked:  # below the axes: curves reach every corner
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, handlelength=1.4, columnspacing=0.9)
    return figure


def _log_axis(axes: Axes) -> None:
    """A log axis that has labels even where the values span less than a decade."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1.0,) if high / low > 30 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    digits = 0 if high / low > 2 else 2  # a nearly constant rate needs more of them to tell its labels apart
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{digits}e}".replace("e-0", "e-")))
    axes.yaxis.set_minor_formatter(NullFormatter())


@styled
def attention_over_waveform(waveform: np.ndarray, sample_rate: int, attention: np.ndarray, note: str = "") -> Figure:
    """The attention weights that a network really used, over the sound they were computed from.

    Args:
        waveform: samples (N,).
        sample_rate: samples a second.
        attention: weights (L,) a frame, or (L, L) with queries in rows, as ``NetworkOutput.attention`` of one
            utterance without its padding; the curve is then the attention that a frame receives, averaged over queries.
        note: a warning drawn at the foot.

    Raises:
        SerError: the shapes do not fit, or a weight is negative or not a number.
    """
    waveform = np.asarray(waveform, dtype=np.float64)
    attention = np.asarray(attention, dtype=np.float64)
    square = attention.ndim == 2 and attention.shape[0] == attention.shape[1]
    if waveform.ndim != 1 or waveform.size == 0 or attention.size == 0 or not (attention.ndim == 1 or square):
        raise SerError(
            f"got a waveform of shape {waveform.shape} and attention of shape {attention.shape}; expected "
            "(N,) samples and (L,) or (L, L) weights of one utterance, so pass them without a batch axis."
        )
    if not np.isfinite(attention).all() or (attention < 0).any():
        raise SerError(
            "the attention holds negative or missing weights; expected the softmax weights of the "
            "network, so ask it for return_attention=True and cut the padding off."
        )
    received = attention.mean(axis=0) if square else attention  # (L, L) -> (L,)
    seconds = waveform.size / sample_rate
    figure = new_figure(9, 6.4 if square else 3.2, "Attention over the waveform", note)
    if square:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        image = bottom.imshow(
            attention,
            aspect="auto",
            cmap="cividis",
            origin="lower",
            interpolation="nearest",
            extent=(0, seconds, 0, seconds),
            vmin=0,
        )
        bottom.set(xlabel="attended time (s)", ylabel="asking time (s)")
        figure.colorbar(image, ax=bottom, label="weight", fraction=0.05, pad=0.01)
    else:
        top = figure.subplots()
        top.set_xlabel("time (s)")
    _envelope(top, waveform, seconds)
    frames = (np.arange(received.size) + 0.5) * seconds / received.size
    weights = top.twinx()
    weights.plot(
        frames,
        received,
        color=VERMILION,
        linewidth=1.7,
        marker="o" if received.size == 1 else "",
        label="attention weight",
    )
    weights.axhline(1 / received.size, color=VERMILION, linewidth=0.8, linestyle=":")
    weights.set_ylim(0, max(float(received.max()) * 1.1, 1e-9))
    weights.set_ylabel("weight (dotted: uniform)", color=VERMILION)
    weights.spines["right"].set_visible(True)
    top.set_xlim(0, seconds)
    return figure


def _envelope(axes: Axes, waveform: np.ndarray, seconds: float) -> None:
    """The waveform as the band between the smallest and largest sample of each short stretch."""
    parts = np.array_split(waveform, min(_WAVEFORM_POINTS, waveform.size))
    times = (np.arange(len(parts)) + 0.5) * seconds / len(parts)
    axes.fill_between(
        times, [part.min() for part in parts], [part.max() for part in parts], color=GREY, linewidth=0.5, edgecolor=GREY
    )
    axes.set_ylabel("amplitude")
