import json

import numpy as np
import pandas as pd
import pytest
from fake_runs import fake_table
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from ser.evaluation.predictions import utterance_counts
from ser.evaluation.scores import calibration, cross_speaker, scores, speaker_scores
from ser.metrics import METRICS

CASES = {
    "random": lambda: fake_table(6, 20, skill=0.4),
    "a class absent from the truth": lambda: fake_table(6, 20).query("emotion != 'sad'").reset_index(drop=True),
    "a class never predicted": lambda: fake_table(6, 20).assign(predicted="happy"),
    "one speaker": lambda: fake_table(1, 12),
    "one utterance, right": lambda: fake_table(1, 1, skill=1.0).assign(predicted=lambda t: t["emotion"]),
    "one utterance, wrong": lambda: fake_table(1, 1).assign(emotion="sad", predicted="happy"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:y_pred contains classes:UserWarning")
def test_scores_agree_with_scikit_learn(case):
    table = CASES[case]()
    truth, predicted = table["emotion"], table["predicted"]
    present = sorted(truth.unique())
    expected = {
        "wa": metrics.accuracy_score(truth, predicted),
        "uar": metrics.balanced_accuracy_score(truth, predicted)
        if len(present) > 1
        else metrics.recall_score(truth, predicted, labels=present, average="macro"),
        "macro_f1": metrics.f1_score(truth, predicted, labels=present, average="macro"),
        "weighted_f1": metrics.f1_score(truth, predicted, average="weighted", zero_division=0),
    }
    ours = scores(table)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name
    names = list(ours["recall"])
    assert ours["confusion"] == metrics.confusion_matrix(truth, predicted, labels=names).tolist()
    assert [name for name in names if ours["recall"][name] is None] == [name for name in names if name not in present]
    # The vectorised metrics under intervals and tests are the same functions.
    _, speakers, answers = utterance_counts(table)
    counts = answers.sums(np.zeros(len(speakers), dtype=int)).toarray().reshape(3, 4)
    for name, value in expected.items():
        assert METRICS[name](counts) == pytest.approx(value, abs=1e-12), name
    assert json.loads(json.dumps(ours, allow_nan=False)) == ours


@settings(max_examples=40, deadline=None)
@given(answers=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore:y_pred contains classes:UserWarning")
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_scores_of_any_answers_agree_with_scikit_learn(answers):
    names = ["neutral", "happy", "sad", "angry"]
    truth, predicted = ([names[pair[side]] for pair in answers] for side in (0, 1))
    table = pd.DataFrame(
        {"id": map(str, range(len(answers))), "speaker": "s", "emotion": truth, "predicted": predicted}
    )
    table = table.assign(**{f"p_{name}": 0.25 for name in names}, session=1, gender="", seconds=1.0)
    present, ours = sorted(set(truth)), scores(table)
    options = {"labels": present, "average": "macro", "zero_division": 0}
    assert ours["wa"] == pytest.approx(metrics.accuracy_score(truth, predicted), abs=1e-12)
    assert ours["uar"] == pytest.approx(metrics.recall_score(truth, predicted, **options), abs=1e-12)
    assert ours["macro_f1"] == pytest.approx(metrics.f1_score(truth, predicted, **options), abs=1e-12)
    weighted = metrics.f1_score(truth, predicted, average="weighted", zero_division=0)
    assert ours["weighted_f1"] == pytest.approx(weighted, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_cross_speaker_is_json_and_calibration_there_for_every_case(case):
    table = CASES[case]()
    result = cross_speaker(table, repetitions=50)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert 0 <= calibration(table)["ece"] <= 1 and calibration(table)["bins"]["n"].sum() == len(table)


def test_speaker_figures_are_those_of_each_speakers_rows():
    table = fake_table(5, 16, skill=0.5, speaker_std=0.2)
    rows = speaker_scores(table).set_index("speaker")
    for speaker, part in table.groupby("speaker"):
        assert rows.loc[speaker, "accuracy"] == metrics.accuracy_score(part["emotion"], part["predicted"])
        f1 = metrics.f1_score(part["emotion"], part["predicted"], average="weighted", zero_division=0)
        assert rows.loc[speaker, "weighted_f1"] == pytest.approx(f1)
        assert rows.loc[speaker, "n"] == 16
    result = cross_speaker(table)
    assert result["overall_accuracy"] == pytest.approx(scores(table)["wa"])
    assert result["average_f1"] == pytest.approx(rows["weighted_f1"].mean())
    assert result["performance_std"] == pytest.approx(rows["weighted_f1"].std())
    assert result["f1_range"] == pytest.approx(rows["weighted_f1"].max() - rows["weighted_f1"].min())
    assert rows["weighted_f1"].idxmin() == result["worst_speaker"]
    for name in ("overall_accuracy", "average_f1"):
        low, high = result["intervals"][name]
        assert low < result[name] < high


def test_gaps_are_found_and_absent_where_there_is_one_group():
    good, bad = fake_table(4, 60, skill=0.9), fake_table(4, 60, skill=0.4, first_speaker=5)
    table = pd.concat([good.assign(gender="F"), bad.assign(gender="M")], ignore_index=True)
    gap = cross_speaker(table)["gender_gap"]
    assert (gap["best"], gap["worst"]) == ("F", "M")
    assert gap["gap"] == pytest.approx(scores(good)["wa"] - scores(bad)["wa"])
    assert 0 < gap["interval"][0] < gap["gap"] < gap["interval"][1]
    assert cross_speaker(good.assign(gender="F", session=1), 20)["gender_gap"] is None
    assert cross_speaker(good.assign(gender="", session=1), 20)["session_gap"] is None


def test_calibration_by_hand():
    table = fake_table(1, 4, skill=1.0)
    table["predicted"] = table["emotion"]
    for column in table.filter(like="p_"):
        table[column] = np.where(table["emotion"] == column.removeprefix("p_"), 0.7, 0.1)
    result = calibration(table)
    assert result["ece"] == pytest.approx(0.3)  # right every time, 70% sure
    assert result["confidence_right"] == pytest.approx(0.7)
    assert result["confidence_wrong"] is None
    assert result["bins"]["n"].sum() == 4


def test_seeds_of_one_utterance_count_as_one_utterance():
    table = fake_table(3, 10)
    twice = pd.concat([table, table], ignore_index=True)
    two, one = utterance_counts(twice), utterance_counts(table)
    np.testing.assert_array_equal(two.ids, one.ids)
    np.testing.assert_array_equal(*(found.counts.patterns[found.counts.which].toarray() for found in (two, one)))
