"""Result tables: their cells on the screen and in Markdown."""

import io

import pandas as pd
import pytest
from rich.console import Console

from ser.evaluation.leakage import COLUMNS
from ser.evaluation.report.cells import Table, ranges
from ser.evaluation.report.leakage_tables import leakage_table
from ser.evaluation.report.page_tables import split_table
from ser.evaluation.report.render import to_markdown, to_screen
from ser.evaluation.report.tables import choice


def test_names_that_are_figures_stand_on_the_left():
    table = Table("Errors", ["id", "speaker"], [["03-01", "1"]])
    assert not table.is_numeric(0) and table.is_numeric(1)


def test_cells_are_text_and_not_markup():
    console = Console(width=80)
    with console.capture() as screen:
        console.print(*to_screen(Table("[/nope]", ["[/nope]", "a|b"], [["[bold]", "x"]]), 80))
    assert {"[/nope]", "[bold]"} <= set(screen.get().split())
    assert "a\\|b" in to_markdown([Table("t", ["a|b"], [["1"]])])


def test_every_table_folds_to_eighty_columns():
    names = [f"recommended, model.dropout=0.{number}, normalization=speaker" for number in range(3)]
    emotions = [f"emotion number {number}" for number in range(9)]
    table = Table("Recall", ["variant", *emotions], [[name, *["100.0 ± 10.0"] * 9] for name in names], "Caption.")
    console = Console(width=80)
    with console.capture() as screen:
        console.print(*to_screen(table, 80), sep="\n")
    assert screen.get().count("100.0 ± 10.0") == 27
    assert max(map(len, screen.get().splitlines())) <= 80


def test_no_cell_is_broken_at_80_columns():
    cells = ["weighted F1", "61.5", "66.9", "+5.4 [+2.4, +8.7]", "0.002", "–", "<.001", "+1.56 large"]
    columns = ["score", "A (%)", "B (%)", "difference (points)", "p speakers", "p folds", "p utterances", "d_z"]
    console = Console(width=80, file=io.StringIO())
    console.print(*to_screen(Table("t", columns, [cells]), 80), sep="\n")
    shown = console.file.getvalue()
    assert all(cell in shown for cell in cells) and max(map(len, shown.splitlines())) <= 80


def test_the_parts_of_four_emotions_fit_one_table_of_80_columns():
    part = {"utterances": 448, "seconds": 1656, "speakers": list("abcd"), "sessions": [6, 3, 4, 5]}
    part["emotions"] = dict.fromkeys(("neutral", "happy", "angry", "sad"), 112)
    table = split_table({"emotions": list(part["emotions"]), "parts": {"validation": part}, "hash": "0"})
    assert len(to_screen(table, 80)) == 1
    assert [ranges(numbers) for numbers in ([3, 4, 5, 6], [1, 2, 5], [4], [])] == ["3-6", "1-2, 5", "4", "–"]


def test_what_no_run_has_is_no_column_of_leakage():
    measured = {"variant": "a", "faults": 0} | {key: None if key == "adversary" else 0.5 for key in COLUMNS}
    table = leakage_table(pd.DataFrame([measured]), {"a": "a"}, "a")
    assert "adversary (%)" not in table.columns and "EER (%)" in table.columns and "dversary" not in table.caption
    assert len(table.rows[0]) == len(table.columns)


@pytest.mark.parametrize(("by", "expected"), [
    ("last", "Epoch 9 was the last."),
    ("val/uar", "Epoch 9 was chosen by validation UAR."),
    ("val/loss", "Epoch 9 was chosen by validation loss."),
])  # fmt: skip
def test_the_last_epoch_may_be_the_one_that_validation_chose(by, expected):
    assert choice({"best_epoch": 9, "epochs": 10, "epoch_chosen_by": by}) == expected
