"""Answers as HTML and small SVG, in the visitor's language and readable without colour.

An emotion has a sign, a hatching and a dash pattern besides its colour. Text stands outside the stretched SVG, so that
it keeps its size on a phone.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ser.data.corpus import about
from ser.demo import emotion_name, model_name, text
from ser.demo.recognition import Analysis, Model
from ser.emotions import Emotion
from ser.inference.checkpoint import told_settings

Looks = Mapping[str, Emotion]
Row = Mapping[str, float]  # probabilities
Span = tuple[float, float]  # begin and end in seconds
Times = Sequence[Span]


def panel(html: str) -> str:
    """A white box around ``html``; nothing around nothing."""
    return f'<div class="ser-panel">{html}</div>' if html else ""


def note(message: str, kind: str = "note") -> str:
    """A paragraph; ``kind`` error is announced by screen readers, error and warning are marked by a sign."""
    role = ' role="alert"' if kind == "error" else ""
    sign = "" if kind == "note" else '<span aria-hidden="true">⚠ </span>'
    return f'<p class="ser-{kind}"{role}>{sign}{escape(message)}</p>'


def file_panel(analysis: Analysis | None, names: Looks, language: str) -> str:
    """The answer for one file; an invitation before the first one."""
    if analysis is None:
        return note(text(language, "file_idle"))
    prediction, span = analysis.prediction, (0.0, analysis.seconds)
    if prediction is None:
        head = headline(text(language, "no_speech"), state="no-speech") + note(text(language, "quiet_note"))
    else:
        head = answer(names, language, prediction.label, prediction.confidence)
        if prediction.windows > 1:
            head += note(text(language, "long_note", windows=prediction.windows))
    name = escape(analysis.path.name)
    head += f'<p class="ser-facts">{name} · {text(language, "seconds", value=analysis.seconds)}</p>'
    html = columns(head, bars(names, language, prediction.probabilities if prediction else None))
    html += waveform(language, analysis.envelope, span, prediction.attention if prediction else None)
    return html + (timeline(names, language, analysis.times, analysis.rows, span) if analysis.rows else "")


def result_table(table: pd.DataFrame, language: str) -> pd.DataFrame:
    """A table of recognised files or of the history, as Gradio's Dataframe shows it: numbers stay numbers."""
    shown: dict[str, Any] = {}
    for column in table.columns:
        values, name = table[column], f"{emotion_name(language, column[2:])} (%)"
        if not column.startswith("p_"):
            name = text(language, f"column_{column}")
        if column == "confidence" or column.startswith("p_"):
            values = (100 * values.astype(float)).round(0)
        elif column == "seconds":
            values = values.astype(float).round(1)
        elif column == "predicted":  # a file that failed has neither emotion nor length
            spoken = values.map(lambda emotion: _emotion_or_none(language, emotion))
            values = spoken.where(table["seconds"].notna(), "")
        elif column == "source":
            values = values.map(lambda source: text(language, f"kind_{source}"))
        elif column == "model":
            values = values.map(lambda name: model_name(language, name))
        elif column == "time":
            values = values.str[11:19]
        shown[name] = values
    return pd.DataFrame(shown)


def card_panel(model: Model, language: str, gate: str) -> str:
    """The model card: what it was trained on, how well it does, and what limits that."""
    plain, run, uar = model.recognizer.config.plain, model.run, model.uar
    warnings = ["card_limits"] + ["card_synthetic"] * is_synthetic(model)
    known = ("corpus", "protocol") if "cross_validation" in plain else ("corpus", "protocol", "fold")
    facts: list[tuple[str, Any]] = [(f"card_{key}", plain.get(key, "–")) for key in known]
    record = model.recognizer.config.cross_validation
    if record is not None:  # trained on everyone
        shown = _estimate(record["uar"], record["uar_low"], record["uar_high"], language)
        facts += [("card_cross", shown), ("card_cross_wa", f"{record['wa']:.1%}")]
        warnings.append("card_everyone")
    elif run is None or uar is None:
        warnings.append("card_no_results")
    else:
        shown = _estimate(uar.estimate, uar.low, uar.high, language)
        count = text(language, "card_test_value", n=len(run.predictions), speakers=run.predictions["speaker"].nunique())
        facts += [("card_uar", shown), ("card_wa", f"{run.test['wa']:.1%}"), ("card_test", count)]
        warnings += ["card_overlap"] * run.warns("speaker_overlap") + ["card_transductive"] * run.warns("transductive")
    if model.recognizer.config.kind == "speaker":
        warnings.append("card_speaker")
    weights = model.recognizer.parameters()
    facts += [
        ("card_emotions", ", ".join(emotion_name(language, name) for name in model.recognizer.emotions)),
        ("card_encoder", _settings(plain["encoder"])),
        ("card_network", str(plain["network"].get("_target_", "–")).rpartition(".")[2]),
        ("card_parameters", f"{sum(weight.numel() for weight in weights):,}" if weights else "–"),
        ("card_normalization", model.recognizer.config.kind),
        ("card_gate", gate),
        ("card_licence", about(str(plain.get("corpus"))).licence),
        ("card_path", model.path),
    ]
    rows = "".join(f"<dt>{text(language, key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts)
    return "".join(note(text(language, key), "warning") for key in warnings) + f'<dl class="ser-card">{rows}</dl>'


def _estimate(value: float, low: float | None, high: float | None, language: str) -> str:
    if low is None or high is None or np.isnan(low):
        return f"{value:.1%} ({text(language, 'card_few')})"
    return f"{value:.1%} ({text(language, 'card_interval')} {low:.1%} – {high:.1%})"


def is_synthetic(model: Model) -> bool:
    """Whether a model has only heard the synthetic voice of the demonstration corpus."""
    return str(model.recognizer.config.plain.get("corpus", "")).startswith("synthetic")


def _settings(description: Mapping[str, Any]) -> str:
    name = str(description.get("_target_", "–")).rpartition(".")[2]
    rest = ", ".join(f"{key} {value}" for key, value in told_settings(description).items())
    return f"{name} ({rest})" if rest else name


def columns(left: str, right: str) -> str:
    """Two boxes beside each other, on a phone below each other."""
    return f'<div class="ser-columns"><div>{left}</div>{right}</div>'


def headline(shown: str, emotion: str = "", state: str = "", passed: bool = False, mark: str = "") -> str:
    """A large line; paler where its window has passed."""
    old = " ser-passed" if passed else ""
    return (
        f'<p class="ser-headline{old}" data-emotion="{escape(emotion, quote=True)}" data-state="{state}">{mark}'
        f"<strong>{escape(shown)}</strong></p>"
    )


def answer(names: Looks, language: str, emotion: str, confidence: float, passed: bool = False) -> str:
    """The emotion in large letters with its sign and confidence."""
    head = headline(emotion_name(language, emotion), emotion, passed=passed, mark=_sign(names[emotion]) + " ")
    return f'{head}<p class="ser-confidence">{text(language, "confidence")} {confidence:.0%}</p>'


def _sign(look: Emotion) -> str:
    """The emotion's sign in its colour, hidden from screen readers, which read the name beside it."""
    return f'<span class="ser-sign" aria-hidden="true" style="color:{look.color}">{look.sign}</span>'


def _emotion_or_none(language: str, emotion: str | None) -> str:
    return text(language, "no_speech") if emotion is None or pd.isna(emotion) else emotion_name(language, emotion)


def bars(names: Looks, language: str, probabilities: Row | None) -> str:
    """One hatched bar per emotion, with its value in digits."""
    rows = []
    for emotion, look in names.items():
        value = probabilities[emotion] if probabilities else 0.0
        rows.append(
            f'<div class="ser-bar"><span>{_sign(look)} {escape(emotion_name(language, emotion))}</span>'
            f'<span class="ser-track"><i style="width:{100 * value:.1f}%;background:{look.fill}"></i></span>'
            f"<b>{f'{value:.0%}' if probabilities else '–'}</b></div>"
        )
    return f'<div class="ser-bars" role="group" aria-label="{text(language, "probabilities")}">{"".join(rows)}</div>'


def _figure(title: str, body: str) -> str:
    return f'<figure class="ser-figure"><figcaption>{title}</figcaption>{body}</figure>'


def _drawing(style: str, title: str, body: str) -> str:
    """An SVG of 1000 by 100 units, stretched to the width of the page."""
    shape = f'viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{title}"'
    return f'<svg class="{style}" {shape}>{body}</svg>'


def waveform(
    language: str, envelope: NDArray[np.float32], seconds: Span, attention: NDArray[np.float32] | None = None
) -> str:
    """Peaks (N, 2) of a recording between two times; attention (L,) as shade behind it."""
    title, shade, path = text(language, "waveform" if attention is None else "attention"), "", ""
    if attention is not None and len(attention):
        means = np.asarray([part.mean() for part in np.array_split(attention, min(len(attention), 120))])
        heights = 100 * means / max(float(means.max()), 1e-9)
        width = 1000 / len(heights)
        shade = "".join(
            f'<rect x="{place * width:.1f}" y="{100 - high:.1f}" width="{width + 0.3:.1f}" height="{high:.1f}"/>'
            for place, high in enumerate(heights)
        )
        shade = f'<g fill="#F3C77B">{shade}</g>'
    if len(envelope):
        scale = 48 / max(0.05, float(np.abs(envelope).max()))  # silence stays flat instead of being amplified
        across = np.linspace(0, 1000, len(envelope))
        upper = [f"{x:.0f} {50 - scale * high:.1f}" for x, high in zip(across, envelope[:, 1], strict=True)]
        lower = [f"{x:.0f} {50 - scale * low:.1f}" for x, low in zip(across, envelope[:, 0], strict=True)]
        path = "M" + " L".join([*upper, *reversed(lower)]) + "Z"
    line = f'<path d="{path}" fill="#33536b" stroke="#33536b" stroke-width="1" vector-effect="non-scaling-stroke"/>'
    return _figure(title, _drawing("ser-wave", title, shade + line) + _axis(language, seconds))


def timeline(names: Looks, language: str, times: Times, rows: Sequence[Row | None], seconds: Span) -> str:
    """Probabilities over time: a line per emotion, and a strip that names the most probable one.

    Each row of probabilities, None without speech, stands for a stretch of ``times``; ``seconds`` are the begin and
    end of the axis.
    """
    begin, length = seconds[0], max(seconds[1] - seconds[0], 1e-6)
    grid = '<path d="M0 25 H1000 M0 50 H1000 M0 75 H1000" stroke="#d4d9dd" vector-effect="non-scaling-stroke"/>'
    lines, legend = [grid], []
    for emotion, look in names.items():
        points, pen = [], "M"
        for (start, end), row in zip(times, rows, strict=True):
            if row is not None:
                points.append(f"{pen}{1000 * ((start + end) / 2 - begin) / length:.1f} {100 - 100 * row[emotion]:.1f}")
            pen = "M" if row is None else "L"
        pencil = f'fill="none" stroke="{look.color}" stroke-width="2.5" stroke-dasharray="{look.dash}"'
        lines.append(
            f'<path d="{" ".join(points)}" {pencil} stroke-linecap="round" vector-effect="non-scaling-stroke"/>'
        )
        sample = f'<svg width="34" height="8" aria-hidden="true"><path d="M1 4 H33" {pencil}/></svg>'
        legend.append(f"<li>{_sign(look)} {sample} {escape(emotion_name(language, emotion))}</li>")
    title = text(language, "timeline")
    scale = '<div class="ser-scale" aria-hidden="true"><span>100%</span><span>50%</span><span>0%</span></div>'
    plot = f'<div class="ser-plot">{scale}{_drawing("ser-lines", title, "".join(lines))}</div>'
    strip = _strip(names, language, times, rows, seconds)
    return _figure(title, f'{plot}{strip}{_axis(language, seconds)}<ul class="ser-legend">{"".join(legend)}</ul>')


def _strip(names: Looks, language: str, times: Times, rows: Sequence[Row | None], seconds: Span) -> str:
    """The most probable emotion over time; a stretch shows its name where there is room."""
    begin, length = seconds[0], max(seconds[1] - seconds[0], 1e-6)
    stretches: list[tuple[float, float, str | None]] = []
    for (start, end), row in zip(times, rows, strict=True):
        emotion = None if row is None else max(row, key=row.__getitem__)
        if stretches and stretches[-1][2] == emotion and abs(stretches[-1][1] - start) < 0.05 * max(end - start, 1e-6):
            stretches[-1] = (stretches[-1][0], end, emotion)
        else:
            stretches.append((start, end, emotion))
    cells = []
    for start, end, emotion in stretches:
        left, width = 100 * (start - begin) / length, 100 * (end - start) / length
        name = escape(_emotion_or_none(language, emotion))
        color, sign = ("#8a949c", "") if emotion is None else (names[emotion].color, names[emotion].sign)
        label = f'<em class="{"ser-short" if width < 25 else "ser-long"}">{name}</em>' if width > 9 else ""
        cells.append(
            f'<span style="left:{left:.2f}%;width:{width:.2f}%;border-color:{color}" '
            f'title="{name} {start:.1f}–{end:.1f} s">{sign} {label}</span>'
        )
    return (
        f'<div class="ser-plot"><div class="ser-scale"></div><div class="ser-strip" role="img" '
        f'aria-label="{text(language, "strip")}">{"".join(cells)}</div></div>'
    )


def _axis(language: str, seconds: Span) -> str:
    values = np.linspace(*seconds, 5)
    key = "whole_seconds" if values[-1] - values[0] >= 100 or np.allclose(values, values.round()) else "seconds"
    marks = "".join(f"<span>{text(language, key, value=mark)}</span>" for mark in values)
    return f'<div class="ser-axis" aria-hidden="true">{marks}</div>'
