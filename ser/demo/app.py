"""The page itself: Gradio's components, and what happens when they are used."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ser.demo import LANGUAGES, model_name, plots, text
from ser.demo.live import LiveSettings, live_tab
from ser.demo.recognition import Limits, ModelShelf, analyse, check_upload, recognise_files
from ser.demo.state import Session, Sessions
from ser.errors import SerError
from ser.inference.vad import SpeechGate

HEAD = '<link rel="stylesheet" href="/ser/asset/page.css"><script src="/ser/asset/capture.js" defer></script>'
_PROGRESS = gr.Progress()
_SETTINGS = {"window": (1.0, 10.0, 0.5), "hop": (0.25, 5.0, 0.25), "smoothing": (0.0, 0.9, 0.1)}  # least, most, step
_FONTS = ("system-ui", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei")


def page_theme() -> gr.themes.Base:
    """Gradio's plain theme with fonts that the computer has, and buttons dark enough for white letters."""
    fonts = (*_FONTS, "sans-serif")  # also for tables, which Gradio sets in a monospaced font
    theme = gr.themes.Base(primary_hue="blue", font=fonts, font_mono=fonts)
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
    """The page over models and sessions; ``blocks`` is what Gradio serves. With ``is_open`` it shows a warning."""

    def __init__(
        self,
        shelf: ModelShelf,
        sessions: Sessions,
        gate: SpeechGate,
        limits: Limits,
        uploads: Path,
        is_open: bool = False,
    ) -> None:
        self.shelf, self.sessions, self.gate, self.limits, self.uploads = shelf, sessions, gate, limits, uploads
        self.is_open = is_open
        self._labels: list[tuple[Any, str, str]] = []  # component, its property, key of the text
        title = "Speech emotion recognition"
        with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            self._lay_out()
            self._connect()

    def _label(self, component: Any, key: str, name: str = "label") -> Any:
        """The component, whose label follows the language from here on; English until the browser's is known."""
        setattr(component, name, text("en", key))
        self._labels.append((component, name, key))
        return component

    def _lay_out(self) -> None:
        say = self._label
        names, languages = self.shelf.names, [(name, key) for key, name in LANGUAGES.items()]
        self.title = gr.HTML(f"<h1>{text('en', 'title')}</h1>")
        with gr.Row(equal_height=True):
            box = gr.Dropdown(names, value=names[0], filterable=False, scale=3, min_width=300, elem_id="ser-model")
            self.model = say(box, "model")
            self.language = say(gr.Radio(languages, value="en", scale=1, elem_id="ser-language"), "language")
        self.notice = gr.HTML(elem_id="ser-notice")
        with gr.Tabs():
            with say(gr.Tab(id="live", render_children=True), "tab_live"):
                self.live = gr.HTML()
                with say(gr.Accordion(open=False, elem_id="ser-settings"), "live_settings"), gr.Row():
                    self.settings = [
                        say(gr.Slider(least, most, getattr(LiveSettings(), key), step=step), f"setting_{key}")
                        for key, (least, most, step) in _SETTINGS.items()
                    ]
                    self.settings.append(say(gr.Checkbox(False, elem_id="ser-record"), "setting_record"))
            with say(gr.Tab(id="file"), "tab_file"):
                player = gr.Audio(type="filepath", elem_id="ser-audio", buttons=[], editable=False)
                self.audio = say(player, "file_input")
                self.recognise = say(gr.Button(variant="primary", elem_id="ser-recognise"), "file_button", "value")
                self.file = gr.HTML(elem_id="ser-file")
            with say(gr.Tab(id="folder"), "tab_folder"):
                self.files = say(gr.File(file_count="multiple", elem_id="ser-files", height=160), "folder_files")
                self.directory = say(gr.UploadButton(file_count="directory"), "folder_choose")
                self.folder = gr.HTML(elem_id="ser-folder")
                self.folder_table = _table("ser-folder-table")
            with say(gr.Tab(id="history"), "tab_history") as self.tab_history:
                self.history = gr.HTML(elem_id="ser-history")
                self.history_table = _table("ser-history-table")
                self.player = gr.HTML(elem_id="ser-player")
                self.clear = say(gr.Button(elem_id="ser-clear"), "clear_history", "value")
            with say(gr.Tab(id="card"), "tab_card"):
                self.card = gr.HTML(elem_id="ser-card")

    def _connect(self) -> None:
        hidden: Any = {"show_progress": "hidden", "api_visibility": "private"}
        shown: Any = {"show_progress": "minimal", "api_visibility": "private"}
        folder, history = [self.folder, self.folder_table], [self.history, self.history_table, self.player]
        self.panels = [self.title, self.notice, self.live, self.file, *folder, *history, self.card]
        everything = [*self.panels, *(component for component, _, _ in self._labels)]
        self.blocks.load(self.on_load, None, everything, **hidden)
        self.blocks.unload(self.on_unload)
        self.language.input(self.on_language, self.language, everything, **hidden)
        self.model.input(self.on_model, self.model, [self.notice, self.card, self.live], **shown)
        gr.on([setting.change for setting in self.settings], self.on_settings, self.settings, None, **hidden)
        for trigger in (self.audio.upload, self.audio.stop_recording, self.recognise.click):
            trigger(self.on_file, self.audio, self.file, **shown)
        self.files.upload(self.on_files, self.files, folder, **shown)
        self.directory.upload(self.on_files, self.directory, folder, **shown)
        self.tab_history.select(self.on_history, None, history, **hidden)
        self.history_table.select(self.on_play, None, self.player, **hidden)
        self.clear.click(self.on_clear, None, history, **hidden)

    def on_load(self, request: gr.Request) -> dict[Any, Any]:
        """A browser opened the page: in Chinese where the browser prefers it."""
        preferred = str(request.headers.get("accept-language", "")).lower()
        return self._everything(self._session(request, "zh" if preferred.startswith("zh") else "en"))

    def on_unload(self, request: gr.Request) -> None:
        """A browser closed or reloaded the page."""
        self.sessions.close(str(request.session_hash))

    def on_language(self, language: str, request: gr.Request) -> dict[Any, Any]:
        """All text anew; what was recognised stays."""
        session = self._session(request)
        session.language = language if language in LANGUAGES else "en"
        return self._everything(session)

    def on_model(self, name: str, request: gr.Request) -> Any:
        """Another model, for what comes from now on; a list that was only visited changes nothing."""
        session = self._session(request)
        if name == session.model:
            return [gr.skip()] * 3
        session.model = name
        session.stop()
        return [*self._model_panels(session), live_tab(session.listened, session.token, session.language, self.is_open)]

    def on_settings(self, window: float, hop: float, smoothing: float, record: bool, request: gr.Request) -> None:
        """Window, hop, smoothing or recording were changed; an open microphone begins anew."""
        given = zip(_SETTINGS.values(), (window, hop, smoothing), strict=True)
        window, hop, smoothing = (min(max(float(value), least), most) for (least, most, _), value in given)
        self._session(request).settings = LiveSettings(window, hop, smoothing, bool(record))

    def on_file(self, path: str | None, request: gr.Request) -> str:
        """A file was dropped, chosen or recorded, or the button pressed: the same file is answered once per model."""
        session = self._session(request)
        if path is None:
            return plots.panel(plots.note(text(session.language, "file_none"), "warning"))
        before, session.analysis = session.analysis, None
        try:
            found = check_upload(path, self.uploads, self.limits, session.language)
            if before is not None and (before.path, before.model) == (found, session.model):
                session.analysis = before
                return self._file(session)
            model = self.shelf.open(session.model)
            session.analysis = analysis = analyse(model, found, self.gate, self.limits, session.language)
        except SerError as error:
            return plots.panel(plots.note(text(session.language, "error", reason=error), "error"))
        answer = analysis.prediction.probabilities if analysis.prediction else {}
        session.history.add("file", found.name, analysis.seconds, answer, model.name, session.keep(found))
        return self._file(session)

    def on_files(
        self, paths: Sequence[str] | None, request: gr.Request, progress: gr.Progress = _PROGRESS
    ) -> list[Any]:
        """Files or a folder were chosen."""
        session = self._session(request)

        def done(fraction: float, path: Path | None, seconds: float, found: dict[str, float]) -> None:
            if path is not None:
                session.history.add("folder", path.name, seconds, found, model.name, session.keep(path))
            progress(fraction, text(session.language, "recognising"))

        try:
            model = self.shelf.open(session.model)
            session.table = recognise_files(
                model, self.gate, paths or [], self.uploads, self.limits, session.language, done
            )
        except SerError as error:
            note = plots.note(text(session.language, "error", reason=error), "error")
            return [plots.panel(note), gr.update(visible=False)]
        return self._folder(session)

    def on_history(self, request: gr.Request) -> list[Any]:
        """The history tab was opened."""
        return self._history(self._session(request))

    def on_play(self, event: gr.SelectData, request: gr.Request) -> str:
        """A row of the history was chosen: a player for it."""
        session, row = self._session(request), event.row_value
        number = int(row[0]) if row and str(row[0]).isdigit() else 0
        found = session.history.find(number)
        if found is None:
            return plots.panel(plots.note(text(session.language, "no_clip")))
        name, source = escape(found[0], quote=True), f"/ser/{session.token}/clip/{number}"
        player = f'<audio controls preload="none" aria-label="{name}" src="{source}"></audio>'
        return plots.panel(f'<p class="ser-facts">{number}: {name}</p>{player}')

    def on_clear(self, request: gr.Request) -> list[Any]:
        """Forget what was recognised."""
        session = self._session(request)
        session.history.clear()
        return self._history(session)

    def _session(self, request: gr.Request, language: str = "en") -> Session:
        client = getattr(getattr(request, "client", None), "host", "")
        try:
            return self.sessions.of(str(request.session_hash), str(client), language)
        except SerError as error:
            raise gr.Error(str(error), duration=None) from error

    def _everything(self, session: Session) -> dict[Any, Any]:
        """Updates of all text and panels."""
        language = session.language
        updates = {component: gr.update(**{name: text(language, key)}) for component, name, key in self._labels}
        notice, card = self._model_panels(session)
        panels = [
            f"<h1>{text(language, 'title')}</h1>",
            notice,
            live_tab(session.listened, session.token, session.language, self.is_open),
            self._file(session),
        ]
        panels += [*self._folder(session), *self._history(session), card]
        updates[self.model]["choices"] = [(model_name(language, name), name) for name in self.shelf.names]
        updates[self.model]["value"], updates[self.language]["value"] = session.model, language
        return updates | dict(zip(self.panels, panels, strict=True))

    def _model_panels(self, session: Session) -> list[Any]:
        """Notice above the tabs, and the card of the chosen model, or why it cannot be used."""
        language = session.language
        notes = plots.note(text(language, "open_to_network"), "warning") if self.is_open else ""
        try:
            model = self.shelf.open(session.model)
            card = plots.card_panel(model, language, self.gate.name)
            notes += plots.note(text(language, "card_synthetic"), "warning") if plots.is_synthetic(model) else ""
        except SerError as error:
            card = plots.note(text(language, "model_failed", reason=error), "error")
            notes += card
        return [gr.update(value=plots.panel(notes), visible=bool(notes)), plots.panel(card)]

    def _file(self, session: Session) -> str:
        looks = self.shelf.open(session.analysis.model).looks if session.analysis else {}
        return plots.panel(plots.file_panel(session.analysis, looks, session.language))

    def _folder(self, session: Session) -> list[Any]:
        """Counts with links, and the table, of the folder tab."""
        table, language = session.table, session.language
        if table is None:
            return ["", gr.update(visible=False)]
        good = int(table["seconds"].notna().sum())
        ignored = int(table["reason"].isin([text(key, "ignored") for key in LANGUAGES]).sum())
        done = text(language, "folder_done", good=good, bad=len(table) - good - ignored, ignored=ignored)
        return [plots.panel(_facts(done, session, "folder")), _filled(table, language)]

    def _history(self, session: Session) -> list[Any]:
        """Counts with links, table and an empty player of the history tab."""
        language, history = session.language, session.history
        if not len(history):
            return [plots.panel(plots.note(text(language, "history_empty"))), gr.update(visible=False), ""]
        kept = text(language, "history_kept", total=len(history), most=history.most)
        return [plots.panel(_facts(kept, session, "history")), _filled(history.table(), language), ""]


_WIDTHS = {"number": 50, "time": 85, "name": 170, "file": 180, "seconds": 100, "model": 210, "reason": 330}  # pixels


def _table(name: str) -> gr.Dataframe:
    return gr.Dataframe(
        interactive=False, visible=False, wrap=True, show_label=False, show_search="search", elem_id=name
    )


def _filled(table: Any, language: str) -> Any:
    shown = [column for column in table.columns if not column.startswith("p_") or table[column].notna().any()]
    widths = [f"{_WIDTHS.get(column, 115)}px" for column in shown]
    return gr.update(value=plots.result_table(table[shown], language), column_widths=widths, visible=True)


def _facts(counts: str, session: Session, what: str) -> str:
    links = "".join(
        f'<a class="ser-link" download href="/ser/{session.token}/{what}.{kind}">'
        f"{text(session.language, f'download_{kind}')}</a> "
        for kind in ("csv", "json")
    )
    return f'<p class="ser-facts" role="status">{counts} {links}</p>'
