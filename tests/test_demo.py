"""The page's sessions, limits, history and languages, without a browser."""

import dataclasses
import json
import re
import string
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from checkpoints import EMOTIONS, save_checkpoint, voice
from fake_runs import write_run

from ser.emotions import looks
from ser.errors import SerError
from ser.inference.files import predict_file
from ser.inference.vad import EnergyGate
from ser.io import json_text, plain_rows, safe_csv

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'ser-lab[demo]'")

from ser import demo
from ser.demo import plots, recognition
from ser.demo.app import Page
from ser.demo.live import LiveSettings
from ser.demo.recognition import Limits, ModelShelf
from ser.demo.state import History, Sessions

GATE = EnergyGate()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model") / "run" / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="module")
def shelf(checkpoint):
    return ModelShelf([checkpoint, checkpoint.parents[3] / "absent"])


@pytest.fixture(scope="module")
def model(shelf):
    return shelf.open(shelf.names[0])


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


@pytest.fixture
def page(shelf, tmp_path, uploads):
    sessions = Sessions(tmp_path / "sessions", shelf.names[0])
    return Page(shelf, sessions, GATE, Limits(megabytes=1.0, seconds=20.0, files=3), uploads)


def visitor(name, language="en-GB", client="127.0.0.1"):
    headers = {"accept-language": language}
    return types.SimpleNamespace(session_hash=name, headers=headers, client=types.SimpleNamespace(host=client))


def save(path, samples, rate=16000):
    soundfile.write(path, np.asarray(samples), rate, subtype="FLOAT")
    return path


# Sessions


def test_two_browsers_never_mix_audio_or_history(page, uploads, model):
    one, other = page.sessions.of("one"), page.sessions.of("other")
    assert one.token != other.token
    loud = voice(6.0).numpy().astype(np.float32)
    one.hear(model, GATE, 16000).write(0, loud)
    other.hear(model, GATE, 16000).write(0, np.zeros_like(loud))
    assert not other.live.recent.latest().any()
    one.stop()
    page.on_file(str(save(uploads / "mine.wav", voice(1.0))), visitor("one"))
    assert one.history.table()["source"].tolist() == ["file", "live"]
    assert len(other.history) == 0
    assert "Nothing yet" in page.on_history(visitor("other"))[0]
    assert page.sessions.by_token(one.token) is one
    assert page.sessions.by_token("guess") is None
    page.sessions.close_all()


def test_closing_a_window_deletes_its_sound_and_ends_its_thread(page, uploads, model):
    path = save(uploads / "a.wav", voice(1.0))
    page.on_file(str(path), visitor("one"))
    session = page.sessions.of("one")
    live = session.hear(model, GATE, 16000)
    assert list(session.folder.iterdir())
    page.on_unload(visitor("one"))
    assert not session.folder.exists()
    assert not live.stream._thread.is_alive()
    assert path.exists()  # Gradio's own copy may serve another window; it goes by age
    assert len(page.sessions) == 0


def test_windows_are_bounded_and_an_invented_one_ends_no_other(tmp_path):
    now = [0.0]
    sessions = Sessions(tmp_path, "model", most=4, per_client=2, idle=100.0, clock=lambda: now[0])
    first = sessions.of("a", "10.0.0.1")
    for name in ("b", "c", "d"):
        try:
            sessions.of(name, "10.0.0.2")
        except SerError as error:
            assert "Too many windows" in str(error)
    assert len(sessions) == 3
    assert sessions.of("a", "10.0.0.1") is first
    sessions.of("e", "10.0.0.3")
    with pytest.raises(SerError, match="Too many windows"):
        sessions.of("f", "10.0.0.4")
    assert first.folder.exists()
    now[0] = 200.0
    sessions.of("g", "10.0.0.4")
    assert len(sessions) == 1
    assert not first.folder.exists()


def test_fifty_windows_at_once_each_get_their_own_answers(page, model, uploads):
    save(uploads / "a.wav", voice(1.0))
    sound = voice(6.0).numpy().astype(np.float32)

    def visit(number):
        who = visitor(f"window {number}")
        page.on_load(who)
        session = page.sessions.of(who.session_hash)
        session.hear(model, GATE, 16000).write(0, sound if number % 2 else np.zeros_like(sound))
        session.stop()
        page.on_file(str(uploads / "a.wav"), who)
        return session

    with ThreadPoolExecutor(50) as pool:
        visited = list(pool.map(visit, range(50)))
    assert len(page.sessions) == len({session.token for session in visited}) == 50
    for number, session in enumerate(visited):
        table = session.history.table().set_index("source")
        assert sorted(table.index) == ["file", "live"]
        assert pd.isna(table.loc["live", "predicted"]) == (number % 2 == 0)
    page.sessions.close_all()
    assert not any(page.sessions.folder.iterdir())


def test_another_rate_or_setting_begins_a_new_stretch_and_the_same_model_does_not(page, shelf, model):
    session = page.sessions.of("one")
    first = session.hear(model, GATE, 16000)
    page.on_model(shelf.names[0], visitor("one"))  # the list was only visited
    assert session.hear(model, GATE, 16000) is first
    page.on_settings(2.0, 1.0, 0.5, False, visitor("one"))
    other = session.hear(model, GATE, 16000)
    assert (other.stream.window, other.stream.hop, other.stream.smoothing) == (32000, 16000, 0.5)
    page.on_settings(1e9, 0.0, 7.0, True, visitor("one"))  # forged
    assert session.settings == LiveSettings(10.0, 0.25, 0.9, record=True)
    assert session.hear(model, GATE, 44100) is not other
    page.on_model(shelf.names[1], visitor("one"))
    assert session.live is None
    page.sessions.close_all()


# Files


def test_a_file_gets_the_prediction_of_the_recognizer_whatever_its_length(model, tmp_path):
    for seconds in (1.0, 12.0, 65.0):
        path = save(tmp_path / "a.wav", voice(seconds))
        found = recognition.analyse(model, path, GATE, Limits(), "en")
        expected = predict_file(model.recognizer, path).probabilities
        assert found.prediction.probabilities == pytest.approx(expected, abs=1e-6)
        assert found.seconds == pytest.approx(seconds)
        assert (found.prediction.attention is None) == (seconds > 60)
        assert bool(found.rows) == (seconds > recognition.TIMELINE_FROM)
        if found.times:
            assert found.times[0][0] == 0.0
            assert found.times[-1][1] == pytest.approx(seconds)
            assert [end for _, end in found.times[:-1]] == [start for start, _ in found.times[1:]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "a.wav is empty"),
        (lambda path: path.write_text("no sound"), "cannot be decoded"),
        (lambda path: save(path, np.array([0.1])), "too short"),
        (lambda path: save(path, np.full(16000, np.nan)), "NaN"),
        (lambda path: save(path, np.zeros(16000 * 21), 16000), "1.3 MB"),
        (lambda path: soundfile.write(path, np.zeros(16000 * 21, np.int16), 16000), "lasts 21 s"),
    ],
)
def test_bad_files_are_one_error_message_without_the_servers_folders(page, uploads, make, message):
    make(uploads / "a.wav")
    html = page.on_file(str(uploads / "a.wav"), visitor("one"))
    assert message in html
    assert str(uploads) not in html
    assert html.count('role="alert"') == 1
    assert "ser-headline" in page.on_file(str(save(uploads / "b.wav", voice(1.0))), visitor("one"))


def test_the_button_answers_an_upload_again_only_for_another_model(page, uploads):
    path, who = str(save(uploads / "a.wav", voice(1.0))), visitor("one")
    shown, session = page.on_file(path, who), page.sessions.of("one")
    first = session.analysis
    assert page.on_file(path, who) == shown and session.analysis is first and len(session.history) == 1
    session.analysis = dataclasses.replace(first, model="another")
    page.on_file(path, who)
    assert session.analysis is not first and len(session.history) == 2


def test_paths_outside_the_uploads_are_refused(page, uploads, tmp_path):
    secret = save(tmp_path / "secret.wav", voice(1.0))
    (uploads / "link.wav").symlink_to(secret)
    for path in (secret, uploads / "link.wav", uploads / ".." / "secret.wav", "/etc/passwd", uploads):
        assert "was not uploaded" in page.on_file(str(path), visitor("one"))
        page.on_files([str(path)], visitor("one"), lambda *share: None)
    assert len(page.sessions.of("one").history) == 0


def test_many_files_where_silence_bad_and_ignored_ones_are_rows(page, uploads):
    def progress(*fraction):
        return None

    save(uploads / "=b.wav", voice(1.0))
    save(uploads / "silent.wav", np.zeros(16000))
    (uploads / "bad.wav").write_text("no sound")
    (uploads / "notes.txt").write_text("no sound")
    given = [str(uploads / name) for name in ("=b.wav", "notes.txt", "silent.wav", "bad.wav")]
    html, shown = page.on_files(given, visitor("one"), progress)
    assert "2 recognised, 1 failed, 1 ignored" in html
    assert "已识别 2 个，失败 1 个，忽略 1 个" in str(page.on_language("zh", visitor("one")))
    page.on_language("en", visitor("one"))
    table = page.sessions.of("one").table
    assert table["file"].tolist() == ["=b.wav", "silent.wav", "bad.wav", "notes.txt"]
    assert table["predicted"].notna().tolist() == [True, False, False, False]
    assert table["reason"].notna().tolist() == [False, False, True, True]
    assert safe_csv(table).splitlines()[1].startswith("'=b.wav")
    assert shown["value"]["Emotion"].tolist()[1:] == ["no speech", "", ""]
    assert page.sessions.of("one").history.table()["name"].tolist() == ["silent.wav", "=b.wav"]
    for wrong, message in (([], "first"), (given[1:2], "no audio file"), (given[:1] * 4, "at most 3")):
        assert message in page.on_files(wrong, visitor("one"), progress)[0]
    page.on_files(given[3:], visitor("one"), progress)
    assert page.sessions.of("one").table["reason"].str.contains("cannot be decoded").all()
    page.on_language("zh", visitor("one"))
    page.on_files(given[3:], visitor("one"), progress)
    assert page.sessions.of("one").table["reason"].str.contains("^bad.wav 无法解码").all()


@pytest.mark.parametrize("language", demo.LANGUAGES)
def test_what_is_wrong_with_a_recording_is_said_in_the_language_of_the_page(uploads, model, language):
    (uploads / "undecodable").write_text("no sound")
    (uploads / "empty").write_bytes(b"")
    (uploads / "truncated").write_bytes(save(uploads / "whole.wav", voice(1.0)).read_bytes()[:9000])
    save(uploads / "short.wav", np.zeros(1)).rename(uploads / "short")
    save(uploads / "not_finite.wav", np.full(16000, np.nan)).rename(uploads / "not_finite")
    save(uploads / "loud.wav", np.full(16000, 999.0)).rename(uploads / "loud")
    for name in ("undecodable", "empty", "truncated", "short", "not_finite", "loud"):
        with pytest.raises(SerError) as caught:
            recognition.analyse(model, uploads / name, GATE, Limits(), language)
        assert str(caught.value) == demo.text(language, f"audio_{name}", name=name)


def test_silence_has_no_emotion_and_no_timeline(page, uploads, model, monkeypatch):
    html = page.on_file(str(save(uploads / "a.wav", np.zeros(16000 * 9))), visitor("one"))
    assert 'data-state="no-speech"' in html
    assert "ser-lines" not in html
    silent = save(uploads / "long.wav", np.zeros(16000 * 19))
    monkeypatch.setattr(recognition, "LONGEST_SECONDS", 10.0)  # taken window by window
    assert recognition.analyse(model, silent, GATE, Limits(), "en").prediction is None
    half = np.concatenate([voice(8.0).numpy(), np.zeros(16000 * 8)])
    rows = recognition.analyse(model, save(uploads / "b.wav", half), GATE, Limits(), "en").rows
    assert rows[0] is not None
    assert rows[-1] is None


@pytest.mark.parametrize(("seconds", "channels", "rate"), [(0.5, 8, 655_350), (170, 8, 48_000)])
def test_a_small_file_that_decodes_to_gigabytes_is_refused_by_its_header(
    page, uploads, monkeypatch, seconds, channels, rate
):
    path = uploads / "a.flac"
    soundfile.write(path, np.zeros((round(seconds * rate), channels), np.int16), rate)
    assert path.stat().st_size < 1e6
    monkeypatch.setattr(recognition, "read_audio", lambda *given: pytest.fail("it was decoded"))
    page.limits = Limits(seconds=600.0)
    html = page.on_file(str(path), visitor("one"))
    assert f"{channels} channels at {rate} Hz" in html


# History


def test_history_is_bounded_and_exported(tmp_path):
    history = History(most=3, most_bytes=10)
    for number in range(5):
        clip = tmp_path / f"{number}.wav"
        clip.write_bytes(b"x")
        found = {"happy": 0.7, "sad": 0.3} if number % 2 else {}
        history.add("live" if number % 2 else "file", f"Take {number}", 1.5, found, "m", clip)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.wav", "3.wav", "4.wav"]
    table = history.table()
    assert table["name"].tolist() == ["Take 4", "Take 3", "Take 2"]
    records = json.loads(json_text(plain_rows(table)))
    assert [row["predicted"] for row in records] == [None, "happy", None]
    assert records[1]["p_happy"] == 0.7
    assert safe_csv(table).splitlines()[0].endswith("model,p_happy,p_sad")
    for language in demo.LANGUAGES:
        assert len(plots.result_table(table, language).columns) == len(table.columns)
    (tmp_path / "large.wav").write_bytes(b"x" * 9)
    history.add("file", "large", 1.0, {}, "m", tmp_path / "large.wav")
    assert history.table()["name"].tolist() == ["large", "Take 4"]
    history.clear()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_exported_names_cannot_be_formulas(start):
    history = History()
    history.add("file", f"{start}1+1.wav", 1.0, {}, "m")
    assert f"'{start}1+1.wav" in safe_csv(history.table())


def test_a_row_of_the_history_can_be_played(page, uploads):
    page.on_file(str(save(uploads / "a.wav", voice(1.0))), visitor("one"))
    token = page.sessions.of("one").token
    choose = lambda number: page.on_play(types.SimpleNamespace(row_value=[number, "x"]), visitor("one"))  # noqa: E731
    assert f'src="/ser/{token}/clip/1"' in choose(1)
    for number in (2, "<b>", None):
        assert "no recording" in choose(number)


# Models, languages, looks


def test_a_missing_model_explains_itself_and_the_page_stays_usable(page, shelf, uploads):
    notice, card, _ = page.on_model(shelf.names[1], visitor("one"))
    assert "does not exist" in notice["value"]
    assert "does not exist" in card
    path = str(save(uploads / "a.wav", voice(1.0)))
    assert "does not exist" in page.on_file(path, visitor("one"))
    page.on_load(visitor("two"))
    assert "cannot be used" not in page.on_model(shelf.names[0], visitor("one"))[0]["value"]
    assert "ser-headline" in page.on_file(path, visitor("one"))


def test_card_shows_results_with_an_interval_and_labels_what_flatters(tmp_path):
    folder = write_run(tmp_path / "run", speakers=16)
    save_checkpoint(folder / "checkpoints" / "best.ckpt")
    split = json.loads((folder / "split.json").read_text())
    (folder / "split.json").write_text(json.dumps({**split, "speaker_overlap": True, "transductive": True}))
    shelf = ModelShelf([folder])
    model = shelf.open(shelf.names[0])
    card = plots.card_panel(model, "en", GATE.name)
    assert f"{model.uar.estimate:.1%}" in card
    assert model.uar.low <= model.uar.estimate <= model.uar.high
    assert "Speaker overlap" in card
    assert "Transductive" in card
    assert f"{sum(weight.numel() for weight in model.recognizer.parameters()):,}" in card
    few = write_run(tmp_path / "few")
    save_checkpoint(few / "checkpoints" / "best.ckpt")
    card = plots.card_panel(ModelShelf([few]).open(ModelShelf([few]).names[0]), "en", GATE.name)
    assert "too few speakers for an interval" in card
    assert "nan" not in card


def test_labels_are_there_before_the_browser_has_asked_for_its_language(page):
    shown = {entry["id"]: entry["props"] for entry in page.blocks.get_config_file()["components"]}
    assert all(shown[part._id][name] == demo.text("en", key) for part, name, key in page._labels)


def test_every_text_says_the_same_in_both_languages():
    def fields(message):
        return {name for _, name, _, _ in string.Formatter().parse(message) if name}

    source = "".join(path.read_text() for path in Path(demo.__file__).parent.glob("*.py"))
    for key, shown in demo._TEXTS.items():
        assert list(shown) == list(demo.LANGUAGES), key
        assert fields(shown["en"]) == fields(shown["zh"]), key
        assert re.search("[\u4e00-\u9fff]", shown["zh"]), key
        assert key in source or key.startswith(("kind_", "card_", "column_", "setting_", "download_", "audio_")), key


def test_language_switch_keeps_what_was_recognised(page, uploads):
    page.on_file(str(save(uploads / "a.wav", voice(1.0))), visitor("one"))
    english = str(page.on_language("en", visitor("one")))
    chinese = str(page.on_language("zh", visitor("one")))
    assert "confidence" in english
    assert "置信度" in chinese
    assert "a.wav" in chinese
    page.on_load(visitor("two", "zh-CN,zh;q=0.9"))
    assert page.sessions.of("two").language == "zh"


def test_the_model_that_comes_along_has_a_name_in_each_language_and_other_models_their_own(page, shelf, monkeypatch):
    own = shelf.names[0]
    shipped = demo.text("en", "shipped_model")
    monkeypatch.setattr(ModelShelf, "names", property(lambda _: [own, shipped]))
    assert page.on_language("en", visitor("one"))[page.model]["choices"] == [(own, own), (shipped, shipped)]
    chinese = "随 ser-lab 附带的模型"
    assert page.on_language("zh", visitor("one"))[page.model]["choices"] == [(own, own), (chinese, shipped)]
    history = pd.DataFrame({"model": [own, shipped]})
    assert plots.result_table(history, "zh")["模型"].tolist() == [own, chinese]


def test_emotions_differ_by_sign_dash_and_hatching_and_stand_out_on_white():
    shown = looks([*EMOTIONS, "fearful", "calm", "odd", "odder"]).values()
    for key in ("sign", "dash", "stripes", "color"):
        assert len({getattr(look, key) for look in shown}) == len(shown)
    for look in shown:
        color = recognition.DARKER.get(look.color, look.color)
        channels = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)  # of WCAG 2.2
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3.0


def test_names_of_files_cannot_bring_markup(page, uploads):
    name = "<img src=x onerror=alert(1)>.wav"
    html = page.on_file(str(save(uploads / name, voice(1.0))), visitor("one"))
    html += page.on_history(visitor("one"))[0]
    html += page.on_files([str(uploads / name)], visitor("one"), lambda *share: None)[0]
    html += page.on_play(types.SimpleNamespace(row_value=[1]), visitor("one"))
    assert "<img" not in html


def test_a_page_that_is_open_says_so(shelf, tmp_path, uploads):
    for is_open in (True, False):
        page = Page(shelf, Sessions(tmp_path, shelf.names[0]), GATE, Limits(), uploads, is_open)
        shown = str(page.on_load(visitor("one")))
        assert ("open to the network" in shown) == is_open
        assert ("Nothing leaves this computer" in shown) != is_open
        page.sessions.close_all()


@pytest.mark.parametrize(
    ("seconds", "marks"),
    [((0.0, 30.0), ["0.0", "7.5", "15.0", "22.5", "30.0"]), ((0.0, 20.0), ["0", "5", "10", "15", "20"])],
)
def test_marks_of_the_time_axis_say_where_they_are(seconds, marks):
    assert re.findall(r">([\d.]+) s<", plots._axis("en", seconds)) == marks
