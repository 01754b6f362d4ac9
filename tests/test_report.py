import json
import re
from html.parser import HTMLParser

import pytest
from fake_runs import fake_table, write_run

from ser.errors import SerError
from ser.evaluation.predictions import read_predictions, write_predictions
from ser.evaluation.report.report import write_report
from ser.evaluation.runs import load_run
from ser.evaluation.summary import find_runs, summarize


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


def with_hydra(run, overrides):
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    (run / ".hydra" / "config.yaml").write_text("model:\n  hidden_size: 256\n")
    return run


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run = with_hydra(
        write_run(folder, "gru", 1, 1, speaker_overlap=True, transductive=True),
        ["model=gru", "fold=1", "'data.root=/my corpora/x'"],
    )
    table = read_predictions(run / "predictions.csv")
    wrong = table.index[table["emotion"] != table["predicted"]]
    table.loc[wrong, "id"] = [f"<script>alert({number})</script>" for number in wrong]
    write_predictions(run / "predictions.csv", table)
    probe = {"speakers": {"linear": {"accuracy": 0.4321}, "chance": 0.125, "held_out": {"linear": [0, 1] * 50}}}
    (run / "leakage.json").write_text(json.dumps(probe))
    return run, write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for variant, skill in (("gru", 0.5), ("enhanced_gru", 0.7)):
        for fold in (1, 2):
            with_hydra(
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
        assert f"{result[key]:.3f}" in words
    assert any("Speaker overlap" in word for word in words)
    assert any("Transductive" in word for word in words)
    assert "0.432" in words
    assert json.loads((run / "split.json").read_text())["hash"] in text


def test_the_command_can_be_pasted(run_page):
    command = next(word for word in Links(run_page[1]).words if word.startswith("python train.py"))
    assert command.split("\n")[0] == "python train.py model=gru fold=1 'data.root=/my corpora/x'"


def test_choosing_on_the_test_part_is_told_from_the_history(run_page):
    run, text = run_page
    history, metrics = load_run(run).history, json.loads((run / "metrics.json").read_text())
    honest = history.loc[history["epoch"] == metrics["best_epoch"], "test/uar"].item()
    words = Links(text).words
    assert f"{honest:.3f}" in words
    assert f"{history['test/uar'].max():.3f}" in words
    assert f"{history['test/uar'].max() - honest:+.3f}" in words


def test_the_surest_errors_come_first(run_page):
    run, text = run_page
    table = read_predictions(run / "predictions.csv")
    table["confidence"] = table.filter(like="p_").max(axis=1)
    surest = table[table["emotion"] != table["predicted"]].sort_values("confidence", ascending=False).iloc[0]
    section = text[text.index("Most confident errors</h2>") :]
    assert surest["id"].replace("<", "&lt;").replace(">", "&gt;") in section[: section.index("</tr>\n<tr>", 200) + 10]


def test_a_sweep_shows_its_summary_and_comparison(sweep_page):
    folder, text = sweep_page
    summary, words = summarize(find_runs(folder)), Links(text).words
    for row in summary.variants.to_dict("records"):
        assert f"{row['uar_mean_over_runs']:.3f} ± {row['uar_std_over_runs']:.3f}" in words
        assert f"{row['uar_pooled']:.3f}" in words
        assert f"[{row['uar_pooled_low']:.3f}, {row['uar_pooled_high']:.3f}]" in words
    assert f"{summary.comparisons['difference'].iloc[0]:+.3f}" in words
    assert "gru (baseline)" in words
    assert "enhanced_gru (transductive)" in words
    assert text.count("python train.py") == 4


def test_a_table_of_another_tool_is_enough(tmp_path):
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
