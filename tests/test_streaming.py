"""The live loop: exact windows, none lost or doubled but those counted, offline results, silence and bad input."""

import threading
import types

import numpy as np
import pytest
import soundfile
import torch
from checkpoints import save_checkpoint, voice

from ser.errors import SerError
from ser.inference.recognizer import Recognizer
from ser.inference.sources import file_source, microphone_source
from ser.inference.streaming import RingBuffer, StreamingRecognizer
from ser.inference.vad import EnergyGate, SileroGate, best_gate


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    return Recognizer.from_checkpoint(save_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt"))


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class SlowModel:
    """Stands in for the network and waits to be let through, window by window."""

    def __init__(self, recognizer):
        self.config, self.encoder, self.emotions = recognizer.config, recognizer.encoder, recognizer.emotions
        self.recognizer, self.started, self.permits = recognizer, threading.Semaphore(0), threading.Semaphore(0)

    def predict_batch(self, waveforms):
        self.started.release()
        self.permits.acquire()
        return self.recognizer.predict_batch(waveforms)


def values(probabilities):
    return np.array(list(probabilities.values()))


@pytest.mark.parametrize("sizes", [[1], [7, 3, 20], [4, 4], [100, 2]])
def test_ring_buffer_holds_exactly_the_last_samples(sizes):
    buffer, everything, number = RingBuffer(10), np.zeros(10, np.float32), 0
    for step in range(30):
        block = np.arange(number, number + sizes[step % len(sizes)], dtype=np.float32) + 1
        number += len(block)
        everything = np.concatenate((everything, block))
        buffer.write(block)
        assert np.array_equal(buffer.latest(), everything[-10:])
        assert (len(buffer), buffer.clock) == (10, number)


def test_ring_buffer_is_never_seen_half_written():
    buffer = RingBuffer(64)

    def write():
        for value in range(3000):
            buffer.write(np.full(64, value, np.float32))

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert len(set(buffer.latest().tolist())) == 1
    writer.join()


@pytest.mark.parametrize(("rate", "block"), [(16000, 1600), (16000, 777), (44100, 4410), (8000, 50_000)])
def test_every_window_equals_offline_prediction_of_its_samples(recognizer, rate, block):
    wave = voice(4.3, rate=rate).numpy()
    with StreamingRecognizer(recognizer, rate, window=2.0, hop=0.5) as stream:
        for start in range(0, len(wave), block):
            stream.write(wave[start : start + block], wait=True)
    events = stream.history()
    assert [event.index for event in events] == list(range(5))
    assert (stream.processed, stream.dropped) == (5, 0)
    for event in events:
        assert (event.start, event.end) == (event.index * 0.5, event.index * 0.5 + 2.0)
        offline = recognizer(wave[round(event.start * rate) : round(event.end * rate)], rate)
        assert event.prediction.seconds == pytest.approx(2.0, abs=1 / 16000)
        assert values(event.prediction.probabilities) == pytest.approx(values(offline.probabilities), abs=1e-6)


def test_a_minute_in_real_time_loses_and_doubles_nothing_but_what_it_counts(recognizer, tmp_path):
    soundfile.write(tmp_path / "minute.wav", voice(60).numpy(), 16000)
    clock = Clock()
    source = file_source(tmp_path / "minute.wav", realtime=True, block=0.03, clock=clock, sleep=clock.sleep)
    seen = []

    def look(window):  # a gate that is shown every window
        seen.append(len(window))
        return 0.0

    with StreamingRecognizer(recognizer, source.sample_rate, gate=look, clock=clock) as stream:
        for block in source.blocks:
            stream.write(block)
    assert clock.now == pytest.approx(60, abs=1e-6)
    indices = [event.index for event in stream.history()]
    assert indices == sorted(set(indices))
    every = 1 + (60 - 5) * 2
    assert stream.processed + stream.dropped == every or (
        stream.every > 1 and stream.processed + stream.dropped < every
    )
    assert stream.processed == len(indices) == len(seen)
    assert set(seen) == {5 * 16000}


def test_a_slow_model_drops_windows_and_answers_the_newest(recognizer):
    slow, clock = SlowModel(recognizer), Clock()
    with StreamingRecognizer(slow, window=1.0, hop=0.5, clock=clock) as stream:
        stream.write(voice(1.0).numpy())  # window 0 begins to be answered
        slow.started.acquire()
        stream.write(voice(1.5, 1).numpy())  # windows 1, 2, 3 come meanwhile
        clock.sleep(1.5)
        for _ in range(2):
            slow.permits.release()
    assert [event.index for event in stream.history()] == [0, 3]
    assert stream.dropped == 2
    assert stream.history()[0].latency == pytest.approx(1.5)


def test_a_slow_machine_lengthens_the_hop_and_says_so_once(recognizer, caplog):
    slow, clock = SlowModel(recognizer), Clock()
    with StreamingRecognizer(slow, window=1.0, hop=0.1, clock=clock) as stream:
        stream.write(voice(1.0).numpy())  # window 0 begins to be answered
        slow.started.acquire()
        for number in range(8):
            stream.write(voice(0.1, number).numpy())
        assert stream.every == 2 and stream.hop_seconds == pytest.approx(0.2)
        clock.sleep(0.5)
        for _ in range(30):
            slow.permits.release()
        stream.write(voice(0.4, 9).numpy(), wait=True)
    indices = [event.index for event in stream.history()]
    assert indices == sorted(set(indices))
    for event in stream.history():
        assert (event.start, event.end) == pytest.approx((event.index / 10, event.index / 10 + 1))
    assert caplog.text.count("an answer comes every 0.2 s") == 1


def test_the_hop_never_grows_beyond_the_window(recognizer):
    slow, clock = SlowModel(recognizer), Clock()
    with StreamingRecognizer(slow, window=1.0, hop=0.5, clock=clock) as stream:
        stream.write(voice(1.0).numpy())
        slow.started.acquire()
        for number in range(40):
            stream.write(voice(0.5, number).numpy())
        for _ in range(40):
            slow.permits.release()
    assert stream.every == 2  # hop = window: every sample is in one window


def test_silence_has_no_emotion(recognizer):
    silence = np.zeros(16000, np.float32)
    noise = 1e-4 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    for gate in (best_gate(), EnergyGate()):
        with StreamingRecognizer(recognizer, window=1.0, hop=1.0, gate=gate) as stream:
            for block in (silence, noise):
                stream.write(block, wait=True)
        assert [event.label for event in stream.history()] == [None, None]
        assert all(event.prediction is None and event.error is None for event in stream.history())


def test_gates_measure_speech():
    loud = voice(2.0)
    assert EnergyGate()(loud) > 1.0
    assert EnergyGate()(torch.cat((loud, torch.zeros(32000)))) == pytest.approx(EnergyGate()(loud), abs=0.04)
    assert SileroGate()(torch.zeros(16000)) == 0


def test_smoothing_follows_the_recurrence_and_forgets_at_silence(recognizer):
    speech, silence = voice(3.0).numpy(), np.zeros(32000, np.float32)
    with StreamingRecognizer(recognizer, window=1.0, hop=0.5, smoothing=0.7, gate=EnergyGate()) as stream:
        for start in range(0, 96000, 8000):
            stream.write(np.concatenate((speech, silence, speech[:16000]))[start : start + 8000], wait=True)
    past = None
    for event in stream.history():
        if event.prediction is None:
            past = None
            assert event.probabilities is None
            continue
        now = values(event.prediction.probabilities)
        past = now if past is None else 0.7 * past + 0.3 * now
        assert values(event.probabilities) == pytest.approx(past, abs=1e-9)
    assert any(event.prediction is None for event in stream.history())


def test_speaker_models_use_running_statistics(tmp_path):
    recognizer = Recognizer.from_checkpoint(save_checkpoint(tmp_path / "best.ckpt", kind="speaker"))
    with StreamingRecognizer(recognizer, window=1.0, hop=0.5) as stream:
        for start in range(0, 48000, 4000):
            stream.write(voice(3.0).numpy()[start : start + 4000], wait=True)
    assert {event.prediction.normalization for event in stream.history()} == {"stream"}
    # Every frame is counted once: 3 seconds on top of the 10 of the prior.
    assert stream._running._count == pytest.approx(50 * 13, abs=6)


def test_bad_samples_are_told_and_the_stream_goes_on(recognizer):
    with StreamingRecognizer(recognizer, window=1.0, hop=1.0) as stream:
        stream.write(np.full(16000, np.nan, np.float32), wait=True)
        stream.write(voice(1.0).numpy(), wait=True)
    first, second = stream.history()
    assert "NaN" in first.error
    assert first.prediction is None
    assert second.error is None
    assert second.prediction is not None


def test_a_defect_ends_the_stream_loudly(recognizer):
    def broken(window):
        raise ZeroDivisionError

    stream = StreamingRecognizer(recognizer, window=1.0, hop=1.0, gate=broken).start()
    stream.write(voice(3.0).numpy(), wait=True)
    with pytest.raises(ZeroDivisionError):
        stream.stop()


@pytest.mark.parametrize("settings", [{"window": 0}, {"window": 100}, {"hop": 0}, {"smoothing": 1.0}])
def test_settings_that_make_no_sense(recognizer, settings):
    with pytest.raises(SerError, match=r"expected (a window|0 to)"):
        StreamingRecognizer(recognizer, **settings)


def test_a_file_arrives_whole_at_the_pace_it_plays(tmp_path):
    wave = voice(1.27, rate=22050).numpy()
    soundfile.write(tmp_path / "a.wav", wave, 22050, subtype="FLOAT")
    clock = Clock()
    source = file_source(tmp_path / "a.wav", clock=clock, sleep=clock.sleep)
    assert (source.sample_rate, source.realtime) == (22050, True)
    assert np.array_equal(np.concatenate(list(source.blocks))[:, 0], wave)
    assert clock.now == pytest.approx(1.27, abs=1e-4)
    with pytest.raises(SerError, match="cannot be read as audio"):
        file_source(tmp_path / "missing.wav")


class FakeSoundDevice(types.ModuleType):
    """The part of sounddevice that is used; its device sends ``blocks`` and is then unplugged."""

    class PortAudioError(Exception):
        pass

    def __init__(self, blocks):
        super().__init__("sounddevice")
        self.to_send = blocks

    def query_devices(self, device, kind):
        if self.to_send is None:
            raise self.PortAudioError("Error querying device -1")
        return {"default_samplerate": 48000.0, "name": "fake"}

    def InputStream(self, callback, **settings):  # noqa: N802
        fake = self

        class Stream:
            def __enter__(self):
                for block in fake.to_send:
                    callback(block, len(block), None, None)

            def __exit__(self, *error):
                pass

        return Stream()


def test_microphone_absent_or_unplugged(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sounddevice", FakeSoundDevice(None))
    with pytest.raises(SerError, match="there is no microphone"):
        microphone_source()
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSoundDevice([np.ones((480, 1), np.float32)]))
    monkeypatch.setattr("ser.inference.sources._SILENT_DEVICE", 0.01)
    source = microphone_source()
    assert source.sample_rate == 48000
    assert next(source.blocks).shape == (480, 1)
    with pytest.raises(SerError, match="stopped sending"):
        next(source.blocks)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SerError, match="needs sounddevice"):
        microphone_source()


def test_queue_of_the_microphone_keeps_order(monkeypatch):
    import sys

    blocks = [np.full((4, 1), number, np.float32) for number in range(3)]
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSoundDevice(blocks))
    source = microphone_source()
    assert [float(next(source.blocks)[0, 0]) for _ in blocks] == [0, 1, 2]
