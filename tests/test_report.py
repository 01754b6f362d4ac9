"""The page of a run and of a sweep."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from fake_runs import fake_table, write_run
from rich.console import Console

from ser.errors import SerError
from ser.evaluation.predictions import read_predictions, write_predictions
from ser.evaluation.report.render import to_screen, write_summary
from ser.evaluation.report.report import train_commands, write_report
from ser.evaluation.report.tables import summary_tables
from ser.evaluation.runs import find_runs, load_run
from ser.evaluation.summary import summarize


class Links(HTMLParser):
    """Everything a page would fetch, its words, and its elements."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.words, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in {"src", "href", "srcset", "action", "data"}]

    def handle_data(self, data):
        self.words.append(data)


def with_record(run, overrides):
    record = {"overrides": overrides, "config": {"model": {"hidden_size": 256}}, "versions": {"torch": "9.9"}}
    (run / "run.json").write_text(json.dumps(record))
    return run


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run = with_record(
        write_run(folder, "gru", 1, 1, speaker_overlap=True, transductive=True),
        ["model=gru", "fold=1", "data.root=/my corpora/x"],
    )
    table = read_predictions(run / "predictions.csv")
    wrong = table.index[table["emotion"] != table["predicted"]]
    table.loc[wrong, "id"] = [f"<script>alert({number})</script>" for number in wrong]
    write_predictions(run / "predictions.csv", table)
    split = json.loads((run / "split.json").read_text())
    split["parts"]["test"]["ids"] = list(table["id"])
    (run / "split.json").write_text(json.dumps(split))
    return run, write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for variant, skill in (("gru", 0.5), ("enhanced_gru", 0.7)):
        for fold in (1, 2):
            with_record(
                write_run(folder, variant, fold, 1, skill=skill, transductive=variant == "enhanced_gru"),
                [f"model={variant}", f"fold={fold}"],
            )
    return folder, write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["run_page", "sweep_page"])
def test_the_page_fetches_nothing_and_runs_nothing(page, request):
    text = request.getfixturevalue(page)[1]
    parsed = Links(text)
    assert parsed.addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in parsed.addresses)
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[^\"]+", "", text))
    assert 'name="viewport"' in text


def test_ids_are_escaped(run_page):
    text = run_page[1]
    assert "<script" not in text
    assert "&lt;script&gt;alert(" in text


def test_a_run_shows_the_figures_of_its_table(run_page):
    run, text = run_page
    words, result = Links(text).words, load_run(run).test
    for key in ("uar", "wa", "macro_f1", "weighted_f1"):
        assert f"{100 * result[key]:.1f}" in words
    assert any("Speaker overlap" in word for word in words)
    assert any("Transductive: uses" in word for word in words)
    assert json.loads((run / "split.json").read_text())["hash"] in text


def test_the_command_can_be_pasted(run_page):
    command = next(word for word in Links(run_page[1]).words if word.startswith("ser train"))
    assert command.split("\n")[0] == "ser train model=gru fold=1 'data.root=/my corpora/x'"


def test_the_versions_are_those_of_the_run_and_not_of_this_machine(run_page):
    words = Links(run_page[1]).words
    assert words[words.index("Versions of the run", words.index("Reproduce") + 1) :].count("9.9") == 1


def test_choosing_on_the_test_part_is_told_from_the_history(run_page):
    run, text = run_page
    history, metrics = load_run(run).history, json.loads((run / "metrics.json").read_text())
    honest = history.loc[history["epoch"] == metrics["best_epoch"], "test/uar"].item()
    words = Links(text).words
    assert f"{100 * honest:.1f}" in words
    assert f"{100 * history['test/uar'].max():.1f}" in words
    assert f"{100 * (history['test/uar'].max() - honest):+.1f}" in words


def test_the_surest_errors_come_first(run_page):
    run, text = run_page
    table = read_predictions(run / "predictions.csv")
    table["confidence"] = table.filter(like="p_").max(axis=1)
    surest = table[table["emotion"] != table["predicted"]].sort_values("confidence", ascending=False).iloc[0]
    section = text[text.index("Most confident errors</h2>") :]
    assert surest["id"].replace("<", "&lt;").replace(">", "&gt;") in section[: section.index("</tr>\n<tr>", 200) + 10]


def test_screen_markdown_and_page_have_the_same_cells(sweep_page):
    folder, text = sweep_page
    summary, words = summarize(find_runs(folder)), Links(text.replace("<wbr>", "")).words
    tables = summary_tables(summary)
    write_summary(summary, folder)
    markdown = (folder / "summary.md").read_text()
    console = Console(width=80)
    with console.capture() as screen:
        for table in tables:
            console.print(*to_screen(table, 80), sep="\n")
    shown = screen.get()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for table in tables:
        for row in table.rows:
            assert "| " + " | ".join(row) + " |" in markdown
            assert set(row) <= set(words)
            assert all(cell in shown for cell in row[1:])
    row = summary.variants.iloc[0]
    assert f"{100 * row['uar_mean_over_runs']:.1f} ± {100 * row['uar_std_over_runs']:.1f}" in tables[0].rows[0]
    assert f"{100 * summary.comparisons['difference'].iloc[0]:+.1f} [" in shown
    assert "gru (baseline)" in words
    assert "enhanced_gru (transductive)" in words


def test_commands_in_captions_are_shown_as_code(sweep_page):
    assert "<code>ser compare</code>" in sweep_page[1] and "`" not in sweep_page[1]


def test_the_page_keeps_the_baseline_of_the_sweep(few_figures, tmp_path):
    for variant in ("gru", "enhanced_gru"):
        write_run(tmp_path, variant)
    write_summary(summarize(find_runs(tmp_path), "enhanced_gru"), tmp_path)
    assert "UAR against enhanced_gru" in write_report(tmp_path).read_text(encoding="utf-8")
    assert "UAR against gru" in write_report(tmp_path, baseline="gru").read_text(encoding="utf-8")


def test_page_and_summary_have_one_order_and_no_labelled_variant_leads(few_figures, tmp_path):
    for variant in ("speaker", "gru", "attention"):  # as typed
        write_run(tmp_path, variant, transductive=variant == "speaker", skill=0.95 if variant == "speaker" else 0.6)
    runs = sorted(find_runs(tmp_path), key=lambda run: ("speaker", "gru", "attention").index(run.variant))
    write_summary(summarize(runs), tmp_path)
    written = write_report(tmp_path).read_text(encoding="utf-8")
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    for content in (written[written.index("Mean over runs") :], text):
        assert content.index("gru (baseline)") < content.index("speaker (transductive)") < content.index("attention")
    headline = written[: written.index("Summary</h2>")]
    assert "of 2 variants not labelled transductive" in headline and "speaker, " not in headline


def test_an_unknown_p_of_one_seed_is_told_in_words(few_figures, tmp_path):
    for variant, skill in (("gru", 0.5), ("attention", 0.95)):
        write_run(tmp_path, variant, skill=skill)
    written = write_report(tmp_path, baseline="gru").read_text(encoding="utf-8")
    headline = written[: written.index("Summary</h2>")]
    assert "one seed, so p training is unknown" in headline and "p training –" not in headline


def test_a_variant_of_one_lucky_fold_does_not_lead(few_figures, tmp_path):
    for variant, folds, skill in (("first", (1,), 0.95), ("gru", (1, 2), 0.6), ("attention", (1, 2), 0.4)):
        for fold in folds:
            write_run(tmp_path, variant, fold, 1, skill=skill)
    written = write_report(tmp_path).read_text(encoding="utf-8")
    headline = written[: written.index("Summary</h2>")]
    assert "gru, of 2 variants tested on most recordings" in headline and "first, " not in headline
    shutil.rmtree(tmp_path / "attention")
    assert "gru, the only variant tested on most recordings" in write_report(tmp_path).read_text("utf-8")


def test_one_command_stands_for_a_grid_of_runs(sweep_page, tmp_path):
    commands = next(word for word in Links(sweep_page[1]).words if word.startswith("ser train"))
    assert commands.split("\n")[0] == "ser train -m model=enhanced_gru,gru fold=1,2"
    assert sweep_page[1].count("ser train") == 1
    runs = [
        with_record(write_run(tmp_path, variant, fold), [f"model={variant}", f"fold={fold}"])
        for variant, fold in (("gru", 1), ("gru", 2), ("enhanced_gru", 1))
    ]
    assert len(train_commands([load_run(run) for run in runs])) == 3  # no grid


def test_two_speakers_have_no_interval_in_words(few_figures, tmp_path):
    page = write_report(write_run(tmp_path, speakers=8, folds=4)).read_text(encoding="utf-8")
    assert "too few speakers for an interval" in page
    assert "[0.0, 100.0]" not in page


def test_a_damaged_run_is_named_in_the_page_and_on_the_screen(few_figures, tmp_path, caplog):
    write_run(tmp_path, "gru")
    (write_run(tmp_path, "enhanced_gru") / "metrics.json").write_text("{")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "1 damaged run(s) left out" in page
    for shown in (page, caplog.text):
        assert "enhanced_gru/fold1/seed1/metrics.json is not readable JSON" in shown


def test_a_table_of_another_tool_is_enough(few_figures, tmp_path):
    table = fake_table(3, 8)[["id", "speaker", "emotion", "predicted", "p_neutral", "p_happy", "p_sad", "p_angry"]]
    table.to_csv(tmp_path / "theirs.csv", index=False)
    path = write_report(tmp_path / "theirs.csv", tmp_path / "page.html")
    assert path == tmp_path / "page.html"
    assert "another tool" in path.read_text(encoding="utf-8")


def test_nothing_is_overwritten_when_there_is_no_run(tmp_path):
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(SerError, match="no finished run"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_run_with_one_speaker_one_epoch_and_no_features_reports(tmp_path):
    run = write_run(tmp_path, speakers=3, folds=3, epochs=1, utterances=4)
    (run / "embeddings.npy").unlink()
    text = write_report(run).read_text(encoding="utf-8")
    assert "figure-features" not in text
    assert "figure-training" in text
