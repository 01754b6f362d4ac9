import json
import math

import numpy as np
import pandas as pd
import pytest
from fake_runs import fake_table, write_run
from rich.console import Console

from ser.errors import SerError
from ser.evaluation.comparison import compare
from ser.evaluation.predictions import write_predictions
from ser.evaluation.scores import scores
from ser.evaluation.summary import find_runs, load_run, summarize
from ser.evaluation.summary_screen import to_tables
from ser.evaluation.summary_tables import to_markdown, write_summary
from ser.io import write_json

SKILL = {"gru": 0.5, "enhanced_gru": 0.75, "speaker_norm": 0.5}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for variant, skill in SKILL.items():
        for fold in range(1, 5):
            for seed in (1, 2):
                write_run(folder, variant, fold, seed, skill=skill, transductive=variant == "speaker_norm")
    write_run(folder, "gru", 1, 3, finished=False)
    return folder


@pytest.fixture(scope="module")
def summary(sweep):
    return summarize(find_runs(sweep))


def one_sentence(error):
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_finished_runs_are_found_in_order(sweep):
    runs = find_runs(sweep)
    assert len(runs) == 24
    cells = [(run.fold, run.seed) for run in runs if run.variant == "gru"]
    assert cells == [(fold, seed) for fold in range(1, 5) for seed in (1, 2)]
    assert find_runs(sweep / "gru" / "fold1" / "seed2")[0].seed == 2


def test_means_over_runs_and_pooled_figures_are_told_apart(sweep, summary):
    runs = [run for run in find_runs(sweep) if run.variant == "gru"]
    row = summary.variants.set_index("variant").loc["gru"]
    uars = [run.metrics["test"]["uar"] for run in runs]
    assert row["uar_mean_over_runs"] == pytest.approx(np.mean(uars))
    assert row["uar_std_over_runs"] == pytest.approx(np.std(uars, ddof=1))
    over_folds = pd.Series(uars).groupby([run.fold for run in runs]).mean()
    assert row["uar_std_over_folds"] == pytest.approx(over_folds.std())
    everything = pd.concat([run.predictions for run in runs])
    assert row["uar_pooled"] == pytest.approx(scores(everything)["uar"])
    assert row["macro_f1_pooled"] != pytest.approx(row["macro_f1_mean_over_runs"])
    assert row["uar_pooled_low"] < row["uar_pooled"] < row["uar_pooled_high"]
    assert (row["runs"], row["folds"], row["seeds"], row["utterances"], row["speakers"]) == (8, 4, 2, 192, 8)
    assert row["uar_mean_over_runs_if_epoch_were_chosen_on_test"] == pytest.approx(
        np.mean([run.history["test/uar"].max() for run in runs])
    )


def test_the_better_variant_is_found_and_the_equal_one_is_not(summary):
    assert summary.baseline == "gru"
    rows = summary.comparisons.query("metric == 'uar'").set_index("variant")
    better, equal = rows.loc["enhanced_gru"], rows.loc["speaker_norm"]
    assert better["low"] > 0
    for test, level in (("p_utterances", 0.01), ("p_speakers", 0.05), ("p_folds", 0.2)):  # four folds say little
        assert better[f"{test}_holm"] < level
        assert better[f"{test}_holm"] >= better[test]
        assert equal[f"{test}_holm"] > 0.05
    assert better["d_z"] > 1
    assert equal["low"] < 0 < equal["high"]


def test_labels_reach_every_form_of_the_table(summary, sweep):
    assert summary.variants.set_index("variant")["transductive"].to_dict() == {
        "gru": False,
        "enhanced_gru": False,
        "speaker_norm": True,
    }
    text = to_markdown(summary)
    assert "| transductive |" in text
    assert "speaker_norm: transductive" in text
    console = Console(width=160)
    with console.capture() as screen:
        console.print(*to_tables(summary))
    assert "transductive" in screen.get()
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| ")}
    assert len(widths) == 2  # two tables, each with one number of columns
    paths = write_summary(summary, sweep)
    assert all(path.is_file() for path in paths)
    content = json.loads((sweep / "summary.json").read_text(), parse_constant=pytest.fail)  # no NaN in the file
    assert content["speakers"]["gru"]["performance_std"] > 0
    read = pd.read_csv(sweep / "summary.csv")
    assert read["uar_pooled"].tolist() == pytest.approx(summary.variants["uar_pooled"].tolist())


def test_overlap_is_labelled_even_where_it_was_not_declared(tmp_path):
    run = write_run(tmp_path)
    split = json.loads((run / "split.json").read_text())
    split["parts"]["train"]["speakers"] = split["parts"]["test"]["speakers"]
    write_json(run / "split.json", split)
    assert load_run(run).speaker_overlap
    assert "speaker overlap" in to_markdown(summarize(find_runs(tmp_path)))


def test_one_run_is_summarized_without_inventing_spread(tmp_path):
    write_run(tmp_path)
    summary = summarize(find_runs(tmp_path))
    row = summary.variants.iloc[0]
    assert row["uar_std_over_runs"] is None or math.isnan(row["uar_std_over_runs"])
    assert summary.comparisons.empty
    assert any("1 of 4 folds" in note for note in summary.notes)
    write_summary(summary, tmp_path)
    assert len(to_tables(summary)) == 3  # no comparison


def test_variants_on_other_splits_are_not_tested_against_the_baseline(tmp_path):
    write_run(tmp_path, "gru")
    write_run(tmp_path, "other", utterances=20)
    write_run(tmp_path, "elsewhere", fold=2)
    summary = summarize(find_runs(tmp_path))
    assert summary.comparisons.empty
    assert any(note.startswith("other is not compared with gru: fold 1 train ids") for note in summary.notes)
    assert any("no fold in common" in note for note in summary.notes)
    assert summary.variants["splits"].nunique() == 3


def test_different_classes_no_runs_and_doubles_are_refused(tmp_path):
    write_run(tmp_path / "a", "gru")
    write_run(tmp_path / "a", "three", emotions=("neutral", "happy", "sad"))
    with pytest.raises(SerError, match="class set") as error:
        summarize(find_runs(tmp_path / "a"))
    one_sentence(error)
    write_run(tmp_path / "b" / "one")
    write_run(tmp_path / "b" / "two")
    with pytest.raises(SerError, match="are both gru, fold 1, seed 1") as error:
        find_runs(tmp_path / "b")
    one_sentence(error)
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        with pytest.raises(SerError) as error:
            find_runs(tmp_path / folder)
        one_sentence(error)
    with pytest.raises(SerError, match="no finished runs"):
        summarize([])
    with pytest.raises(SerError, match="choose one of gru"):
        summarize(find_runs(tmp_path / "b" / "one"), baseline="none")


def test_damaged_runs_are_named(tmp_path):
    run = write_run(tmp_path)
    (run / "split.json").write_text("{")
    with pytest.raises(SerError, match=r"split\.json is not readable JSON") as error:
        load_run(run)
    one_sentence(error)
    (run / "split.json").unlink()
    with pytest.raises(SerError, match="is missing"):
        load_run(run)
    with pytest.raises(SerError, match="not a finished run"):
        load_run(write_run(tmp_path, seed=2, finished=False))


def test_compare_pairs_runs_variants_and_tables(sweep):
    variants = compare(sweep / "gru", sweep / "enhanced_gru")
    assert variants["same_split"]
    assert variants["paired"]["metrics"]["uar"]["difference"] > 0.1
    assert variants["paired"]["folds"] == [1, 2, 3, 4]
    runs = compare(sweep / "gru/fold1/seed1", sweep / "enhanced_gru/fold1/seed2")
    tables = compare(sweep / "gru/fold1/seed1/predictions.csv", sweep / "enhanced_gru/fold1/seed2")
    assert tables["paired"] == runs["paired"]
    assert json.loads(json.dumps(runs, allow_nan=False)) == runs


def test_compare_refuses_other_splits_and_says_what_differs(sweep, tmp_path):
    plain = write_run(tmp_path / "plain")
    others = {
        "corpus fake against real": write_run(tmp_path / "corpus", corpus="real"),
        "test ids": write_run(tmp_path / "short", utterances=20),
        "folds 1 against 2": write_run(tmp_path / "fold", fold=2),
        "protocol session against random": write_run(tmp_path / "protocol", protocol="random", utterances=20),
    }
    relabelled = fake_table(2, 24)
    relabelled["emotion"] = relabelled["emotion"].iloc[::-1].to_numpy()
    write_predictions(tmp_path / "relabelled.csv", relabelled)
    others["test labels"] = tmp_path / "relabelled.csv"
    for words, other in others.items():
        with pytest.raises(SerError) as error:
            compare(plain, other)
        assert words in one_sentence(error)
    allowed = compare(plain, others["test ids"], allow_different_splits=True)
    assert not allowed["same_split"]
    assert allowed["paired"]["utterances"] == 40
    assert compare(plain, others["folds 1 against 2"], allow_different_splits=True)["paired"] is None
    with pytest.raises(SerError, match="holds the variants"):
        compare(sweep, sweep)
    with pytest.raises(SerError, match="classes"):
        compare(plain, write_run(tmp_path / "three", emotions=("neutral", "happy", "sad")), allow_different_splits=True)
