"""The command `ser listen`: what it shows, writes, records and refuses."""

import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from checkpoints import EMOTIONS, PROBABILITIES, voice, write_audio
from rich.console import Console

from ser.cli import main
from ser.inference.files import predict_file
from ser.inference.listening import listen, view
from ser.inference.sources import Source
from ser.inference.streaming import StreamingRecognizer


def test_listening_to_a_file_writes_an_event_a_window(checkpoint, recognizer, tmp_path, capsys):
    path = write_audio(tmp_path / "a.wav", voice(3.2))
    output = tmp_path / "events.csv"
    words = ["listen", "--checkpoint", str(checkpoint), "--input", str(path), "--window", "1", "--hop", "0.5"]
    assert main([*words, "--no-gate", "--output", str(output)]) == 0
    table = pd.read_csv(output)
    assert table["index"].tolist() == list(range(5))
    expected = recognizer(voice(3.2)[8000:24000], 16000)
    assert table[PROBABILITIES].to_numpy()[1] == pytest.approx(list(expected.probabilities.values()), abs=1e-5)
    assert "windows answered: 5, dropped: 0" in capsys.readouterr().out
    assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(path), "--no-gate"]) == 0
    assert "windows answered: 1," in capsys.readouterr().out  # of the whole file, which is shorter than 5 s
    write_audio(path, np.zeros(32000, np.float32))
    assert main([*words, "--output", str(output)]) == 0
    assert set(pd.read_csv(output)["emotion"]) == {"no speech"}


def test_listen_prints_a_line_of_json_per_window(checkpoint, tmp_path, capsys):
    path = write_audio(tmp_path / "a.wav", torch.cat((voice(2.0), torch.zeros(32000))))
    words = ["listen", "--checkpoint", str(checkpoint), "--input", str(path), "--window", "1", "--hop", "0.5", "--json"]
    assert main([*words, "--no-gate"]) == 0
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["index"] for line in lines] == list(range(7))
    assert all(line["emotion"] in EMOTIONS and line["end"] == line["start"] + 1 for line in lines)
    assert "4.0 s heard; windows answered: 7" in shown.err
    assert main(words) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["emotion"], last["confidence"], last["p_sad"]) == ("no speech", None, None)


def test_a_terminal_shows_the_last_window_too(recognizer, monkeypatch):
    console = Console(width=80, force_terminal=True, file=io.StringIO())
    monkeypatch.setattr("ser.inference.listening.get_console", lambda: console)
    listen(recognizer, Source("fake", 16000, False, iter([voice(1.0).numpy()[:, None]])), window=1.0)
    label = recognizer(voice(1.0), 16000).label.upper()
    assert label in console.file.getvalue() and "windows answered: 1" in console.file.getvalue()


def test_the_view_shows_emotion_and_progress(recognizer):
    console = Console(width=80, file=open("/dev/null", "w"), record=True)  # noqa: PTH123, SIM115
    with StreamingRecognizer(recognizer, window=1.0, hop=0.5) as stream:
        console.print(view(stream))
        stream.write(torch.cat((voice(1.0), voice(0.5))).numpy(), wait=True)
    console.print(view(stream))
    text = console.export_text()
    assert "0.0 of 1 s" in text and " dB" in text and "CLIPPING" not in text
    console.print(view(stream, clipping=True))
    assert "CLIPPING" in console.export_text()
    assert stream.latest.label.upper() in text


def test_what_is_heard_is_kept_on_request(checkpoint, tmp_path, capsys):
    path, kept = tmp_path / "talk.wav", tmp_path / "kept" / "talk.wav"
    soundfile.write(path, voice(2.0).numpy(), 16000)
    words = ["listen", "--checkpoint", str(checkpoint), "--input", str(path), "--window", "1", "--hop", "0.5"]
    assert main([*words, "--record", str(kept)]) == 0
    assert np.array_equal(soundfile.read(kept)[0], soundfile.read(path)[0])
    rows = [json.loads(line) for line in kept.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["end"] for row in rows] == [1.0, 1.5, 2.0]
    for name, expected in (("kept/talk.wav", "is there already"), ("talk.mp3", "ends in .wav")):
        assert main([*words, "--record", str(tmp_path / name)]) == 1
        assert expected in " ".join(capsys.readouterr().err.split())


def test_settings_that_are_refused_leave_no_recording(checkpoint, tmp_path, capsys):
    path = tmp_path / "talk.wav"
    soundfile.write(path, voice(2.0).numpy(), 16000)
    words = ["listen", "--checkpoint", str(checkpoint), "--input", str(path), "--record", str(tmp_path / "kept.wav")]
    assert main([*words, "--smoothing", "1"]) == 1
    assert not (tmp_path / "kept.wav").exists()
    assert main(["predict", str(path), "--checkpoint", str(checkpoint), "--hop", "0.5"]) == 1
    assert "without --window" in capsys.readouterr().err
    assert main(["predict", str(path), "--checkpoint", str(checkpoint), "--window", "0.5"]) == 0  # hop: 0.5 as well
    assert "1.5-2.0" in capsys.readouterr().out


def test_sound_that_clips_is_told_once(checkpoint, tmp_path, caplog):
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.clip(20 * voice(3.0).numpy(), -1, 1), 16000)
    assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(path), "--window", "1"]) == 0
    assert [record.message for record in caplog.records if "clips" in record.message] == [
        "the sound clips at 0.1 s; lower the gain where it is recorded"
    ]


def test_ctrl_c_ends_listening_tidily(checkpoint, tmp_path, capsys, monkeypatch):
    def blocks():
        yield voice(1.2).numpy()[:, None]
        raise KeyboardInterrupt

    monkeypatch.setattr("ser.inference.sources.microphone_source", lambda device: Source("fake", 16000, True, blocks()))
    output = tmp_path / "events.json"
    words = ["listen", "--checkpoint", str(checkpoint), "--window", "1", "--no-gate", "--output", str(output)]
    assert main(words) == 0
    assert len(json.loads(output.read_text())) == 1
    assert "1.2 s heard" in capsys.readouterr().out


def test_listening_without_a_source_ends_with_one_sentence(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["listen", "--checkpoint", str(checkpoint)]) == 1
    assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(tmp_path / "none.wav")]) == 1
    assert capsys.readouterr().err.count("error:") == 2


def test_listening_to_a_file_that_is_empty_or_cut_says_so(checkpoint, tmp_path, capsys, caplog):
    path = write_audio(tmp_path / "cut.wav", voice(1.3), subtype="PCM_16")
    content = path.read_bytes()
    path.write_bytes(content[:20_044])
    words = ["listen", "--checkpoint", str(checkpoint), "--input", str(path)]
    assert main(words) == 0 and "20000 of 41600 bytes" in caplog.text
    path.write_bytes(content[:40] + bytes(4))
    assert main(words) == 1 and "holds no samples" in capsys.readouterr().err


def test_a_wav_whose_header_says_it_is_empty_is_read_to_its_end(checkpoint, recognizer, tmp_path, capsys):
    whole = write_audio(tmp_path / "whole.wav", voice(1.3), subtype="PCM_16")
    content = bytearray(whole.read_bytes())
    content[4:8] = content[40:44] = bytes(4)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(content)
    assert predict_file(recognizer, broken).probabilities == predict_file(recognizer, whole).probabilities
    assert broken.read_bytes() == content
    assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(broken), "--window", "1"]) == 0
    assert "1.3 s heard" in capsys.readouterr().out


def test_what_listening_cannot_answer_is_counted_and_is_the_exit_code(checkpoint, tmp_path, capsys):
    damaged, short = voice(2.0).numpy(), voice(0.01).numpy()
    damaged[:100] = np.nan
    for samples, said in ((damaged, "answered: 2, refused: 1, dropped: 0"), (short, "too few for any model")):
        path = write_audio(tmp_path / "a.wav", samples)
        assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(path), "--window", "1"]) == 3
        assert said in " ".join(capsys.readouterr().out.split())


def test_a_pipe_is_heard_to_its_end_and_no_file(checkpoint, tmp_path, capsys, caplog):
    content = bytearray(write_audio(tmp_path / "a.wav", voice(3.0), subtype="PCM_16").read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4  # as programs write it that do not know how much follows
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(pipe.write_bytes, content)
        words = ["--checkpoint", str(checkpoint), "--window", "1"]
        assert main(["listen", "--input", str(pipe), *words, "--no-gate"]) == 0
        writing.result()
    shown = " ".join(capsys.readouterr().out.split())
    assert "3.0 s heard; windows answered: 5, dropped: 0" in shown and "truncated" not in caplog.text
    assert main(["predict", str(pipe), *words]) == 3  # it would have to be read twice
    assert "is no audio file (it is a pipe or a device" in " ".join(capsys.readouterr().out.split())
