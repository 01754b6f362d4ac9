import csv
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from fake_runs import fake_table, write_run

from ser.cli import main
from ser.cli.progress import _summarize
from ser.errors import SerError
from ser.evaluation.comparison import compare
from ser.evaluation.predictions import write_predictions
from ser.evaluation.report.cells import Table
from ser.evaluation.report.render import compare_and_show, show, to_markdown, write_summary
from ser.evaluation.report.tables import summary_tables
from ser.evaluation.runs import find_runs, load_run, scan_runs
from ser.evaluation.scores import scores
from ser.evaluation.summary import summarize
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


def test_the_baseline_is_found_with_its_overrides(tmp_path):
    for variant in ("gru,l2_reg=1", "statistics_logistic,l2_reg=1", "statistics_logistic_speaker,l2_reg=1"):
        write_run(tmp_path, variant)
    runs = find_runs(tmp_path)
    assert summarize(runs).baseline == summarize(runs).variants["variant"][0] == "statistics_logistic,l2_reg=1"
    assert summarize(runs, baseline="gru").baseline == "gru,l2_reg=1"


def test_a_baseline_may_be_named_as_its_experiment_or_as_its_folder(tmp_path):
    for variant in ("gru", "adversary-confusion,l2_reg=1"):
        write_run(tmp_path, variant)
    for name in ("adversary/confusion", "adversary-confusion"):
        assert summarize(find_runs(tmp_path), baseline=name).baseline == "adversary-confusion,l2_reg=1"


def test_names_with_settings_are_told_apart_in_a_note(tmp_path):
    for variant in ("gru", "small_gru,l2_reg=1,seconds=3"):
        for fold in (1, 2):
            write_run(tmp_path, variant, fold)
    assert any("gru; small_gru, l2_reg=1, seconds=3: " in note for note in summarize(find_runs(tmp_path)).notes)


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


def test_warnings_reach_every_form_of_the_table(summary, sweep):
    assert summary.variants.set_index("variant")["transductive"].to_dict() == {
        "gru": False,
        "enhanced_gru": False,
        "speaker_norm": True,
    }
    paths = write_summary(summary, sweep)
    assert all(path.is_file() for path in paths)
    text = paths[3].read_text()
    assert "speaker_norm (transductive)" in text
    assert "speaker_norm: transductive: uses unlabelled audio of the test speakers." in text
    content = json.loads((sweep / "summary.json").read_text(), parse_constant=pytest.fail)  # no NaN in the file
    assert content["speakers"]["gru"]["performance_std"] > 0
    read = pd.read_csv(sweep / "summary.csv")
    assert read["uar_pooled"].tolist() == pytest.approx(summary.variants["uar_pooled"].tolist())


def test_overlap_is_labelled_even_where_it_was_not_declared(tmp_path):
    run = write_run(tmp_path)
    split = json.loads((run / "split.json").read_text())
    split["parts"]["train"]["speakers"] = split["parts"]["test"]["speakers"]
    write_json(run / "split.json", split)
    assert load_run(run).warns("speaker_overlap")
    assert "speaker overlap" in to_markdown(summary_tables(summarize(find_runs(tmp_path))))


def test_one_run_is_summarized_without_inventing_spread(tmp_path):
    write_run(tmp_path)
    summary = summarize(find_runs(tmp_path))
    row = summary.variants.iloc[0]
    assert row["uar_std_over_runs"] is None or math.isnan(row["uar_std_over_runs"])
    assert summary.comparisons.empty
    assert any("1 of 4 folds" in note for note in summary.notes)
    write_summary(summary, tmp_path)
    assert not any("against" in table.title for table in summary_tables(summary))


def test_variants_on_other_splits_are_not_tested_against_the_baseline(tmp_path):
    write_run(tmp_path, "gru")
    write_run(tmp_path, "other", utterances=20)
    write_run(tmp_path, "elsewhere", fold=2)
    for fold in (1, 2):
        write_run(tmp_path / "two", "gru", fold)
        write_run(tmp_path / "two", "fewer", fold, utterances=20)
    notes = [note for note in summarize(find_runs(tmp_path / "two"), "gru").notes if "not compared" in note]
    assert len(notes) == 1 and notes[0].count("train ids") == 1 and "fold 1, 2 train ids" in notes[0]
    shutil.rmtree(tmp_path / "two")
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
    with pytest.raises(SerError, match="choose one of gru"):
        summarize(find_runs(tmp_path / "b" / "one"), baseline="none")


def damage(run, name):
    content = (run / name).read_text()
    (run / name).write_text(content[: len(content) // 2])


@pytest.mark.parametrize("name", ["metrics.json", "split.json", "predictions.csv", "history.csv"])
def test_a_damaged_run_is_named_left_out_and_counted(tmp_path, name):
    write_run(tmp_path, "gru", 1)
    run = write_run(tmp_path, "gru", 2)
    if name == "history.csv":
        (run / name).write_text("")
    else:
        damage(run, name)
    runs, left_out = scan_runs(tmp_path)
    assert [one.fold for one in runs] == [1]
    assert len(left_out) == 1 and str(run / name) in left_out[0]
    notes = summarize(runs, left_out=left_out).notes
    assert any(note.startswith("1 damaged run(s) left out:") and str(run) in note for note in notes)
    with pytest.raises(SerError, match=name.replace(".", r"\.")) as error:
        find_runs(run)  # nothing else is there
    one_sentence(error)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("metrics.json", "fold", "x"),
        ("metrics.json", "seed", None),
        ("metrics.json", "validation", 3),
        ("split.json", "parts", 3),
        ("split.json", "parts", {"test": 3}),
        ("split.json", "parts", {"test": {}}),
        ("split.json", "folds", "x"),
        ("leakage.json", "format", 2),
    ],
)
def test_an_entry_of_another_kind_is_named(tmp_path, name, key, value):
    run = write_run(tmp_path)
    content = json.loads((run / name).read_text()) if (run / name).is_file() else {}
    (run / name).write_text(json.dumps(content | {key: value}))
    with pytest.raises(SerError, match=rf"{name} has no .*{'speakers' if key == 'format' else key}") as error:
        summarize(find_runs(run))
    one_sentence(error)


def test_a_table_cut_between_two_rows_is_damaged(tmp_path):
    run = write_run(tmp_path)
    lines = (run / "predictions.csv").read_text().splitlines(keepends=True)
    (run / "predictions.csv").write_text("".join(lines[:-1]))
    with pytest.raises(SerError, match="has 47 utterances, not the 48") as error:
        load_run(run)
    one_sentence(error)


def test_unfinished_and_missing_files_are_named(tmp_path):
    run = write_run(tmp_path)
    (run / "split.json").unlink()
    with pytest.raises(SerError, match="is missing"):
        load_run(run)
    with pytest.raises(SerError, match="not a finished run"):
        load_run(write_run(tmp_path, seed=2, finished=False))
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(SerError, match="is a file, expected a run folder"):
        scan_runs(tmp_path / "note.txt")


def test_a_folder_of_tables_is_one_variant_of_several_seeds_and_folds(tmp_path):
    """By file name or by column; its scores are those of the same tables as runs."""
    named, columns = tmp_path / "named", tmp_path / "columns"
    named.mkdir()
    columns.mkdir()
    parts = []
    for fold in (1, 2):
        for seed in (3, 4):
            table = fake_table(4, 12, seed=seed, first_speaker=4 * fold)
            table.to_csv(named / f"seed{seed}_fold{fold}.csv", index=False)
            parts.append(table.assign(fold=fold, seed=seed))
    pd.concat(parts).to_csv(columns / "all.csv", index=False)
    one, other = find_runs(named), find_runs(columns / "all.csv")
    assert {run.variant for run in one} == {"named"}
    cells = [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert [(run.fold, run.seed) for run in one] == [(run.fold, run.seed) for run in other] == cells
    assert [run.test for run in one] == [run.test for run in other]
    row = summarize(one).variants.iloc[0]
    assert (row["runs"], row["folds"], row["seeds"], row["utterances"]) == (4, 2, 2, 96)
    assert compare(named, columns / "all.csv")["paired"]["metrics"]["uar"]["difference"] == 0
    assert {run.variant for run in find_runs(tmp_path)} == {"named", "all"}
    assert main(["summary", str(tmp_path), "--baseline", "named"]) == 0
    saved = json.loads((tmp_path / "summary.json").read_text())
    assert saved["baseline"] == "named" and len(saved["variants"]) == 2
    assert saved["variants"][0]["uar_pooled"] == pytest.approx(row["uar_pooled"])


@pytest.mark.parametrize(
    "name",
    [
        "gru/fold2/seed3/predictions.csv",
        "gru/seed3/fold2.csv",
        "gru/Fold_2-seed-3/preds.csv",
        "gru_seed3_fold2.csv",
        "fold2/gru_seed=3.csv",
        "fold2/seed3/gru.csv",
        "seed3/test_fold2.csv",
    ],
)
def test_names_of_tables_and_folders_say_variant_fold_and_seed(tmp_path, name):
    path = tmp_path / "gru" / name
    path.parent.mkdir(parents=True)
    fake_table(4, 12).to_csv(path, index=False)
    (run,) = find_runs(tmp_path / "gru")
    assert (run.variant, run.fold, run.seed) == ("gru", 2, 3)


@pytest.mark.parametrize("name", ["scaffold2", "oldseed", "unfold3ed", "test_set"])
def test_words_with_fold_and_seed_inside_are_names(tmp_path, name):
    folder = tmp_path / "theirs"
    folder.mkdir()
    fake_table(4, 12).to_csv(folder / f"{name}.csv", index=False)
    (run,) = find_runs(folder)
    assert (run.variant, run.fold, run.seed) == (name, 1, 0)


@pytest.mark.parametrize("seed", [1.5, math.inf, 1e30, "one", ""])
def test_folds_and_seeds_of_a_table_are_whole_numbers(tmp_path, seed):
    fake_table(4, 12).assign(seed=seed).to_csv(tmp_path / "theirs.csv", index=False)
    with pytest.raises(SerError, match="folds or seeds that are not whole numbers"):
        find_runs(tmp_path / "theirs.csv")


def test_several_corpora_have_a_table_of_their_own_and_one_corpus_has_none(tmp_path, summary):
    parts = [fake_table(4, 12, first_speaker=4 * fold).assign(corpus=name) for fold, name in enumerate(("b", "a"), 1)]
    for fold, table in enumerate(parts, 1):
        table.to_csv(tmp_path / f"seed1_fold{fold}.csv", index=False)
    (found,) = (
        table for table in summary_tables(summarize(find_runs(tmp_path))) if table.title == "UAR in each corpus"
    )
    assert found.columns == ["variant", "a (%)", "b (%)"]
    shown = [cell.split()[0] for cell in found.rows[0][1:]]
    assert shown == [f"{100 * scores(table)['uar']:.1f}" for table in reversed(parts)]
    assert "UAR in each corpus" not in {table.title for table in summary_tables(summary)}


def test_a_table_with_quoted_headers_is_found(tmp_path):
    """As R writes it."""
    fake_table(4, 12).to_csv(tmp_path / "fold1.csv", index=False, quoting=csv.QUOTE_ALL)
    assert len(find_runs(tmp_path)) == 1


def test_tables_with_other_usual_columns_are_the_same_and_probabilities_alone_say_what_is_predicted(tmp_path):
    table = fake_table(4, 12)
    names = {"id": "file", "speaker": "Spk", "emotion": "y_true", "predicted": "pred", "gender": "Gender"}
    names |= {name: name.replace("p_", "prob_") for name in table if name.startswith("p_")}
    likeliest = table.filter(like="p_").idxmax(axis=1).str.removeprefix("p_")
    forms = {
        "own": table.assign(predicted=likeliest),
        "renamed": table.assign(predicted=likeliest).rename(columns=names),
        "only": table.drop(columns="predicted").rename(columns={"emotion": "label"}),
    }
    for name, form in forms.items():
        (tmp_path / name).mkdir()
        form.to_csv(tmp_path / name / "seed1_fold1.csv", index=False)
    runs = {run.variant: run for run in find_runs(tmp_path)}
    assert set(runs) == set(forms)
    for run in runs.values():
        pd.testing.assert_frame_equal(run.predictions, runs["own"].predictions)


def test_the_table_that_lacks_a_column_is_named_where_there_is_no_other(tmp_path):
    fake_table(4, 12).drop(columns="speaker").to_csv(tmp_path / "theirs.csv", index=False)
    with pytest.raises(SerError, match=r"theirs\.csv has no column speaker\)"):
        find_runs(tmp_path)
    labels = fake_table(4, 12)
    labels[[name for name in labels if not name.startswith("p_")]].to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(SerError, match=r"labels\.csv lacks the column\(s\) p_<emotion>"):
        find_runs(tmp_path)


def test_tables_of_run_folders_are_not_runs_of_their_own(sweep):
    write_summary(summarize(find_runs(sweep)), sweep)
    assert {run.variant for run in find_runs(sweep)} == set(SKILL)


def test_files_for_spreadsheets_start_no_formulas(tmp_path):
    write_run(tmp_path, "=cmd()")
    assert find_runs(tmp_path)[0].variant == "=cmd()"
    write_summary(summarize(find_runs(tmp_path)), tmp_path)
    assert pd.read_csv(tmp_path / "summary.csv")["variant"].item() == "'=cmd()"


def test_the_test_over_speakers_leads_and_the_one_over_utterances_is_called_anti_conservative(summary):
    table = next(table for table in summary_tables(summary) if table.title.startswith("UAR against"))
    tests = [column for column in table.columns if column.startswith("p ")]
    assert tests[0] == "p speakers" and tests[-1] == "p utterances"
    assert "p utterances swaps single utterances and is anti-conservative" in table.caption


def test_compare_pairs_runs_variants_and_tables(sweep):
    variants = compare(sweep / "gru", sweep / "enhanced_gru")
    assert variants["same_split"]
    assert variants["paired"]["metrics"]["uar"]["difference"] > 0.1
    assert variants["paired"]["folds"] == [1, 2, 3, 4]
    runs = compare(sweep / "gru/fold1/seed1", sweep / "enhanced_gru/fold1/seed2")
    tables = compare(sweep / "gru/fold1/seed1/predictions.csv", sweep / "enhanced_gru/fold1/seed2")
    assert tables["paired"] == runs["paired"]
    assert json.loads(json.dumps(runs, allow_nan=False)) == runs


def test_tables_that_name_speakers_differently_are_paired_by_utterance_and_it_is_said(sweep, tmp_path, capsys):
    first, second = (sweep / name / "fold1/seed1/predictions.csv" for name in ("gru", "enhanced_gru"))
    same, other = compare(first, second), pd.read_csv(second)
    assert same["speakers"] == ""
    for speakers, part in (("x" + other["speaker"].astype(str), "names speakers differently"),
                           (np.roll(other["speaker"], 1), "group utterances by other speakers")):  # fmt: skip
        other.assign(speaker=speakers).to_csv(tmp_path / "other.csv", index=False)
        found = compare(first, tmp_path / "other.csv")
        assert found["paired"] == same["paired"] and found["same_split"] and part in found["speakers"]
    compare_and_show(first, tmp_path / "other.csv", output=tmp_path / "comparison.json")
    assert "group utterances by other speakers" in " ".join(capsys.readouterr().out.split())


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


def test_a_sweep_beside_runs_of_other_classes_is_summarized_alone(tmp_path, capsys):
    for fold in (1, 2):
        write_run(tmp_path, "gru", fold=fold, emotions=("happy", "sad"))
    write_summary(summarize(scan_runs(tmp_path)[0]), tmp_path)
    before = (tmp_path / "summary.md").read_bytes()
    sweep = [write_run(tmp_path, "bottleneck_gru", fold=fold) for fold in (1, 2)]
    _summarize(tmp_path, sweep, None)
    assert (tmp_path / "summary.md").read_bytes() == before
    alone = json.loads((tmp_path / "last_sweep" / "summary.json").read_text())
    assert [row["variant"] for row in alone["variants"]] == ["bottleneck_gru"]
    assert any("Only the runs of this sweep" in note for note in alone["notes"])
    assert "bottleneck_gru" in capsys.readouterr().out


def test_the_end_of_a_sweep_names_its_folder_in_the_command_for_the_report(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "my own-a081cd-logmel"
    with caplog.at_level("INFO", "ser"):
        _summarize(folder, [write_run(folder, "gru")], None)
    assert caplog.messages[-1] == "a page of it: ser report 'outputs/my own-a081cd-logmel'"
    assert main(["report", "outputs/my own-a081cd-logmel"]) == 0


def test_what_is_said_of_several_variants_is_said_once(tmp_path):
    for variant in ("gru", "small_gru"):
        for fold, seed in ((1, 1), (2, 1), (2, 2)):
            write_run(tmp_path, variant, fold, seed)
    notes = summarize(find_runs(tmp_path)).notes
    assert "gru; small_gru: 1 of 4 combinations of fold and seed are missing." in notes


def test_an_empty_line_separates_a_table_from_the_next_one(capsys):
    show([Table(title, ["variant", "UAR (%)"], [["gru", "61.0"]], "What it is.") for title in ("First", "Second")])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[lines.index("What it is.") + 1 :][:2] == ["", "Second"]
