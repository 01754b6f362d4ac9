"""The page in headless Chromium with a fake microphone: what a visitor sees."""

import json
import shutil
import socket
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
from demo_models import HIGH, LOW, save_pitch_checkpoint, tone

from ser.inference.vad import EnergyGate

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'ser-lab[demo]'")

FLAGS = [
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE = 60_000  # ms: an upper bound for a busy machine, not what it takes


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A microphone's input at 48 kHz (low voice, high voice, silence, over and over) and files to open."""
    folder = tmp_path_factory.mktemp("sounds")
    turns = torch.cat([tone(LOW, 3.0, 48000), tone(HIGH, 3.0, 48000), torch.zeros(3 * 48000)])
    soundfile.write(folder / "microphone.wav", turns.numpy(), 48000, subtype="PCM_16")
    soundfile.write(folder / "high.wav", tone(HIGH, 2.0).numpy(), 16000)
    soundfile.write(folder / "low.flac", tone(LOW, 9.0).numpy(), 16000)
    soundfile.write(folder / "long.wav", np.zeros(16000 * 21, np.int16), 16000)
    soundfile.write(folder / "large.wav", np.zeros(8000 * 70, np.int16), 8000)
    for name in ("broken.wav", "notes.txt"):
        (folder / name).write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page, served from a thread of this process."""
    import uvicorn

    from ser.demo import server

    checkpoint = save_pitch_checkpoint(tmp_path_factory.mktemp("model") / "pitch.ckpt")
    with pytest.MonkeyPatch.context() as patch, server.private_uploads() as folder:
        patch.setattr(server, "best_gate", EnergyGate)
        settings = server.Settings([checkpoint, checkpoint.with_name("absent")], megabytes=1.0, seconds=20.0)
        app, sessions = server.make_page(settings, folder)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            web = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
            thread = threading.Thread(target=web.run, args=([listener],), daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
            web.should_exit = True
            thread.join(10)
        sessions.close_all()


@pytest.fixture(scope="module")
def chromium(sounds):
    with sync_api.sync_playwright() as playwright:
        capture = f"--use-file-for-fake-audio-capture={sounds / 'microphone.wav'}"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, capture])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, address):
    contexts = []

    def go(**settings):
        context = chromium.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 900}, **settings})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.problems, page.elsewhere = [], []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith((address, "data:", "blob:")) or page.elsewhere.append(request.url),
        )
        page.goto(address)
        page.wait_for_selector("#ser-mic")
        return page

    yield go
    for context in contexts:
        context.close()


def tab(page, place):
    page.get_by_role("tab").nth(place).click()


def headline(page, panel):
    found = page.query_selector(f"{panel} .ser-headline")
    return (found.get_attribute("data-emotion"), found.get_attribute("data-state")) if found else None


def cells(page, table, last):
    """Text of a table's cells, once ``last`` is among them."""
    page.locator(f"{table} [role=gridcell]", has_text=last).first.wait_for()
    return page.locator(f"{table} [role=gridcell]").all_inner_texts()


def watch(page, wanted):
    """Everything the live headline shows until all that is wanted was seen."""
    seen, until = [], time.monotonic() + PATIENCE / 1000
    while not wanted <= set(seen) and time.monotonic() < until:
        shown = page.evaluate("""() => {
            const head = document.querySelector('#ser-live-panel .ser-headline');
            return head ? head.dataset.emotion || head.dataset.state : '';
        }""")
        if shown and shown not in seen[-1:]:
            seen.append(shown)
        page.wait_for_timeout(100)
    return seen


def set_window(page, seconds):
    """Choose a window in the settings, where the page tells the server at once."""
    page.get_by_role("button", name="Settings").click()
    with page.expect_request("**/queue/join**"):
        page.get_by_label("number input for Window").fill(str(seconds))
        page.keyboard.press("Tab")


def test_microphone_emotion_appears_and_changes_and_silence_has_none(open_page):
    page = open_page()
    set_window(page, 2)
    page.focus("#ser-mic")
    page.keyboard.press("Enter")  # all by keyboard
    seen = watch(page, {"listening", "sad", "happy", "no-speech"})
    assert {"listening", "sad", "happy", "no-speech"} <= set(seen)
    assert page.get_attribute("#ser-mic", "aria-pressed") == "true"
    facts = page.inner_text(".ser-live-facts")
    assert "latency" in facts
    assert "windows dropped" in facts
    assert page.locator("#ser-live-panel .ser-bar").count() == 4
    assert page.locator("#ser-live-panel .ser-wave path").count() == 1
    assert page.locator("#ser-live-panel .ser-lines path").count() >= 4
    page.keyboard.press("Enter")
    page.wait_for_selector("#ser-mic[aria-pressed=false]")
    page.wait_for_selector("#ser-live-panel .ser-passed")
    tab(page, 3)
    assert "microphone" in cells(page, "#ser-history-table", "microphone")
    assert not page.problems
    assert not page.elsewhere


def test_file_history_export_and_language(open_page, sounds, tmp_path):
    page = open_page()
    tab(page, 1)
    page.set_input_files("#ser-audio input[type=file]", sounds / "high.wav")
    page.wait_for_selector("#ser-file .ser-headline")
    assert headline(page, "#ser-file")[0] == "happy"
    assert page.locator("#ser-file .ser-wave rect").count() > 10  # attention
    tab(page, 2)
    given = [sounds / name for name in ("low.flac", "broken.wav", "notes.txt")]
    page.set_input_files("#ser-files input[type=file]", given)
    assert "notes.txt" in cells(page, "#ser-folder-table", "notes.txt")
    assert "1 recognised, 1 failed, 1 ignored" in page.inner_text("#ser-folder")
    tab(page, 3)
    cells(page, "#ser-history-table", "high.wav")
    page.locator("#ser-history-table [role=gridcell]", has_text="high.wav").click()
    page.wait_for_selector("#ser-player audio")
    assert "high.wav" in page.inner_text("#ser-player")
    page.evaluate("document.querySelector('#ser-player audio').play()")
    page.wait_for_function("document.querySelector('#ser-player audio').currentTime > 0")
    page.locator("#ser-history-table [role=gridcell]", has_text="high.wav").focus()
    page.keyboard.press("ArrowUp")  # a row is chosen by keyboard, too
    page.wait_for_function("document.activeElement.dataset.row === '0'")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#ser-player').innerText.includes('low.flac')")
    for kind in ("csv", "json"):
        with page.expect_download() as download:
            page.click(f"#ser-history a[href$='.{kind}']")
        download.value.save_as(tmp_path / f"history.{kind}")
    rows = json.loads((tmp_path / "history.json").read_text())
    assert [(row["name"], row["predicted"]) for row in rows] == [("low.flac", "sad"), ("high.wav", "happy")]
    assert "low.flac" in (tmp_path / "history.csv").read_text()
    page.fill("#ser-history-table input.search-input", "high")
    page.wait_for_function("!document.querySelector('#ser-history-table .virtual-body').innerText.includes('low')")
    assert "high.wav" in cells(page, "#ser-history-table", "high.wav")
    page.get_by_label("中文").click()
    page.wait_for_function("document.querySelector('h1').innerText.includes('语音')")
    for name in ("实时", "文件", "文件夹", "历史", "模型卡"):  # the page changes part by part
        page.get_by_role("tab", name=name, exact=True).wait_for()
    assert page.evaluate("document.documentElement.lang") == "zh"
    page.wait_for_function("document.querySelector('#ser-history-table').innerText.includes('高兴')")
    tab(page, 1)
    page.wait_for_function("document.querySelector('#ser-file').innerText.includes('置信度')")
    assert not page.problems
    assert not page.elsewhere


def test_bad_input_is_told_and_the_page_stays_usable(open_page, sounds):
    page = open_page()
    tab(page, 1)
    page.set_input_files("#ser-audio input[type=file]", sounds / "large.wav")
    page.wait_for_selector("text=exceed the maximum allowed size")
    page.reload()
    page.wait_for_selector("#ser-mic")
    tab(page, 1)
    page.set_input_files("#ser-audio input[type=file]", sounds / "long.wav")
    page.wait_for_selector("#ser-file .ser-error")
    assert "at most 20 s" in page.inner_text("#ser-file")
    page.click("#ser-model input")
    page.get_by_role("option").nth(1).click()
    page.wait_for_selector("text=This model cannot be used")
    page.click("#ser-model input")
    page.get_by_role("option").nth(0).click()
    page.wait_for_selector("text=This model cannot be used", state="hidden")
    tab(page, 2)
    page.set_input_files("#ser-files input[type=file]", [sounds / "high.wav"])
    cells(page, "#ser-folder-table", "high.wav")


def test_two_browsers_keep_their_own_history(open_page, sounds):
    one, other = open_page(), open_page()
    tab(one, 1)
    one.set_input_files("#ser-audio input[type=file]", sounds / "high.wav")
    one.wait_for_selector("#ser-file .ser-headline")
    tab(other, 3)
    other.wait_for_selector("#ser-history .ser-note")
    assert "Nothing yet" in other.inner_text("#ser-history")
    tokens = [page.get_attribute("#ser-live", "data-token") for page in (one, other)]
    assert tokens[0] != tokens[1]


def test_a_phone_shows_everything_without_scrolling_sideways(open_page, sounds):
    page = open_page(viewport={"width": 390, "height": 844})
    for place in range(5):
        page.get_by_role("tab").nth(place).click()
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tab(page, 1)
    page.set_input_files("#ser-audio input[type=file]", sounds / "low.flac")
    page.wait_for_selector("#ser-file .ser-lines")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_passing_the_model_list_by_keyboard_does_not_restart_the_microphone(open_page):
    page = open_page()
    set_window(page, 2)
    page.click("#ser-mic")
    watch(page, {"sad"})
    begun = heard(page)
    page.focus("#ser-model input")
    page.keyboard.press("Tab")
    page.wait_for_timeout(1500)
    assert heard(page) > begun
    assert page.locator("[role=option]:visible").count() == 0  # the list is closed again
    page.click("#ser-mic")


def heard(page):
    return float(page.inner_text(".ser-live-facts dd >> nth=0").split()[0])


def test_level_meter_shows_clipping_and_a_microphone_can_be_chosen(open_page):
    page = open_page()
    page.evaluate("""() => {
        const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => {
            window.wanted = wanted;
            const media = await real({ audio: true }), context = new AudioContext(), gain = context.createGain();
            const loud = context.createMediaStreamDestination();
            gain.gain.value = window.gain || 1;
            context.createMediaStreamSource(media).connect(gain).connect(loud);
            return loud.stream;
        };
    }""")
    page.click("#ser-mic")
    watch(page, {"listening"})
    assert page.inner_text("#ser-clip") == ""
    page.evaluate("window.gain = 50")
    page.wait_for_function("document.querySelectorAll('#ser-device option').length > 1")
    page.select_option("#ser-device", index=1)  # opens that microphone
    page.wait_for_function("document.querySelector('#ser-clip').innerText.includes('clipping')")
    assert page.evaluate("window.wanted.audio.deviceId.exact") == page.input_value("#ser-device")
    page.click("#ser-mic")


def test_an_unplugged_or_refused_microphone_is_one_error_message(open_page):
    page = open_page()
    set_window(page, 2)
    page.evaluate("""() => {
        const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => (window.media = await real(wanted));
    }""")
    page.click("#ser-mic")
    watch(page, {"sad"})
    page.evaluate("window.media.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
    page.wait_for_selector("#ser-live-message.ser-error")
    assert "stopped sending" in page.inner_text("#ser-live-message")
    assert page.get_attribute("#ser-mic", "aria-pressed") == "false"
    page.click("#ser-mic")  # plugged in again
    page.wait_for_selector("#ser-mic[aria-pressed=true]")
    page.click("#ser-mic")
    page.wait_for_selector("#ser-mic[aria-pressed=false]")
    page.evaluate("""() => {
        navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("no", "NotAllowedError"); };
    }""")
    page.click("#ser-mic")
    page.wait_for_selector("#ser-live-message.ser-error")
    assert "refused the microphone" in page.inner_text("#ser-live-message")
    assert not page.problems


def test_a_slow_model_brings_advice_and_no_queue_grows(open_page, monkeypatch):
    quick = EnergyGate.__call__
    monkeypatch.setattr(EnergyGate, "__call__", lambda gate, waveform: time.sleep(2) or quick(gate, waveform))
    page = open_page()
    set_window(page, 2)
    sent = []
    page.on("request", lambda request: sent.append(1) if "/block?" in request.url else None)
    page.on("requestfinished", lambda request: sent.pop() if "/block?" in request.url else None)
    page.click("#ser-mic")
    page.wait_for_function("document.querySelector('#ser-live-panel').innerText.includes('an answer comes every')")
    begun = heard(page)
    page.wait_for_function(
        "(from) => parseFloat(document.querySelector('.ser-live-facts dd').innerText) > from", arg=begun
    )
    assert len(sent) <= 1  # blocks are answered while the model thinks
    page.click("#ser-mic")
    page.wait_for_selector("#ser-mic[aria-pressed=false]")
    assert not page.problems


def test_the_recording_of_the_microphone_can_be_downloaded(open_page, tmp_path):
    page = open_page()
    set_window(page, 2)
    with page.expect_request("**/queue/join**"):
        page.get_by_label("Keep the sound").check()
    page.click("#ser-mic")
    watch(page, {"sad"})
    page.click("#ser-mic")
    for name in ("WAV", "JSON lines"):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        download.value.save_as(tmp_path / name)
    assert soundfile.info(tmp_path / "WAV").duration >= 2
    assert {"end", "emotion"} <= set(json.loads((tmp_path / "JSON lines").read_text().splitlines()[0]))
    assert not page.problems
