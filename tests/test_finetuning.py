"""Layers of a pretrained encoder, trained with the network: which weights change, and that a checkpoint has them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.errors import InstantiationException
from test_resume import KilledError, StopAt, same_run
from tiny_encoders import save_tiny_hubert, save_tiny_wav2vec2, save_tiny_wavlm, save_tiny_whisper
from transformers import AutoModel, WhisperModel

from ser import training
from ser.data.audio import read_audio
from ser.data.augmentation import Augmentation
from ser.encoders import SpeechEncoder, WhisperEncoder, encode
from ser.errors import SerError
from ser.errors import explain as told
from ser.inference.onnx import export_onnx
from ser.inference.recognizer import Recognizer
from ser.models.finetuned import check_finetuning, make_network
from ser.models.recurrent import GRU

SAVERS = {"hubert": save_tiny_hubert, "wavlm": save_tiny_wavlm, "wav2vec2": save_tiny_wav2vec2}
CASES = [(name, large) for name in SAVERS for large in (False, True)]
SIZES = {"emotions": 4}
WORDS = ["features=hubert_base", "normalization=none", "augmentation=none", "optimizer.lr=0.01", "fold=1",
         "lr_schedule=constant", "lr_schedule.warmup_steps=0"]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {(name, large): SAVERS[name](root / f"{name}{large}", large=large) for name, large in CASES}


def waveforms(lengths=(400, 9000, 16000, 30011)):
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(length, generator=generator) + 0.05 for length in lengths]


def tuned_network(encoder, **settings):
    torch.manual_seed(0)
    network, description = make_network(
        lambda **sizes: GRU(**sizes, hidden_size=8, dropout=0.0), {}, {"input_size": encoder.dim, **SIZES}, encoder
    )
    return network.eval(), description


def state_behind(encoder, network, speech):
    """The frames that the network proper would get, without the LayerNorm ahead of it."""
    kept = []
    network.norm.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    frames = encode(encoder, speech)
    lengths = torch.tensor([len(row) for row in frames])
    logits = network(torch.nn.utils.rnn.pad_sequence(frames, batch_first=True), lengths).emotion_logits
    return [row[:length] for row, length in zip(kept[-1], lengths, strict=True)], logits


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("finetune", [1, 2, 3])
def test_untrained_layers_go_on_where_the_frozen_ones_end(folders, case, finetune):
    frozen = encode(SpeechEncoder(str(folders[case])), waveforms())
    encoder = SpeechEncoder(str(folders[case]), finetune=finetune)
    network, _ = tuned_network(encoder)
    with torch.no_grad():
        found, together = state_behind(encoder, network, waveforms())
        for one, other, waveform, logits in zip(found, frozen, waveforms(), together, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
            torch.testing.assert_close(state_behind(encoder, network, [waveform])[1][0], logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_whole_model_takes_waveforms(folders, case):
    encoder = SpeechEncoder(str(folders[case]), finetune="full")
    network, _ = tuned_network(encoder)
    speech = waveforms((719, 9039, 15999))
    # Of what is left over behind the last row nothing is kept; the last window has zeros there.
    cut = [torch.cat((waveform[: (len(waveform) - 80) // 320 * 320], torch.zeros(80))) for waveform in speech]
    frozen = encode(SpeechEncoder(str(folders[case])), cut)
    with torch.no_grad():
        found, together = state_behind(encoder, network, speech)
        for one, other, waveform, logits in zip(found, frozen, speech, together, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
            torch.testing.assert_close(state_behind(encoder, network, [waveform])[1][0], logits, atol=1e-4, rtol=0)


def run(configure, folder, checkpoint, *words):
    training.run(configure(*WORDS, f"features.checkpoint={checkpoint}", *words, folder=folder))
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def own_predictions_are_given(folder, manifest):
    """The recognizer of a run gives the run's own test predictions for the audio files."""
    table = pd.read_csv(folder / "predictions.csv")
    recognizer = Recognizer.from_checkpoint(folder)
    paths = {Path(path).stem: manifest.parent / path for path in pd.read_csv(manifest)["path"]}
    for _, row in table.iterrows():
        answer = recognizer.predict_batch([read_audio(paths[Path(row["id"]).stem], 0.0, 60.0)])[0]
        expected = [row[f"p_{emotion}"] for emotion in recognizer.emotions]
        assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("finetune, changed", [("1", {"layers.2"}), ("2", {"layers.1", "layers.2"}), ("full", None)])
def test_training_changes_these_layers_and_nothing_else(configure, tmp_path, folders, manifest, finetune, changed):
    folder = folders["hubert", False]
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    saved = run(configure, tmp_path / "run", folder, f"features.finetune={finetune}", "trainer.max_epochs=2")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    rates = [group["initial_lr"] for group in saved["optimizer_states"][0]["param_groups"]]
    assert rates == pytest.approx([0.01, 0.001])
    state = {name.removeprefix("network.encoder."): value for name, value in saved["state_dict"].items()}
    before = AutoModel.from_pretrained(folder).encoder.layers
    first = 3 - int(finetune) if changed else 0
    stack = "layers" if changed else "stack.layers"
    for number in range(first, 3):
        for name, value in before[number].state_dict().items():
            after = state[f"{stack}.{number - first}.{name}"]
            assert changed is None or f"layers.{number}" in changed
            assert not torch.equal(after, value) or name.endswith("k_proj.bias"), name  # softmax does not see that one
    assert len([name for name in state if name.startswith(f"{stack}.") and name.endswith("q_proj.weight")]) == 3 - first
    own_predictions_are_given(tmp_path / "run", manifest)


@pytest.mark.parametrize("finetune", ["1", "full"])
def test_interrupted_fine_tuning_ends_like_an_uninterrupted_one(configure, tmp_path, folders, monkeypatch, finetune):
    words = [*WORDS, f"features.checkpoint={folders['hubert', False]}", f"features.finetune={finetune}"]
    words += ["trainer.max_epochs=3", "lr_schedule=cosine"]
    training.run(configure(*words, folder=tmp_path / "whole"))
    build = training.build_trainer
    stopping = lambda cfg, **keywords: (trainer := build(cfg, **keywords)).callbacks.append(StopAt(1)) or trainer  # noqa: E731
    monkeypatch.setattr(training, "build_trainer", stopping)
    with pytest.raises(KilledError):
        training.run(configure(*words, folder=tmp_path / "broken"))
    monkeypatch.undo()
    training.run(configure(*words, "resume=true", folder=tmp_path / "broken"))
    same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_model_that_is_trained_whole_is_exported_whole(configure, few_sounds, tmp_path, folders):
    """Tuned layers behind a frozen encoder: Whisper's, below; they are the same class for every encoder."""
    folder = tmp_path / "run"
    run(configure, folder, folders["wav2vec2", True], "features.finetune=full")
    recognizer = Recognizer.from_checkpoint(folder)
    found = export_onnx(recognizer, tmp_path / "whole.onnx", with_encoder=True)["float32"]
    assert found.largest_difference <= 1e-3 and found.same_label == 1
    other = Recognizer.from_checkpoint(tmp_path / "whole.onnx")
    answers = zip(recognizer.predict_batch(waveforms()), other.predict_batch(waveforms()), strict=True)
    for one, two in answers:
        assert np.array(list(one.probabilities.values())) == pytest.approx(list(two.probabilities.values()), abs=1e-3)


def test_a_frozen_encoder_is_described_as_before(folders):
    plain = SpeechEncoder(str(folders["hubert", False])).description()
    assert set(plain) == {"encoder", "layers", "dim", "dtype", "config", "weights", "do_normalize"}
    assert plain["layers"] == [3]
    for nothing in (None, "none"):
        assert SpeechEncoder(str(folders["hubert", False]), finetune=nothing).description() == plain
    assert SpeechEncoder(str(folders["hubert", False]), finetune=2).description() == plain | {"layers": [1]}
    whole = SpeechEncoder(str(folders["hubert", False]), finetune="full").description()
    assert whole == {"encoder": "waveform", "row_samples": 320}


@pytest.mark.parametrize("words, sentence", [
    (["features.finetune=1", "features.average=4", "normalization=none"], "expect every frame"),
    (["features.finetune=some"], "expected null or a number of layers from 1 or full"),
    (["features.finetune=0"], "expected null or a number of layers from 1 or full"),
    (["features.finetune=4"], "at most 3"),
    (["features.finetune=1", "features.layer=[1,3]"], "expected at least 2 and at most 3"),
    (["features.finetune=1", "normalization=global"], "add normalization=none"),
    (["features.finetune=full", "augmentation=default"], "add augmentation=none"),
])  # fmt: skip
def test_bad_values_get_one_sentence(configure, folders, words, sentence):
    with pytest.raises((SerError, InstantiationException)) as error:
        training.run(configure(*WORDS, f"features.checkpoint={folders['hubert', False]}", *words))
    assert sentence in str(told(error.value))


def test_a_corpus_of_frames_is_refused(folders):
    encoder = SpeechEncoder(str(folders["hubert", False]), finetune=1)
    with pytest.raises(SerError, match="has its own frames"):
        check_finetuning(encoder, "none", Augmentation([]), own_frames=True)


def whisper(folder, **settings):
    return WhisperEncoder(str(save_tiny_whisper(folder, window=50)), **settings)


@pytest.mark.parametrize("finetune", [1, 2, 3])
def test_untrained_layers_of_whisper_go_on_where_the_frozen_ones_end(tmp_path, finetune):
    """A window is 50 frames here, so that the longest waveforms have two."""
    frozen = encode(whisper(tmp_path, window="clip"), waveforms())
    network, _ = tuned_network(encoder := whisper(tmp_path, finetune=finetune))
    with torch.no_grad():
        found, together = state_behind(encoder, network, waveforms())
        for one, other, waveform, logits in zip(found, frozen, waveforms(), together, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
            torch.testing.assert_close(state_behind(encoder, network, [waveform])[1][0], logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("join", ["mean", "concatenate"])
def test_a_network_sees_several_layers_of_which_the_first_is_frozen(tmp_path, join):
    settings = {"layer": [1, 2, 3], "join": join}
    frozen = encode(whisper(tmp_path, window="clip", **settings), waveforms())
    encoder = whisper(tmp_path, finetune=2, **settings)
    assert (
        encoder.description() == whisper(tmp_path, layer=1, window="clip").description()
    )  # so their frames are shared
    network, description = tuned_network(encoder)
    assert description["network"]["input_size"] == (48 if join == "concatenate" else 16)
    assert description["wanted"] == [1, 2, 3]
    with torch.no_grad():
        for one, other in zip(state_behind(encoder, network, waveforms())[0], frozen, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_tuned_whisper_answers_as_in_its_run_and_is_exported_whole(configure, few_sounds, tmp_path, manifest):
    folder = save_tiny_whisper(tmp_path / "whisper", window=50)
    words = [f"features.checkpoint={folder}", "features=whisper_base", "features.layer=[1,2,3]", "features.finetune=2"]
    words += ["features.join=concatenate", "trainer.max_epochs=2"]
    training.run(configure(*WORDS[1:], *words, folder=tmp_path / "run"))
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    before = WhisperModel.from_pretrained(folder).encoder.layers
    for number in (1, 2):
        name = f"layers.{number - 1}.fc1.weight"
        assert not torch.equal(saved[f"network.encoder.{name}"], before[number].fc1.weight)
    own_predictions_are_given(tmp_path / "run", manifest)
    recognizer = Recognizer.from_checkpoint(tmp_path / "run")
    assert export_onnx(recognizer, tmp_path / "whole.onnx", with_encoder=True)["float32"].largest_difference <= 1e-3
    other = Recognizer.from_checkpoint(tmp_path / "whole.onnx")
    for one, two in zip(recognizer.predict_batch(waveforms()), other.predict_batch(waveforms()), strict=True):
        assert list(one.probabilities.values()) == pytest.approx(list(two.probabilities.values()), abs=1e-3)


@pytest.mark.parametrize("settings, sentence", [
    ({"finetune": "full"}, "expected null or a number of layers from 1"),
    ({"finetune": 1, "window": "30s"}, "expected window=clip"),
    ({"finetune": 1, "layer": [1, 3]}, "expected at least 2 and at most 3"),
])  # fmt: skip
def test_what_whisper_cannot_train_gets_one_sentence(tmp_path, settings, sentence):
    with pytest.raises(SerError, match=sentence):
        print(whisper(tmp_path, **settings).layers)
