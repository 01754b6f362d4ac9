import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from fake_corpora import write_folder, write_manifest, write_voice
from small_runs import TINY

from ser import training
from ser.cli import main
from ser.config import compose_config
from ser.data.corpora.named import folder as read_folder
from ser.errors import SerError
from ser.evaluation.predictions import read_predictions
from ser.trained import cross
from ser.trained import evaluate as evaluation
from ser.trained.seen import SharedClasses

FILES = ("predictions.csv", "embeddings.npy", "metrics.json", "split.json")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def corpus(place):
    return write_manifest(place / "mine", session=True)


@pytest.fixture(scope="module", params=["global", "speaker"])
def run(request, place, corpus):
    words = [*TINY, "data=manifest", f"data.manifest={corpus}", f"normalization={request.param}", "adversarial=none"]
    words += [f"paths.cache={place / 'cache'}", f"paths.run={place / request.param}", f"paths.outputs={place}"]
    training.run(compose_config(words))
    return place / request.param


def evaluate(run, place, output, *words):
    options = ["--checkpoint", str(run), "--output", str(output)]
    return main(["evaluate", *options, f"paths.cache={place / 'cache'}", *words])


def said(capsys):
    shown = capsys.readouterr()
    return " ".join((shown.out + shown.err).split())


def test_the_held_out_fold_gets_the_predictions_of_the_run(run, corpus, place, tmp_path):
    assert evaluate(run, place, tmp_path / "own", "--manifest", str(corpus), "--leave-out-seen") == 0
    pd.testing.assert_frame_equal(*(read_predictions(one / "predictions.csv") for one in (run, tmp_path / "own")))
    np.testing.assert_array_equal(*(np.load(one / "embeddings.npy") for one in (run, tmp_path / "own")))
    metrics = json.loads((tmp_path / "own" / "metrics.json").read_text())
    assert metrics["test"] == json.loads((run / "metrics.json").read_text())["test"]
    assert not metrics["speaker_overlap"]


def test_two_tables_are_scored_together(run, place, tmp_path):
    words = ["data=combined", "data.corpora=[a,b]"]
    for name in "ab":
        table = write_manifest(tmp_path / name, speakers=2)
        for path in table.parent.rglob("*.wav"):  # voices of their own
            write_voice(path, f"{name}{path.stem}", path.stem.split("_")[1], 0.4, name == "a")
        words += [f"+data@data.{name}=manifest", f"data.{name}.manifest={table}"]
    assert evaluate(run, place, tmp_path / "both", *words) == 0
    assert set(read_predictions(tmp_path / "both" / "predictions.csv")["corpus"]) == {"a", "b"}


def test_seen_recordings_are_refused_under_any_name_and_labelled_where_allowed(run, corpus, place, tmp_path, capsys):
    seen = json.loads((run / "split.json").read_text())["parts"]["train"]["ids"][0]
    shutil.copy(corpus.parent / "audio" / f"{seen}.wav", write_folder(tmp_path / "new") / "anna0" / "angry" / "new.wav")
    assert evaluate(run, place, tmp_path / "a", str(tmp_path / "new")) == 1
    assert "5 of 25 utterances are by 1 speaker(s)" in said(capsys) and not (tmp_path / "a").exists()
    assert evaluate(run, place, tmp_path / "a", str(tmp_path / "new"), "--allow-seen") == 0
    assert "speaker overlap" in said(capsys)
    assert evaluate(run, place, tmp_path / "a", str(tmp_path / "new"), "--leave-out-seen") == 0
    assert set(read_predictions(tmp_path / "a" / "predictions.csv")["speaker"]) == {f"anna{n}" for n in range(1, 6)}
    assert "speaker overlap" not in said(capsys)


def test_a_model_of_frames_without_audio_is_scored_on_such_and_takes_no_audio(tmp_path, corpus, capsys):
    data = ["data=synthetic_features", "data.scale=0.02", "data.dim=32", f"paths.cache={tmp_path / 'cache'}"]
    words = ["model=statistics_logistic", "figures=false", "leakage=false", "logger=none", "features.average=2"]
    training.run(compose_config([*data, *words, f"paths.run={tmp_path / 'run'}"]), {"features": "logmel", "model": ""})
    options = ["--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "own")]
    assert main(["evaluate", *options, *data, "--leave-out-seen"]) == 0
    pd.testing.assert_frame_equal(*(read_predictions(tmp_path / one / "predictions.csv") for one in ("run", "own")))
    other = ["data=synthetic_features", "data.scale=0.02", "data.dim=64", f"paths.cache={tmp_path / 'cache'}"]
    assert main(["evaluate", *options, *other, "--leave-out-seen"]) == 1
    assert "have 64 values, the model expects 32" in said(capsys)
    assert main(["predict", "--checkpoint", str(tmp_path / "run"), str(corpus.parent / "audio")]) == 1
    assert "expected some of .npy" in said(capsys)


def test_seen_recordings_are_refused_in_another_format(run, corpus, place, tmp_path, capsys):
    seen = json.loads((run / "split.json").read_text())["parts"]["validation"]["ids"][0]
    samples, rate = soundfile.read(corpus.parent / "audio" / f"{seen}.wav", dtype="int16")
    soundfile.write(write_folder(tmp_path / "new") / "anna0" / "angry" / "new.flac", samples, rate)
    assert evaluate(run, place, tmp_path / "a", str(tmp_path / "new")) == 1
    assert "5 of 25 utterances are by 1 speaker(s)" in said(capsys) and not (tmp_path / "a").exists()
    assert evaluate(run, place, tmp_path / "a", str(tmp_path / "new"), "--leave-out-seen") == 0
    assert set(read_predictions(tmp_path / "a" / "predictions.csv")["speaker"]) == {f"anna{n}" for n in range(1, 6)}


def test_figures_and_page_say_what_was_tested(run, place, few_figures, tmp_path, capsys):
    assert evaluate(run, place, tmp_path / "a", str(write_folder(tmp_path / "new"))) == 0
    assert "trained on manifest, tested on new" in said(capsys)
    assert main(["report", str(tmp_path / "a")]) == 0
    assert "rained on manifest, tested on new" in (tmp_path / "a" / "report.html").read_text()
    assert main(["figures", str(tmp_path / "a")]) == 0
    assert list((tmp_path / "a" / "figures").glob("confusion.png"))


def test_a_run_is_never_written_over_and_bad_words_are_named(run, corpus, place, tmp_path, capsys):
    before = {name: (run / name).read_bytes() for name in FILES}
    assert evaluate(run, place, run, "--manifest", str(corpus), "--leave-out-seen") == 1
    assert before == {name: (run / name).read_bytes() for name in FILES}
    for words, message in (
        (["model=gru", "data=synthetic"], "model=gru was given, expected data="),
        ([], "no recordings were given"),
        (["--manifest", str(corpus), "map.joy=happy"], "map.joy was given"),
        (["--manifest", str(corpus), "map=3"], "map=3 was given"),
        (["data=manifest", "data.manifest=my table.csv"], "the manifest my table.csv does not exist"),
    ):
        assert evaluate(run, place, tmp_path / "a", *words) == 1
        assert message in said(capsys)


def test_a_killed_evaluation_is_repeated_in_its_folder_and_nothing_else_is_written_over(
    run, place, tmp_path, monkeypatch, capsys
):
    corpus, written = str(write_folder(tmp_path / "new")), evaluation.write_json

    def killed(path, content, at):
        if path.name == at:
            path.parent.mkdir(exist_ok=True)
            path.with_name(f".{path.stem}.123.tmp.json").write_text("{")
            raise KeyboardInterrupt
        written(path, content)

    for name in ("split.json", "metrics.json"):
        folder = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(evaluation, "write_json", partial(killed, at=name))
            assert evaluate(run, place, folder, corpus) == 130
        assert not (folder / "metrics.json").exists() and any(folder.iterdir())
        assert evaluate(run, place, folder, corpus) == 0
        assert {file.name for file in folder.iterdir()} == set(FILES)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "predictions.csv").write_text("of another tool")
    assert evaluate(run, place, tmp_path / "mine", corpus) == 1
    assert "holds something else" in said(capsys)
    assert (tmp_path / "mine" / "predictions.csv").read_text() == "of another tool"


def test_classes_are_compared_by_alias_merged_and_left_out():
    found = SharedClasses.of(["neutral", "calm", "happy", "fearful"], ["Anger", "joy", "neutral"], {"calm": "neutral"})
    assert found.emotions == ["neutral", "happy"]
    assert found.of_label == {"joy": "happy", "neutral": "neutral"}
    assert (found.only_model, found.only_corpus) == (["fearful"], ["Anger"])
    shared = found.shared_probabilities(np.array([[0.1, 0.3, 0.4, 0.2], [0.0, 0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(shared, [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(SerError, match="two or more classes in common"):
        SharedClasses.of(["happy", "sad"], ["happy", "bored"], {})


def test_emotion_and_speaker_come_from_the_names(tmp_path):
    for name in ("DC_a_angry.wav", "DC_b_HAP.wav", "x/sad/1.wav", "happy/solo.wav", "Sad/happy_sad.wav", "none.wav"):
        write_voice(tmp_path / name, "a", "sad", 0.2, True)
    found = {u.id: (u.emotion, u.speaker) for u in read_folder(tmp_path).utterances}
    assert found == {
        "DC_a_angry": ("angry", "DC"),
        "DC_b_HAP": ("happy", "DC"),
        "x/sad/1": ("sad", "x"),
        "happy/solo": ("happy", "unknown"),
    }
    with pytest.raises(SerError, match="whose paths name sad, expected two emotions or more"):
        read_folder(tmp_path / "x")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["03-01-05-01-02-01-12", "Actor_01/03-01-03-01-01-01-01"],
            {("angry", "Actor_12", "F"), ("happy", "Actor_01", "M")},
        ),
        (["03a01Fa", "wav/13b02Wb"], {("happy", "03", "M"), ("angry", "13", "F")}),
        (["1001_DFA_ANG_XX", "all/1002_IEO_SAD_HI"], {("angry", "1001", "M"), ("sad", "1002", "F")}),
        (["OAF_back_ps", "YAF_angry/YAF_bar_angry"], {("surprised", "OA", "F"), ("angry", "YA", "F")}),
        (["DC_a01", "KL/su03"], {("angry", "DC", "M"), ("surprised", "KL", "M")}),
    ],
)
def test_files_named_as_those_of_a_corpus_have_its_emotion_and_speaker(tmp_path, caplog, names, expected):
    caplog.set_level("INFO")
    for name in names:
        write_voice(tmp_path / f"{name}.wav", "a", "sad", 0.2, True)
    assert {(u.emotion, u.speaker, u.gender) for u in read_folder(tmp_path).utterances} == expected
    assert "2 files, speaker by the file names of" in caplog.text and "one speaker" not in caplog.text
    for name in names:  # a second download, in a folder that would say another emotion
        folder, recording = tmp_path / "bored" / Path(name).parent, tmp_path / f"{name}.wav"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(recording, folder / f"{Path(name).name} (1).wav")
    found = read_folder(tmp_path).utterances
    assert {(u.emotion, u.speaker, u.gender) for u in found} == expected and len(found) == 2
    assert "left out 2 copies of recordings, such as bored/" in caplog.text


def test_one_speaker_in_a_folder_is_told(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("wav/anna_angry_1.wav", "wav/ben_sad_1.wav"):
        write_voice(tmp_path / name, "a", "sad", 0.2, True)
    read_folder(tmp_path)
    assert "2 files, speaker by the first folder; for example wav/anna_angry_1.wav: speaker wav, angry" in caplog.text
    assert "all 2 files count as one speaker" in caplog.text


def test_the_matrix_is_filled_once_on_the_classes_that_all_corpora_have(corpus, place, tmp_path, monkeypatch):
    other = write_manifest(tmp_path / "b", emotions=("angry", "fearful", "happy", "sad"), seconds=0.4, session=True)
    other = other.rename(other.with_name("other.csv"))
    corpora = [f"data=manifest data.manifest={corpus}", f"data=manifest data.manifest={other}"]
    words = [*TINY, "adversarial=none", "fold=1", f"paths.cache={place / 'cache'}", f"paths.outputs={tmp_path}"]
    matrix = cross.cross(corpora, words)
    folder = next((tmp_path / "cross").rglob("matrix.csv")).parent
    source, variant, seed = folder.relative_to(tmp_path / "cross").parts  # others do not write over it
    assert (source, seed) == ("manifest-other-logmel", "seed1") and "adversarial=none" in variant
    assert list(zip(matrix["trained"], matrix["tested"], strict=True)) == [
        (one, two) for one in ("manifest", "other") for two in ("manifest", "other")
    ]
    assert list(matrix["utterances"]) == [12, 36, 36, 12]  # a fold's two speakers, or all six; 3 classes, 2 of each
    assert {file.name for file in folder.glob("matrix.*")} == {"matrix.csv", "matrix.png"}
    monkeypatch.setattr(cross, "evaluate", None)
    pd.testing.assert_frame_equal(matrix, cross.cross(corpora, words))
    with pytest.raises(SerError, match="two corpora are called manifest"):
        cross.cross([corpora[0], corpora[0]], words)
    with pytest.raises(SerError, match="--corpus is empty"):
        cross.cross([corpora[0], ""], words)


def test_spellings_of_one_emotion_are_one_class_of_a_matrix(corpus, place, tmp_path):
    other = write_manifest(tmp_path / "b", emotions=("angry", "happy", "neutral"), seconds=0.4, session=True)
    other = other.rename(other.with_name("other.csv"))
    spelt = other.read_text().replace(",angry,", ",anger,").replace(",happy,", ",happiness,")
    other.write_text(spelt)
    words = [*TINY, "adversarial=none", "fold=1", f"paths.cache={place / 'cache'}", f"paths.outputs={tmp_path}"]
    matrix = cross.cross([f"data=manifest data.manifest={one}" for one in (corpus, other)], words)
    assert list(matrix["utterances"]) == [12, 36, 36, 12]  # of three classes, as above


def test_a_matrix_of_corpora_with_the_same_speakers_is_refused_with_what_helps(corpus, place, tmp_path):
    same = shutil.copy(corpus, corpus.with_name("same.csv"))
    words = [*TINY, "adversarial=none", "fold=1", f"paths.cache={place / 'cache'}", f"paths.outputs={tmp_path}"]
    with pytest.raises(SerError, match=r"trained or validated on .* leave one of them out") as refused:
        cross.cross([f"data=manifest data.manifest={one}" for one in (corpus, same)], words, tmp_path / "matrix")
    assert "--leave-out-seen" not in str(refused.value)  # an option of ser evaluate
    same.unlink()
