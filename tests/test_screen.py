"""Tables of predictions on the screen: whole names and figures within its width."""

import contextlib
import io
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import soundfile
from checkpoints import EMOTIONS, voice, write_audio
from rich.console import Console

from ser.cli import main
from ser.inference.screen import shortest_names, show_predictions
from ser.inference.timeline import timeline


@contextlib.contextmanager
def monkey_console(console):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ser.inference.screen.get_console", lambda: console)
        yield


def test_tables_fit_80_columns_and_cut_nothing(recognizer, tmp_path):
    path = write_audio(tmp_path / ("a very long name of a recording " * 4 + ".wav"), voice(3.0))
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


def test_files_that_share_no_folder_keep_their_paths(tmp_path):
    inside = [str(tmp_path / "a" / "1.wav"), str(tmp_path / "b" / "2.wav")]
    assert shortest_names(inside) == ["a/1.wav", "b/2.wav"]
    assert shortest_names([*inside, "/elsewhere/3.wav"]) == [*inside, "/elsewhere/3.wav"]


def test_no_two_windows_of_a_recording_look_the_same(checkpoint, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", voice(2.02).numpy(), 16000)
    assert main(["predict", str(tmp_path / "a.wav"), "--checkpoint", str(checkpoint), "--window", "1"]) == 0
    times = re.findall(r"\d+\.\d+-\d+\.\d+", capsys.readouterr().out)
    assert len(set(times)) == len(times) and times[-1].endswith("-2.02")
