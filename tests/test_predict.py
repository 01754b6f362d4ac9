"""Files and folders: found, bad ones listed and not fatal, tables written whole."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkpoints import EMOTIONS, GRU, PROBABILITIES, save_checkpoint, voice, write_audio

from ser.cli import main
from ser.errors import SerError
from ser.inference.files import collect_files, predict_file, predict_files, statistics_by_folder
from ser.inference.recognizer import Recognizer
from ser.inference.vad import EnergyGate


@pytest.fixture
def folder(tmp_path):
    """Good and bad files, nested and hidden."""
    root = tmp_path / "audio"
    for number, seconds in enumerate([1.0, 3.0, 0.5, 2.0]):
        write_audio(root / f"speaker{number % 2}" / f"{number}.wav", voice(seconds, number))
    write_audio(root / "deep" / "er" / "four.flac", voice(1.0, 4), subtype="PCM_16")
    (root / "speaker0" / "._0.wav").write_bytes(b"Mac")
    write_audio(root / ".hidden" / "five.wav", voice(1.0, 5))
    (root / "notes.txt").write_text("not audio")
    return root


@pytest.fixture
def bad(tmp_path):
    root = tmp_path / "bad"
    write_audio(root / "nan.wav", np.full(16000, np.nan, np.float32))
    write_audio(root / "one.wav", np.zeros(1, np.float32))
    write_audio(root / "none.wav", np.zeros(0, np.float32))
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
        assert [row[name] for name in PROBABILITIES] == pytest.approx(list(alone.probabilities.values()), abs=1e-5)
        assert (row["predicted"], row["windows"]) == (alone.label, 1)


def test_each_folder_is_a_speaker_when_told_so(tmp_path, folder):
    recognizer = Recognizer.from_checkpoint(save_checkpoint(tmp_path / "best.ckpt", kind="speaker"))
    files = [folder / "speaker0" / "0.wav", folder / "speaker0" / "2.wav", folder / "speaker1" / "1.wav"]
    found = predict_files(recognizer, files, statistics_of=statistics_by_folder(recognizer, files)).table
    own = recognizer.speaker_statistics([(voice(1.0, 0), 16000), (voice(0.5, 2), 16000)])
    expected = recognizer(voice(1.0, 0), 16000, statistics=own)
    assert found["normalization"].tolist() == ["speaker"] * 3
    assert found[PROBABILITIES].to_numpy()[0] == pytest.approx(list(expected.probabilities.values()), abs=1e-5)
    first = recognizer.speaker_statistics([(voice(1.0, 0), 16000)], shrinkage=2.0)
    found = predict_files(recognizer, files, statistics_of=statistics_by_folder(recognizer, files, 1, 2.0)).table
    expected = recognizer(voice(0.5, 2), 16000, statistics=first)
    assert found[PROBABILITIES].to_numpy()[1] == pytest.approx(list(expected.probabilities.values()), abs=1e-5)


def test_a_folder_per_speaker_is_refused_by_a_model_of_global_statistics(checkpoint, folder, capsys):
    assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--speaker-per-folder"]) == 1
    assert "this one was with normalization=global" in " ".join(capsys.readouterr().err.split())


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


def test_recordings_of_phones_in_a_folder_are_listed_and_not_passed_over(checkpoint, tmp_path, capsys):
    write_audio(tmp_path / "a.wav", voice(2.0))
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
        write_audio(tmp_path / f"{name}.wav", voice(2.0))
    assert main(["predict", "--checkpoint", str(checkpoint), str(tmp_path)]) == 0


@pytest.mark.parametrize("window", [[], ["--window", "0.5"]])
@pytest.mark.parametrize("done", [0, 2])
def test_ctrl_c_keeps_what_was_recognised(checkpoint, folder, tmp_path, capsys, monkeypatch, done, window):
    answers, output = [], tmp_path / "a.csv"
    predict = Recognizer.predict_batch

    def interrupted(recognizer, *given):
        answers.append(given)
        if len(answers) == done + 2:  # the first says whether there is attention
            raise KeyboardInterrupt
        return predict(recognizer, *given)

    monkeypatch.setattr(Recognizer, "predict_batch", interrupted)
    words = ["predict", str(folder), "--checkpoint", str(checkpoint), "--output", str(output), "--no-gate"]
    words += ["--attention", str(tmp_path / "drawn")]
    assert main([*words, "--batch-seconds", "0.1", *window]) == 130
    assert output.exists() == bool(done)
    if done:
        assert pd.read_csv(output)["file"].nunique() == 2
        assert "Ctrl-C after 2 of 5 files" in capsys.readouterr().out
        assert len(list((tmp_path / "drawn").glob("*.png"))) == 2


def test_wrong_words_get_one_sentence(checkpoint, folder, tmp_path, capsys):
    assert main(["predict", str(folder), "--checkpoint", str(tmp_path / "nowhere")]) == 1
    assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--output", "table.xlsx"]) == 1
    assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--window", "0"]) == 2
    assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--hops", "1"]) == 2
    assert capsys.readouterr().err.count("error:") == 4


def test_recordings_without_speech_get_no_emotion(checkpoint, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ser.inference.vad.best_gate", EnergyGate)  # the voice of the tests is no speech for Silero
    click = np.zeros(32000, np.float32)
    click[16000] = 0.9
    write_audio(folder / "speaker0" / "silent.wav", np.zeros(32000, np.float32))
    write_audio(folder / "speaker0" / "click.wav", click)
    left = voice(2.0).numpy()
    write_audio(folder / "speaker0" / "cancelled.wav", np.stack((left, -left), axis=1))
    output = tmp_path / "a.csv"
    words = ["predict", str(folder), "--checkpoint", str(checkpoint), "--output", str(output)]
    assert main(words) == 0
    table = pd.read_csv(output).set_index(pd.read_csv(output)["file"].str.extract(r"(\w+)\.\w+$")[0])
    silent = ["silent", "click", "cancelled"]
    assert set(table.loc[silent, "predicted"]) == {"no speech"}
    assert set(table.drop(silent)["predicted"]) <= set(EMOTIONS) and len(table) == 8
    assert table.loc[silent, "speech_seconds"].max() < 0.1
    assert table.loc[silent, [*PROBABILITIES, "confidence"]].isna().all(axis=None)
    assert "3 of 8 rows hold no speech" in capsys.readouterr().out
    assert main([*words, "--no-gate"]) == 0
    assert "no speech" not in set(pd.read_csv(output)["predicted"])


def test_file_names_that_are_not_utf_8_are_recognised(checkpoint, tmp_path, capsys):
    folder = tmp_path / "audio"
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav"))
    path = write_audio(folder / "plain.wav", voice(1.2))
    odd.write_bytes(path.read_bytes())
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.wav")).write_text("no sound")
    for extra in ([], ["--window", "1"]):
        output = tmp_path / "table.csv"
        assert main(["predict", str(folder), "--checkpoint", str(checkpoint), "--output", str(output), *extra]) == 3
        assert pd.read_csv(output)["file"].str.endswith("caf\\xe9.wav").any()
        assert "bad\\xff.wav" in " ".join(capsys.readouterr().out.split())
    assert main(["listen", "--checkpoint", str(checkpoint), "--input", str(odd), "--window", "1"]) == 0


def test_file_names_start_no_formula_in_a_spreadsheet(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.wav", "+a.wav", "@b.wav", "-c.wav", "d=.wav"]
    for name in names:
        write_audio(tmp_path / name, voice(0.5))
    assert main(["predict", "--checkpoint", str(checkpoint), "--output", "a.csv", "--", *names]) == 0
    assert pd.read_csv("a.csv")["file"].tolist() == [f"'{name}" for name in names[:4]] + names[4:]
    assert main(["predict", "--checkpoint", str(checkpoint), "--output", "a.json", "--", *names]) == 0
    assert [row["file"] for row in json.loads(Path("a.json").read_text())] == names


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
