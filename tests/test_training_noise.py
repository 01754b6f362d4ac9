"""Differences hold the noise of training: what the same recipes would have given with other seeds."""

from dataclasses import replace

import numpy as np
import pytest
from fake_runs import EMOTIONS, fake_table, part_of, write_run

from ser.cli import main
from ser.evaluation.comparison import paired_comparison
from ser.evaluation.report.report import write_report
from ser.evaluation.runs import Run, find_runs, pooled
from ser.evaluation.scores import scores
from ser.evaluation.significance import difference_intervals
from ser.evaluation.summary import summarize
from ser.evaluation.training_noise import ONE_SEED, training_noise, widened
from ser.metrics import METRICS

UAR, WA = (list(METRICS).index(name) for name in ("uar", "wa"))


def trained(seeds, noise=0.0, *, recipe=0, skill=0.6, folds=4, speakers=8, deterministic=False):
    """Runs of one recipe; each is better or worse on all speakers of its fold, by ``noise`` (std)."""
    whole, runs = fake_table(speakers, 24, speakers_a_session=speakers // folds), []
    for fold, test in enumerate((whole[whole["session"] == fold] for fold in range(1, folds + 1)), 1):
        for seed in seeds:
            generator = np.random.default_rng([recipe, fold, seed])
            chance = skill + noise * generator.standard_normal()
            codes = test["emotion"].map(EMOTIONS.index).to_numpy()
            others = (codes + generator.integers(1, 4, len(test))) % 4
            guesses = np.where(generator.random(len(test)) < chance, codes, others)
            table = test.assign(predicted=np.array(EMOTIONS)[guesses]).reset_index(drop=True)
            split = {"hash": "", "parts": {"train": {"utterances": 144}, "test": part_of(table)}}
            runs.append(Run(None, "any", fold, seed, {"deterministic": deterministic}, split, table, None))
    return runs


def repeated(runs, seeds):
    """One run per fold under several seeds."""
    return [replace(run, seed=seed) for run in runs for seed in seeds]


def over_speakers(a, b):
    return difference_intervals(pooled(a), pooled(b))["uar"]


def test_the_variance_is_that_of_the_folds_over_their_seeds():
    a, b = trained((1, 2, 3), 0.2), trained((4, 5), 0.2, recipe=1)
    noise = training_noise(a, b)
    by_hand, alone, welch = 0.0, 0.0, 0.0
    for runs, seeds in ((a, 3), (b, 2)):
        scores = np.array([run.test["wa"] for run in runs]).reshape(4, seeds)
        variance = scores.var(axis=1, ddof=1).sum() / seeds / 4**2
        tables = [run.predictions.assign(right=run.predictions.eval("emotion == predicted")) for run in runs]
        cells = np.stack([table.groupby("speaker")["right"].mean() for table in tables])
        alone += cells.reshape(4, seeds, 2).var(axis=1, ddof=1).sum() / seeds / 8**2
        by_hand += variance
        welch += variance**2 / (4 * (seeds - 1))
    assert noise.variance[WA] == pytest.approx(by_hand)
    assert noise.shared[WA] == pytest.approx(by_hand - alone)
    assert noise.shared[WA] > 0
    assert noise.freedom[WA] == pytest.approx(by_hand**2 / welch)
    assert noise.variance[UAR] == pytest.approx(noise.variance[WA])  # every class is as frequent in each fold


def test_seeds_that_change_nothing_change_no_interval():
    a, b = (repeated(trained((1,), recipe=recipe), (1, 2, 3)) for recipe in (0, 1))
    found, plain = paired_comparison(a, b)["metrics"]["uar"], over_speakers(a, b)
    assert (found["low"], found["high"]) == pytest.approx((plain.low, plain.high))
    assert (found["se_training"], found["p_training"]) == (0.0, 0.0)  # trained again it would be the same difference


def test_more_noise_widens_more():
    reach = []
    for noise in (0.1, 0.2, 0.3):
        a, b = trained((1, 2, 3), noise), trained((4, 5, 6), noise, recipe=1)
        found, plain = paired_comparison(a, b)["metrics"]["uar"], over_speakers(a, b)
        assert found["low"] < plain.low < plain.high < found["high"]
        reach.append(plain.low - found["low"])
    assert reach == sorted(reach)


def test_the_same_runs_do_not_differ():
    runs = trained((1, 2, 3), 0.1)
    for found in paired_comparison(runs, runs)["metrics"].values():
        assert (found["difference"], found["low"], found["high"], found["p_training"]) == (0.0, 0.0, 0.0, 1.0)


def test_runs_of_the_same_seeds_are_paired():
    """A network and the same network with something removed share the luck of its training."""
    a = trained((1, 2, 3), 0.2)
    b = [replace(run, predictions=run.predictions.assign(predicted=run.predictions["predicted"])) for run in a]
    for run in b:
        run.predictions.loc[:3, "predicted"] = "sad"
    other_seeds = [replace(run, seed=run.seed + 3) for run in b]
    paired, apart = training_noise(a, b), training_noise(a, other_seeds)
    assert paired.variance[UAR] < 0.1 * apart.variance[UAR]
    assert paired.freedom[UAR] == 4 * 2 < apart.freedom[UAR]


def test_with_one_speaker_per_fold_the_bootstrap_holds_all_of_it():
    a, b = trained((1, 2), 0.2, folds=8), trained((3, 4), 0.2, recipe=1, folds=8)
    noise = training_noise(a, b)
    assert noise.variance[WA] > 0
    assert noise.shared[WA] == pytest.approx(0, abs=1e-12)
    found, plain = paired_comparison(a, b)["metrics"]["wa"], difference_intervals(pooled(a), pooled(b))["wa"]
    assert (found["low"], found["high"]) == pytest.approx((plain.low, plain.high))


def test_what_is_deterministic_has_no_noise_of_its_own():
    fixed, network = trained((1,), deterministic=True), trained((1, 2, 3), 0.1, recipe=1)
    one = paired_comparison(fixed, network)
    assert one["lack_seeds"] == []
    for metric, figures in paired_comparison(repeated(fixed, (1, 2, 3)), network)["metrics"].items():
        assert one["metrics"][metric] == pytest.approx(figures)
    both = paired_comparison(fixed, trained((1,), recipe=2, deterministic=True))
    assert both["lack_seeds"] == [] and both["metrics"]["uar"]["se_training"] == 0.0


def test_one_seed_leaves_the_noise_unknown():
    one, several = trained((1,), 0.1), trained((1, 2, 3), 0.1, recipe=1)
    for a, b, lacking in ((one, several, ["a"]), (several, one, ["b"]), (one, trained((1,), recipe=2), ["a", "b"])):
        found = paired_comparison(a, b)
        assert found["lack_seeds"] == lacking
        assert all(figures["p_training"] is None for figures in found["metrics"].values())
    wider, plain = paired_comparison(one, several)["metrics"]["uar"], over_speakers(one, several)
    assert wider["low"] < plain.low  # what is known of the other side is in it


def test_too_few_speakers_have_no_interval():
    a, b = (trained((1, 2), 0.1, recipe=recipe, folds=2, speakers=2) for recipe in (0, 1))
    assert all((one["low"], one["high"]) == (None, None) for one in paired_comparison(a, b)["metrics"].values())


def test_a_large_fold_with_one_seed_is_as_noisy_as_the_others_are():
    """Fold 1 has eight of twelve speakers and one seed, the others one each and five seeds."""
    claimed, true = [], []
    for trial in range(60):
        runs = trained((1, 2, 3, 4, 5), 0.1, recipe=trial, folds=12, speakers=12)
        generator, large = np.random.default_rng([trial, 1]), [run for run in runs if run.fold <= 8 and run.seed == 1]
        whole = pooled(large)
        right = generator.random(len(whole)) < 0.6 + 0.1 * generator.standard_normal()
        wrong = whole["emotion"].map(dict(zip(EMOTIONS, EMOTIONS[1:] + EMOTIONS[:1], strict=True)))
        table = whole.assign(predicted=whole["emotion"].where(right, wrong))
        mine = [replace(large[0], predictions=table), *(run for run in runs if run.fold > 8)]
        fixed = [replace(run, metrics={"deterministic": True}) for run in mine if run.seed == 1]
        claimed.append(training_noise(fixed, mine).variance[WA])
        true.append(pooled_accuracy(mine))
    assert 0.7 < np.sqrt(np.mean(claimed)) / np.std(true) < 1.5


def pooled_accuracy(runs):
    return scores(pooled(runs))["wa"]


def test_an_utterance_counts_once_however_many_runs_answered_it():
    runs = [run for fold in (1, 2) for run in trained((1, 2, 3), skill=0.4 + 0.2 * fold, folds=2) if run.fold == fold]
    some = [run for run in runs if (run.fold, run.seed) not in {(2, 2), (2, 3)}]
    means = [np.mean([run.test["wa"] for run in some if run.fold == fold]) for fold in (1, 2)]
    assert pooled_accuracy(some) == pytest.approx(np.mean(means))
    found = paired_comparison(runs, some)["metrics"]["wa"]["difference"]
    assert pooled_accuracy(some) - pooled_accuracy(runs) == pytest.approx(found)


def test_one_seed_is_told_wherever_the_result_is_read(few_figures, tmp_path, capsys):
    for fold in (1, 2, 3, 4):
        for variant, seeds in (("one", (1,)), ("several", (1, 2))):
            for seed in seeds:
                write_run(tmp_path, variant, fold, seed)
    runs = find_runs(tmp_path)
    told = f"one: {ONE_SEED}."
    assert told in summarize(runs).notes
    assert told in write_report(tmp_path).read_text(encoding="utf-8")
    assert main(["compare", str(tmp_path / "several"), str(tmp_path / "one")]) == 0
    assert f"B: {ONE_SEED}." in " ".join(capsys.readouterr().out.split())
    fixed = [replace(run, metrics=run.metrics | {"deterministic": run.variant == "one"}) for run in runs]
    assert not any(ONE_SEED in note for note in summarize(fixed).notes)
    assert not any(ONE_SEED in note for note in summarize(runs[:4]).notes)  # one variant: nothing is compared


def test_intervals_cover_recipes_that_do_not_differ():
    covered = {"speakers": [], "both": []}
    for trial in range(40):
        a, b = (trained((1, 2), 0.1, recipe=2 * trial + side, speakers=12) for side in (0, 1))
        plain = difference_intervals(pooled(a), pooled(b))
        for name, found in (("speakers", plain), ("both", widened(plain, training_noise(a, b)))):
            covered[name].append(found["uar"].low <= 0 <= found["uar"].high)
    assert np.mean(covered["speakers"]) < 0.88 <= np.mean(covered["both"])  # 0.95 less two standard errors
