"""Databases of audformat and Hugging Face on disk; ``make test-databases`` installs both."""

import pickle
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from fake_corpora import write_audformat, write_datasets

from ser.data.audio import read_audio
from ser.data.corpora.databases import audformat_database, hugging_face_dataset
from ser.errors import SerError


@pytest.fixture
def database(tmp_path):
    pytest.importorskip("audformat", reason="needs the extra audformat")
    return write_audformat(tmp_path / "database")


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="needs the extra datasets")


def test_an_audformat_database_has_emotion_speaker_and_gender(database):
    corpus = audformat_database(database, map={"happy": "joy"})
    assert Counter(u.emotion for u in corpus.utterances) == dict.fromkeys(("angry", "joy", "neutral", "sad"), 12)
    assert all(u.speaker == u.path.stem.partition("_")[0] and u.path.is_file() for u in corpus.utterances)
    assert {u.gender for u in corpus.utterances} == {"F", "M"} and len(corpus.speakers) == 6


def test_segments_and_splits_of_an_audformat_database(database):
    """A segmented table beside filewise ones; speakers belong to files, as the library's own join of these does not."""
    header = (database / "db.yaml").read_text()
    segments = "".join(
        f"  {name}:\n    type: segmented\n    split_id: {name}\n    columns:\n      emotion: {{scheme_id: emotion}}\n"
        for name in ("train", "dev", "test")
    )
    splits = "splits:\n  train: {type: train}\n  dev: {type: dev}\n  test: {type: test}\n"
    (database / "db.yaml").write_text(header.replace("schemes:", f"{splits}schemes:") + segments)
    rows = pd.read_csv(database / "db.emotion.csv")
    for number, name in enumerate(("train", "dev", "test")):
        part = rows.iloc[number * 16 : (number + 1) * 16]
        part = part.assign(start="0 days", end="0 days 00:00:00.25")[["file", "start", "end", "emotion"]]
        part.to_csv(database / f"db.{name}.csv", index=False)
    corpus = audformat_database(database, tables=["train", "dev", "test"])
    assert Counter(u.partition for u in corpus.utterances) == dict.fromkeys(("train", "validation", "test"), 16)
    assert all((u.start, u.end, u.seconds) == (0, 0.25, 0.25) for u in corpus.utterances)
    assert all(u.speaker == u.path.stem.partition("_")[0] for u in corpus.utterances)
    with pytest.raises(SerError, match="no table other, expected some of dev, emotion, files"):
        audformat_database(database, tables=["other"])


def test_nothing_in_an_audformat_database_is_executed(database, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    header = (database / "db.yaml").read_text()
    (database / "db.yaml").write_text(header + f"meta: !!python/object/apply:builtins.open [{tmp_path}/executed, w]\n")
    with pytest.raises(SerError, match="plain YAML"):
        audformat_database(database)
    (database / "db.yaml").write_text(header)
    (database / "db.emotion.pkl").write_bytes(pickle.dumps(Trap()))
    assert len(audformat_database(database).utterances) == 48  # the CSV beside it
    (database / "db.emotion.csv").unlink()
    with pytest.raises(SerError, match="storage_format='csv'"):
        audformat_database(database)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("layout", ["saved", "arrow", "parquet", "splits"])
def test_a_dataset_on_disk(datasets, tmp_path, layout):
    root = write_datasets(tmp_path / "dataset")
    dataset = datasets.load_from_disk(root)
    if layout == "arrow":
        (root / "state.json").unlink()
    elif layout == "parquet":
        dataset.to_parquet(tmp_path / "files" / "data" / "train-00000-of-00001.parquet")
        root = tmp_path / "files"
    elif layout == "splits":
        halves = {"train": dataset.select(range(0, 48, 2)), "test": dataset.select(range(1, 48, 2))}
        root = tmp_path / "halves"
        datasets.DatasetDict(halves).save_to_disk(root)
    corpus = hugging_face_dataset(root, files=tmp_path / "written")
    assert Counter(u.emotion for u in corpus.utterances) == dict.fromkeys(("angry", "happy", "neutral", "sad"), 12)
    assert corpus.speakers == [str(number) for number in range(1, 7)]
    parts = {"train": 24, "test": 24} if layout == "splits" else {"": 48}
    assert Counter(u.partition for u in corpus.utterances) == parts
    originals = {path.read_bytes(): path.stem for path in (tmp_path / "dataset" / "source" / "audio").iterdir()}
    for utterance in corpus.utterances:
        speaker, emotion, _ = originals[utterance.path.read_bytes()].split("_")
        assert (f"spk{utterance.speaker}", utterance.emotion) == (speaker, emotion)
    assert np.isfinite(read_audio(corpus.utterances[0].path)).all()
    again = hugging_face_dataset(root, files=tmp_path / "written")
    assert again.utterances == corpus.utterances


def test_datasets_that_are_none_are_refused_in_one_line(datasets, tmp_path):
    root = write_datasets(tmp_path / "dataset")
    with pytest.raises(SerError, match=r"columns audio, label, .*; set data\.audio"):
        hugging_face_dataset(root, audio="sound")
    with pytest.raises(SerError, match="holds no audio files"):
        hugging_face_dataset(root, audio="label")
    arrow = next(root.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(SerError, match="cannot be read as a dataset"):
        hugging_face_dataset(root)
    shutil.rmtree(root)
    root.mkdir()
    with pytest.raises(SerError, match="holds no"):
        hugging_face_dataset(root)


@pytest.mark.parametrize(("read", "library"), [(audformat_database, "audformat"), (hugging_face_dataset, "datasets")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, read, library):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(SerError, match=rf"ser-lab\[{library}\]"):
        read(tmp_path)
