"""The page itself: Gradio's components, and what happens when they are used."""

import logging
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ser.demo import drawing, folders, recordings, views
from ser.demo.history import Filter
from ser.demo.models import ModelShelf
from ser.demo.recordings import Limits
from ser.demo.sessions import Session, Sessions
from ser.demo.texts import LANGUAGES, emotion_name, text
from ser.errors import SerError
from ser.inference.speech_gate import SpeechGate

log = logging.getLogger(__name__)

_KINDS = ("live", "file", "folder")
_TABS = ("tab_live", "tab_file", "tab_folder", "tab_history", "tab_card")
_FONTS = (
    "system-ui",
    "Segoe UI",
    "Roboto",
    "Noto Sans",
    "Noto Sans CJK SC",
    "PingFang SC",
    "Microsoft YaHei",
    "sans-serif",
)
HEAD = '<link rel="stylesheet" href="/ser/asset/page.css"><script src="/ser/asset/capture.js" defer></script>'


def page_theme() -> gr.themes.Base:
    """Gradio's plain theme with fonts that the computer has, and buttons dark enough for white letters."""
    theme = gr.themes.Base(primary_hue="blue", font=_FONTS, font_mono=("ui-monospace", "Consolas", "monospace"))
    return theme.set(
        button_primary_background_fill="#0b4f8a",
        button_primary_background_fill_dark="#0b4f8a",
        button_primary_background_fill_hover="#083b68",
        button_primary_background_fill_hover_dark="#083b68",
        button_primary_text_color="#ffffff",
        color_accent="#0b4f8a",
        body_text_color_subdued="#4a555c",
        block_label_text_color="#3d474e",
        block_title_text_color="#1d2429",
        body_text_color="#1d2429",
    )


class Page:
    """The page over models and sessions.

    Args:
        shelf: of the models.
        sessions: of the browsers.
        gate: finds speech.
        limits: of uploads.
        uploads: where Gradio keeps them.
    """

    def __init__(self, shelf: ModelShelf, sessions: Sessions, gate: SpeechGate, limits: Limits, uploads: Path) -> None:
        self.shelf, self.sessions, self.gate, self.limits, self.uploads = shelf, sessions, gate, limits, uploads

    def build(self) -> gr.Blocks:
        """Lay out the page and connect it."""
        with gr.Blocks(title="Speech emotion recognition", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            self._lay_out()
        with blocks:
            self._connect(blocks)
        return blocks

    def _lay_out(self) -> None:
        self.title = gr.HTML()
        with gr.Row(equal_height=True):
            self.model = gr.Dropdown(
                self.shelf.names,
                value=self.shelf.names[0],
                filterable=False,
                scale=3,
                min_width=300,
                elem_id="ser-model",
            )
            self.language = gr.Radio(
                [(name, key) for key, name in LANGUAGES.items()], value="en", scale=1, elem_id="ser-language"
            )
        self.notice = gr.HTML(visible=False)
        with gr.Tabs():
            with gr.Tab(id="live") as self.tab_live:
                self.live = gr.HTML()
            with gr.Tab(id="file") as self.tab_file:
                self.audio = gr.Audio(
                    sources=["upload", "microphone"], type="filepath", elem_id="ser-audio", buttons=[], editable=False
                )
                self.recognise = gr.Button(variant="primary", elem_id="ser-recognise")
                self.file = gr.HTML(elem_id="ser-file")
            with gr.Tab(id="folder") as self.tab_folder:
                self.files = gr.File(file_count="multiple", elem_id="ser-files", height=160)
                self.directory = gr.UploadButton(file_count="directory", elem_id="ser-directory")
                self.folder = gr.HTML(elem_id="ser-folder")
            with gr.Tab(id="history") as self.tab_history:
                with gr.Row():
                    self.by_emotion = gr.Dropdown([], filterable=False, elem_id="ser-by-emotion")
                    self.by_kind = gr.Dropdown([], filterable=False, elem_id="ser-by-kind")
                    self.by_words = gr.Textbox(elem_id="ser-by-words")
                self.history = gr.HTML(elem_id="ser-history")
                self.clear = gr.Button(elem_id="ser-clear")
            with gr.Tab(id="card") as self.tab_card:
                self.card = gr.HTML(elem_id="ser-card")

    def _connect(self, blocks: gr.Blocks) -> None:
        hidden: Any = {"show_progress": "hidden", "api_visibility": "private"}
        shown: Any = {"show_progress": "minimal", "api_visibility": "private"}
        everything = [
            self.title,
            self.model,
            self.language,
            self.notice,
            self.live,
            self.audio,
            self.recognise,
            self.file,
            self.files,
            self.directory,
            self.folder,
            self.by_emotion,
            self.by_kind,
            self.by_words,
            self.history,
            self.clear,
            self.card,
            self.tab_live,
            self.tab_file,
            self.tab_folder,
            self.tab_history,
            self.tab_card,
        ]
        blocks.load(self.on_load, None, everything, **hidden)
        blocks.unload(self.on_unload)
        self.language.input(self.on_language, self.language, everything, **hidden)
        self.model.input(self.on_model, self.model, [self.notice, self.card, self.live], **shown)
        for trigger in (self.audio.upload, self.audio.stop_recording, self.recognise.click):
            trigger(self.on_file, self.audio, self.file, **shown)
        self.files.upload(self.on_files, self.files, self.folder, **shown)
        self.directory.upload(self.on_files, self.directory, self.folder, **shown)
        filters = [self.by_emotion, self.by_kind, self.by_words]
        self.tab_history.select(self.on_history, None, [self.history, self.by_emotion], **hidden)
        for change in (self.by_emotion.change, self.by_kind.change, self.by_words.change):
            change(self.on_filter, filters, self.history, **hidden)
        self.clear.click(self.on_clear, None, self.history, **hidden)

    def on_load(self, request: gr.Request) -> list[Any]:
        """A browser opened the page: in Chinese where the browser prefers it."""
        session = self._session(request)
        preferred = str(request.headers.get("accept-language", "")).lower()
        session.language = "zh" if preferred.startswith("zh") else "en"
        return self._everything(session)

    def on_unload(self, request: gr.Request) -> None:
        """A browser closed or reloaded the page."""
        self.sessions.close(str(request.session_hash))

    def on_language(self, language: str, request: gr.Request) -> list[Any]:
        """All words anew; what was recognised stays."""
        session = self._session(request)
        session.language = language if language in LANGUAGES else "en"
        return self._everything(session)

    def on_model(self, name: str, request: gr.Request) -> list[Any]:
        """Another model, for what comes from now on."""
        session = self._session(request)
        session.model = name
        session.stop()
        return [*self._model_panels(session), self._live(session)]

    def on_file(self, path: str | None, request: gr.Request) -> str:
        """A file was dropped, chosen or recorded."""
        session = self._session(request)
        if path is None:
            return _panel(drawing.note(text(session.language, "file_none"), "warning"))
        try:
            found = recordings.check_upload(path, self.uploads, self.limits, session.language)
            model = self.shelf.open(session.model)
            analysis = recordings.analyse(model, found, self.gate, self.limits, session.language)
        except SerError as error:
            session.analysis = None
            return _panel(drawing.note(text(session.language, "error", reason=error), "error"))
        session.analysis = analysis
        session.history.add(
            "file",
            analysis.name,
            analysis.prediction.seconds,
            analysis.prediction.probabilities,
            analysis.model,
            session.keep(found),
        )
        return _panel(views.file_panel(session, self.shelf.looks))

    def on_files(self, paths: Sequence[str] | None, request: gr.Request, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        """Files or a folder were chosen."""
        session = self._session(request)
        try:
            model = self.shelf.open(session.model)
            report: Callable[[float], None] = lambda share: progress(share, text(session.language, "recognising"))  # noqa: E731
            folders.recognise(session, model, paths or [], self.uploads, self.limits, report)
        except SerError as error:
            return _panel(drawing.note(text(session.language, "error", reason=error), "error"))
        return _panel(views.folder_panel(session, self.shelf.looks))

    def on_history(self, request: gr.Request) -> list[Any]:
        """The history tab was opened."""
        session = self._session(request)
        return [self._history(session), self._emotion_filter(session)]

    def on_filter(self, emotion: str | None, kind: str | None, words: str, request: gr.Request) -> str:
        """Show other entries."""
        session = self._session(request)
        session.history.filter = Filter(emotion or None, kind or None, (words or "")[:200])
        return self._history(session)

    def on_clear(self, request: gr.Request) -> str:
        """Forget what was recognised."""
        session = self._session(request)
        session.history.clear()
        return self._history(session)

    def _session(self, request: gr.Request) -> Session:
        return self.sessions.of(str(request.session_hash))

    def _everything(self, session: Session) -> list[Any]:
        """Updates of all components, in the order of _connect."""
        language, chosen = session.language, session.history.filter

        def say(key: str) -> str:
            return text(language, key)

        notice, card = self._model_panels(session)
        kinds = [(say("all"), ""), *((say(f"kind_{kind}"), kind) for kind in _KINDS)]
        return [
            f"<h1>{say('title')}</h1>",
            gr.update(label=say("model"), value=session.model),
            gr.update(label=say("language"), value=language),
            notice,
            self._live(session),
            gr.update(label=say("file_input")),
            gr.update(value=say("file_button")),
            _panel(views.file_panel(session, self.shelf.looks)),
            gr.update(label=say("folder_files")),
            gr.update(label=say("folder_choose")),
            _panel(views.folder_panel(session, self.shelf.looks)),
            self._emotion_filter(session),
            gr.update(label=say("filter_kind"), choices=kinds, value=chosen.kind or ""),
            gr.update(label=say("filter_words")),
            self._history(session),
            gr.update(value=say("clear_history")),
            card,
            *(gr.update(label=say(key)) for key in _TABS),
        ]

    def _emotion_filter(self, session: Session) -> Any:
        language, chosen = session.language, session.history.filter.emotion or ""
        names = [(emotion_name(language, name), name) for name in session.history.emotions()]
        return gr.update(
            label=text(language, "filter_emotion"), choices=[(text(language, "all"), ""), *names], value=chosen
        )

    def _model_panels(self, session: Session) -> list[Any]:
        """Notice and card of the chosen model, or why it cannot be used."""
        try:
            card = views.card_panel(self.shelf.open(session.model), session.language, self.gate.name)
        except SerError as error:
            failed = drawing.note(text(session.language, "model_failed", reason=error), "error")
            return [gr.update(value=_panel(failed), visible=True), _panel(failed)]
        return [gr.update(value="", visible=False), _panel(card)]

    def _history(self, session: Session) -> str:
        return _panel(views.history_panel(session, self.shelf.looks))

    def _live(self, session: Session) -> str:
        """The live tab; capture.js fills it and reads its words."""
        say = {
            key: escape(text(session.language, name), quote=True)
            for key, name in {
                "start": "start",
                "stop": "stop",
                "asking": "asking",
                "denied": "denied",
                "nomicrophone": "no_microphone",
                "insecure": "insecure",
                "unplugged": "unplugged",
                "unreachable": "unreachable",
            }.items()
        }
        data = " ".join(f'data-{key}="{value}"' for key, value in say.items())
        shown = (
            views.live_sound(session.listened, session.language)["html"]
            if session.listened
            else drawing.note(text(session.language, "live_idle"))
        )
        level = text(session.language, "level")
        return _panel(
            f'<div id="ser-live" data-token="{session.token}" data-language="{session.language}" {data}>'
            f'<div class="ser-controls"><button id="ser-mic" type="button" aria-pressed="false">{say["start"]}</button>'
            f'<label>{level} <meter id="ser-meter" min="0" max="1" low="0.02" high="0.95" value="0"></meter></label>'
            "</div>"
            f'<p id="ser-live-message" role="alert"></p><div id="ser-live-said" class="ser-hidden" aria-live="polite">'
            f'</div><div id="ser-live-panel">{shown}</div></div>'
        )


def _panel(html: str) -> str:
    return f'<div class="ser-panel">{html}</div>' if html else ""
