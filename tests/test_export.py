"""Exported models answer like the checkpoint they come from, and describe themselves."""

import ast
import json
import re
import shutil
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from checkpoints import EMOTIONS, ENHANCED, GRU, save_checkpoint, voice
from huggingface_hub import ModelCard
from tiny_encoders import save_tiny_hubert, save_tiny_wavlm, save_tiny_whisper

from ser.cli import main
from ser.data.normalization import FrameStatistics
from ser.errors import SerError
from ser.inference.onnx import agreement, export_onnx, test_sounds
from ser.inference.onnx_graph import quantize_file
from ser.inference.recognizer import Recognizer
from ser.trained.hub import export_hub

SMALL = {**GRU, "layers": 1}
test_sounds.__test__ = False  # a function of the package, not a test


def values(prediction):
    return np.array(list(prediction.probabilities.values()))


def load(path, **settings):
    return Recognizer.from_checkpoint(save_checkpoint(path / "checkpoints" / "best.ckpt", **settings))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A checkpoint, its ONNX file and the agreement of the two."""
    folder = tmp_path_factory.mktemp("run")
    recognizer = load(folder, kind="speaker", seed=6)  # of the first seeds, the one whose labels vary most
    found = export_onnx(recognizer, folder / "model.onnx")
    return recognizer, folder / "model.onnx", found["float32"]


def test_agreement_covers_many_lengths(exported):
    recognizer, _, found = exported
    assert found.largest_difference <= 1e-4
    assert found.same_label == 1
    assert (found.recordings, found.shortest, found.longest) == (40, 0.025, 30.0)
    assert len({recognizer(sound, 16000).label for sound in test_sounds()}) >= 3  # a constant would agree too


def test_recognizer_runs_the_file_with_the_same_call(exported):
    recognizer, path, _ = exported
    other = Recognizer.from_checkpoint(path)
    recordings = [(voice(seconds, seed), 16000) for seed, seconds in enumerate([0.03, 1.0, 2.5, 6.1])]
    for one, two, recording in zip(
        recognizer.predict_many(recordings), other.predict_many(recordings), recordings, strict=True
    ):
        assert values(one) == pytest.approx(values(two), abs=1e-5)
        assert values(two) == pytest.approx(values(other(*recording)), abs=1e-5)
        assert (one.label, one.normalization, one.seconds) == (two.label, two.normalization, two.seconds)
    own = FrameStatistics(recognizer.config.statistics.mean + 0.3, recognizer.config.statistics.std * 1.7, "speaker")
    one, two = (model(voice(2.0), 16000, statistics=own) for model in (recognizer, other))
    assert values(one) == pytest.approx(values(two), abs=1e-5)
    assert one.normalization == two.normalization == "speaker"


def test_any_program_can_run_the_file(exported):
    recognizer, path, _ = exported
    session = onnxruntime.InferenceSession(str(path))
    shapes = {value.name: value.shape for value in session.get_inputs()}
    assert shapes == {"frames": ["batch", "time", 40], "lengths": ["batch"]}
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["emotions"] == ",".join(EMOTIONS)
    assert json.loads(metadata["ser_config"])["emotions"] == EMOTIONS
    frames = [recognizer.frames([voice(seconds)])[0] for seconds in (1.0, 0.5)]
    batch = np.full((2, 60, 40), 7.0, np.float32)  # padding is not looked at
    for row, found in zip(batch, frames, strict=True):
        row[: len(found)] = found
    lengths = np.array([len(found) for found in frames])
    answers = session.run(["probabilities"], {"frames": batch, "lengths": lengths})[0]
    for answer, seconds in zip(answers, (1.0, 0.5), strict=True):
        assert answer == pytest.approx(values(recognizer(voice(seconds), 16000)), abs=1e-5)


def test_the_baseline_is_exported_too(few_sounds, tmp_path):
    attention = {"_target_": "ser.models.attention.ConcatAttention", "_partial_": True}
    recognizer = load(tmp_path, model={**GRU, "layers": 1, "attention": attention}, max_seconds=1.5)
    assert export_onnx(recognizer, tmp_path / "model.onnx")["float32"].largest_difference < 1e-4


def test_an_lstm_is_exported_as_one_operator_and_quantized(few_sounds, tmp_path):
    recognizer = load(tmp_path, model={**ENHANCED, "hidden_size": 64, "layers": 1, "cell": "lstm"})
    assert export_onnx(recognizer, tmp_path / "model.onnx")["float32"].largest_difference < 1e-4
    assert [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node].count("LSTM") == 2
    shutil.copy(tmp_path / "model.onnx", tmp_path / "model.int8.onnx")
    quantize_file(tmp_path / "model.int8.onnx")
    found = agreement(recognizer, tmp_path / "model.int8.onnx")
    assert 1e-6 < found.largest_difference < 0.05
    smaller = (tmp_path / "model.int8.onnx").stat().st_size / (tmp_path / "model.onnx").stat().st_size
    assert smaller < 0.4


def test_the_encoder_can_be_inside_and_the_code_of_the_card_runs_it_on_onnxruntime_alone(
    few_sounds, tmp_path, monkeypatch, capsys
):
    recognizer = load(tmp_path, model=SMALL, max_seconds=2.0)
    found = export_onnx(recognizer, tmp_path / "model.onnx", with_encoder=True)["float32"]
    assert found.largest_difference <= 1e-3
    other = Recognizer.from_checkpoint(tmp_path / "model.onnx")
    recordings = [(voice(seconds, seed), 16000) for seed, seconds in enumerate([1.0, 2.5, 6.1])]
    for one, two in zip(recognizer.predict_many(recordings), other.predict_many(recordings), strict=True):
        assert values(one) == pytest.approx(values(two), abs=1e-3)
    with pytest.raises(SerError, match="holds its encoder"):
        other(voice(1.0), 16000, statistics=recognizer.config.statistics)
    card = export_hub(recognizer, tmp_path / "hub").joinpath("README.md").read_text()
    soundfile.write(tmp_path / "a.wav", voice(1.0).numpy(), 16000, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    code = card.split("```python")[2].split("```")[0]
    assert "ser." not in code
    exec(code, {})
    expected = recognizer(voice(1.0), 16000).probabilities
    assert ast.literal_eval(capsys.readouterr().out.strip()) == pytest.approx(expected, abs=1e-4)


PRETRAINED = {  # wav2vec2 is exported in test_finetuning.py
    "hubert": ("SpeechEncoder", save_tiny_hubert),  # its first convolution is normalised over time
    "wavlm": ("SpeechEncoder", partial(save_tiny_wavlm, large=True)),
    "whisper": ("WhisperEncoder", partial(save_tiny_whisper, window=50)),  # of one second, so that there are several
}


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_pretrained_encoder_can_be_inside(few_sounds, tmp_path, name):
    kind, save = PRETRAINED[name]
    average = {"hubert": 4, "whisper": 3}.get(name, 1)  # frames averaged into one
    folder = str(save(tmp_path / "encoder"))
    encoder = {"_target_": f"ser.encoders.{kind}", "checkpoint": folder, "average": average}
    if name == "hubert":
        encoder["max_seconds"] = 1.2
    if name in ("wavlm", "whisper"):  # two layers side by side
        encoder |= {"layer": [1, 2], "join": "concatenate"}
    recognizer = load(tmp_path, model=SMALL, encoder=encoder, width=32 if "join" in encoder else 16)
    found = export_onnx(recognizer, tmp_path / "whole.onnx", with_encoder=True)["float32"]
    assert found.largest_difference <= 1e-3 and found.same_label == 1
    other = Recognizer.from_checkpoint(tmp_path / "whole.onnx")
    waveforms = [voice(seconds, seed) for seed, seconds in enumerate([0.03, 1.0, 2.503, 6.1])]
    assert len({recognizer.predict_batch([waveform])[0].confidence for waveform in waveforms}) == 4
    answers = zip(recognizer.predict_batch(waveforms), other.predict_batch(waveforms), waveforms, strict=True)
    for one, two, waveform in answers:
        assert values(one) == pytest.approx(values(two), abs=1e-3)
        assert values(two) == pytest.approx(values(other.predict_batch([waveform])[0]), abs=1e-3)


def test_what_this_torch_cannot_export_is_told_in_one_line(tmp_path, monkeypatch):
    def fail(*_, **__):  # as torch 2.11 does with HuBERT inside
        raise torch.onnx.OnnxExporterError("long") from ValueError("Could not guard on u0 < 10\n\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(SerError, match=r"cannot export this network \(Could not guard on u0 < 10\); torch 2"):
        export_onnx(load(tmp_path, model=SMALL), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_an_encoder_that_cannot_be_inside_says_so(tmp_path):
    folder = save_tiny_hubert(tmp_path / "hubert")
    encoder = {"_target_": "ser.encoders.SpeechEncoder", "checkpoint": str(folder), "dtype": "bfloat16"}
    recognizer = load(tmp_path, encoder=encoder, width=16)
    with pytest.raises(SerError, match="expected float32"):
        export_onnx(recognizer, tmp_path / "model.onnx", with_encoder=True)
    assert not (tmp_path / "model.onnx").exists()


def test_int8_is_smaller_and_nearly_the_same(tmp_path):
    # Weights drawn at random differ in how much rounding changes their answers: by up to 0.12 over a few seeds.
    recognizer = load(tmp_path, model={**ENHANCED, "hidden_size": 64, "layers": 1}, seed=5)
    assert len({recognizer(sound, 16000).label for sound in test_sounds()}) == 4
    found = export_onnx(recognizer, tmp_path / "model.int8.onnx", quantize=True)
    weights = sum(value.numel() * 4 for value in recognizer.parameters())
    assert weights / (tmp_path / "model.int8.onnx").stat().st_size > 2.5
    assert found["int8"].same_label >= 0.99
    assert found["float32"].largest_difference <= 1e-4 < found["int8"].largest_difference < 0.05
    quantized = Recognizer.from_checkpoint(tmp_path / "model.int8.onnx")
    assert quantized.emotions == recognizer.emotions
    assert agreement(recognizer, tmp_path / "model.int8.onnx", [voice(2.0)]).recordings == 1
    assert found["int8"].size == (tmp_path / "model.int8.onnx").stat().st_size < 0.5 * found["float32"].size
    session = onnxruntime.InferenceSession(str(tmp_path / "model.int8.onnx"))  # as another program would open it
    frames = recognizer.frames([voice(2.0)])[0]
    feed = {"frames": frames[None].numpy(), "lengths": np.array([len(frames)])}
    answer = session.run(["probabilities"], feed)[0][0]
    assert answer == pytest.approx(values(quantized(voice(2.0), 16000)), abs=1e-5)


@pytest.mark.parametrize("call", ["from_checkpoint", "from_pretrained"])
def test_a_hub_folder_is_the_same_model(tmp_path, call):
    recognizer = load(tmp_path, max_seconds=2.0)
    folder = export_hub(recognizer, tmp_path / "hub", tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # safetensors alone would hide the weights
    other = getattr(Recognizer, call)(folder)
    assert values(other(voice(3.0), 16000)) == pytest.approx(values(recognizer(voice(3.0), 16000)), abs=1e-9)
    assert torch.equal(other.config.statistics.mean, recognizer.config.statistics.mean)
    export_hub(other, folder)  # replaced by itself
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(SerError, match="holds something else"):
        export_hub(recognizer, tmp_path / "full")
    (folder / "config.json").write_text("[1]")
    with pytest.raises(SerError, match="no usable description"):
        Recognizer.from_checkpoint(folder)


def test_the_card_tells_what_the_run_recorded(tmp_path):
    from fake_runs import write_run

    run = write_run(tmp_path)
    recognizer = load(run)
    card = export_hub(recognizer, tmp_path / "hub", run).joinpath("README.md").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    for fact in (
        f"{100 * metrics['test']['uar']:.1f}",
        f"| {metrics['test']['n']} |",
        "95% interval over speakers",
        "protocol `session`",
        "LogMel",
        "## Limits",
        "## Licences",
    ):
        assert fact in card
    header = ModelCard(card).data.to_dict()
    assert header["library_name"] == "ser-lab" and header["datasets"] == ["synthetic"]
    (result,) = header["model-index"][0]["results"]
    found = {entry["name"]: entry["value"] for entry in result["metrics"]}
    assert found == {
        name: metrics["test"][key] for key, name in (("uar", "UAR"), ("wa", "WA"), ("macro_f1", "macro F1"))
    }
    (run / "metrics.json").write_text('{"test"')
    with pytest.raises(SerError, match=r"metrics\.json is not readable JSON .*train the run again"):
        export_hub(recognizer, tmp_path / "other", run)
    assert not (tmp_path / "other").exists()


def test_the_command_exports_and_shows_the_agreement(few_sounds, tmp_path, capsys, caplog):
    load(tmp_path, model=SMALL)
    soundfile.write(tmp_path / "a.wav", voice(1.0).numpy(), 16000)
    words = ["export", "--checkpoint", str(tmp_path)]
    assert main([*words, "--quantize", "int8", "--compare", str(tmp_path / "a.wav")]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"int8 +made up +\d+ .*\n +int8 +given +1 ", shown)
    found = re.search(r" ([.\d]+) times the size in single precision \(([.\d]+) MB\)", shown)
    assert float(found[1]) * float(found[2]) == pytest.approx(
        (tmp_path / "model.int8.onnx").stat().st_size / 1e6, abs=0.01
    )
    assert "int8 does not pay" in caplog.text
    assert "ser_config" in {entry.key for entry in onnx.load(tmp_path / "model.int8.onnx").metadata_props}
    assert main([*words, "--format", "hub"]) == 0
    assert main(["export", "--checkpoint", str(tmp_path / "hub"), "--output", str(tmp_path / "again.onnx")]) == 0
    assert main(["export", "--checkpoint", str(tmp_path / "again.onnx"), "--output", str(tmp_path / "b.onnx")]) == 1
    assert main([*words, "--format", "hub", "--with-encoder"]) == 1
    assert main([*words, "--output", "model.pt"]) == 1
    assert main(["predict", str(tmp_path / "a.wav"), "--checkpoint", str(tmp_path / "again.onnx")]) == 0


def test_onnx_files_of_others_get_one_sentence(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "empty.onnx")
    for name in ("text.onnx", "empty.onnx"):
        with pytest.raises(SerError, match="no ONNX model that can be used") as error:
            Recognizer.from_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)
