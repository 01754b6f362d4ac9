"""What the page makes of a microphone's blocks: windows, silence, lost samples and advice."""

import threading
import time

import numpy as np
import pytest
from checkpoints import save_checkpoint, voice

from ser.errors import SerError
from ser.inference.vad import EnergyGate

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'ser-lab[demo]'")

from ser.demo.live import LiveSettings, LiveSound, live_panel
from ser.demo.recognition import ModelShelf

GATE = EnergyGate()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    shelf = ModelShelf([save_checkpoint(tmp_path_factory.mktemp("model") / "best.ckpt")])
    return shelf.open(shelf.names[0])


def listen(live, samples, sizes=(4800, 123, 9600)):
    """Send samples in blocks of uneven sizes, waiting for the answers."""
    first, turn = 0, 0
    while first < len(samples):
        block = samples[first : first + sizes[turn % len(sizes)]]
        live.write(first, block)
        first, turn = first + len(block), turn + 1
    live.stop()


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
        return []

    live = LiveSound(model, slow, 16000)
    live.write(0, np.zeros(16000 * 6, np.float32))
    assert "too slow" not in live_panel(live, "en")["html"]
    live.write(16000 * 6, np.zeros(16000 * 20, np.float32))
    assert live.stream.dropped >= 3
    assert "an answer comes every" in live_panel(live, "en")["html"]
    released.set()
    live.stop()
    assert live.stream.processed <= 2  # no queue has grown
