import numpy as np
import pandas as pd
import pytest
from fake_runs import fake_table
from scipy import stats

from ser.errors import SerError
from ser.evaluation import significance
from ser.evaluation.scores import scores
from ser.evaluation.significance import (
    bootstrap_interval,
    bootstrap_intervals,
    corrected_t_test,
    difference_intervals,
    effect_size,
    holm,
    permutation_tests,
)
from ser.metrics import METRICS


def difference_interval(a, b, metric="uar"):
    return difference_intervals(a, b)[metric]


def permutation_test(a, b, metric="uar", by="speaker", **options):
    return permutation_tests(a, b, by, **options)[metric]


@pytest.mark.parametrize("metric", METRICS)
def test_estimates_are_the_scores_and_lie_inside(metric):
    a, b = fake_table(8, 20, seed=1), fake_table(8, 20, seed=2)
    one = bootstrap_intervals(a)[metric]
    assert one.estimate == pytest.approx(scores(a)[metric])
    assert one.low < one.estimate < one.high
    two = difference_interval(a, b, metric)
    assert two.estimate == pytest.approx(scores(b)[metric] - scores(a)[metric])


def test_speakers_that_differ_widen_the_interval_and_seeds_do_not_narrow_it():
    table = fake_table(10, 60, speaker_std=0.2)
    by_speaker, by_utterance = (bootstrap_interval(one) for one in (table, table.assign(speaker=table["id"])))
    assert by_speaker.high - by_speaker.low > 1.5 * (by_utterance.high - by_utterance.low)
    thrice = bootstrap_interval(pd.concat([table] * 3, ignore_index=True))
    assert thrice == by_speaker


@pytest.mark.parametrize(("speakers", "spread"), [(3, 0.1), (4, 0.0), (8, 0.1), (20, 0.1)])
def test_intervals_cover_the_truth(speakers, spread):
    skill = 0.6
    intervals = [
        bootstrap_intervals(fake_table(speakers, 24, skill, seed, speaker_std=spread), repetitions=200)["wa"]
        for seed in range(80)
    ]
    covered = np.mean([low <= skill <= high for _, low, high in intervals])
    assert covered >= 0.88  # 0.95 less three standard errors of 80 trials


@pytest.mark.parametrize("by", ["utterance", "speaker"])
def test_null_data_give_uniform_p_values(by):
    # Macro F1 takes many values; accuracy's ties between permutations would pile p-values up at 1.
    values = [
        permutation_test(
            fake_table(14, 12, seed=seed),
            fake_table(14, 12, seed=1000 + seed),
            "macro_f1",
            by,
            repetitions=199,
            seed=seed,
        )
        for seed in range(80)
    ]
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert np.mean(np.array(values) <= 0.05) <= 0.125


def test_two_speakers_have_no_interval():
    table = fake_table(2, 40)
    for interval in (bootstrap_interval(table), difference_interval(table, fake_table(2, 40, seed=1))):
        assert np.isfinite(interval.estimate)
        assert np.isnan([interval.low, interval.high]).all()
    assert np.isfinite(bootstrap_interval(fake_table(3, 40)).low)


def test_null_folds_give_a_valid_t_test():
    generator = np.random.default_rng(0)
    shared = generator.standard_normal((2000, 1)) * np.sqrt(0.2)  # overlapping training sets correlate the folds
    differences = shared + generator.standard_normal((2000, 5)) * np.sqrt(0.8)
    sizes = [80] * 5, [20] * 5
    corrected = np.mean([corrected_t_test(row, *sizes)["p"] < 0.05 for row in differences])
    naive = np.mean([stats.ttest_1samp(row, 0).pvalue < 0.05 for row in differences])
    assert corrected < 0.07 < naive


def test_permutation_finds_a_difference_and_enumerates_few_units():
    a, b = fake_table(8, 30, skill=0.5, seed=1), fake_table(8, 30, skill=0.8, seed=2)
    assert permutation_test(a, b, by="utterance") < 0.001
    assert permutation_test(a, b) == 2 / 2**8
    assert permutation_test(a, a) == 1.0
    one = a.iloc[:1]
    assert permutation_test(one, one) == 1.0
    assert permutation_test(one.assign(predicted="sad"), one.assign(predicted="happy")) == 1.0


def test_many_units_have_the_p_value_of_few(monkeypatch):
    a, b = fake_table(8, 30, skill=0.6, seed=1), fake_table(8, 30, skill=0.5, seed=2)
    few = permutation_tests(a, b, by="utterance")
    monkeypatch.setattr(significance, "MOST_PERMUTED", 0)
    for metric, found in permutation_tests(a, b, by="utterance").items():
        p = few[metric]
        assert 0.01 < p < 0.2
        assert found == pytest.approx(p, abs=5 * np.sqrt(2 * 2 * p / 5000))  # a tail counts twice


def test_row_order_does_not_matter():
    a, b = fake_table(6, 10, seed=1), fake_table(6, 10, seed=2)
    shuffled = b.sample(frac=1, random_state=0).reset_index(drop=True)
    assert permutation_test(a, shuffled) == permutation_test(a, b)


def test_corrected_t_test_by_hand():
    # Mean .03, s^2 .00025; (1/5 + 1/4) s^2 = .0001125, so t = .03 / .0106066.
    result = corrected_t_test([0.01, 0.02, 0.03, 0.04, 0.05], [80] * 5, [20] * 5)
    assert result["p"] == pytest.approx(2 * stats.t.sf(2.8284271, 4))
    assert corrected_t_test([0.1], [80], [20])["p"] is None
    assert corrected_t_test([0.0, 0.0], [80] * 2, [20] * 2)["p"] == 1.0
    assert corrected_t_test([0.5, 0.5], [80] * 2, [20] * 2)["p"] is None


def test_holm_by_hand():
    # statsmodels multipletests([.01, .04, .03, .005], method="holm") gives [.03, .06, .06, .02].
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, None, 0.5, 0.9]) == pytest.approx([0.03, None, 1.0, 1.0])
    assert holm([]) == []


def test_effect_size_by_hand():
    assert effect_size([1.0, 2.0, 3.0], [2.0, 3.0, 5.0]) == pytest.approx((4 / 3) / np.std([1, 1, 2], ddof=1))
    assert effect_size([1.0, 2.0], [2.0, 3.0]) is None  # no spread of the differences
    assert effect_size([1.0], [2.0]) is None


def test_results_that_cannot_be_paired_are_refused():
    a = fake_table(4, 8)
    for other in (
        fake_table(5, 8),
        a.assign(emotion=a["emotion"].iloc[::-1].to_numpy()),
        a.rename(columns={"p_sad": "p_bored"}),
    ):
        with pytest.raises(SerError, match="same ones with the same labels and classes"):
            permutation_test(a, other)
