"""The doctor names what is unfit, with the remedy, and goes on to the end whatever it meets."""

import shutil
import subprocess
import sys

import pytest
import soundfile
import torch
from fake_corpora import write_manifest
from hydra.core.global_hydra import GlobalHydra
from tiny_encoders import save_tiny_whisper

from ser import cli
from ser.doctor import experiment, machine
from ser.doctor.machine import Finding, run_checks


@pytest.fixture
def words(tmp_path):
    table = write_manifest(tmp_path, utterances_per_speaker_and_emotion=1, seconds=0.2, session=True)
    return ["data=manifest", f"data.manifest={table}", f"paths.outputs={tmp_path}/out"]


@pytest.fixture
def examine():
    def run(*words, deep=False):
        findings = list(experiment.examine(list(words), deep))
        assert {finding.check for finding in findings} >= {"packages", "audio", "device", "optional"}
        return {finding.check: finding for finding in findings}

    yield run
    GlobalHydra.instance().clear()


def test_a_fit_machine_has_no_problem_before_and_after_the_extraction(examine, words, tmp_path, capsys):
    before = examine(*words)
    assert not [finding for finding in before.values() if finding.status == "problem"]
    assert "24 utterances" in before["corpus"].text and "6 speakers, 3 sessions" in before["corpus"].text
    assert "3 folds, each valid" in before["protocol"].text
    assert "0 of 3 sessions complete; 24 utterances to extract, about 38.4 kB" in before["cache"].text
    assert not list(tmp_path.rglob("*.safetensors"))  # looking changes nothing
    assert cli.main(["extract", *words]) == 0
    assert "3 of 3 sessions complete, every checksum verified" in examine(*words, deep=True)["cache"].text
    capsys.readouterr()
    assert cli.main(["doctor", *words]) == 0
    shown = capsys.readouterr().out
    assert "problems: 0" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_speakers_of_one_class_copies_and_fold_sizes_are_named(examine, tmp_path):
    table = write_manifest(tmp_path, speakers=6, seconds=0.3)
    rows = [row for row in table.read_text().splitlines() if "spk2" not in row or "sad" in row]
    table.write_text("\n".join(rows) + "\n")
    for copy in ("spk3_sad_1", "spk4_sad_0", "spk4_sad_1"):
        shutil.copy(tmp_path / "audio" / "spk1_sad_0.wav", tmp_path / "audio" / f"{copy}.wav")
    words = ["data=manifest", f"data.manifest={table}", "features=logmel", f"paths.outputs={tmp_path}/out"]
    findings = list(experiment.examine([*words, f"paths.cache={tmp_path}/cache"]))
    said = {f"{finding.check} {finding.status}": finding.text for finding in findings}
    assert "2 to 8 utterances each (median 8);" in said["speakers ok"]
    assert "1 of 6 without some class: spk2 (angry, happy, neutral)" in said["speakers ok"]
    assert "1 of 6 with one class only: spk2" in said["speakers warning"]
    assert "recordings that occur more than once: 1, of these under two speakers: 1;" in said["duplicates warning"]
    assert said["duplicates warning"].endswith("; spk1_sad_0 = spk3_sad_1 = spk4_sad_0 ...")
    sizes = "each training on 24 to 26 and testing 8 to 10 utterances"
    assert said["protocol ok"] == f"session: 5 folds, each valid, {sizes}"


def test_copies_of_one_speaker_can_stay_unless_speakers_overlap(examine, words, tmp_path):
    (table,) = tmp_path.glob("*.csv")
    first, second = [row.split(",")[0] for row in table.read_text().splitlines() if "spk1" in row][:2]
    shutil.copy(tmp_path / first, tmp_path / second)
    found = examine(*words)["duplicates"]
    assert (found.status, found.remedy) == ("ok", "")
    assert "under two speakers: 0;" in found.text and "they can stay" in found.text
    overlapping = examine(*words, "protocol=random")["duplicates"]
    assert overlapping.status == "warning" and "remove the copies" in overlapping.remedy


def test_copies_in_two_of_several_corpora_are_named(examine, tmp_path):
    table = write_manifest(tmp_path, speakers=6, seconds=0.3)
    corpora = ["data=combined", "data.corpora=[manifest,folder]", f"data.manifest.manifest={table}"]
    found = examine(*corpora, f"data.folder.root={tmp_path}/audio", f"paths.cache={tmp_path}/cache")["duplicates"]
    assert found.status == "warning" and "under two speakers: 48;" in found.text, found
    assert "manifest/spk1_angry_0 = folder/" in found.text


def test_a_wrong_folder_is_told_before_pytorch_loads(tmp_path):
    code = (
        "import sys; from ser.doctor.experiment import examine\n"
        "first = next(iter(examine(sys.argv[1:])))\n"
        "assert (first.check, first.status, 'torch' in sys.modules) == ('corpus', 'problem', False), first"
    )
    subprocess.run([sys.executable, "-c", code, "data=ravdess", f"data.root={tmp_path}/nowhere"], check=True)


def test_words_that_do_not_compose_leave_the_installation_checked(examine, capsys):
    assert "no such option" in examine("model=foo")["configuration"].text
    assert cli.main(["doctor", "fold=abc"]) == 1
    assert "'abc'" in " ".join(capsys.readouterr().out.split())


def test_a_missing_corpus_and_encoder_are_two_problems_with_remedies(examine, tmp_path):
    found = examine(
        "data=ravdess",
        f"data.root={tmp_path}/nowhere",
        "features=hubert_base",
        "features.checkpoint=/nowhere",
        f"paths.outputs={tmp_path}",
    )
    assert (found["corpus"].status, found["encoder"].status) == ("problem", "problem")
    assert "data.root=" in found["corpus"].text and "features.checkpoint=FOLDER" in found["encoder"].text
    assert all("needs the corpus" in found[name].text for name in ("audio files", "protocol", "cache"))


@pytest.mark.parametrize("word", ["trainer.precision=foo", "callbacks.early_stopping.patience=x", "model.layers=0"])
def test_settings_that_a_run_would_refuse_are_problems(examine, words, word):
    assert examine(*words)["settings"].status == "ok"
    found = examine(*words, word)["settings"]
    assert found.status == "problem" and word in found.text


def test_unreadable_files_folds_without_an_emotion_and_a_damaged_cache(examine, words, tmp_path):
    assert cli.main(["extract", *words]) == 0
    file = next((tmp_path / "out").rglob("frames-*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for path in sorted((tmp_path / "audio").iterdir())[:6]:
        path.write_text("no sound")
    table = tmp_path / "manifest.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if "sad" not in line or ",s3" in line))
    found = examine(*words)
    assert found["audio files"].status == "problem" and "cannot be decoded" in found["audio files"].text
    assert found["protocol"].status == "problem" and "no sad utterance to train on" in found["protocol"].text
    deep = examine(*words, deep=True)["cache"]
    assert deep.status == "problem" and "fail their checksum" in deep.text


def test_an_encoder_on_disk_is_described_and_with_deep_it_runs(examine, words, tmp_path):
    save_tiny_whisper(tmp_path / "whisper")
    words = [*words, "features=whisper_base", f"features.checkpoint={tmp_path}/whisper"]
    assert "16 values, 50 frames/s, layers [3]" in examine(*words)["encoder"].text
    assert "gives 50 frames" in examine(*words, deep=True)["encoder"].text
    found = examine(*words, "features.layer=9")
    assert found["encoder"].status == "problem" and "from 0 to 3" in found["encoder"].text


def test_a_hub_checkpoint_that_cannot_be_had_is_a_problem_and_nothing_is_downloaded(examine, words, monkeypatch):
    def refuse(*arguments, **keywords):
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *arguments: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    found = examine(*words, "features=hubert_base")
    assert found["encoder"].status == "problem" and "hf download" in found["encoder"].remedy
    assert "needs the encoder" in found["cache"].text


def test_device_and_folders(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (finding,) = machine.check_device("gpu", "cpu")
    assert finding.status == "problem" and "trainer=cpu" in finding.remedy
    (tmp_path / "file").write_text("")
    (finding,) = machine.check_folder("paths.outputs", tmp_path / "file")
    assert finding.status == "problem" and "paths.outputs=" in finding.remedy
    monkeypatch.setattr(machine, "free_space", lambda folder: 1e6)
    (finding,) = machine.check_folder("paths.cache", tmp_path)
    assert finding.status == "problem" and "1.0 MB free" in finding.text


def test_a_package_outside_its_bounds_is_named(monkeypatch):
    monkeypatch.setattr(machine, "requires", lambda name: ["torch>=99", "numpy>=1", "no-such-package"])
    (finding,) = machine.check_packages()
    assert finding.status == "problem"
    assert "torch" in finding.text and ">=99 needed" in finding.text and "no-such-package is not" in finding.text


def test_an_optional_package_that_cannot_be_loaded_is_no_ok(monkeypatch):
    def missing(name):
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(machine, "requires", lambda name: ['sounddevice>=0.5; extra == "live"'])
    monkeypatch.setattr(machine, "version", lambda name: "0.5.6")
    monkeypatch.setattr(machine.importlib, "import_module", missing)
    found = {finding.status: finding.text for finding in machine.check_optional()}
    assert "sounddevice 0.5.6 (live) cannot be loaded (PortAudio library not found)" in found["warning"]
    assert "sounddevice" not in found["ok"]


def test_a_check_that_breaks_stops_no_other():
    def broken():
        raise ZeroDivisionError("by zero")

    found = list(run_checks([("first", broken), ("second", lambda: [Finding("second", "ok", "fine")])]))
    assert [(finding.check, finding.status) for finding in found] == [("first", "problem"), ("second", "ok")]


def test_a_fresh_checkout_has_neither_problems_nor_warnings_and_nothing_is_made(examine, tmp_path):
    found = examine(f"paths.data={tmp_path}/data", f"paths.outputs={tmp_path}/out", f"paths.cache={tmp_path}/cache")
    assert "the first run writes it" in found["corpus"].text
    of_the_machine = ("device", "packages", "optional")
    assert {finding.status for name, finding in found.items() if name not in of_the_machine} == {"ok"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "word"),
    [(lambda w: 0 * w, "silent"), (lambda w: 0 * w + 0.3, "constant"), (lambda w: (100 * w).clip(-1, 1), "clipped")],
)
def test_with_deep_recordings_without_a_usable_voice_are_named(examine, words, tmp_path, change, word):
    path = sorted((tmp_path / "audio").iterdir())[3]
    samples, rate = soundfile.read(path)
    soundfile.write(path, change(samples), rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    found = examine(*words, deep=True)["recordings"]
    assert found.status == "warning" and word in found.text and found.text.startswith("1 ")
