"""A run is reused only as what it is: every setting, label, sample and weight is compared, or declared irrelevant."""

import json
import random
import shutil

import numpy as np
import pytest
import soundfile
import torch
from fake_corpora import write_manifest
from fake_runs import write_run
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from small_runs import figures
from tiny_encoders import save_tiny_hubert

from ser import training
from ser.config.identity import describe, first_difference, read_identity
from ser.config.page import IRRELEVANT, irrelevant
from ser.data import cache as data_cache
from ser.errors import SerError
from ser.evaluation.runs import find_runs, load_run, scan_runs, warnings_of
from ser.evaluation.summary import summarize
from ser.run import building


def leaves(content, prefix=()):
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from leaves(value, (*prefix, key))
    else:
        yield prefix, content


def another(value):
    """A value of the same kind that is not the same."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "another"]
    return f"{value}x" if isinstance(value, str) else 0.5


def changed(content, path, value):
    key, *rest = path
    return {**content, key: changed(content[key], rest, value) if rest else value}


@pytest.mark.parametrize("words", [[], ["experiment=recommended", "logger=[csv,tensorboard]"], ["trainer=ddp"]])
def test_every_setting_is_compared_or_declared_irrelevant(configure, words):
    plain = OmegaConf.to_container(configure(*words, tiny=False), resolve=True)
    facts = {"labels": "a", "encoder": {"weights": "b"}}
    before = describe(OmegaConf.create(plain), facts)
    declared = []
    for path, value in leaves(plain):
        key = ".".join(map(str, path))
        difference = first_difference(before, describe(OmegaConf.create(changed(plain, path, another(value))), facts))
        if irrelevant(key):
            declared.append(key)
        if key in ("trainer.devices", "trainer.num_nodes"):
            assert difference.startswith("processes = ")
        else:
            assert (difference is None) if irrelevant(key) else difference.startswith(f"{key} = "), key
    for key in declared:
        print(f"irrelevant: {key}")
    assert len(declared) < len(dict(leaves(plain))) / 2
    for fact in ({"labels": "c", "encoder": {"weights": "b"}}, {"labels": "a", "encoder": {"weights": "c"}}):
        assert first_difference(before, describe(OmegaConf.create(plain), fact)) is not None


def test_every_reason_is_given_and_applies_to_something(configure):
    plain = OmegaConf.to_container(configure("trainer=ddp", tiny=False), resolve=True)
    keys = {".".join(map(str, path)) for path, _ in leaves(plain)}
    for pattern, reason in IRRELEVANT.items():
        assert reason
        assert pattern in ("features.checkpoint", "features.root") or any(
            irrelevant(key) for key in keys if key.startswith(pattern[:4])
        )


def test_a_difference_names_both_sides():
    assert first_difference({"a": 1}, {"a": 1}) is None
    assert first_difference({"a": 1, "b": None}, {"a": 1, "b": True}) == "b = null, now true"
    assert first_difference({"a": 1}, {}) == "a = 1, now absent"
    assert first_difference({"fold": 1, "a": 2}, {"fold": 2, "a": 2}, ("fold",)) is None


@pytest.fixture
def kept(configure, tmp_path):
    """A finished run and, of the same identity, an interrupted one, on a corpus that may be changed."""
    table = write_manifest(tmp_path / "corpus", utterances_per_speaker_and_emotion=2, seconds=0.3)
    words = [f"data.manifest={table}", f"paths.cache={tmp_path / 'cache'}", "resume=true"]
    finished, interrupted = tmp_path / "finished", tmp_path / "interrupted"
    training.run(configure(*words, folder=finished))
    shutil.copytree(finished, interrupted)
    (interrupted / "metrics.json").unlink()

    def again(*more, refused):
        """Resume both under changed circumstances; nothing in them may change."""
        for folder, what in ((finished, "a finished run"), (interrupted, "an interrupted run")):
            before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            with pytest.raises(SerError, match=rf"holds {what} of other settings: {refused}"):
                training.run(configure(*words, *more, folder=folder))
            assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    again.table, again.finished, again.words = table, finished, words
    return again


SETTINGS = {
    "batches.batch_size=4": "batches.batch_size = 8, now 4",
    "loss=focal": "loss._target_ = ",
    "augmentation=strong": "augmentation",
    "batches.max_seconds=0.2": "batches.max_seconds = null, now 0.2",
    "optimizer=sgd": "optimizer._target_ = ",
    "callbacks.early_stopping.monitor=val/loss": "callbacks.early_stopping.monitor = val/uar, now val/loss",
    "data.emotions=[angry,sad]": "data.emotions = null, now ",
    "fold=2": "fold = 1, now 2",
    "features.mels=40": "features.mels = 80, now 40",
}


def test_other_settings_are_refused_by_name(kept):
    for number in random.Random(0).sample(range(len(SETTINGS)), 5):
        word, refused = list(SETTINGS.items())[number]
        kept(word, refused=refused)


def test_other_labels_speakers_and_audio_are_refused_by_name(kept):
    text = kept.table.read_text()
    kept.table.write_text(text.replace(",sad,", ",angry,", 1))
    kept(refused="labels = ")
    kept.table.write_text(text.replace("spk1", "spk9"))
    kept(refused="labels = |split = |audio = ")
    assert ",F\n" in text
    kept.table.write_text(text.replace(",F\n", ",\n"))  # a table of scores by gender would be false
    kept(refused="labels = ")
    kept.table.write_text(text)
    sound = next(kept.table.parent.rglob("*.wav"))
    samples, rate = soundfile.read(sound)
    samples[100] += 0.25
    soundfile.write(sound, np.clip(samples, -1, 1), rate)
    kept(refused="audio = ")


def test_frames_of_another_frame_code_are_made_anew_and_the_run_is_refused(kept, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(data_cache, "FRAME_CODE", data_cache.FRAME_CODE + 1)
    monkeypatch.setattr(building, "FRAME_CODE", data_cache.FRAME_CODE)
    caplog.clear()
    kept(refused=f"frame_code = {data_cache.FRAME_CODE - 1}, now {data_cache.FRAME_CODE}")
    assert "reused 0" in caplog.text


def test_what_is_irrelevant_changes_nothing(kept, configure, tmp_path):
    before = figures(kept.finished)
    table = kept.table.with_name("copy.csv")
    shutil.copy(kept.table, table)
    words = [*kept.words, f"data.manifest={table}", "extraction.workers=1", "logger=none", "variant=mine"]
    training.run(configure(*words, folder=kept.finished))
    assert figures(kept.finished) == before


def test_an_encoder_replaced_in_place_is_refused_by_name(configure, tmp_path):
    encoder = save_tiny_hubert(tmp_path / "encoder")
    table = write_manifest(tmp_path / "corpus", utterances_per_speaker_and_emotion=1, seconds=0.3)
    words = [f"data.manifest={table}", "features=hubert_base", f"features.checkpoint={encoder}", "resume=true"]
    folder = tmp_path / "run"
    training.run(configure(*words, folder=folder))
    training.run(configure(*words, folder=folder))  # itself again
    weights = load_file(encoder / "model.safetensors")
    name = sorted(weights)[-1]
    save_file({**weights, name: weights[name] + 1}, encoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SerError, match=r"finished run of other settings: (encoder|audio)"):
        training.run(configure(*words, folder=folder))
    stored = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["config"]["encoder_identity"]
    assert {f"encoder.{key}" for key in stored} <= read_identity(folder).keys()


def test_a_folder_without_identity_is_refused_not_guessed(configure, tmp_path):
    folder = tmp_path / "run"
    training.run(configure(folder=folder))
    for content in ("", "{}", '{"format": 1, "identity": {}}', "[" * 100_000):
        (folder / "run.json").write_text(content)
        with pytest.raises(SerError, match=r"no readable run\.json of format"):
            training.run(configure("resume=true", folder=folder))


def test_runs_of_one_variant_that_differ_are_not_averaged(tmp_path):
    for fold, weights in ((1, "a"), (2, "b")):
        run = write_run(tmp_path, "gru", fold, 1)
        identity = {"fold": fold, "encoder.weights": weights, "split": str(fold)}
        (run / "run.json").write_text(json.dumps({"format": 2, "identity": identity}))
    with pytest.raises(SerError, match=r"both gru, but the first has encoder\.weights = a, now b in the second"):
        find_runs(tmp_path)
    (run / "run.json").write_text(json.dumps({"format": 2, "identity": {**identity, "encoder.weights": "a"}}))
    assert len(find_runs(tmp_path)) == 2
    (run / "run.json").write_text("{")
    runs, left_out = scan_runs(tmp_path)
    assert len(runs) == 1 and "fold2" in left_out[0]


IRRELEVANT_SETTINGS = [
    "test_each_epoch=false",
    "batches.workers=1",
    "extraction.workers=1",
    "extraction.batch_seconds=1",
    "extraction.trust_cache=true",
    "trainer.num_sanity_val_steps=2",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "trainer.enable_model_summary=true",
    "logger=[csv,tensorboard]",
    "allow_duplicates=true",
    "leakage=true",
    "variant=mine",
]


def test_settings_declared_irrelevant_change_no_number(configure, few_probes, tmp_path, monkeypatch):
    """Neither from the start nor from the second epoch on."""
    words = ["model=enhanced_gru", "model.hidden_size=8", "augmentation=strong", "trainer.max_epochs=3"]
    other = [*words, *IRRELEVANT_SETTINGS, f"paths.cache={tmp_path / 'cache'}"]
    plain, changed, resumed = tmp_path / "plain", tmp_path / "changed", tmp_path / "resumed"
    training.run(configure(*words, folder=plain))
    training.run(configure(*other, folder=changed))
    with monkeypatch.context() as patch, pytest.raises(SerError, match="full"):
        patch.setattr(training.RunFolder, "finish", full_disk)
        training.run(configure(*words, folder=resumed))
    training.run(configure(*other, "resume=true", folder=resumed))
    for folder in (changed, resumed):
        for name in ("predictions.csv", "train_predictions.csv", "embeddings.npy"):
            assert (folder / name).read_bytes() == (plain / name).read_bytes(), (folder.name, name)
    training.run(configure("resume=true", *words, folder=changed))  # the same run in every respect that counts


def test_a_run_that_replaces_another_one_says_so(configure, tmp_path, caplog):
    training.run(configure(folder=tmp_path / "run"))
    training.run(configure(folder=tmp_path / "run"))
    assert "replace the finished one" not in caplog.text
    training.run(configure("l2_reg=0.5", folder=tmp_path / "run"))
    assert f"replace the finished one in {tmp_path / 'run'}, which has l2_reg = 0.0, now 0.5" in caplog.text


def test_frames_without_their_audio_are_said_with_every_result(tmp_path):
    run = write_run(tmp_path, "gru", 1, 1)
    assert not warnings_of([load_run(run)])
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "trusted_frames": 3}))
    assert "without their audio" in str(warnings_of([load_run(run)]))
    assert "without their audio" in str(summarize([load_run(run)]).notes)


@pytest.mark.parametrize("key", ["callbacks.early_stopping", "callbacks.checkpoint", "lr_schedule"])
def test_nothing_is_chosen_by_the_test_part(configure, tmp_path, key):
    with pytest.raises(SerError, match="nothing may be chosen by the test part"):
        training.run(configure("lr_schedule=plateau", f"{key}.monitor=test/uar", folder=tmp_path / "run"))
    assert not list((tmp_path / "run").iterdir())


def full_disk(*arguments):
    raise SerError("the disk is full")
