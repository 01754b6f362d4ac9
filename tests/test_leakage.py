import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fake_runs import fake_embeddings, fake_table, write_run
from scipy.spatial.distance import pdist
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from ser import training as one_run
from ser.adversary.erasure import fit_erasure
from ser.errors import SerError
from ser.evaluation.leakage import _interval, answers, compare_over_runs, leakage_of, leakage_table, write_leakage
from ser.evaluation.predictions import probabilities, read_predictions
from ser.evaluation.report.tables import cross_validation_table
from ser.evaluation.runs import load_run, scan_runs
from ser.evaluation.speaker_features import as_unseen_speakers, prepare, refit_of
from ser.evaluation.speaker_probe import name_speakers, tell_gender
from ser.evaluation.speaker_verification import verify_speakers
from ser.evaluation.summary import summarize
from ser.run.everyone import cross_validation

SIZE = 16


def planted(kind, table, seed=0):
    """Pooled features (n, SIZE): the emotion, noise, and a leak of one kind; rotated, so that no column is special."""
    generator = np.random.default_rng([seed, 7])
    people = table["speaker"].astype(int).to_numpy() - 1
    emotion = table["emotion"].map({name: code for code, name in enumerate(sorted(table["emotion"].unique()))})
    values = generator.standard_normal((len(table), SIZE))
    values += np.random.default_rng(3).standard_normal((4, SIZE))[emotion] * (
        kind not in {"variance", "xor", "by emotion"}
    )
    voices = np.random.default_rng(4).standard_normal((people.max() + 1, SIZE))[people]
    if kind == "linear":
        values += voices
    elif kind == "small variance":
        values *= np.linspace(1, 3, SIZE)
        values[:, :3] = 0.01 * (1.5 * voices[:, :3] + 0.6 * generator.standard_normal((len(table), 3)))
    elif kind == "pairs":  # each speaker has pairs of utterances in places of their own
        places = np.random.default_rng(6).standard_normal((people.max() + 1, 24, SIZE))
        values = 2 * places[people, np.arange(len(table)) // 2 % 24] + 0.3 * values
        values *= np.exp(generator.standard_normal((len(table), 1)))  # loud and quiet ones
    elif kind == "variance":
        values *= np.exp(0.7 * voices)
    elif kind == "xor":  # three bits of the speaker, each the sign of a product of two values
        signs, bits = generator.choice([-1.0, 1.0], (len(table), 3)), (people[:, None] >> np.arange(3)) & 1
        values[:, :6] = np.concatenate([signs, signs * (1 - 2 * bits)], axis=1) + 0.25 * values[:, :6]
    elif kind == "by emotion":  # voices change hands: of four speakers with one voice, only the emotion tells which
        values += 1.5 * np.random.default_rng(4).standard_normal((8, SIZE))[(people + 2 * emotion) % 8]
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((SIZE, SIZE)))[0]
    return (values @ rotation).astype(np.float32)


@pytest.fixture(scope="module")
def training():
    return fake_table(speakers=8, utterances=48)


def test_more_values_than_rows_keep_their_distances():
    rng = np.random.default_rng(0)
    train, other = rng.normal(size=(30, 90)), rng.normal(size=(7, 90))
    inner, outer = prepare(train, other, "scaled")
    scaler = StandardScaler().fit(train)
    assert inner.shape[1] == outer.shape[1] <= 30
    assert np.allclose(pdist(inner), pdist(scaler.transform(train)))
    assert np.allclose(outer @ inner.T, scaler.transform(other) @ scaler.transform(train).T)  # all that a probe sees


def test_a_matrix_whose_singular_values_do_not_end_is_decorrelated(monkeypatch):
    train, other = np.random.default_rng(0).standard_normal((2, 40, 30))
    train[:, 25:] = other[:, 25:] = 0.0  # less than full rank
    expected = [pdist(part) for part in prepare(train, other, "softly whitened")]

    def does_not_end(*_arguments, **_settings):
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr("sklearn.decomposition._pca.linalg.svd", does_not_end)
    found = [pdist(part) for part in prepare(train, other, "softly whitened")]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def leaking(training):
    return name_speakers(planted("linear", training), training)


@pytest.fixture(scope="module")
def clean(training):
    return name_speakers(planted("nothing", training), training)


@pytest.mark.parametrize(
    ("kind", "at_least"),
    [("linear", 0.8), ("small variance", 0.7), ("variance", 0.75), ("pairs", 0.6), ("xor", 0.9), ("by emotion", 0.9)],
)
def test_every_planted_leak_is_found(training, kind, at_least):
    result = name_speakers(planted(kind, training), training)
    assert result["accuracy"] > at_least
    assert result["verdict"] == "above"
    assert result["low"] > result["control"]["high"]
    assert result["control"]["low"] <= result["chance"] == 1 / 8 <= result["control"]["high"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_nothing_is_found_in_noise_and_the_splits_push_no_probe_below_chance(training, clean):
    results = [clean, name_speakers(planted("nothing", training, 1), training, 1)]
    for result in results:
        assert result["low"] <= result["chance"] <= result["high"]
        assert result["verdict"] == "level"
    assert np.mean([result["kinds"]["LDA"] for result in results]) > 0.1  # 0.08 where splits ignore the emotion


def test_collapsed_features_name_nobody(training):
    """What is left of a network that an adversary has destroyed: covariances without full rank."""
    result = name_speakers(np.full((len(training), SIZE), 0.3, dtype=np.float32), training)
    assert result["accuracy"] <= 2 * result["chance"]
    assert result["verdict"] != "above"


def test_what_the_emotion_tells_about_the_speaker_is_in_the_control(few_probes, training):
    # Half of the speakers are mostly angry, the others mostly sad, and there is no voice at all.
    generator, table = np.random.default_rng(1), training.copy()
    usual = np.where(table["speaker"].astype(int) <= 4, "angry", "sad")
    table["emotion"] = np.where(generator.random(len(table)) < 0.85, usual, table["emotion"])
    result = name_speakers(2 * planted("nothing", table, 1), table, 1)
    assert result["accuracy"] > result["chance"] + 0.05
    assert result["verdict"] == "level"


def test_the_same_seed_and_any_row_order_give_the_same_result(few_probes, training):
    order = np.random.default_rng(0).permutation(len(training))
    again = name_speakers(planted("linear", training)[order], training.iloc[order])
    assert again == name_speakers(planted("linear", training), training)


def test_large_tables_are_subsampled_evenly(monkeypatch, few_probes, training):
    monkeypatch.setattr("ser.evaluation.speaker_features.MOST_ROWS", 100)
    monkeypatch.setattr("ser.evaluation.speaker_features.MOST_SPEAKERS", 5)
    result = name_speakers(planted("linear", training), training)
    assert (result["speakers"], result["n"]) == (5, 100)
    assert result["left_out"] == ["06", "07", "08"]


def test_speakers_with_few_utterances_are_left_out_and_one_speaker_is_refused(few_probes, training):
    few = training[(training["speaker"] != "02") | (training["id"] == "s02_000")]
    result = name_speakers(fake_embeddings(few), few)
    assert (result["left_out"], result["speakers"]) == (["02"], 7)
    one = training[training["speaker"] == "01"]
    with pytest.raises(SerError, match="two speakers"):
        name_speakers(fake_embeddings(one), one)
    with pytest.raises(SerError, match="rows"):
        name_speakers(fake_embeddings(one), training)


def parts(kind, test_speakers=6):
    """Features and tables of a training and a test part of disjoint speakers."""
    table = fake_table(speakers=12 + test_speakers, utterances=24)
    features, seen = planted(kind, table), (table["speaker"].astype(int) <= 12).to_numpy()
    return features[seen], table[seen], features[~seen], table[~seen]


def test_unseen_speakers_are_linked_only_where_there_is_a_voice():
    results = {kind: verify_speakers(*parts(kind)) for kind in ("linear", "small variance", "nothing")}
    assert results["linear"]["eer"] < 0.3
    assert results["small variance"]["score"] == "PLDA"
    assert results["small variance"]["eer"] < 0.3
    assert results["nothing"]["low"] < 0.5 < results["nothing"]["high"]
    for result in results.values():
        assert result["low"] <= result["eer"] <= result["high"]
        assert (result["same"], result["different"]) == (6 * 4 * 15, 15 * 4 * 36)
        assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize("of_emotion", [False, True])
def test_features_without_a_voice_in_any_value_link_nobody(of_emotion):
    """A collapsed network, or the predicted emotion alone: there is no variance within an emotion."""
    train, test = (fake_table(speakers=6, utterances=24, first_speaker=start) for start in (1, 7))
    first, second = (
        (table["emotion"].to_numpy() == "sad")[:, None] * np.ones(4) * of_emotion for table in (train, test)
    )
    found = verify_speakers(first, train, second, test)
    assert (found["eer"], found["low"], found["high"]) == (0.5, 0.5, 0.5)
    assert name_speakers(first, train)["accuracy"] == pytest.approx(1 / 6)


def test_trials_are_within_one_emotion():
    # The emotion is loud, and each test speaker has emotions of its own: across emotions, trials would be easy.
    train, table, test, unseen = parts("nothing", 4)
    unseen = unseen.assign(emotion=np.array(["neutral", "happy", "sad", "angry"])[unseen["speaker"].astype(int) - 13])
    assert verify_speakers(train, table, test, unseen) is None


def test_two_test_speakers_are_too_few_for_an_interval_and_one_for_a_figure():
    two = verify_speakers(*parts("linear", 2))
    assert two["eer"] < 0.5
    assert (two["low"], two["high"]) == (None, None)
    assert verify_speakers(*parts("linear", 1)) is None


def test_gender_is_told_on_test_speakers_only_when_it_is_there(few_probes, training):
    test = fake_table(speakers=6, utterances=30, first_speaker=9)
    for strength, low, high, verdict in ((1.0, 0.75, 1.0, "above"), (0.0, 0.3, 0.7, "level")):
        found = tell_gender(
            fake_embeddings(training, speaker_strength=strength),
            training,
            fake_embeddings(test, speaker_strength=strength, seed=1),
            test,
        )
        assert low <= found["accuracy"] <= high
        assert found["low"] <= found["accuracy"] <= found["high"]
        assert found["verdict"] == verdict
        assert json.loads(json.dumps(found, allow_nan=False)) == found
    unknown = test.assign(gender="")
    assert tell_gender(fake_embeddings(training), training, fake_embeddings(unknown), unknown) is None


def test_utterances_of_unknown_gender_are_left_out_with_their_features(few_probes, training):
    test = fake_table(speakers=6, utterances=30, first_speaker=9)
    features, unseen = fake_embeddings(training, speaker_strength=1.0), fake_embeddings(test, speaker_strength=1.0)
    named = ~training["speaker"].isin(["01", "02"])
    some = training.assign(gender=training["gender"].where(named, ""))
    assert tell_gender(features, some, unseen, test) == tell_gender(features[named], training[named], unseen, test)


def test_results_are_paired_by_speaker(leaking, clean):
    found = compare_over_runs([leaking], [clean])
    assert (found["runs"], found["speakers"]) == (1, 8)
    assert found["difference"] == pytest.approx(clean["accuracy"] - leaking["accuracy"])
    assert found["p"] == pytest.approx(2 / 2**8)  # all eight speakers change the same way
    same = compare_over_runs([leaking], [leaking])
    assert (same["difference"], same["p"]) == (0.0, 1.0)


def test_an_evaluation_has_nothing_to_probe(tmp_path):
    run = write_run(tmp_path)
    (run / "train_predictions.csv").unlink()  # as ser evaluate leaves it
    with pytest.raises(SerError, match="which the probe learns from"):
        write_leakage(run)


def test_what_a_prediction_says_of_the_speaker_is_measured_beside_the_features(few_probes, tmp_path):
    run = write_run(tmp_path, speakers=12, speaker_strength=1.5)  # the speaker is in its features, not in its answers
    features = write_leakage(run)
    for of in ("probabilities", "emotion"):
        found = write_leakage(run, of=of)
        assert json.loads((run / f"leakage_{of}.json").read_text()) == found
        assert found["speakers"]["accuracy"] < features["speakers"]["accuracy"] - 0.3
    assert json.loads((run / "leakage.json").read_text()) == features
    table = pd.DataFrame({"p_sad": [0.25, 0.9], "p_angry": [0.75, 0.1]})
    assert answers(probabilities(table), "emotion").tolist() == [[0, 1], [1, 0]]
    assert np.allclose(answers(probabilities(table), "probabilities")[:, 0] * 2, np.log([1 / 3, 9]))


def test_the_probes_compute_on_one_thread(tmp_path, monkeypatch):
    """Their parallel parts are short: beside a busy process two threads took twelve times as long."""
    seen = []

    def probe(*arguments, **keywords):
        seen.extend(pool["num_threads"] for pool in threadpool_info())
        return {}

    for name in ("name_speakers", "verify_speakers", "tell_gender"):
        monkeypatch.setattr(f"ser.evaluation.leakage.{name}", probe)
    with threadpool_limits(2):
        write_leakage(write_run(tmp_path, "a", 1))
        assert {pool["num_threads"] for pool in threadpool_info()} != {1}
    assert set(seen) == {1}


def test_a_table_has_a_row_per_variant_and_older_files_are_refused(few_probes, tmp_path):
    runs = {}
    for variant, strength in (("a", 1.5), ("b", 0.0)):
        folders = [write_run(tmp_path, variant, fold, speakers=12, speaker_strength=strength) for fold in (1, 2)]
        for folder in folders:
            write_leakage(folder, best_epoch=10)
        runs[variant] = [load_run(folder) for folder in folders]
    table = leakage_table(runs, "a").set_index("variant")
    assert table.loc["a", "speaker"] > table.loc["b", "speaker"] + 0.3
    assert table.loc["b", "speaker_difference"] < -0.3
    assert table.loc["b", "speaker_p_holm"] < 0.05
    assert np.isnan(table.loc["a", "speaker_p_holm"])
    assert (table["speaker_low"] <= table["speaker"]).all()
    assert 0 < table.loc["a", "adversary"] < 1
    old = runs["a"][0].folder
    (old / "leakage.json").write_text('{"speakers": {}}')
    with pytest.raises(SerError, match="format 1, expected 2"):
        leakage_of(load_run(old))
    parts = {"open_set": None, "gender": None, "adversary_accuracy": None}
    for speakers in ({}, None, [], {"accuracy": 1, "control": 1, "chance": 1}):
        (old / "leakage.json").write_text(json.dumps({"format": 2, "speakers": speakers, **parts}))
        with pytest.raises(SerError, match=r"incomplete.*measure again with ser probe"):
            leakage_of(load_run(old))
    (old / "leakage.json").write_text("no JSON")
    with pytest.raises(SerError, match="measure again with ser probe"):
        leakage_of(load_run(old))


def test_one_deterministic_run_stands_for_three_equal_seeds(few_probes, tmp_path):
    """The tables are the same as with the result repeated under every seed."""
    probed = {}
    for variant, seeds, strength in (("same", (1,), 1.5), ("other", (1, 2, 3), 0.5)):
        for fold in (1, 2, 3):
            for seed in seeds:
                folder = write_run(tmp_path, variant, fold, seed, folds=3, speakers=12, speaker_strength=strength)
                write_leakage(folder)
                run = load_run(folder)
                run = replace(run, metrics=run.metrics | {"deterministic": variant == "same"})
                probed.setdefault(variant, []).append(run)
    once = summarize([*probed["same"], *probed["other"]], "same")
    repeated = [replace(run, seed=seed, metrics=run.metrics | {"deterministic": False})
                for run in probed["same"] for seed in (1, 2, 3)]  # fmt: skip
    thrice = summarize([*repeated, *probed["other"]], "same")
    pd.testing.assert_frame_equal(once.comparisons, thrice.comparisons)
    pd.testing.assert_frame_equal(once.leakage.drop(columns="runs"), thrice.leakage.drop(columns="runs"))
    pooled = [name for name in once.variants if "pooled" in name or name.endswith(("mean_over_runs", "over_folds"))]
    pd.testing.assert_frame_equal(once.variants[pooled], thrice.variants[pooled])
    assert [one["intervals"] for one in once.speakers.values()] == [
        one["intervals"] for one in thrice.speakers.values()
    ]


def erasing(table, statistics):
    """Refits LEACE of the speakers within emotions, as a run with erasure does."""
    speaker, emotion = (torch.from_numpy(pd.factorize(table[name])[0]) for name in ("speaker", "emotion"))

    def refit(rows):
        seen = np.setdiff1d(np.arange(len(table)), rows)
        found = fit_erasure(statistics[seen], speaker[seen], emotion[seen], int(speaker.max()), 0.1)
        return (statistics - (statistics - found["mean"]) @ found["read"] @ found["write"]).numpy()

    return refit


@pytest.mark.parametrize("voice", [0.0, 1.0])
def test_an_erasure_is_judged_on_utterances_that_it_has_not_seen(few_probes, training, voice):
    """Where it has seen them, a probe falls below chance although nothing is to be found: the planted fault."""
    statistics = torch.from_numpy(fake_embeddings(training, size=64, speaker_strength=voice))
    refit = erasing(training, statistics)
    assert name_speakers(refit([]), training)["verdict"] == "below"
    assert name_speakers(refit([]), training, refit=refit)["verdict"] == "level"


def test_what_an_erasure_leaves_is_found(training):
    """Speakers that differ in their variances, too: the erasure leaves that, and fitting it again hides none of it."""
    statistics = torch.from_numpy(planted("variance", training) + fake_embeddings(training, size=SIZE))
    refit = erasing(training, statistics)
    result = name_speakers(refit([]), training, refit=refit)
    assert result["accuracy"] > 0.4
    assert result["verdict"] == "above"


@pytest.mark.parametrize("words", ["experiment=adversary/erasure_after", "experiment=adversary/erasure"])
def test_a_run_with_erasure_can_be_probed_without_what_the_erasure_has_seen(configure, tmp_path, words):
    words = [words, "trainer.max_epochs=2", "callbacks.progress_bar=null", "logger=none", "figures=false"]
    one_run.run(configure(*words, tiny=False))
    folder = tmp_path / "run"
    table, stored = read_predictions(folder / "train_predictions.csv"), np.load(folder / "train_embeddings.npy")
    refit = refit_of(folder, table)
    assert refit(np.array([], dtype=int)) == pytest.approx(stored, abs=1e-4)
    assert np.abs(refit(np.arange(5)) - stored).max() > 1e-3
    unseen = as_unseen_speakers(refit, table)
    first = np.flatnonzero(table["speaker"] == sorted(table["speaker"])[0])
    assert unseen[first] == pytest.approx(refit(first)[first], abs=1e-6)
    leakage = json.loads((folder / "leakage.json").read_text())
    assert leakage["speakers"] == name_speakers(stored, table, refit=refit)
    assert leakage["speakers"] != name_speakers(stored, table)


def test_seeds_of_a_fold_make_no_interval_narrower():
    values = pd.Series([0.2, 0.3, 0.5])
    once = _interval(values, [1, 2, 3], [])
    assert once[0] < values.mean() < once[1]
    assert _interval(pd.concat([values, values], ignore_index=True), [1, 2, 3, 1, 2, 3], []) == pytest.approx(once)


def test_a_model_card_says_what_probes_found_of_the_speaker(few_probes, tmp_path):
    folders = [write_run(tmp_path, "a", fold, speakers=12) for fold in (1, 2, 3, 4)]
    found = [write_leakage(folder, best_epoch=10) for folder in folders]
    record = cross_validation(scan_runs(tmp_path)[0], "sweep")
    named = np.mean([one["speakers"]["accuracy"] for one in found])
    assert record["leakage"]["speaker"] == pytest.approx(named)
    rows = dict(cross_validation_table(record).rows)
    assert rows["training speakers named"].startswith(f"{100 * named:.1f} [")
    assert {"named, control", "EER of unseen speakers"} <= rows.keys()
    (folders[0] / "leakage.json").unlink()
    assert "leakage" not in cross_validation(scan_runs(tmp_path)[0], "sweep")
