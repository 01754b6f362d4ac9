"""A session's state as HTML, in its language."""

from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from ser.demo import drawing
from ser.demo.drawing import Look
from ser.demo.history import Entry
from ser.demo.live import HOP, LiveSound
from ser.demo.models import Model
from ser.demo.sessions import Session
from ser.demo.texts import emotion_name, text
from ser.inference.streaming import StreamEvent


def live_sound(live: LiveSound, language: str) -> dict[str, str]:
    """The state of a microphone: ``html``, and ``said``, which a screen reader reads when it changes."""
    event, look = live.stream.latest, live.model.look
    if event is None:
        window = live.stream.window / live.sample_rate
        said = text(language, "listening", heard=min(live.stream.seconds, window), window=window)
        head, said = drawing.plain_headline(said, "listening"), ""
    elif event.error is not None:
        head, said = drawing.note(text(language, "error", reason=event.error), "error"), event.error
    elif event.label is None or event.probabilities is None:
        said = text(language, "no_speech")
        head = drawing.plain_headline(said, "no-speech")
    else:
        head = drawing.headline(look, language, event.label, event.probabilities[event.label])
        said = emotion_name(language, event.label)
    events = live.events()
    span = live.span
    shown = [(max(span[0], past.end - HOP), past.end) for past in events]
    html = "".join(
        (
            '<div class="ser-columns"><div>',
            head,
            _live_facts(live, event, language),
            "</div>",
            drawing.bars(look, language, event.probabilities if event else None),
            "</div>",
            drawing.waveform(language, live.envelope(), span),
            drawing.timeline(look, language, shown, [past.probabilities for past in events], span),
        )
    )
    return {"html": html, "said": said}


def file_panel(session: Session, look_of: Mapping[str, Look]) -> str:
    """The file tab's answer."""
    language, analysis = session.language, session.analysis
    if analysis is None:
        return drawing.note(text(language, "file_idle"))
    look, prediction = look_of[analysis.model], analysis.prediction
    notes = [drawing.note(text(language, "quiet_note"), "warning")] if analysis.quiet else []
    if prediction.windows > 1:
        notes.append(drawing.note(text(language, "long_note", windows=prediction.windows)))
    span = (0.0, prediction.seconds)
    pieces = [
        '<div class="ser-columns"><div>',
        drawing.headline(look, language, prediction.label, prediction.confidence),
        *notes,
        f'<p class="ser-facts">{escape(analysis.name)} · {text(language, "seconds", value=prediction.seconds)}</p>',
        "</div>",
        drawing.bars(look, language, prediction.probabilities),
        "</div>",
        drawing.waveform(language, analysis.envelope, span, prediction.attention),
    ]
    if analysis.rows:
        pieces.append(drawing.timeline(look, language, analysis.times, analysis.rows, span))
    return "".join(pieces)


def folder_panel(session: Session, look_of: Mapping[str, Look]) -> str:
    """The folder tab's table."""
    table, language = session.table, session.language
    if table is None:
        return ""
    look = look_of[session.table_model]
    good = table["predicted"].notna()
    columns = ["column_file", "column_seconds", "column_emotion", "column_confidence"]
    heads = [text(language, key) for key in columns] + [emotion_name(language, name) for name in look.emotions]
    rows = []
    for row in table.to_dict(orient="records"):
        if pd.isna(row["predicted"]):
            rows.append(
                f"<tr><td>{escape(row['file'])}</td><td colspan={len(heads) - 1}>"
                f"<span aria-hidden=true>⚠ </span>{escape(str(row['reason']))}</td></tr>"
            )
            continue
        shares = "".join(f"<td>{row.get(f'p_{name}', 0.0):.0%}</td>" for name in look.emotions)
        rows.append(
            f"<tr><td>{escape(row['file'])}</td><td>{text(language, 'seconds', value=row['seconds'])}</td>"
            f"<td>{_emotion(look, language, row['predicted'])}</td><td>{row['confidence']:.0%}</td>{shares}"
            "</tr>"
        )
    done = text(language, "folder_done", good=int(good.sum()), bad=int((~good).sum()))
    return (
        f'<p class="ser-facts" role="status">{done} {_links(session, "folder")}</p>'
        f"{_table(heads, rows, text(language, 'tab_folder'))}"
    )


def history_panel(session: Session, look_of: Mapping[str, Look]) -> str:
    """The history tab's list with players and downloads."""
    language, history = session.language, session.history
    if not len(history):
        return drawing.note(text(language, "history_empty"))
    entries = history.shown()
    kept = text(language, "history_kept", shown=len(entries), total=len(history), most=history.most)
    status = f'<p class="ser-facts" role="status">{kept} {_links(session, "history")}</p>'
    if not entries:
        return status + drawing.note(text(language, "history_none"))
    keys = [
        "column_time",
        "column_kind",
        "column_file",
        "column_emotion",
        "column_confidence",
        "column_seconds",
        "column_play",
        "column_model",
    ]
    rows = [_history_row(session, look_of, entry) for entry in entries]
    return status + _table([text(language, key) for key in keys], rows, text(language, "tab_history"), "ser-stack")


def card_panel(model: Model, language: str, gate: str) -> str:
    """The model card."""
    plain, results = model.recognizer.config.plain, model.results
    warnings = [text(language, "card_limits")]
    facts: list[tuple[str, Any]] = [(f"card_{key}", plain.get(key, "–")) for key in ("corpus", "protocol", "fold")]
    if results is None:
        warnings.append(text(language, "card_no_results"))
    else:
        uar = results.uar
        interval = f"{uar.estimate:.1%} ({text(language, 'card_interval')} {uar.low:.1%} – {uar.high:.1%})"
        count = text(language, "card_test_value", n=len(results.run.predictions), speakers=results.speakers)
        facts += [("card_uar", interval), ("card_wa", f"{results.wa:.1%}"), ("card_test", count)]
        warnings += [text(language, "card_overlap")] * results.run.speaker_overlap
        warnings += [text(language, "card_transductive")] * results.run.transductive
    if model.recognizer.config.kind == "speaker":
        warnings.append(text(language, "card_speaker"))
    names = ", ".join(emotion_name(language, name) for name in model.recognizer.emotions)
    parameters = "–" if model.parameters is None else f"{model.parameters:,}"
    facts += [
        ("card_emotions", names),
        ("card_encoder", _settings(plain["encoder"])),
        ("card_network", str(plain["network"].get("_target_", "–")).rpartition(".")[2]),
        ("card_parameters", parameters),
        ("card_normalization", model.recognizer.config.kind),
        ("card_gate", gate),
        ("card_path", model.path),
    ]
    rows = "".join(f"<dt>{text(language, key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts)
    return "".join(drawing.note(words, "warning") for words in warnings) + f'<dl class="ser-card">{rows}</dl>'


def _live_facts(live: LiveSound, event: StreamEvent | None, language: str) -> str:
    lost = live.lost / live.sample_rate
    facts = [("heard", text(language, "seconds", value=live.stream.seconds))]
    if event is not None:
        facts += [
            ("level", text(language, "decibels", value=event.level)),
            ("latency", text(language, "milliseconds", value=1000 * event.latency)),
        ]
    facts.append(("dropped", str(live.stream.dropped)))
    if lost:
        facts.append(("lost", text(language, "seconds", value=lost)))
    items = "".join(f"<div><dt>{text(language, key)}</dt><dd>{value}</dd></div>" for key, value in facts)
    return f'<dl class="ser-live-facts">{items}</dl>'


def _history_row(session: Session, look_of: Mapping[str, Look], entry: Entry) -> str:
    language, look = session.language, look_of[entry.model]
    shown = text(language, "no_speech") if entry.emotion is None else _emotion(look, language, entry.emotion)
    share = "–" if entry.confidence is None else f"{entry.confidence:.0%}"
    player = "–"
    if entry.clip is not None:
        label = escape(f"{text(language, 'column_play')} {entry.name}", quote=True)
        player = f'<audio controls preload="none" aria-label="{label}" src="/ser/{session.token}/clip/{entry.number}">'
        player += "</audio>"
    return (
        f"<tr><td>{entry.when:%H:%M:%S}</td><td>{text(language, f'kind_{entry.kind}')}</td>"
        f"<td>{escape(entry.name)}</td><td>{shown}</td><td>{share}</td>"
        f"<td>{text(language, 'seconds', value=entry.seconds)}</td><td>{player}</td>"
        f'<td class="ser-wide"><div title="{escape(entry.model, quote=True)}">{escape(entry.model)}</div></td>'
        "</tr>"
    )


def _emotion(look: Look, language: str, emotion: str) -> str:
    return f"{look.sign(emotion)} {escape(emotion_name(language, emotion))}"


def _links(session: Session, what: str) -> str:
    return "".join(
        f'<a class="ser-link" download href="/ser/{session.token}/{what}.{kind}">'
        f"{text(session.language, f'download_{kind}')}</a> "
        for kind in ("csv", "json")
    )


def _table(heads: list[str], rows: list[str], label: str, style: str = "") -> str:
    shown = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    return (
        f'<div class="ser-scroll" role="region" tabindex="0" aria-label="{label}">'
        f'<table class="ser-table {style}"><thead><tr>{shown}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        "</div>"
    )


def _settings(description: Mapping[str, Any]) -> str:
    name = str(description.get("_target_", "–")).rpartition(".")[2]
    rest = ", ".join(f"{key} {value}" for key, value in description.items() if not key.startswith("_"))
    return f"{name} ({rest})" if rest else name
