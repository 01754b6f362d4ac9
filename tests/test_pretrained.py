"""The model that comes with the package: whole, honest about itself, and refused without its own encoder."""

import json
import sys
from types import SimpleNamespace

import pytest
import soundfile
import torch
from checkpoints import save_checkpoint, voice
from safetensors.torch import load_file, save_file
from tiny_encoders import save_tiny_whisper

from ser.cli import main
from ser.cli.app import may_fetch, open_model
from ser.config import CONFIG_FOLDER
from ser.demo.recognition import ModelShelf
from ser.encoders import WhisperEncoder
from ser.errors import EncoderNotHereError, SerError
from ser.inference.checkpoint import PRETRAINED, read_folder, told_settings
from ser.inference.engines import build_network
from ser.inference.recognizer import Recognizer
from ser.trained.hub import export_hub

CARD = (PRETRAINED / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def audio(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(1.0).numpy(), 16000)
    return str(tmp_path / "a.wav")


@pytest.fixture(autouse=True)
def without_encoders(monkeypatch, tmp_path):
    """No encoder of the Hub on this machine, and no way to fetch one."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("SER_ENCODER", raising=False)


def shown(capsys):
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def test_the_network_loads_and_answers():
    config, weights = read_folder(PRETRAINED)
    network = build_network(config, weights, PRETRAINED).eval()
    output = network(torch.zeros(2, 30, config.input_size), torch.tensor([30, 20]))
    assert output.emotion_logits.shape == (2, len(config.emotions))
    assert (config.statistics.std > 0).all()


def test_the_card_says_what_the_cross_validation_found():
    record = read_folder(PRETRAINED)[0].cross_validation
    assert record["speakers"] == 24 and not record["speaker_overlap"] and not record["transductive"]
    low, high = (f"{100 * record[f'uar_{bound}']:.1f}" for bound in ("low", "high"))
    assert f"| UAR | {100 * record['uar']:.1f} [{low}, {high}] |" in CARD
    leak = record["leakage"]
    for name, key in (("training speakers named", "speaker"), ("EER of unseen speakers", "eer")):
        low, high = (f"{100 * leak[f'{key}_{bound}']:.1f}" for bound in ("low", "high"))
        assert f"| {name} | {100 * leak[key]:.1f} [{low}, {high}] |" in CARD
    for emotion, recall in record["recall"].items():
        assert f"| recall of {emotion} | {100 * recall:.1f} |" in CARD
    assert sum(record["recall"].values()) / 4 == pytest.approx(record["uar"])
    assert "Do not use it for decisions about people" in CARD
    assert "24 professional actors" in CARD
    assert "average 4), which is not contained" in CARD  # nothing of settings that are null, or of fine-tuning


def test_it_is_small_licensed_and_says_nothing_of_the_machine_it_was_made_on():
    licence = (PRETRAINED / "LICENSE").read_text()
    assert "CC BY-NC-SA 4.0" in licence and "Livingstone" in licence
    assert "license: cc-by-nc-sa-4.0" in CARD
    assert "CC-BY-NC-SA-4.0" in (CONFIG_FOLDER.parent / "pyproject.toml").read_text()
    assert sum(file.stat().st_size for file in PRETRAINED.iterdir()) < 600_000
    for text in (CARD, licence, (PRETRAINED / "config.json").read_text()):
        assert not {"/root", "/work", "/tmp", "/home"} & {f"/{part}" for part in text.split("/")}
    assert json.loads((PRETRAINED / "config.json").read_text())["encoder"]["checkpoint"] == "openai/whisper-base"


@pytest.mark.parametrize("words", [["predict"], ["listen", "--input"], ["export"]])
def test_a_command_without_a_model_takes_it_and_names_the_encoder_it_needs(words, audio, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words, *([] if words == ["export"] else [audio])]) == 1
    found = shown(capsys)
    for part in ("openai/whisper-base", "--encoder FOLDER", "SER_ENCODER", "--allow-download"):
        assert part in found
    with pytest.raises(EncoderNotHereError):
        Recognizer.pretrained()
    with pytest.raises(EncoderNotHereError):
        ModelShelf([PRETRAINED]).open(ModelShelf([PRETRAINED]).names[0])


def test_the_line_that_says_which_model_answers_names_its_licence(monkeypatch, caplog):
    config = read_folder(PRETRAINED)[0]
    model = SimpleNamespace(config=config, emotions=config.emotions)
    monkeypatch.setattr(Recognizer, "from_checkpoint", lambda *_, **__: model)
    with caplog.at_level("INFO"):
        open_model(None)
    assert "CC BY-NC-SA 4.0" in caplog.text and "no commercial use" in caplog.text


def test_settings_of_fine_tuning_are_told_only_where_there_is_some():
    plain = {"_target_": "A", "layer": 3, "max_seconds": None, "finetune": None, "finetune_lr_factor": 0.1}
    assert told_settings(plain) == {"layer": 3}
    tuned = {"layer": 3, "finetune": 2, "finetune_lr_factor": 0.1}
    assert told_settings(plain | {"finetune": 2}) == tuned


def test_another_encoder_is_refused(tmp_path, audio, monkeypatch, capsys):
    folder = str(save_tiny_whisper(tmp_path / "whisper", layers=4))
    assert main(["predict", audio, "--encoder", folder]) == 1
    assert "frames of 48 values, the network expects 1536" in shown(capsys)
    monkeypatch.setenv("SER_ENCODER", folder)
    with pytest.raises(SerError, match="frames of 48 values"):
        Recognizer.pretrained()


@pytest.mark.parametrize("answer", [True, False])
def test_asks_before_it_fetches(answer, monkeypatch):
    asked = []
    monkeypatch.setattr("ser.encoders.weights.download_size", lambda encoder: "290 MB")
    monkeypatch.setattr("rich.prompt.Confirm.ask", lambda question, **_: asked.append(question) or answer)
    assert not may_fetch("a/b")  # no terminal
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    assert may_fetch("a/b") == answer
    assert asked == ["The encoder a/b is not on this machine. Fetch it from the Hugging Face Hub (290 MB)?"]


def test_ctrl_d_or_no_answer_from_the_hub_is_a_no(monkeypatch):
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("ser.encoders.weights.download_size", lambda encoder: "290 MB")
    monkeypatch.setattr("rich.prompt.Confirm.ask", lambda question, **_: (_ for _ in ()).throw(EOFError))
    assert not may_fetch("a/b")
    monkeypatch.setattr("ser.encoders.weights.download_size", lambda encoder: None)
    monkeypatch.setattr("rich.prompt.Confirm.ask", lambda question, **_: pytest.fail("asked what cannot be fetched"))
    assert not may_fetch("a/b")


def test_a_page_whose_only_model_lacks_its_encoder_is_refused_at_once(capsys):
    assert main(["demo", "--port", "1"]) == 1
    assert "is not on this machine" in shown(capsys)


def test_a_missing_file_is_named_before_a_missing_encoder(tmp_path, capsys):
    assert main(["predict", str(tmp_path / "nothing.wav")]) == 1
    assert "nothing.wav does not exist" in shown(capsys)


def test_an_exported_model_knows_its_encoder_in_another_file_but_no_other_encoder(tmp_path):
    """The Hub's file is in single precision and has a decoder; a copy in half precision has the same weights."""
    folder = save_tiny_whisper(tmp_path / "whisper")
    encoder = WhisperEncoder(str(folder), layer=2)
    described = {"_target_": "ser.encoders.WhisperEncoder", "checkpoint": str(folder), "layer": 2}
    path = save_checkpoint(tmp_path / "best.ckpt", encoder=described, width=encoder.dim)
    content = torch.load(path, weights_only=True)
    content["config"]["encoder_identity"] = encoder.description()
    torch.save(content, path)
    exported = export_hub(Recognizer.from_checkpoint(path), tmp_path / "exported")
    weights = folder / "model.safetensors"
    save_file(
        {name: value.float() * (1 + 1e-4) for name, value in load_file(weights).items()}, weights, {"format": "pt"}
    )
    with pytest.raises(SerError, match="not the one of the training: weights="):
        Recognizer.from_checkpoint(path)
    assert Recognizer.from_checkpoint(exported, folder)(voice(1.0), 16000).confidence > 0
    other = save_tiny_whisper(tmp_path / "other", seed=1)
    with pytest.raises(SerError, match="not the one of the training: weights="):
        Recognizer.from_checkpoint(exported, other)
    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps(config | {"encoder_frames": "damaged"}))
    with pytest.raises(SerError, match="not the one of the training: weights="):
        Recognizer.from_checkpoint(exported, folder)
