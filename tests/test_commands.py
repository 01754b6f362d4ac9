import io
import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
from fake_runs import EMOTIONS, write_run
from rich.console import Console
from rich.text import Text

from ser.cli import main
from ser.cli.app import ScreenHandler, app
from ser.evaluation import speaker_probe
from ser.evaluation.figures import FIGURES
from ser.evaluation.predictions import read_predictions, write_predictions
from ser.evaluation.report.render import write_summary
from ser.evaluation.report.report import in_order_of_summary
from ser.evaluation.runs import find_runs
from ser.evaluation.summary import summarize
from ser.trained import reproduce


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two variants, two folds; only the first keeps who speaks in its features."""
    folder = tmp_path_factory.mktemp("sweep")
    for variant, strength, skill in (("gru", 2.0, 0.5), ("enhanced_gru", 0.0, 0.8)):
        for fold in (1, 2):
            write_run(folder, variant, fold, skill=skill, speaker_strength=strength, utterances=16)
    return folder


@pytest.fixture(scope="module")
def probed(sweep):
    with pytest.MonkeyPatch.context() as patch:  # one kind of probe is enough here
        patch.setattr(speaker_probe, "_probes", lambda seed, every=speaker_probe._probes: every(seed)[:2])
        patch.setattr(speaker_probe, "KINDS", ("LDA",))
        assert main(["probe", str(sweep)]) == 0
    return sweep


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def words(capsys):
    shown = capsys.readouterr()
    return " ".join((shown.out + shown.err).split())


def test_probe_writes_into_every_run_below(probed):
    for run in probed.glob("*/fold*/seed1"):
        assert json.loads((run / "leakage.json").read_text())["speakers"]["accuracy"] > 0
    assert len(list(probed.rglob("leakage.json"))) == 4


@pytest.mark.parametrize("name", ["embeddings.npy", "train_embeddings.npy", "leakage.json"])
def test_one_damaged_run_of_several_is_named_and_left_out(probed, few_probes, tmp_path, caplog, name):
    shutil.copytree(probed / "gru", tmp_path / "gru")
    damaged, whole = (tmp_path / "gru" / f"fold{fold}" / "seed1" for fold in (1, 2))
    (damaged / name).write_text("[")
    assert main(["probe", str(tmp_path)]) == 0
    (whole / name).write_text("[")
    assert main(["probe", str(tmp_path)]) == 1
    assert "left out: " in caplog.text and str(damaged / name) in caplog.text


def test_probe_refuses_a_table(sweep, capsys):
    assert main(["probe", str(sweep / "gru" / "fold1" / "seed1" / "predictions.csv")]) == 1
    assert "the probe needs a run folder" in words(capsys)


def test_compare_prints_and_saves_scores_tests_and_leakage(probed, tmp_path, capsys):
    output = tmp_path / "comparison.json"
    assert main(["compare", str(probed / "gru"), str(probed / "enhanced_gru"), "--output", str(output)]) == 0
    shown, saved = words(capsys), json.loads(output.read_text())
    assert "Both were tested on the same split." in shown
    assert saved["paired"]["metrics"]["uar"]["difference"] > 0.1
    assert saved["leakage"]["runs"] == 2
    assert saved["leakage"]["difference"] < -0.3
    assert saved["leakage"]["p"] < 0.05
    assert f"{100 * saved['b']['pooled']['uar']:.1f}" in shown


def test_compare_refuses_other_splits_unless_told_and_says_what_differs(probed, tmp_path, capsys):
    pair = [str(probed / "gru" / "fold1"), str(probed / "enhanced_gru" / "fold2")]
    output = tmp_path / "comparison.json"
    assert main(["compare", *pair, "--output", str(output)]) == 1
    assert not output.exists()
    assert "or add --allow-different-splits" in words(capsys)
    assert main(["compare", *pair, "--output", str(output), "--allow-different-splits"]) == 0
    assert "NOT the same split: - folds 1 against 2" in words(capsys)
    assert json.loads(output.read_text())["paired"] is None


def test_emotions_in_another_order_are_the_same(tmp_path, capsys):
    a, b, other = (write_run(tmp_path / corpus, corpus=corpus, emotions=emotions) for corpus, emotions in (
        ("fake", EMOTIONS), ("same", EMOTIONS[::-1]), ("third", EMOTIONS[:2])))  # fmt: skip
    assert main(["compare", str(a), str(b)]) == 1
    said = words(capsys)
    assert "corpus fake against same" in said and "classes" not in said
    assert main(["compare", str(a), str(b), "--allow-different-splits"]) == 0
    copy = write_run(tmp_path / "copy")
    table = read_predictions(copy / "predictions.csv")
    table = table[table.columns[::-1]].assign(corpus="a column more")
    write_predictions(copy / "predictions.csv", table)
    assert main(["compare", str(a), str(copy)]) == 0
    assert main(["compare", str(a), str(other)]) == 1
    assert "only results on the same classes" in words(capsys)


def test_labels_are_shown_with_the_scores(tmp_path, capsys):
    honest, overlapping = write_run(tmp_path, "a"), write_run(tmp_path, "b", transductive=True)
    assert main(["compare", str(honest), str(overlapping)]) == 0
    assert "transductive" in words(capsys)
    assert (overlapping / "comparison.json").is_file()


def test_report_goes_where_it_was_asked(probed, few_figures, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", str(probed), "--output", str(page), "--baseline", "enhanced_gru"]) == 0
    assert "Speaker leakage" in page.read_text()
    assert str(page) in capsys.readouterr().out.replace("\n", "")


def test_figures_are_drawn_again(few_figures, tmp_path):
    run = write_run(tmp_path)
    assert main(["figures", str(run)]) == 0
    assert {path.name for path in (run / "figures").iterdir()} >= {"confusion.png", "classes.png"}
    assert main(["figures", str(run), "--format", "pdf", "--format", "svg"]) == 0
    assert {path.suffix for path in (run / "figures").iterdir()} == {".png", ".pdf", ".svg"}  # what was there stays
    assert main(["figures", str(run), "--format", "jpg"]) == 1
    assert {path.suffix for path in (run / "figures").iterdir()} == {".png", ".pdf", ".svg"}  # what was there stays


def test_figures_of_a_sweep_are_files_too(monkeypatch, tmp_path, caplog):
    kept = [entry for entry in FIGURES if entry.name in ("ladder", "confusion")]
    monkeypatch.setattr("ser.evaluation.figures.FIGURES", kept)
    for variant in ("gru", "enhanced_gru"):
        write_run(tmp_path, variant)
    write_summary(summarize(find_runs(tmp_path), "enhanced_gru"), tmp_path)
    _, summary = in_order_of_summary(tmp_path, find_runs(tmp_path))
    assert summary.baseline == "enhanced_gru"
    assert main(["figures", str(tmp_path), "--format", "pdf"]) == 0
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["ladder.pdf"]
    assert (tmp_path / "gru/fold1/seed1/figures/confusion.pdf").exists()
    write_run(tmp_path, "other", emotions=("bored", "calm"))
    assert main(["figures", str(tmp_path)]) == 0
    assert "nothing compares the variants" in caplog.text
    assert (tmp_path / "other/fold1/seed1/figures/confusion.png").exists()


@pytest.fixture
def trained(configure, tmp_path):
    """A real run."""
    from ser.training import run

    folder = tmp_path / "run"
    cfg = configure(folder=folder)
    run(cfg)
    return folder


def test_a_run_is_reproduced_without_touching_it(trained, tmp_path, capsys, caplog):
    before = files(trained)
    again = tmp_path / "again"
    assert main(["reproduce", str(trained), "--folder", str(again)]) == 0
    assert "the figures agree" in words(capsys)
    assert "results lie in" not in caplog.text  # of a temporary folder that would not be true
    assert files(trained) == before
    assert (again / "predictions.csv").read_bytes() == (trained / "predictions.csv").read_bytes()

    metrics = json.loads((trained / "metrics.json").read_text())
    metrics["test"]["precision"]["sad"] = 2.0
    (trained / "metrics.json").write_text(json.dumps(metrics))
    rows = reproduce.compare_runs(reproduce.load_run(trained), reproduce.load_run(again), 1e-4)
    assert [row[0] for row in rows if not row[3]] == ["test.precision.sad", "all of metrics.json"]


def test_a_run_of_several_processes_is_not_reproduced_in_one(trained, tmp_path, capsys):
    record = json.loads((trained / "run.json").read_text())
    record["config"]["trainer"] |= {"strategy": "ddp", "devices": 2}
    (trained / "run.json").write_text(json.dumps(record))
    assert main(["reproduce", str(trained), "--folder", str(tmp_path / "again")]) == 1
    assert "trainer.devices=2" in words(capsys)


def test_reproduce_never_writes_into_the_run(tmp_path, capsys):
    run = write_run(tmp_path)
    assert main(["reproduce", str(run), "--folder", str(run / "again")]) == 1
    assert "only read" in words(capsys)
    assert main(["reproduce", str(run), "--folder", str(tmp_path)]) == 1
    assert "is not empty" in words(capsys)
    assert main(["reproduce", str(run), "--folder", str(tmp_path / "new")]) == 1
    assert "no readable run.json" in words(capsys)


HYDRAS = ("train", "sweep")  # their help is another
COMMANDS = [found.callback.__name__ for found in app.registered_commands if found.callback.__name__ not in HYDRAS]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_examples_and_fits_80_columns(command, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"ser {command}" in shown.partition("Examples")[2]
    assert max(map(len, shown.splitlines())) <= 80
    (epilog,) = [found.epilog for found in app.registered_commands if found.callback.__name__ == command]
    examples = [Text.from_markup(one).plain for one in epilog.split("\n\n")[1:]]
    assert all(f" {one} " in shown for one in examples)  # none is folded


@pytest.mark.parametrize("words", [["train", "--help"], ["train", "model=gru", "-h"], ["sweep", "-h"]])
def test_the_help_of_settings_fits_80_columns_and_loses_nothing(words, tmp_path):
    program = [sys.executable, "-m", "ser.cli", *words]
    narrow, wide = (
        subprocess.run(program, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": columns})
        for columns in ("80", "400")
    )
    assert max(map(len, narrow.stdout.splitlines())) <= 80
    assert "".join(narrow.stdout.split()) == "".join(wide.stdout.split())


def test_help_names_every_command_and_loads_no_torch():
    code = (
        "import sys, ser.cli; code = ser.cli.main(['--help']); "
        "assert code == 0 and not {'torch', 'pandas', 'hydra', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f" {command} " in done.stdout for command in COMMANDS)
    assert "Recognise emotions in recordings" in done.stdout and "--install-completion" in done.stdout


@pytest.mark.parametrize("words", [["nowhere"], ["data=ravdess", "data.root=nowhere", "map.calm=neutral"]])
def test_evaluate_tells_a_wrong_folder_before_torch_loads(words):
    code = "import sys, ser.cli; code = ser.cli.main(sys.argv[1:]); assert code == 1 and 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "evaluate", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "nowhere does not exist" in done.stderr


@pytest.mark.parametrize("words", [["predict", "."], ["train", "experiment=demo"], ["listen", "--input", "a.wav"]])
def test_a_torchaudio_that_does_not_fit_torch_is_one_line(words, tmp_path):
    broken = tmp_path / "torchaudio" / "__init__.py"
    broken.parent.mkdir()
    broken.write_text("raise OSError('Could not load this library: /lib/torchaudio/_torchaudio.abi3.so')")
    (tmp_path / "a.wav").touch()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", "import sys; from ser.cli import main; sys.exit(main())", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: torchaudio cannot be loaded")
    assert "pip install --force-reinstall torch torchaudio" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["report", "compare", "figures", "probe", "enrol", "reproduce", "predict"])
def test_what_the_system_refuses_is_one_line(command, capsys):
    name = "x" * 300  # like a folder without permission, this stops root as well
    assert main([command, name, *[name] * (command == "compare")]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {name}") and "could not be read or written (File name too long)" in shown


def test_version_and_wrong_usage(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ser ")
    assert main(["predictt"]) == 2
    assert main(["predict"]) == 2  # names what is missing and where to read on
    shown = capsys.readouterr()
    assert shown.err.count("error:") == 2 and "`ser predict --help`" in shown.err
    assert main(["export", "--checkpoint"]) == 2
    assert "`ser export --help`" in capsys.readouterr().err


def test_a_message_in_a_file_is_one_line_and_on_a_terminal_fits_it():
    shown = {}
    for terminal in (False, True):
        file = io.StringIO()
        handler = ScreenHandler(console=Console(file=file, width=40, force_terminal=terminal), show_path=False)
        handler.emit(
            logging.makeLogRecord({"levelname": "INFO", "msg": "results lie in [/a/folder] %s", "args": ("x" * 60,)})
        )
        shown[terminal] = file.getvalue()
    assert shown[False] == f"INFO     results lie in [/a/folder] {'x' * 60}\n"
    assert shown[True].count("\n") > 1


@pytest.mark.parametrize(
    ("name", "level", "shown"), [("ser.data", 20, True), ("httpx2", 20, False), ("httpx2", 30, True)]
)
def test_the_screen_shows_of_libraries_only_warnings(name, level, shown):
    file = io.StringIO()
    handler = ScreenHandler(console=Console(file=file, width=40), show_path=False)
    handler.handle(logging.makeLogRecord({"name": name, "levelno": level, "levelname": "X", "msg": "request"}))
    assert ("request" in file.getvalue()) == shown
