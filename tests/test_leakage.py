import json

import numpy as np
import pytest
from fake_runs import fake_embeddings, fake_table, write_run

from ser.errors import SerError
from ser.evaluation import speaker_probe
from ser.evaluation.leakage import compare_over_runs, leakage_of, leakage_table, write_leakage
from ser.evaluation.runs import load_run
from ser.evaluation.speaker_probe import name_speakers, tell_gender
from ser.evaluation.speaker_verification import verify_speakers

SIZE = 16


def planted(kind, table, seed=0):
    """Pooled features (n, SIZE): the emotion, noise, and a leak of one kind; rotated, so that no column is special."""
    generator = np.random.default_rng([seed, 7])
    people = table["speaker"].astype(int).to_numpy() - 1
    emotion = table["emotion"].map({name: code for code, name in enumerate(sorted(table["emotion"].unique()))})
    values = generator.standard_normal((len(table), SIZE))
    values += np.random.default_rng(3).standard_normal((4, SIZE))[emotion] * (kind not in {"variance", "xor"})
    voices = np.random.default_rng(4).standard_normal((people.max() + 1, SIZE))[people]
    if kind == "linear":
        values += voices
    elif kind == "small variance":
        values *= np.linspace(1, 3, SIZE)
        values[:, :3] = 0.01 * (1.5 * voices[:, :3] + 0.6 * generator.standard_normal((len(table), 3)))
    elif kind == "variance":
        values *= np.exp(0.7 * voices)
    elif kind == "xor":  # three bits of the speaker, each the sign of a product of two values
        signs, bits = generator.choice([-1.0, 1.0], (len(table), 3)), (people[:, None] >> np.arange(3)) & 1
        values[:, :6] = np.concatenate([signs, signs * (1 - 2 * bits)], axis=1) + 0.25 * values[:, :6]
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((SIZE, SIZE)))[0]
    return (values @ rotation).astype(np.float32)


@pytest.fixture(scope="module")
def training():
    return fake_table(speakers=8, utterances=48)


@pytest.fixture
def few_probes(monkeypatch):
    """Discriminant analysis only, for tests of what is around the probes."""
    monkeypatch.setattr(speaker_probe, "_probes", lambda seed, every=speaker_probe._probes: every(seed)[:2])
    monkeypatch.setattr(speaker_probe, "KINDS", ("LDA",))


@pytest.fixture(scope="module")
def leaking(training):
    return name_speakers(planted("linear", training), training)


@pytest.fixture(scope="module")
def clean(training):
    return name_speakers(planted("nothing", training), training)


@pytest.mark.parametrize(
    ("kind", "at_least"), [("linear", 0.8), ("small variance", 0.7), ("variance", 0.75), ("xor", 0.9)]
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
    monkeypatch.setattr("ser.evaluation.speaker_probe.MOST_ROWS", 100)
    monkeypatch.setattr("ser.evaluation.speaker_probe.MOST_SPEAKERS", 5)
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


def test_results_are_paired_by_speaker(leaking, clean):
    found = compare_over_runs([leaking], [clean])
    assert (found["runs"], found["speakers"]) == (1, 8)
    assert found["difference"] == pytest.approx(clean["accuracy"] - leaking["accuracy"])
    assert found["p"] == pytest.approx(2 / 2**8)  # all eight speakers change the same way
    same = compare_over_runs([leaking], [leaking])
    assert (same["difference"], same["p"]) == (0.0, 1.0)


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
