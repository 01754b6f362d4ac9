"""Waveforms, probabilities and timelines as small SVG and HTML, readable without colour.

Text stands outside the stretched SVG, so that it keeps its size on a phone. An emotion has a sign, a hatching and a
dash pattern besides its colour.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from ser.demo.texts import emotion_name, text
from ser.emotions import looks

_LEAST_CONTRAST = 3.0  # WCAG 2.2, 1.4.11: graphics against their background


class Look:
    """How each emotion of a model is shown: sign, colour dark enough for white ground, dashes, hatching."""

    def __init__(self, emotions: Sequence[str]) -> None:
        self.emotions = list(emotions)
        shown = looks(emotions)
        self.colors = {name: darkened(look.color) for name, look in shown.items()}
        self.signs = {name: look.sign for name, look in shown.items()}
        self.dashes = {name: look.dash for name, look in shown.items()}
        self.angles = {name: look.angle for name, look in shown.items()}

    def sign(self, emotion: str) -> str:
        """The emotion's sign in its colour, hidden from screen readers, which read the name beside it."""
        return (
            f'<span class="ser-sign" aria-hidden="true" style="color:{self.colors[emotion]}">'
            f"{self.signs[emotion]}</span>"
        )

    def fill(self, emotion: str) -> str:
        """CSS background of a bar or stripe: colour and hatching."""
        color, angle = self.colors[emotion], self.angles[emotion]
        if not angle:
            return f"background:{color}"
        return (
            f"background:repeating-linear-gradient({angle},{color} 0 6px,color-mix(in srgb,{color} 62%,white) 6px 9px)"
        )


def headline(look: Look, language: str, emotion: str, confidence: float) -> str:
    """The emotion in large letters with its sign and confidence."""
    return (
        f'<p class="ser-headline" data-emotion="{escape(emotion, quote=True)}">{look.sign(emotion)} '
        f"<strong>{escape(emotion_name(language, emotion))}</strong> "
        f'<span class="ser-confidence">{text(language, "confidence")} {confidence:.0%}</span></p>'
    )


def plain_headline(words: str, state: str) -> str:
    """A large line where there is no emotion: listening, no speech."""
    return f'<p class="ser-headline" data-emotion="" data-state="{state}"><strong>{escape(words)}</strong></p>'


def note(words: str, kind: str = "note") -> str:
    """A sentence; ``kind`` error or warning is announced by screen readers and marked by a sign."""
    role = ' role="alert"' if kind == "error" else ""
    sign = "" if kind == "note" else '<span aria-hidden="true">⚠ </span>'
    return f'<p class="ser-{kind}"{role}>{sign}{escape(words)}</p>'


def bars(look: Look, language: str, probabilities: Mapping[str, float] | None) -> str:
    """One hatched bar an emotion, with its value in digits."""
    rows = []
    for emotion in look.emotions:
        value = probabilities[emotion] if probabilities else 0.0
        shown = f"{value:.0%}" if probabilities else "–"
        rows.append(
            f'<div class="ser-bar"><span>{look.sign(emotion)} {escape(emotion_name(language, emotion))}</span>'
            f'<span class="ser-track"><i style="width:{100 * value:.1f}%;{look.fill(emotion)}"></i></span>'
            f"<b>{shown}</b></div>"
        )
    return f'<div class="ser-bars" role="group" aria-label="{text(language, "probabilities")}">{"".join(rows)}</div>'


def waveform(
    language: str,
    envelope: NDArray[np.float32],
    seconds: tuple[float, float],
    attention: NDArray[np.float32] | None = None,
) -> str:
    """Peaks (N, 2) of a recording, lowest and highest, between two times; attention (L,) as shade behind it."""
    title = text(language, "waveform" if attention is None else "attention")
    shade = ""
    if attention is not None and len(attention):
        shares = np.asarray([part.mean() for part in np.array_split(attention, min(len(attention), 120))])
        height = 100 * shares / max(float(shares.max()), 1e-9)
        width = 1000 / len(height)
        shade = "".join(
            f'<rect x="{place * width:.1f}" y="{100 - value:.1f}" width="{width + 0.3:.1f}" height="{value:.1f}"/>'
            for place, value in enumerate(height)
        )
        shade = f'<g fill="#F3C77B">{shade}</g>'
    path = _envelope_path(envelope)
    return (
        f'<figure class="ser-figure"><figcaption>{title}</figcaption>'
        f'<svg class="ser-wave" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{title}">'
        f'{shade}<path d="{path}" fill="#33536b" stroke="#33536b" stroke-width="1" '
        f'vector-effect="non-scaling-stroke"/></svg>{_axis(language, seconds)}</figure>'
    )


def timeline(
    look: Look,
    language: str,
    times: Sequence[tuple[float, float]],
    rows: Sequence[Mapping[str, float] | None],
    seconds: tuple[float, float],
) -> str:
    """Probabilities of windows over the time between ``seconds``: lines, and a strip that names the winners.

    Args:
        look: of the emotions.
        language: of the words.
        times: start and end of the stretch that each window stands for.
        rows: probabilities of each window; None where there is no speech.
        seconds: begin and end of the axis, the same as the waveform's above.
    """
    begin, length = seconds[0], max(seconds[1] - seconds[0], 1e-6)
    lines = []
    for emotion in look.emotions:
        points: list[str] = []
        pen = "M"
        for (start, end), row in zip(times, rows, strict=True):
            if row is None:
                pen = "M"
                continue
            across = 1000 * ((start + end) / 2 - begin) / length
            points.append(f"{pen}{across:.1f} {100 - 100 * row[emotion]:.1f}")
            pen = "L"
        lines.append(
            f'<path d="{" ".join(points)}" fill="none" stroke="{look.colors[emotion]}" stroke-width="2.5" '
            f'stroke-dasharray="{look.dashes[emotion]}" stroke-linecap="round" '
            'vector-effect="non-scaling-stroke"/>'
        )
    grid = '<path d="M0 25 H1000 M0 50 H1000 M0 75 H1000" stroke="#d4d9dd" vector-effect="non-scaling-stroke"/>'
    title = text(language, "timeline")
    plot = (
        f'<div class="ser-plot"><div class="ser-scale" aria-hidden="true"><span>100%</span><span>50%</span>'
        f'<span>0%</span></div><svg class="ser-lines" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}">{grid}{"".join(lines)}</svg></div>'
    )
    return (
        f'<figure class="ser-figure"><figcaption>{title}</figcaption>{plot}'
        f"{_strip(look, language, times, rows, seconds)}{_axis(language, seconds)}"
        f"{_legend(look, language)}</figure>"
    )


def envelope_of(samples: NDArray[np.float32], points: int = 500) -> NDArray[np.float32]:
    """Lowest and highest sample (points, 2) of equal stretches of (N,) samples."""
    parts = np.array_split(samples, max(1, min(points, len(samples))))
    return np.array([(part.min(), part.max()) if len(part) else (0, 0) for part in parts], np.float32)


def darkened(color: str) -> str:
    """``color`` as #rrggbb, darkened as far as it takes to stand out on white."""
    channels = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    while contrast_on_white(channels) < _LEAST_CONTRAST:
        channels = channels * 0.96
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def contrast_on_white(channels: NDArray[np.float64]) -> float:
    """WCAG contrast of an sRGB colour (3,) in [0, 1] with white."""
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return 1.05 / (float(linear @ np.array([0.2126, 0.7152, 0.0722])) + 0.05)


def _envelope_path(envelope: NDArray[np.float32]) -> str:
    if not len(envelope):
        return ""
    peak = max(0.05, float(np.abs(envelope).max()))  # silence stays flat instead of being blown up
    across = np.linspace(0, 1000, len(envelope))
    upper = [f"{x:.0f} {50 - 48 * high / peak:.1f}" for x, high in zip(across, envelope[:, 1], strict=True)]
    lower = [f"{x:.0f} {50 - 48 * low / peak:.1f}" for x, low in zip(across, envelope[:, 0], strict=True)]
    return "M" + " L".join([*upper, *reversed(lower)]) + "Z"


def _strip(
    look: Look,
    language: str,
    times: Sequence[tuple[float, float]],
    rows: Sequence[Mapping[str, float] | None],
    seconds: tuple[float, float],
) -> str:
    """Stretches of one winner after another, named where there is room."""
    begin, length = seconds[0], max(seconds[1] - seconds[0], 1e-6)
    runs: list[tuple[float, float, str | None]] = []
    for (start, end), row in zip(times, rows, strict=True):
        winner = None if row is None else max(row, key=row.__getitem__)
        if runs and runs[-1][2] == winner and abs(runs[-1][1] - start) < 0.05 * max(end - start, 1e-6):
            runs[-1] = (runs[-1][0], end, winner)
        else:
            runs.append((start, end, winner))
    cells = []
    for start, end, winner in runs:
        left, width = 100 * (start - begin) / length, 100 * (end - start) / length
        name = text(language, "no_speech") if winner is None else emotion_name(language, winner)
        sign = "" if winner is None else look.signs[winner]
        border = "#8a949c" if winner is None else look.colors[winner]
        cells.append(
            f'<span style="left:{left:.2f}%;width:{width:.2f}%;border-color:{border}" title="{escape(name)} '
            f'{start:.1f}–{end:.1f} s">{sign} {_room_for(name, width)}</span>'
        )
    return (
        f'<div class="ser-plot"><div class="ser-scale"></div><div class="ser-strip" role="img" '
        f'aria-label="{text(language, "strip")}">{"".join(cells)}</div></div>'
    )


def _room_for(name: str, width: float) -> str:
    """The name in a stretch of ``width`` percent: nothing, or hidden on a phone, where it does not fit."""
    if width <= 9:
        return ""
    return f'<em class="{"ser-short" if width < 25 else "ser-long"}">{escape(name)}</em>'


def _axis(language: str, seconds: tuple[float, float]) -> str:
    marks = np.linspace(*seconds, 5)
    key = "whole_seconds" if seconds[1] - seconds[0] >= 10 else "seconds"
    shown = "".join(f"<span>{text(language, key, value=mark)}</span>" for mark in marks)
    return f'<div class="ser-axis" aria-hidden="true">{shown}</div>'


def _legend(look: Look, language: str) -> str:
    items = [
        f'<li>{look.sign(emotion)} <svg width="34" height="8" aria-hidden="true"><path d="M1 4 H33" fill="none" '
        f'stroke="{look.colors[emotion]}" stroke-width="2.5" stroke-dasharray="{look.dashes[emotion]}" '
        f'stroke-linecap="round"/></svg> {escape(emotion_name(language, emotion))}</li>'
        for emotion in look.emotions
    ]
    return f'<ul class="ser-legend">{"".join(items)}</ul>'
