"""Files and folders: found, bad ones listed and not fatal, long ones in bounded memory, tables written whole."""

import contextlib
import io
import json
import os
import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from checkpoints import EMOTIONS, GRU, save_checkpoint, voice
from fake_runs import write_run

from ser.cli import main
from ser.data.corpus import Utterance
from ser.data.soundfiles import AudioFile
from ser.errors import SerError
from ser.evaluation.figures.network import read_attention, write_attention
from ser.evaluation.runs import load_run
from ser.inference.files import collect_files, predict_file, predict_files, statistics_by_folder
from ser.inference.recognizer import Recognizer
from ser.inference.screen import shortest_names, show_predictions
from ser.inference.timeline import predict_gated, predict_long, timeline
from ser.inference.vad import EnergyGate

P = [f"p_{name}" for name in EMOTIONS]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="module")
def recognizer(checkpoint):
    return Recognizer.from_checkpoint(checkpoint)


def write(path, wave, rate=16000, subtype="FLOAT"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(wave), rate, subtype=subtype)
    return path


@pytest.fixture
def folder(tmp_path):
    """Good and bad files, nested and hidden."""
    root = tmp_path / "audio"
    for number, seconds in enumerate([1.0, 3.0, 0.5, 2.0]):
        write(root / f"speaker{number % 2}" / f"{number}.wav", voice(seconds, number))
    write(root / "deep" / "er" / "four.flac", voice(1.0, 4), subtype="PCM_16")
    (root / "speaker0" / "._0.wav").write_bytes(b"Mac")
    write(root / ".hidden" / "five.wav", voice(1.0, 5))
    (root / "notes.txt").write_text("not audio")
    return root


@pytest.fixture
def bad(tmp_path):
    root = tmp_path / "bad"
    write(root / "nan.wav", np.full(16000, np.nan, np.float32))
    write(root / "one.wav", np.zeros(1, np.float32))
    write(root / "none.wav", np.zeros(0, np.float32))
    (root / "text.wav").write_text("not audio")
    (root / "empty.wav").touch()
    return root


def test_folders_are_searched_and_hidden_files_skipped(folder):
    files = collect_files([folder, folder / "speaker0" / "0.wav"])
    assert [str(path.relative_to(folder)) for path in files] == [
        "deep/er/four.flac",
        "speaker0/0.wav",
        "speaker0/2.wav",
        "speaker1/1.wav",
        "speaker1/3.wav",
    ]


def test_nothing_to_recognise_gets_one_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("not audio")
    with pytest.raises(SerError, match="holds no audio"):
        collect_files([tmp_path])
    with pytest.raises(SerError, match="does not exist"):
        collect_files([tmp_path / "missing.wav"])


@pytest.mark.parametrize(("batch_seconds", "workers"), [(0.1, 1), (5, 3), (1000, 2)])
def test_a_file_gets_the_same_probabilities_in_any_batch(recognizer, folder, bad, batch_seconds, workers):
    files = collect_files([folder, bad])
    found = predict_files(recognizer, files, batch_seconds, workers)
    assert found.table["file"].tolist() == [str(path) for path in files if path.parent != bad]
    assert set(found.failures) == {str(path) for path in bad.iterdir()}
    for path, reason in found.failures.items():
        assert path in reason
        assert "\n" not in reason
    for row in found.table.to_dict(orient="records"):
        alone = predict_file(recognizer, row["file"])
        assert [row[name] for name in P] == pytest.approx(list(alone.probabilities.values()), abs=1e-5)
        assert (row["predicted"], row["windows"]) == (alone.label, 1)


def test_a_timeline_is_the_prediction_of_each_window(recognizer, tmp_path):
    wave = voice(7.3, rate=22050)
    path = write(tmp_path / "long.wav", wave, 22050)
    table = timeline(recognizer, path, window=2.0, hop=1.5)
    assert table["start"].tolist() == pytest.approx([0, 1.5, 3, 4.5, 5.3], abs=1e-3)
    assert (table["end"] - table["start"]).tolist() == pytest.approx([2.0] * 5, abs=1e-3)
    assert table["end"].iloc[-1] == pytest.approx(7.3, abs=1e-3)
    for row in table.to_dict(orient="records"):
        samples = wave[round(row["start"] * 22050) : round(row["end"] * 22050)]
        expected = recognizer(samples, 22050)
        assert [row[name] for name in P] == pytest.approx(list(expected.probabilities.values()), abs=1e-5)


def test_a_file_shorter_than_the_window_is_one_window(recognizer, tmp_path):
    path = write(tmp_path / "short.wav", voice(1.2))
    table = timeline(recognizer, path, window=5.0)
    assert table[["start", "end"]].to_numpy().tolist() == [[0.0, pytest.approx(1.2)]]
    assert table[P].to_numpy()[0] == pytest.approx(
        list(predict_file(recognizer, path).probabilities.values()), abs=1e-6
    )
    with pytest.raises(SerError, match="window"):
        timeline(recognizer, path, window=0.0)


def test_a_long_file_is_averaged_over_windows_without_reading_it_whole(recognizer, tmp_path, monkeypatch):
    path = write(tmp_path / "long.flac", voice(65).numpy() * 0.5, subtype="PCM_16")
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
    assert list(prediction.probabilities.values()) == pytest.approx(table[P].to_numpy().mean(axis=0), abs=1e-6)
    assert max(largest) <= 16 * 10 * 16000
    assert predict_files(recognizer, [path]).table["windows"].tolist() == [12]
    assert predict_long(recognizer, path).label == prediction.label


def test_each_folder_is_a_speaker_when_told_so(tmp_path, folder):
    recognizer = Recognizer.from_checkpoint(save_checkpoint(tmp_path / "best.ckpt", kind="speaker"))
    files = [folder / "speaker0" / "0.wav", folder / "speaker0" / "2.wav", folder / "speaker1" / "1.wav"]
    found = predict_files(recognizer, files, statistics_of=statistics_by_folder(recognizer, files)).table
    own = recognizer.speaker_statistics([(voice(1.0, 0), 16000), (voice(0.5, 2), 16000)])
    expected = recognizer(voice(1.0, 0), 16000, statistics=own)
    assert found["normalization"].tolist() == ["speaker"] * 3
    assert found[P].to_numpy()[0] == pytest.approx(list(expected.probabilities.values()), abs=1e-5)
    first = recognizer.speaker_statistics([(voice(1.0, 0), 16000)], shrinkage=2.0)
    found = predict_files(recognizer, files, statistics_of=statistics_by_folder(recognizer, files, 1, 2.0)).table
    expected = recognizer(voice(0.5, 2), 16000, statistics=first)
    assert found[P].to_numpy()[1] == pytest.approx(list(expected.probabilities.values()), abs=1e-5)


def test_enrolment_takes_files_from_all_over_the_folder(recognizer, monkeypatch):
    files = [Path("speaker") / f"{number}.wav" for number in range(10)]
    monkeypatch.setattr("ser.inference.files._waveform_or_none", lambda path: path.stem)
    monkeypatch.setattr(
        recognizer, "speaker_statistics", lambda recordings, shrinkage: [name for name, _ in recordings]
    )
    used = {k: statistics_by_folder(recognizer, files, k)(files[0]) for k in (1, 3, 10, 40, None)}
    assert (used[1], used[3]) == (["0"], ["0", "3", "6"])
    assert used[10] == used[40] == used[None] == [str(number) for number in range(10)]


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_the_command_writes_what_python_gives(checkpoint, recognizer, folder, tmp_path, ending, capsys):
    output = tmp_path / f"table.{ending}"
    assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--no-gate", "--output", str(output)]) == 0
    read = pd.read_csv(output) if ending == "csv" else pd.DataFrame(json.loads(output.read_text()))
    read["speech_seconds"] = read["speech_seconds"].astype(float)  # null in JSON
    pd.testing.assert_frame_equal(read, predict_files(recognizer, collect_files([folder])).table, atol=1e-6)
    shown = capsys.readouterr().out
    assert "four.flac" in shown
    assert "happy" in shown


def test_bad_files_are_listed_and_the_exit_code_says_so(checkpoint, folder, bad, tmp_path, capsys):
    words = ["predict", str(folder), str(bad), "--no-gate", "--checkpoint", str(checkpoint)]
    assert main([*words, "--output", str(tmp_path / "a.csv")]) == 3
    assert len(pd.read_csv(tmp_path / "a.csv")) == 5
    assert "5 of 10 could not be read" in capsys.readouterr().out
    assert main([*words, "--window", "1", "--hop", "0.5", "--output", str(tmp_path / "b.csv")]) == 3
    table = pd.read_csv(tmp_path / "b.csv")
    assert table.groupby("file").size().max() == 5
    assert capsys.readouterr().out.count("four.flac") == 1  # its windows have its name once


@pytest.mark.parametrize("window", [[], ["--window", "0.5"]])
@pytest.mark.parametrize("done", [0, 2])
def test_ctrl_c_keeps_what_was_recognised(checkpoint, folder, tmp_path, capsys, monkeypatch, done, window):
    answers, output = [], tmp_path / "a.csv"
    predict = Recognizer.predict_batch

    def interrupted(recognizer, *given):
        if len(answers) == done:
            raise KeyboardInterrupt
        answers.append(given)
        return predict(recognizer, *given)

    monkeypatch.setattr(Recognizer, "predict_batch", interrupted)
    words = ["predict", str(folder), "--checkpoint", str(checkpoint), "--output", str(output), "--no-gate"]
    assert main([*words, "--batch-seconds", "0.1", *window]) == 130
    assert output.exists() == bool(done)
    if done:
        assert pd.read_csv(output)["file"].nunique() == 2
        assert "Ctrl-C after 2 of 5 files" in capsys.readouterr().out


def test_no_two_windows_of_a_recording_look_the_same(checkpoint, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", voice(2.02).numpy(), 16000)
    assert main(["predict", str(tmp_path / "a.wav"), "--checkpoint", str(checkpoint), "--window", "1"]) == 0
    times = re.findall(r"\d+\.\d+-\d+\.\d+", capsys.readouterr().out)
    assert len(set(times)) == len(times) and times[-1].endswith("-2.02")


def test_wrong_words_get_one_sentence(checkpoint, folder, tmp_path, capsys):
    assert main(["predict", str(folder), "--checkpoint", str(tmp_path / "nowhere")]) == 1
    assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--output", "table.xlsx"]) == 1
    assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--window", "0"]) == 2
    assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--hops", "1"]) == 2
    assert capsys.readouterr().err.count("error:") == 4


def test_listening_to_a_file_writes_an_event_a_window(checkpoint, recognizer, tmp_path, capsys):
    path = write(tmp_path / "a.wav", voice(3.2))
    output = tmp_path / "events.csv"
    words = ["listen", "--checkpoint", str(checkpoint), "--input", str(path), "--window", "1", "--hop", "0.5"]
    assert main([*words, "--no-gate", "--output", str(output)]) == 0
    table = pd.read_csv(output)
    assert table["index"].tolist() == list(range(5))
    expected = recognizer(voice(3.2)[8000:24000], 16000)
    assert table[P].to_numpy()[1] == pytest.approx(list(expected.probabilities.values()), abs=1e-5)
    assert "windows answered: 5, dropped: 0" in capsys.readouterr().out
    assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(path), "--no-gate"]) == 0
    assert "windows answered: 1," in capsys.readouterr().out  # of the whole file, which is shorter than 5 s
    write(path, np.zeros(32000, np.float32))
    assert main([*words, "--output", str(output)]) == 0
    assert set(pd.read_csv(output)["emotion"]) == {"no speech"}


def test_a_terminal_shows_the_last_window_too(recognizer, monkeypatch):
    from rich.console import Console

    from ser.inference.listening import listen
    from ser.inference.sources import Source

    console = Console(width=80, force_terminal=True, file=io.StringIO())
    monkeypatch.setattr("ser.inference.listening.get_console", lambda: console)
    listen(recognizer, Source("fake", 16000, False, iter([voice(1.0).numpy()[:, None]])), window=1.0)
    label = recognizer(voice(1.0), 16000).label.upper()
    assert label in console.file.getvalue() and "windows answered: 1" in console.file.getvalue()


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
    from ser.inference.sources import Source

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
    import sys

    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["listen", "--checkpoint", str(checkpoint)]) == 1
    assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(tmp_path / "none.wav")]) == 1
    assert capsys.readouterr().err.count("error:") == 2


def test_the_view_shows_emotion_and_progress(recognizer):
    from rich.console import Console

    from ser.inference.listening import view
    from ser.inference.streaming import StreamingRecognizer

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


def test_recordings_without_speech_get_no_emotion(checkpoint, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ser.inference.vad.best_gate", EnergyGate)  # the voice of the tests is no speech for Silero
    click = np.zeros(32000, np.float32)
    click[16000] = 0.9
    write(folder / "speaker0" / "silent.wav", np.zeros(32000, np.float32))
    write(folder / "speaker0" / "click.wav", click)
    left = voice(2.0).numpy()
    write(folder / "speaker0" / "cancelled.wav", np.stack((left, -left), axis=1))
    output = tmp_path / "a.csv"
    words = ["predict", str(folder), "--checkpoint", str(checkpoint), "--output", str(output)]
    assert main(words) == 0
    table = pd.read_csv(output).set_index(pd.read_csv(output)["file"].str.extract(r"(\w+)\.\w+$")[0])
    silent = ["silent", "click", "cancelled"]
    assert set(table.loc[silent, "predicted"]) == {"no speech"}
    assert set(table.drop(silent)["predicted"]) <= set(EMOTIONS) and len(table) == 8
    assert table.loc[silent, "speech_seconds"].max() < 0.1
    assert table.loc[silent, [*P, "confidence"]].isna().all(axis=None)
    assert "3 of 8 rows hold no speech" in capsys.readouterr().out
    assert main([*words, "--no-gate"]) == 0
    assert "no speech" not in set(pd.read_csv(output)["predicted"])


def gate_of(samples):
    """A gate that takes what is loud for speech."""
    return [(place, place + 1) for place in torch.nonzero(samples.abs() > 0.01)[:, 0].tolist()]


@pytest.mark.parametrize("attention", [False, True])
def test_long_pauses_are_not_given_to_the_model(recognizer, tmp_path, attention):
    speech, pause = voice(3.0, 4).clamp(-1, 1), torch.zeros(16000 * 20)
    short = torch.zeros(24000)  # so much of a pause is heard on each side
    (alone,) = predict_gated(recognizer, [torch.cat((short, speech, short))], None, EnergyGate(), attention)
    parts = [pause, speech, pause, speech, pause]
    for several, among in ((parts[:3], 3), (parts, 6)):
        whole = torch.cat(several)
        (found,) = predict_gated(recognizer, [whole], None, EnergyGate(), attention)
        heard = torch.cat([short, *[speech, short, short] * (among // 3)])[:-24000]
        same = recognizer.predict_batch([heard], attention=attention)[0]
        assert list(found.probabilities.values()) == pytest.approx(list(same.probabilities.values()), abs=0.02)
        assert found.seconds == len(whole) / 16000 and found.speech_seconds == pytest.approx(among, abs=0.3)
        if attention:
            assert found.attention.sum() == pytest.approx(1, abs=1e-3)
            assert len(found.attention) == pytest.approx(50 * found.seconds, abs=50)
            assert found.attention[: 18 * 50].sum() == 0 < found.attention[19 * 50 : 24 * 50].sum()
    assert alone.seconds == 6.0
    path = write(tmp_path / "a.wav", torch.cat(parts[:3]))
    table = predict_files(recognizer, [path], gate=EnergyGate()).table
    assert table["p_happy"][0] == pytest.approx(alone.probabilities["happy"], abs=0.02) and table["seconds"][0] == 43.0


def test_windows_without_speech_do_not_count(recognizer, tmp_path):
    loud = voice(62.0, 3).clamp(-1, 1)
    path = write(tmp_path / "half.wav", torch.cat((torch.zeros(62 * 16000), loud)))
    table = timeline(recognizer, path, 10.0, 5.0, gate=gate_of)
    first = table[table["end"] <= 60]
    assert set(first["predicted"]) == {"no speech"} and (first["speech_seconds"] == 0).all()
    spoken = table[table["start"] >= 60]
    assert "no speech" not in set(spoken["predicted"])
    whole = predict_long(recognizer, path, gate=gate_of)
    heard = table[table["predicted"] != "no speech"]
    assert list(whole.probabilities.values()) == pytest.approx(heard[P].to_numpy().mean(axis=0), abs=1e-6)
    silence = write(tmp_path / "silence.wav", np.zeros(61 * 16000, np.float32))
    assert predict_files(recognizer, [silence], gate=gate_of).table["predicted"].tolist() == ["no speech"]


def test_file_names_that_are_not_utf_8_are_recognised(checkpoint, tmp_path, capsys):
    folder = tmp_path / "audio"
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav"))
    path = write(folder / "plain.wav", voice(1.2))
    odd.write_bytes(path.read_bytes())
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.wav")).write_text("no sound")
    for extra in ([], ["--window", "1"]):
        output = tmp_path / "table.csv"
        assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--output", str(output), *extra]) == 3
        assert pd.read_csv(output)["file"].str.endswith("caf\\xe9.wav").any()
        assert "bad\\xff.wav" in " ".join(capsys.readouterr().out.split())
    assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(odd), "--window", "1"]) == 0


def test_a_wav_whose_header_says_it_is_empty_is_read_to_its_end(checkpoint, recognizer, tmp_path, capsys):
    whole = write(tmp_path / "whole.wav", voice(1.3), subtype="PCM_16")
    content = bytearray(whole.read_bytes())
    content[4:8] = content[40:44] = bytes(4)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(content)
    assert predict_file(recognizer, broken).probabilities == predict_file(recognizer, whole).probabilities
    assert broken.read_bytes() == content
    assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(broken), "--window", "1"]) == 0
    assert "1.3 s heard" in capsys.readouterr().out


def test_windows_of_no_readable_file_are_an_empty_table(checkpoint, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no sound")
    words = ["predict", str(tmp_path / "text.wav"), "--checkpoint", str(checkpoint), "--window", "1"]
    assert main([*words, "--output", str(tmp_path / "table.csv")]) == 3
    assert "1 of 1 could not be read" in capsys.readouterr().out
    assert list(pd.read_csv(tmp_path / "table.csv").columns[:3]) == ["file", "start", "end"]


def test_listening_to_a_file_that_is_empty_or_cut_says_so(checkpoint, tmp_path, capsys, caplog):
    path = write(tmp_path / "cut.wav", voice(1.3), subtype="PCM_16")
    content = path.read_bytes()
    path.write_bytes(content[:20_044])
    words = ["listen", "--checkpoint", str(checkpoint), "--input", str(path)]
    assert main(words) == 0 and "20000 of 41600 bytes" in caplog.text
    path.write_bytes(content[:40] + bytes(4))
    assert main(words) == 1 and "holds no samples" in capsys.readouterr().err


def test_what_listening_cannot_answer_is_counted_and_is_the_exit_code(checkpoint, tmp_path, capsys):
    damaged, short = voice(2.0).numpy(), voice(0.01).numpy()
    damaged[:100] = np.nan
    for samples, said in ((damaged, "answered: 2, refused: 1, dropped: 0"), (short, "too few for any model")):
        path = write(tmp_path / "a.wav", samples)
        assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(path), "--window", "1"]) == 3
        assert said in " ".join(capsys.readouterr().out.split())


def test_a_stream_without_length_is_read_in_bounded_memory(recognizer, tmp_path, monkeypatch):
    plain = write(tmp_path / "plain.flac", voice(70.0).clamp(-1, 1), subtype="PCM_16")
    content = bytearray(plain.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # total samples: unknown
    stream = tmp_path / "stream.flac"
    stream.write_bytes(content)
    read, blocks = AudioFile.block, []
    monkeypatch.setattr(AudioFile, "block", lambda file, count: (blocks.append(count), read(file, count))[1])
    pd.testing.assert_frame_equal(timeline(recognizer, stream, 5.0, 2.5), timeline(recognizer, plain, 5.0, 2.5))
    assert max(blocks) <= 5 * 16000  # one window
    long = write(tmp_path / "long.wav", np.tile(voice(10.0).numpy(), 40))
    tracemalloc.start()
    timeline(recognizer, long, 0.5, 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < long.stat().st_size / 4  # samples behind the windows are let go
    assert predict_file(recognizer, stream).probabilities == predict_file(recognizer, plain).probabilities


def test_a_pipe_is_heard_to_its_end_and_no_file(checkpoint, tmp_path, capsys, caplog):
    content = bytearray(write(tmp_path / "a.wav", voice(3.0), subtype="PCM_16").read_bytes())
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


@pytest.mark.parametrize("words", [["--window", "1", "--hop", "2"], ["--window", "1", "--hop", "1e-9"]])
def test_hops_that_skip_audio_or_never_end_are_refused(checkpoint, tmp_path, words, capsys):
    path = write(tmp_path / "a.wav", voice(3.0))
    assert main(["predict", str(path), "--checkpoint", str(checkpoint), *words]) == 1
    assert main(["listen", "--input", str(path), "--checkpoint", str(checkpoint), *words]) == 1
    shown = capsys.readouterr().err
    assert shown.count("error: a window of 1 s with a hop of") == 2


def test_listen_prints_a_line_of_json_per_window(checkpoint, tmp_path, capsys):
    path = write(tmp_path / "a.wav", torch.cat((voice(2.0), torch.zeros(32000))))
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


def test_file_names_start_no_formula_in_a_spreadsheet(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.wav", "+a.wav", "@b.wav", "-c.wav", "d=.wav"]
    for name in names:
        write(tmp_path / name, voice(0.5))
    assert main(["predict", "--checkpoint", str(checkpoint), "--output", "a.csv", "--", *names]) == 0
    assert pd.read_csv("a.csv")["file"].tolist() == [f"'{name}" for name in names[:4]] + names[4:]
    assert main(["predict", "--checkpoint", str(checkpoint), "--output", "a.json", "--", *names]) == 0
    assert [row["file"] for row in json.loads(Path("a.json").read_text())] == names


@contextlib.contextmanager
def monkey_console(console):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ser.inference.screen.get_console", lambda: console)
        yield


def test_tables_fit_80_columns_and_cut_nothing(recognizer, tmp_path):
    from rich.console import Console

    path = write(tmp_path / ("a very long name of a recording " * 4 + ".wav"), voice(3.0))
    table = timeline(recognizer, path, 2.0, 1.0).assign(start=1234.5, end=1236.5)
    table.insert(0, "file", path.name)
    for names in (EMOTIONS, [*EMOTIONS, "surprised", "disgusted", "fearful", "contemptuous"]):
        for name in names:
            table[f"p_{name}"] = 0.123
        model = SimpleNamespace(emotions=names, config=recognizer.config)
        for width in (80, 200):
            console = Console(width=width, file=io.StringIO())
            with monkey_console(console):
                show_predictions(table, model)
            shown = console.file.getvalue()
            assert "1234.5-1236.5" in shown and "…" not in shown
            assert max(map(len, shown.splitlines())) <= width
            assert all(name in shown for name in names if name != table["predicted"][0])


@pytest.mark.parametrize(("name", "bars"), [("a.wav", True), ("x" * 24 + ".wav", False)])
def test_short_names_leave_room_for_bars_and_notes_are_wrapped_between_words(name, bars):
    from rich.console import Console

    row = {"file": name, "seconds": 3.5, "predicted": EMOTIONS[0], "confidence": 0.25}
    table = pd.DataFrame([row | {f"p_{emotion}": 0.25 for emotion in EMOTIONS}])
    note = " ".join(["cross-validated"] * 12)
    console = Console(width=80, file=io.StringIO())
    with monkey_console(console):
        show_predictions(table, SimpleNamespace(emotions=EMOTIONS, config=SimpleNamespace(notes=[note], kind="global")))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("▏" in line or "█" in line for line in lines) == bars
    assert " ".join(" ".join(lines).split()[-12:]) == note


@pytest.mark.parametrize("separator", ["_", "-", "/", " "])
def test_names_are_folded_behind_their_separators(recognizer, separator):
    from rich.console import Console

    parts = ["interview", "participant", "microphone", "x" * 70, "end.flac"]
    row = {"file": separator.join(parts), "seconds": 1.0, "predicted": EMOTIONS[0], "confidence": 0.5}
    table = pd.DataFrame([row | {f"p_{name}": 0.25 for name in EMOTIONS}])
    console = Console(width=80, file=io.StringIO())
    with monkey_console(console), pytest.MonkeyPatch.context() as patch:
        patch.setattr("ser.inference.screen.shortest_names", list)
        show_predictions(table, SimpleNamespace(emotions=EMOTIONS, config=recognizer.config))
    shown = console.file.getvalue()
    assert all(part in shown for part in parts if len(part) < 20)
    assert shown.count("x") >= 70


def test_attention_is_drawn_for_every_readable_file(checkpoint, folder, bad, tmp_path, capsys):
    words = ["predict", str(folder), str(bad / "nan.wav"), "--checkpoint", str(checkpoint), "--no-gate"]
    assert main([*words, "--attention", str(tmp_path / "drawn")]) == 3
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 5
    without = save_checkpoint(tmp_path / "without.ckpt", model={**GRU, "attention": None})
    words = ["predict", str(folder), "--checkpoint", str(without), "--no-gate", "--attention", str(tmp_path / "none")]
    capsys.readouterr()
    assert main(words) == 1
    shown = capsys.readouterr()
    assert not shown.out  # before any file is answered
    assert "gives no attention" in " ".join(shown.err.split())


def test_a_folder_per_speaker_is_refused_by_a_model_of_global_statistics(checkpoint, folder, capsys):
    assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--speaker-per-folder"]) == 1
    assert "this one was with normalization=global" in " ".join(capsys.readouterr().err.split())


def test_files_that_share_no_folder_keep_their_paths(tmp_path):
    inside = [str(tmp_path / "a" / "1.wav"), str(tmp_path / "b" / "2.wav")]
    assert shortest_names(inside) == ["a/1.wav", "b/2.wav"]
    assert shortest_names([*inside, "/elsewhere/3.wav"]) == [*inside, "/elsewhere/3.wav"]


def test_the_surest_right_and_wrong_answers_of_a_run_are_kept_with_their_attention(tmp_path):
    run = write_run(tmp_path)
    recognizer = Recognizer.from_checkpoint(save_checkpoint(run / "checkpoints" / "best.ckpt"))
    table = load_run(run).predictions
    path = write(tmp_path / "a.wav", voice(1.0))
    utterances = [Utterance(name, path, "sad", "01", 1, "") for name in table["id"]]
    cache = SimpleNamespace(read=lambda name: recognizer.frames([voice(1.0)])[0].half().numpy())  # no encoder is run
    write_attention(run, utterances, recognizer.encoder, cache)
    found = read_attention(run)
    assert len(found) == 4
    for one in found:
        assert sum(one.weights) == pytest.approx(1.0, abs=1e-4) and one.seconds == 1.0
    shown = [table.set_index("id").loc[one.title.partition(":")[0]] for one in found]
    assert [row["emotion"] == row["predicted"] for row in shown] == [True, True, False, False]


def test_recordings_of_phones_in_a_folder_are_listed_and_not_passed_over(checkpoint, tmp_path, capsys):
    write(tmp_path / "a.wav", voice(2.0))
    (tmp_path / "memo.M4A").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(5000))
    assert main(["predict", "--checkpoint", str(checkpoint), str(tmp_path)]) == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 could not be read" in shown and "memo.M4A cannot be decoded" in shown and "ffmpeg" in shown
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(5000))
    (tmp_path / "moved.wav").symlink_to("nowhere.wav")
    assert [path.name for path in collect_files([tmp_path])] == ["a.wav", "film.mp4", "memo.M4A", "moved.wav"]
    assert main(["predict", "--checkpoint", str(checkpoint), str(tmp_path)]) == 3
    assert "moved.wav is no audio file (the link leads nowhere)" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "moved.wav").unlink()
    for name in ("memo", "film"):  # as the message says: ffmpeg -i IN OUT.wav
        write(tmp_path / f"{name}.wav", voice(2.0))
    assert main(["predict", "--checkpoint", str(checkpoint), str(tmp_path)]) == 0
