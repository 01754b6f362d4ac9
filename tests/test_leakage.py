import json

import numpy as np
import pytest
from fake_runs import fake_embeddings, fake_table

from ser.errors import SerError
from ser.evaluation.speaker_probe import compare_probes, probe_gender, probe_speakers


@pytest.fixture(scope="module")
def training():
    return fake_table(speakers=6, utterances=30)


@pytest.fixture(scope="module")
def planted(training):
    return probe_speakers(fake_embeddings(training, speaker_strength=1.0), training)


@pytest.fixture(scope="module")
def clean(training):
    return probe_speakers(fake_embeddings(training, speaker_strength=0.0, seed=1), training)


def test_probes_find_a_planted_speaker(planted):
    assert planted["chance"] == pytest.approx(1 / 6)
    for name in ("linear", "mlp"):
        assert planted[name]["accuracy"] > 0.6
        assert planted[name]["low"] > planted["chance"]
        assert planted[name]["p_above_chance"] < 1e-6
    assert json.loads(json.dumps(planted, allow_nan=False)) == planted


def test_probes_stay_at_chance_without_one(clean):
    for name in ("linear", "mlp"):
        assert clean[name]["low"] < clean["chance"] < clean[name]["high"]
        assert clean[name]["p_above_chance"] > 0.01


def test_a_hidden_speaker_is_found_by_the_mlp_only(training):
    # The speaker shows in the sign of a product, which no single direction holds.
    generator = np.random.default_rng(0)
    table = fake_table(speakers=2, utterances=300)
    first = generator.choice([-1.0, 1.0], len(table))
    second = np.where(table["speaker"] == "01", first, -first)
    features = np.stack([first, second], axis=1) + 0.2 * generator.standard_normal((len(table), 2))
    result = probe_speakers(features.astype(np.float32), table)
    assert result["mlp"]["accuracy"] > 0.9
    assert result["linear"]["accuracy"] < 0.6


def test_two_probes_are_paired_on_the_same_utterances(planted, clean):
    result = compare_probes(planted, clean)
    assert result["n"] == 180
    assert result["linear"]["difference"] == pytest.approx(clean["linear"]["accuracy"] - planted["linear"]["accuracy"])
    assert result["linear"]["p"] < 1e-6
    same = compare_probes(planted, planted)
    assert same["mlp"]["p"] == 1.0
    assert same["mlp"]["difference"] == 0.0


def test_the_same_seed_and_any_row_order_give_the_same_probe(training, planted):
    order = np.random.default_rng(0).permutation(len(training))
    features = fake_embeddings(training, speaker_strength=1.0)
    again = probe_speakers(features[order], training.iloc[order])
    assert again == planted


def test_gender_is_told_on_test_speakers_only_when_it_is_there(training):
    test = fake_table(speakers=4, utterances=30, first_speaker=7)
    for strength, low, high in ((1.0, 0.75, 1.0), (0.0, 0.3, 0.7)):
        result = probe_gender(
            fake_embeddings(training, speaker_strength=strength),
            training,
            fake_embeddings(test, speaker_strength=strength, seed=1),
            test,
        )
        assert low <= result["linear"]["balanced_accuracy"] <= high
        assert result["linear"]["low"] <= result["linear"]["balanced_accuracy"] <= result["linear"]["high"]
        assert json.loads(json.dumps(result, allow_nan=False)) == result
    unknown = test.assign(gender="")
    assert probe_gender(fake_embeddings(training), training, fake_embeddings(unknown), unknown) is None


def test_speakers_with_few_utterances_are_left_out_and_one_speaker_is_refused(training):
    few = training[(training["speaker"] != "02") | (training["id"] == "s02_000")]
    result = probe_speakers(fake_embeddings(few), few)
    assert result["left_out"] == ["02"]
    assert result["speakers"] == 5
    one = training[training["speaker"] == "01"]
    with pytest.raises(SerError, match="two speakers"):
        probe_speakers(fake_embeddings(one), one)
    with pytest.raises(SerError, match="rows"):
        probe_speakers(fake_embeddings(one), training)
