"""The page's sessions, limits, history and server, without a browser."""

import io
import json
import re
import string
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fastapi
import numpy as np
import pandas as pd
import pytest
import soundfile
from checkpoints import EMOTIONS, save_checkpoint, voice
from fake_runs import write_run
from torchaudio.functional import resample

from ser.emotions import looks
from ser.errors import SerError
from ser.inference.files import predict_file
from ser.inference.vad import EnergyGate
from ser.io import safe_csv

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'ser-lab[demo]'")

from fastapi.testclient import TestClient

from ser import demo
from ser.demo import plots, recognition, server
from ser.demo.app import Page
from ser.demo.live import LiveSettings, LiveSound, live_panel
from ser.demo.recognition import Limits, ModelShelf, contrast_with_white
from ser.demo.state import History, Sessions, to_json

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


def listen(live, samples, sizes=(4800, 123, 9600)):
    """Send samples in blocks of uneven sizes, waiting for the answers."""
    first, turn = 0, 0
    while first < len(samples):
        block = samples[first : first + sizes[turn % len(sizes)]]
        live.write(first, block)
        first, turn = first + len(block), turn + 1
    live.stop()


# Live


def test_a_live_window_of_a_48_khz_microphone_equals_the_same_samples_as_a_file(model):
    samples = voice(6.3, rate=48000).numpy().astype(np.float32)
    live = LiveSound(model, GATE, 48000)
    listen(live, samples)
    event = live.stream.history()[-1]
    begin, end = round(event.start * 48000), round(event.end * 48000)
    assert end - begin == 5 * 48000
    expected = model.recognizer(samples[begin:end], 48000).probabilities
    assert event.prediction.probabilities == pytest.approx(expected, abs=1e-6)
    assert live.stream.buffer.clock == len(samples)


def test_repeated_blocks_count_once_and_missing_ones_are_told(model):
    live = LiveSound(model, GATE, 16000)
    block = np.full(1600, 0.1, np.float32)
    live.write(0, block)
    live.write(0, block)
    live.write(800, block)
    assert live.stream.buffer.clock == 2400
    assert live.lost == 0
    live.write(4000, block)
    assert (live.lost, live.stream.buffer.clock) == (1600, 5600)
    live.write(10**9, block)  # an hour away: silence of one window, not of an hour
    assert live.stream.buffer.clock == 5600 + 5 * 16000 + 1600
    live.stop()


def test_a_stretch_that_begins_late_has_lost_nothing(model):
    live = LiveSound(model, GATE, 16000)
    live.write(480_000, np.full(1600, 0.1, np.float32))
    assert (live.lost, live.stream.buffer.clock) == (0, 1600)
    live.stop()


def test_silence_is_no_speech_and_what_is_kept_is_bounded(model):
    live = LiveSound(model, GATE, 8000)
    listen(live, np.zeros(8000 * 80, np.float32), sizes=(8000,))
    assert {event.label for event in live.stream.history()} == {None}
    assert live.mean() == {}
    assert live.envelope().shape == (600, 2)
    assert len(live.recent) == 30 * 8000
    assert len(live.stream.history()) <= 60
    state = live_panel(live, "zh")
    assert state["said"] == "无语音"
    assert 'data-emotion=""' in state["html"]


def test_nan_from_a_microphone_is_one_error_message_and_the_stream_goes_on(model):
    live = LiveSound(model, GATE, 16000)
    sound = voice(11.0).numpy().astype(np.float32)
    sound[40000] = np.nan
    live.write(0, sound[:96000])  # every window so far holds it, whichever is dropped
    until = time.monotonic() + 60
    while not live.stream.history() and time.monotonic() < until:
        time.sleep(0.01)
    assert "NaN" in live.stream.history()[0].error
    live.write(96000, sound[96000:])
    live.stop()
    assert live.stream.latest.error is None
    with pytest.raises(SerError, match="rate is 1 Hz"):
        LiveSound(model, GATE, 1)


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


def test_an_answer_whose_window_has_passed_is_shown_paler(model):
    live = LiveSound(model, GATE, 16000, LiveSettings(window=1.0))
    live.write(0, voice(1.0).numpy().astype(np.float32))
    until = time.monotonic() + 60
    while not live.stream.history() and time.monotonic() < until:
        time.sleep(0.01)
    assert "ser-passed" not in live_panel(live, "en")["html"]
    live.stop()
    assert "ser-passed" in live_panel(live, "en")["html"]


def test_dropped_windows_bring_advice(model):
    released = threading.Event()

    def slow(waveform):
        released.wait(60)
        return 0.0

    live = LiveSound(model, slow, 16000)
    live.write(0, np.zeros(16000 * 6, np.float32))
    assert "too slow" not in live_panel(live, "en")["html"]
    live.write(16000 * 6, np.zeros(16000 * 20, np.float32))
    assert live.stream.dropped >= 3
    assert "an answer comes every" in live_panel(live, "en")["html"]
    released.set()
    live.stop()
    assert live.stream.processed <= 2  # no queue has grown


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
        (lambda path: save(path, np.array([0.1])), "1 samples"),
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
    records = json.loads(to_json(table))
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


def test_every_text_says_the_same_in_both_languages():
    def fields(message):
        return {name for _, name, _, _ in string.Formatter().parse(message) if name}

    source = "".join(path.read_text() for path in Path(demo.__file__).parent.glob("*.py"))
    for key, shown in demo._TEXTS.items():
        assert list(shown) == list(demo.LANGUAGES), key
        assert fields(shown["en"]) == fields(shown["zh"]), key
        assert re.search("[\u4e00-\u9fff]", shown["zh"]), key
        assert key in source or key.startswith(("kind_", "card_", "column_", "setting_", "download_")), key


def test_language_switch_keeps_what_was_recognised(page, uploads):
    page.on_file(str(save(uploads / "a.wav", voice(1.0))), visitor("one"))
    english = str(page.on_language("en", visitor("one")))
    chinese = str(page.on_language("zh", visitor("one")))
    assert "confidence" in english
    assert "置信度" in chinese
    assert "a.wav" in chinese
    page.on_load(visitor("two", "zh-CN,zh;q=0.9"))
    assert page.sessions.of("two").language == "zh"


def test_emotions_differ_by_sign_dash_and_hatching_and_stand_out_on_white():
    shown = looks([*EMOTIONS, "fearful", "calm", "odd", "odder"]).values()
    for key in ("sign", "dash", "stripes", "color"):
        assert len({getattr(look, key) for look in shown}) == len(shown)
    for look in shown:
        color = recognition.darkened(look.color)
        assert contrast_with_white(np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255) >= 3.0


def test_names_of_files_cannot_bring_markup(page, uploads):
    name = "<img src=x onerror=alert(1)>.wav"
    html = page.on_file(str(save(uploads / name, voice(1.0))), visitor("one"))
    html += page.on_history(visitor("one"))[0]
    html += page.on_files([str(uploads / name)], visitor("one"), lambda *share: None)[0]
    html += page.on_play(types.SimpleNamespace(row_value=[1]), visitor("one"))
    assert "<img" not in html


# Server


@pytest.fixture(scope="module")
def served(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "uploads").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        patch.setattr(server, "best_gate", EnergyGate)
        app, sessions = server.make_page(server.Settings([checkpoint]), folder)
        yield TestClient(app, base_url="http://127.0.0.1:7860"), sessions
        sessions.close_all()


def test_blocks_become_a_panel_and_a_stretch_in_the_history(served):
    client, sessions = served
    session = sessions.of("browser")
    sound = resample(voice(6.0), 16000, 48000).numpy().astype("<f4")
    for first in range(0, len(sound), 24000):
        answer = client.post(
            f"/ser/{session.token}/block?first={first}&rate=48000", content=sound[first : first + 24000].tobytes()
        )
        assert set(answer.json()) == {"html", "said"}
    assert client.post(f"/ser/{session.token}/stop").status_code == 200
    assert session.listened.stream.processed + session.listened.stream.dropped == 3
    listed = pd.read_csv(io.StringIO(client.get(f"/ser/{session.token}/history.csv").text))
    assert listed["source"].tolist() == ["live"]
    rows = client.get(f"/ser/{session.token}/history.json").json()
    assert rows[0]["source"] == "live"
    assert rows[0]["seconds"] == pytest.approx(6.0)
    clip = client.get(f"/ser/{session.token}/clip/{rows[0]['number']}")
    assert clip.content[:4] == b"RIFF"


def test_a_recording_is_kept_on_request_and_ends_with_its_window(served):
    client, sessions = served
    session = sessions.of("recorder")
    session.settings = LiveSettings(window=2.0, hop=1.0, record=True)
    sound = voice(4.0).numpy().astype("<f4")
    for first in range(0, len(sound), 16000):
        client.post(
            f"/ser/{session.token}/block?first={first}&rate=16000", content=sound[first : first + 16000].tobytes()
        )
    where = f"/ser/{session.token}/recording"
    assert client.get(f"{where}.wav").status_code == 404  # not before the end
    shown = client.post(f"/ser/{session.token}/stop").json()["html"]
    assert f'href="{where}.wav"' in shown and f'href="{where}.jsonl"' in shown
    samples, rate = soundfile.read(io.BytesIO(client.get(f"{where}.wav").content), dtype="float32")
    assert rate == 16000 and samples == pytest.approx(sound, abs=1e-4)
    rows = [json.loads(line) for line in client.get(f"{where}.jsonl").text.splitlines()]
    assert len(rows) == session.listened.stream.processed > 0
    assert {"index", "start", "end", "emotion", "latency"} <= set(rows[0])
    assert client.get(f"{where}.exe").status_code == 404
    kept = session.listened.recording.wav
    session.close()
    assert not kept.exists()
    other = sessions.of("silent")
    client.post(f"/ser/{other.token}/block?first=0&rate=16000", content=sound.tobytes())
    assert "recording.wav" not in client.post(f"/ser/{other.token}/stop").json()["html"]


def test_forged_requests_are_refused(served):
    client, sessions = served
    token = sessions.of("browser").token
    assert client.post("/ser/guess/block?first=0&rate=48000", content=b"0000").status_code == 404
    assert client.post(f"/ser/{token}/block?first=-1&rate=48000", content=b"0000").status_code == 400
    assert client.post(f"/ser/{token}/block?first=0&rate=48000", content=b"000").status_code == 400
    assert "rate is 1 Hz" in client.post(f"/ser/{token}/block?first=0&rate=1", content=b"0000").json()["error"]
    assert client.get("/ser/guess/history.csv").status_code == 404
    assert client.get(f"/ser/{token}/clip/999").status_code == 404
    assert client.get("/ser/asset/page.py").status_code == 404
    assert client.get("/gradio_api/file=/etc/passwd").status_code in (403, 404)
    assert client.get(f"/gradio_api/file={server.__file__}").status_code in (403, 404)
    assert client.get("/", headers={"host": "somewhere.example"}).status_code == 400
    assert client.post("/ser/%C3%A9/stop").status_code == 404
    assert client.get("/ser/语/history.csv").status_code == 404
    for path in (f"/ser/{token}/stop", "/gradio_api/upload"):
        assert client.post(path, headers={"origin": "https://somewhere.example"}).status_code == 403


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "https://example.org/a.wav", "bad\0name"])
def test_a_request_cannot_make_gradio_copy_a_file_from_elsewhere(served, path):
    client, sessions = served
    uploads = sessions.folder.parent / "uploads"
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for place, data in enumerate([[file], [[file]], [{"value": file}]]):
        body = {"data": data, "fn_index": 4, "session_hash": f"forger{place}"}
        assert client.post("/gradio_api/queue/join", json=body).status_code == 403
        assert client.post("/gradio_api/queue/join", content=json.dumps(body)).status_code == 403
    assert not any(uploads.rglob("*passwd*"))


def test_gradio_itself_checks_paths_too(served):
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError
    from gradio.processing_utils import _check_allowed

    page = next(route.app for route in served[0].app.routes if hasattr(getattr(route, "app", None), "get_blocks"))
    LocalContext.blocks.set(page.get_blocks())
    with pytest.raises(InvalidPathError):
        _check_allowed("/etc/passwd", check_in_upload_folder=True)


def test_the_page_loads_nothing_from_elsewhere(served):
    client, _ = served
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "fonts.googleapis" not in answer.text
    for name in ("capture.js", "worklet.js", "page.css"):
        assert "http" not in client.get(f"/ser/asset/{name}").text


# Open to the network


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("192.168.1.7:7860", 200),
        ("[fe80::1]:7860", 200),
        ("localhost", 200),
        ("ser.example.org", 200),
        ("SER.example.org:443", 200),
        ("rebound.example", 400),
        ("192.168.1.7.rebound.example", 400),
        ("", 400),
    ],
)
def test_an_open_page_answers_to_addresses_and_allowed_names_only(tmp_path, host, status):
    app = fastapi.FastAPI()
    settings = server.Settings([], host="0.0.0.0", allowed_hosts=["ser.example.org"])
    app.middleware("http")(server.Guard(tmp_path, settings))
    app.get("/")(lambda: {})
    assert TestClient(app).get("/", headers={"host": host}).status_code == status


def test_uploads_have_a_quota_per_client_and_in_all(tmp_path):
    app = fastapi.FastAPI()
    app.middleware("http")(server.Guard(tmp_path, server.Settings([], megabytes=0.001)))
    app.post("/gradio_api/upload")(lambda: {})

    def upload(client, size):
        browser = TestClient(app, base_url="http://127.0.0.1", client=(client, 1))
        return browser.post("/gradio_api/upload", content=b"0" * size).status_code

    assert [upload("a", 30_000), upload("a", 11_000), upload("a", 10_000)] == [200, 413, 200]
    assert [upload(name, 40_000) for name in "bcd"] == [200, 200, 200]
    assert upload("e", 1000) == 413
    browser = TestClient(app, base_url="http://127.0.0.1")
    assert browser.post("/gradio_api/upload", content=iter([b"0"])).status_code == 411


def test_a_page_that_is_open_says_so(shelf, tmp_path, uploads):
    for is_open in (True, False):
        page = Page(shelf, Sessions(tmp_path, shelf.names[0]), GATE, Limits(), uploads, is_open)
        shown = str(page.on_load(visitor("one")))
        assert ("open to the network" in shown) == is_open
        assert ("Nothing leaves this computer" in shown) != is_open
        page.sessions.close_all()
