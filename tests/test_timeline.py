"""Windows over files, and long files by them in bounded memory."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from checkpoints import PROBABILITIES, voice, write_audio

from ser.cli import main
from ser.data.soundfiles import AudioFile
from ser.errors import SerError
from ser.inference.files import predict_file, predict_files
from ser.inference.timeline import predict_long, timeline


def test_a_timeline_is_the_prediction_of_each_window(recognizer, tmp_path):
    wave = voice(7.3, rate=22050)
    path = write_audio(tmp_path / "long.wav", wave, 22050)
    table = timeline(recognizer, path, window=2.0, hop=1.5)
    assert table["start"].tolist() == pytest.approx([0, 1.5, 3, 4.5, 5.3], abs=1e-3)
    assert (table["end"] - table["start"]).tolist() == pytest.approx([2.0] * 5, abs=1e-3)
    assert table["end"].iloc[-1] == pytest.approx(7.3, abs=1e-3)
    for row in table.to_dict(orient="records"):
        samples = wave[round(row["start"] * 22050) : round(row["end"] * 22050)]
        expected = recognizer(samples, 22050)
        assert [row[name] for name in PROBABILITIES] == pytest.approx(list(expected.probabilities.values()), abs=1e-5)


def test_a_file_shorter_than_the_window_is_one_window(recognizer, tmp_path):
    path = write_audio(tmp_path / "short.wav", voice(1.2))
    table = timeline(recognizer, path, window=5.0)
    assert table[["start", "end"]].to_numpy().tolist() == [[0.0, pytest.approx(1.2)]]
    assert table[PROBABILITIES].to_numpy()[0] == pytest.approx(
        list(predict_file(recognizer, path).probabilities.values()), abs=1e-6
    )
    with pytest.raises(SerError, match="window"):
        timeline(recognizer, path, window=0.0)


def test_a_long_file_is_averaged_over_windows_without_reading_it_whole(recognizer, tmp_path, monkeypatch):
    path = write_audio(tmp_path / "long.flac", voice(65).numpy() * 0.5, subtype="PCM_16")
    largest = []
    predict_batch = recognizer.predict_batch

    def watch(waveforms, *options):
        largest.append(sum(map(len, waveforms)))
        return predict_batch(waveforms, *options)

    monkeypatch.setattr(recognizer, "predict_batch", watch)
    prediction = predict_file(recognizer, path)
    assert prediction.windows == 12
    assert prediction.seconds == pytest.approx(65)
    table = timeline(recognizer, path, 10.0, 5.0)
    assert list(prediction.probabilities.values()) == pytest.approx(
        table[PROBABILITIES].to_numpy().mean(axis=0), abs=1e-6
    )
    assert max(largest) <= 16 * 10 * 16000
    assert predict_files(recognizer, [path]).table["windows"].tolist() == [12]
    assert predict_long(recognizer, path).label == prediction.label


def test_a_stream_without_length_is_read_in_bounded_memory(recognizer, tmp_path, monkeypatch):
    plain = write_audio(tmp_path / "plain.flac", voice(70.0).clamp(-1, 1), subtype="PCM_16")
    content = bytearray(plain.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # total samples: unknown
    stream = tmp_path / "stream.flac"
    stream.write_bytes(content)
    read, blocks = AudioFile.block, []
    monkeypatch.setattr(AudioFile, "block", lambda file, count: (blocks.append(count), read(file, count))[1])
    pd.testing.assert_frame_equal(timeline(recognizer, stream, 5.0, 2.5), timeline(recognizer, plain, 5.0, 2.5))
    assert max(blocks) <= 5 * 16000  # one window
    long = write_audio(tmp_path / "long.wav", np.tile(voice(10.0).numpy(), 40))
    tracemalloc.start()
    timeline(recognizer, long, 0.5, 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < long.stat().st_size / 4  # samples behind the windows are let go
    assert predict_file(recognizer, stream).probabilities == predict_file(recognizer, plain).probabilities


def test_windows_of_no_readable_file_are_an_empty_table(checkpoint, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no sound")
    words = ["predict", str(tmp_path / "text.wav"), "--checkpoint", str(checkpoint), "--window", "1"]
    assert main([*words, "--output", str(tmp_path / "table.csv")]) == 3
    assert "1 of 1 could not be read" in capsys.readouterr().out
    assert list(pd.read_csv(tmp_path / "table.csv").columns[:3]) == ["file", "start", "end"]


@pytest.mark.parametrize("words", [["--window", "1", "--hop", "2"], ["--window", "1", "--hop", "1e-9"]])
def test_hops_that_skip_audio_or_never_end_are_refused(checkpoint, tmp_path, words, capsys):
    path = write_audio(tmp_path / "a.wav", voice(3.0))
    assert main(["predict", str(path), "--checkpoint", str(checkpoint), *words]) == 1
    assert main(["listen", "--input", str(path), "--checkpoint", str(checkpoint), *words]) == 1
    shown = capsys.readouterr().err
    assert shown.count("error: a window of 1 s with a hop of") == 2
