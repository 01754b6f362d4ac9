"""Several corpora as one, and the protocols that leave one out or take the parts that a corpus declares."""

import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fake_corpora import write_emodb, write_manifest, write_ravdess

from ser import training
from ser.config import compose_config, instantiate
from ser.data.batching import LengthBatches
from ser.data.corpora import combined
from ser.data.corpora.manifest import manifest
from ser.data.corpora.named import named
from ser.data.corpora.synthetic_frames import synthetic_features
from ser.data.corpus import Corpus, Utterance
from ser.data.datamodule import EmotionDataModule
from ser.data.normalization import CorpusNormalization, GlobalNormalization
from ser.data.protocols import CorpusProtocol, GivenProtocol, SessionProtocol, SpeakerProtocol
from ser.data.split import Split
from ser.encoders import LogMel
from ser.errors import SerError
from ser.extraction.frames import extract
from ser.io import write_text
from ser.run import building

FOUR = ("neutral", "happy", "sad", "angry")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    write_ravdess(folder / "ravdess", actors=12, repetitions=1, seconds=0.1)
    write_emodb(folder / "emodb", texts=1, seconds=0.1)
    return folder


@pytest.fixture
def parts(roots):
    return {
        "ravdess": partial(named, "ravdess", roots / "ravdess", emotions=(*FOUR, "fearful")),
        "emodb": partial(named, "emodb", roots / "emodb", emotions=("angry", "bored", "neutral", "sad", "happy")),
        "made_up": partial(synthetic_features, scale=0.01, dim=32),
    }


def test_ids_speakers_and_sessions_stay_apart_and_classes_are_those_of_all(parts):
    corpus = combined(["ravdess", "emodb"], **parts)
    assert corpus.emotions == FOUR and corpus.corpora == ["ravdess", "emodb"]
    assert corpus.sessions == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(u.id.startswith(f"{u.corpus}/") and u.speaker.startswith(f"{u.corpus}/") for u in corpus.utterances)
    assert {u.corpus for u in corpus.utterances if u.session > 3} == {"emodb"}
    turned = combined(["emodb", "ravdess"], **parts)
    assert turned.emotions == ("angry", "neutral", "sad", "happy") and turned.corpora == ["emodb", "ravdess"]
    mapped = combined(["ravdess", "emodb"], ["neutral", "sad"], **parts)
    assert {u.emotion for u in mapped.utterances} == {"neutral", "sad"}


def test_classes_of_several_corpora_are_the_same_however_they_are_spelled(parts, tmp_path):
    rows = [f"{name}.wav,{emotion},{name[0]}" for name in ("a1", "b1") for emotion in ("Anger", "neutral", "joy")]
    write_text(tmp_path / "own.csv", "path,emotion,speaker,id\n" + "\n".join(f"{r},{n}" for n, r in enumerate(rows)))
    corpus = combined(["ravdess", "own"], own=partial(manifest, tmp_path / "own.csv"), **parts)
    assert corpus.emotions == ("neutral", "happy", "angry")
    assert {u.emotion for u in corpus.utterances if u.corpus == "own"} == {*corpus.emotions}
    turned = combined(["own", "ravdess"], own=partial(manifest, tmp_path / "own.csv"), **parts)
    assert turned.emotions == ("anger", "joy", "neutral") and {u.emotion for u in turned.utterances} == {
        *turned.emotions
    }


def test_two_tables_are_joined_under_names_of_their_own(tmp_path):
    first = write_manifest(tmp_path / "a", speakers=3, seconds=0.1)
    second = write_manifest(tmp_path / "b", speakers=3, emotions=("angry", "sad", "neutral"), seconds=0.1)
    added = ["+data@data.mine=manifest", f"data.mine.manifest={first}", "+data@data.other=manifest"]
    words = ["data=combined", "data.corpora=[mine,other]", *added]
    corpus = instantiate(compose_config([*words, f"data.other.manifest={second}"]), "data")
    assert corpus.corpora == ["mine", "other"] and corpus.emotions == ("angry", "neutral", "sad")
    assert len(corpus.speakers) == 6 and {u.path.parents[1] for u in corpus.utterances} == {
        first.parent,
        second.parent,
    }
    with pytest.raises(SerError, match=r"'data\.other\.manifst'.*no such key"):
        compose_config([*words, f"data.other.manifst={second}"])
    with pytest.raises(SerError, match=r"'data\.third\.manifest'.*no such key"):
        compose_config([*words, f"data.third.manifest={second}"])


@pytest.mark.parametrize("corpora, emotions, reason", [
    (["ravdess"], None, "two different"),
    (["ravdess", "ravdess"], None, r"two different.* \+data@data\.second=manifest"),
    (["ravdess", "nothing"], None, r"nothing, expected some of emodb.* \+data@data\.nothing=manifest"),
    (["ravdess", "emodb"], ["sad", "bored"], "RAVDESS has no emotion bored"),
    (["ravdess", "made_up"], None, "makes its own frames"),
])  # fmt: skip
def test_what_cannot_be_joined_is_refused(parts, corpora, emotions, reason):
    with pytest.raises(SerError, match=reason):
        combined(corpora, emotions, **parts)


def test_frames_are_those_of_each_corpus_alone(parts, tmp_path):
    alone = extract(parts["emodb"](), LogMel(), tmp_path, show_progress=False)
    joined = extract(combined(["ravdess", "emodb"], **parts), LogMel(), tmp_path, show_progress=False)
    four = [u for u in parts["emodb"]().utterances if u.emotion in FOUR]
    assert joined.reused == len(four)
    assert all((joined.cache.read(f"emodb/{u.id}") == alone.cache.read(u.id)).all() for u in four)
    assert {path.name for path in tmp_path.iterdir()} == {"ravdess", "emodb"}


def test_a_missing_file_is_left_out_under_its_joined_name(roots, parts, tmp_path):
    write_emodb(tmp_path / "emodb", texts=1, seconds=0.1)
    own = parts | {"emodb": partial(named, "emodb", tmp_path / "emodb", emotions=("neutral", "sad"))}
    corpus = combined(["ravdess", "emodb"], **own)
    victim = next(u for u in corpus.utterances if u.corpus == "emodb")
    victim.path.unlink()
    found = extract(corpus, LogMel(), tmp_path / "cache", show_progress=False)
    assert found.failures.keys() == {victim.id}
    assert len(found.cache.lengths) == len(corpus.utterances) - 1
    rest = corpus.without(found.failures)
    assert extract(rest, LogMel(), tmp_path / "cache", show_progress=False).failures == {}


def test_one_corpus_is_left_out_and_the_others_validate_on_a_session(parts):
    corpus = combined(["ravdess", "emodb"], **parts)
    protocol = CorpusProtocol()
    assert protocol.folds(corpus) == 2
    first, second = protocol.split(corpus, 1, 0), protocol.split(corpus, 2, 0)
    assert {u.corpus for u in first.test} == {"ravdess"} and {u.corpus for u in second.test} == {"emodb"}
    assert {u.session for u in first.validation} == {8} and {u.session for u in second.validation} == {3}
    assert len(first.train) + len(first.validation) == len(second.test)
    with pytest.raises(SerError, match="is one"):
        protocol.split(parts["emodb"](), 1, 0)


def test_other_protocols_work_inside_and_validate_within_the_corpus(parts):
    corpus = combined(["ravdess", "emodb"], **parts)
    for fold in range(1, SessionProtocol().folds(corpus) + 1):
        split = SessionProtocol().split(corpus, fold, 0)
        assert {u.corpus for u in split.test} == {u.corpus for u in split.validation}
        assert {u.corpus for u in split.train} == {"ravdess", "emodb"}
    assert SpeakerProtocol().folds(corpus) == 22


def test_given_parts_are_taken_as_they_are_and_overlap_is_labelled(tmp_path):
    table = pd.read_csv(write_manifest(tmp_path, speakers=6, seconds=0.05))
    parts = ["train", "train", "train", "train", "dev", "test"]
    table["split"] = [parts[int(name[3:]) - 1] for name in table["speaker"]]
    table.to_csv(tmp_path / "apart.csv", index=False)
    corpus = manifest(tmp_path / "apart.csv")
    split = GivenProtocol().split(corpus, 1, 0)
    assert Counter(u.partition for u in corpus.utterances) == {"train": 32, "validation": 8, "test": 8}
    assert not split.speaker_overlap and {u.speaker for u in split.test} == {"spk6"}
    table.loc[table["speaker"] == "spk1", "split"] = ["train", "test"] * 4
    table.to_csv(tmp_path / "mixed.csv", index=False)
    assert GivenProtocol().split(manifest(tmp_path / "mixed.csv"), 1, 0).speaker_overlap
    with pytest.raises(SerError, match="column partition"):
        GivenProtocol().split(manifest(tmp_path / "manifest.csv"), 1, 0)
    with pytest.raises(SerError, match="fold=2 does not exist"):
        GivenProtocol().split(corpus, 2, 0)


def test_a_given_split_without_validation_validates_on_training_speakers(tmp_path):
    table = pd.read_csv(write_manifest(tmp_path, speakers=6, seconds=0.05))
    table["split"] = ["test" if name in ("spk5", "spk6") else "train" for name in table["speaker"]]
    table.to_csv(tmp_path / "apart.csv", index=False)
    corpus = manifest(tmp_path / "apart.csv")
    parts = GivenProtocol().split(corpus, 1, 0).parts()
    speakers = {part: {u.speaker for u in utterances} for part, utterances in parts.items()}
    assert speakers["test"] == {"spk5", "spk6"}
    assert speakers["validation"] and speakers["train"]
    assert speakers["validation"] | speakers["train"] == {"spk1", "spk2", "spk3", "spk4"}
    assert not speakers["validation"] & speakers["train"]
    last = max(u.session for u in corpus.utterances if u.partition == "train")
    assert {u.session for u in parts["validation"]} == {last}
    table[table["speaker"].isin(["spk1", "spk5"])].to_csv(tmp_path / "few.csv", index=False)
    with pytest.raises(SerError, match="leaves the validation part empty"):
        GivenProtocol().split(manifest(tmp_path / "few.csv"), 1, 0)


class Sums:
    """A cache of one frame per utterance, whose value is given."""

    dim = 1

    def __init__(self, values):
        self.values = values

    def sums(self, group_of):
        groups = max(group_of.values()) + 1
        count, total, square = torch.zeros(groups), torch.zeros(groups, 1), torch.zeros(groups, 1)
        for name, group in group_of.items():
            count[group] += 1
            total[group] += self.values[name]
            square[group] += self.values[name] ** 2
        return count.numpy(), total.numpy(), square.numpy()


def test_statistics_per_corpus_are_of_training_where_it_trains():
    values = {"a1": 1.0, "a2": 3.0, "a3": 90.0, "b1": 10.0, "b2": 30.0}
    corpus_of = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b"}
    all_of = {n: Utterance(n, Path(), "sad", f"s{n}", 1, "", corpus=c) for n, c in corpus_of.items()}
    train = [all_of[name] for name in ("a1", "a2")]
    normalization = CorpusNormalization()
    statistics = normalization.fit(Sums(values), train, list(all_of.values()))
    assert normalization.transductive  # b is only tested
    assert statistics.mean[statistics.row("sa3")].item() == 2 and statistics.mean[statistics.row("sb1")].item() == 20
    inside = CorpusNormalization()
    inside.fit(Sums(values), [*train, all_of["b1"]], list(all_of.values()))
    assert not inside.transductive


def test_rows_are_repeated_in_batches():
    rows = [0, 1, 2, 2, 2]
    batches = list(LengthBatches([5, 4, 3, 3, 3], 2, rows=rows, seed=1))
    assert sorted(row for batch in batches for row in batch) == rows


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """Corpora of 10 and 30 utterances, and the cache of their frames; the speakers of each are two."""
    folder = tmp_path_factory.mktemp("unequal")
    parts = {}
    for name, count, level in (("few", 5, 0.02), ("many", 15, 0.3)):
        place = folder / name
        place.mkdir()
        rows = ["path,emotion,speaker,partition"]
        for number in range(2 * count):
            speaker, emotion = f"s{number % 2}", ("happy", "sad")[number // 2 % 2]
            samples = level * np.random.default_rng([count, number]).standard_normal(1600 + 160 * (number % 3))
            soundfile.write(place / f"{number}.wav", samples, 16000)
            rows.append(f"{number}.wav,{emotion},{speaker},train")
        (place / "manifest.csv").write_text("\n".join(rows))
        parts[name] = partial(manifest, place / "manifest.csv")
    corpus = combined(["few", "many"], **parts)
    return corpus, extract(corpus, LogMel(), folder / "cache", show_progress=False).cache


def split_of(corpus, train, test=()):
    """A split with these corpora in training and in the test part."""
    chosen = {
        part: tuple(u for u in corpus.utterances if u.corpus in names)
        for part, names in (("train", train), ("test", test))
    }
    return Split(protocol="given", fold=1, folds=1, seed=0, speaker_overlap=True, validation=(), **chosen)


def test_balancing_shows_the_smaller_corpus_as_often_as_the_larger(unequal):
    corpus, cache = unequal
    for balance, times in ((None, 1), ("corpus", 3)):
        module = EmotionDataModule(
            corpus, split_of(corpus, ("few", "many")), cache, GlobalNormalization(), batch_size=8, balance=balance
        )
        seen = Counter(name for batch in module.train_dataloader() for name in batch.ids)
        assert len(seen) == 40 and {count for name, count in seen.items() if name.startswith("many/")} == {1}
        assert {count for name, count in seen.items() if name.startswith("few/")} == {times}
        plain = Counter(name for batch in module.loader("train") for name in batch.ids)
        assert set(plain.values()) == {1}  # what is scored is never repeated


@pytest.mark.parametrize("train, test", [(("few", "many"), ()), (("many",), ("few",))])
def test_each_corpus_is_normalised_by_its_own_frames(unequal, train, test):
    corpus, cache = unequal
    module = EmotionDataModule(corpus, split_of(corpus, train, test), cache, CorpusNormalization(), batch_size=8)
    assert module.normalization.transductive == bool(test)
    raw = {u.id: torch.from_numpy(cache.read(u.id)).double() for u in corpus.utterances}
    for part in module.datasets:
        for batch in (module.on_after_batch_transfer(batch, 0) for batch in module.loader(part)):
            for name, frames, length in zip(batch.ids, batch.frames, batch.lengths, strict=True):
                own = torch.cat([raw[other] for other in raw if other.startswith(name.partition("/")[0] + "/")])
                expected = (raw[name] - own.mean(0)) / own.std(0, correction=0)
                torch.testing.assert_close(frames[:length].double(), expected, atol=1e-3, rtol=1e-3)


def test_a_run_on_two_corpora_says_where_each_utterance_is_from(configure, roots, tmp_path, capsys):
    words = ["data=combined", *(f"data.{name}.root={roots / name}" for name in ("ravdess", "emodb"))]
    cfg = configure(*words, "batches.balance=corpus", "normalization=corpus", "fold=5")
    training.run(cfg, {"features": "logmel", "model": "gru"}, words)
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert set(table["corpus"]) == {"emodb"}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["corpora"].keys() == {"emodb"} and metrics["transductive"] is False
    identity = json.loads((tmp_path / "run" / "run.json").read_text())["identity"]
    assert not any(key.startswith("data.crema_d") for key in identity) and "data.emodb.emotions" in identity


def test_a_wrong_fold_is_refused_before_extraction(configure, monkeypatch):
    monkeypatch.setattr(building, "extract", lambda *arguments, **settings: pytest.fail("extracted"))
    with pytest.raises(SerError, match="fold=9 does not exist"):
        building.load_data(configure("fold=9"))


def test_corpora_of_one_name_only_know_nothing_of_others():
    assert Corpus("x", ("sad",), (Utterance("1", Path(), "sad", "s", 1, ""),)).corpora == [""]
