"""The tables of results: title, columns with units, rows of text, caption.

Each table is built here once and shown by ``ser.evaluation.report.render`` on the screen, as Markdown and as HTML, so
the three have the same numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ser.evaluation.bootstrap import METHOD, OF_DIFFERENCES
from ser.evaluation.leakage import COLUMNS
from ser.evaluation.report import cells
from ser.evaluation.report.cells import Table, bounds_of, number, percent, records
from ser.evaluation.report.leakage_tables import leakage_table
from ser.evaluation.runs import marks_of, warnings_in
from ser.evaluation.summary import IN_CORPUS, TESTS, Summary
from ser.metrics import TITLES

DIFFERENCE = ("difference (points)", "p speakers", "p training", "p folds", "p utterances", "d_z")
READING = (
    "A difference counts where its interval excludes 0 and both p speakers and p training are below .05. p speakers is "
    "a permutation test that swaps whole speakers, and needs six of them; p training is a t-test against the noise "
    "between seeds. p folds is a t-test over folds, corrected for overlapping training sets. p utterances swaps single "
    "utterances and is anti-conservative: utterances of one speaker are alike, so it finds differences that are none. "
    "d_z: effect size over folds, in Cohen's words."
)
CHOICE = (
    "The first UAR is that of the epoch kept, chosen on validation or the last. The second is what the same training "
    "would have claimed by choosing it on the test part: it shows the size of that mistake and must not be quoted."
)
_MONITORED = {
    "val/uar": "validation UAR",
    "val/wa": "validation WA",
    "val/f1": "validation macro F1",
    "val/loss": "validation loss",
}


def cross_validation_table(record: Mapping[str, Any]) -> Table:
    """Scores on speakers not in training, of the recipe of a model that was trained on everyone."""
    rows = [["UAR", bounds_of(record, "uar")], *([TITLES[key], percent(record[key])] for key in ("wa", "macro_f1"))]
    rows += [[f"recall of {name}", percent(value)] for name, value in record["recall"].items()]
    warned = "".join(f" {cells.sentence(text)}" for text in warnings_in(record))
    if found := record.get("leakage"):
        rows += [
            ["training speakers named", bounds_of(found, "speaker")],
            ["named, control", percent(found.get("speaker_control"))],
            ["EER of unseen speakers", bounds_of(found, "eer")],
        ]
        warned += (
            f" What probes find in the pooled features, mean over runs, 95% intervals over folds. Named: "
            f"{COLUMNS['speaker'][1]}; control: {COLUMNS['speaker_control'][1]}; EER: {COLUMNS['eer'][1]}."
        )
    seeds = f", {record['seeds']} seeds" if record["seeds"] > 1 else ""
    caption = (
        f"Pooled over the {record['folds']} folds of protocol {record['protocol']}{seeds}: {record['utterances']} "
        f"utterances of {record['speakers']} speakers, each tested by a network that was not trained on it. {METHOD}. "
        f"The model itself was trained on all of them.{warned}"
    )
    return Table("Cross-validated on unseen speakers", ["score", "%"], rows, caption)


def run_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Scores and recall of the validation and the test part of one run, from its metrics.json."""
    parts = {name: metrics[name] for name in ("validation", "test") if name in metrics}  # a search tests nothing
    if len(corpora := metrics.get("corpora", {})) > 1:
        parts |= {f"test, {name}": found for name, found in corpora.items()}
    rows = []
    for name, found in parts.items():
        limits = found.get("uar_interval") or (None, None)
        uar = cells.bounds(found["uar"], *limits) if name == "test" else percent(found["uar"])
        rows.append([name, number(found["n"]), uar, *(percent(found[key]) for key in list(TITLES)[1:])])
    recalls = [[name, *map(percent, found["recall"].values())] for name, found in parts.items()]
    name, settings = cells.name_and_settings(metrics["variant"])
    caption = f"{choice(metrics)} In brackets: 95% interval over speakers.{f' With {settings}.' if settings else ''}"
    columns = ["part", "utterances", *_percent_of(TITLES.values())]
    emotions = ["part", *_percent_of(next(iter(parts.values()))["recall"])]
    return [
        Table(f"{name}, fold {metrics['fold']}", columns, rows, caption),
        Table("Recall of each emotion", emotions, recalls),
    ]


def choice(metrics: Mapping[str, Any]) -> str:
    """Which epoch was kept and why, as a sentence; of a network without epochs its C."""
    if "regularization_c" in metrics:
        return f"C = {metrics['regularization_c']:g}."
    by = metrics.get("epoch_chosen_by", "")
    told = {"last": "was the last", "": "was kept"}.get(by, f"was chosen by {_MONITORED.get(by, by)}")
    return f"Epoch {metrics['best_epoch']} {told}."


def summary_tables(summary: Summary) -> list[Table]:
    """Scores and recall of every variant, differences from the baseline, differences between speakers, leakage."""
    names, shared = cells.short_names([str(name) for name in summary.variants["variant"]])
    rows = records(summary.variants)
    tables = [
        _means(rows, names, shared, summary.baseline),
        _pooled(rows, names),
        *_corpora(rows, names),
        _recall(rows, names, summary.emotions),
        *_comparisons(summary, names),
        _speakers(summary, names),
    ]
    if len(summary.leakage):
        tables.append(leakage_table(summary.leakage, names, summary.baseline))
    claimed = [row["uar_mean_over_runs_if_epoch_were_chosen_on_test"] for row in rows]
    if any(pd.notna(value) for value in claimed):
        chosen = [row["uar_mean_over_runs"] for row in rows]
        tables.append(choice_table(zip([names[row["variant"]] for row in rows], chosen, claimed, strict=True)))
    return tables


def _means(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], shared: Sequence[str], baseline: str) -> Table:
    lines = []
    for row in rows:
        marks = ["baseline"] * (row["variant"] == baseline) + marks_of(row)
        name = names[row["variant"]] + (f" ({', '.join(marks)})" if marks else "")
        scores = [cells.spread(row[f"{metric}_mean_over_runs"], row[f"{metric}_std_over_runs"]) for metric in TITLES]
        lines.append([name, f"{row['runs']} ({row['folds']}×{row['seeds']})", *scores])
    caption = "Mean ± standard deviation over runs (folds × seeds)."
    if same := [names[row["variant"]] for row in rows if row["deterministic"]]:
        caption += f" Deterministic, so that one seed is enough: {'; '.join(same)}."
    if shared:
        caption += f" All with {', '.join(shared)}."
    return Table("Mean over runs", ["variant", "runs", *_percent_of(TITLES.values())], lines, caption)


def _pooled(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Table:
    metrics = ("uar", "wa", "macro_f1")
    lines = [[names[row["variant"]], *(bounds_of(row, f"{metric}_pooled") for metric in metrics)] for row in rows]
    utterances = " or ".join(dict.fromkeys(number(row["utterances"]) for row in rows))
    caption = f"One score over the {utterances} test utterances of all folds. {METHOD}."
    return Table("Pooled over folds", ["variant", *_percent_of(TITLES[metric] for metric in metrics)], lines, caption)


def _corpora(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[Table]:
    """UAR of each variant in each of several corpora; no table of a single corpus."""
    keys = [key for key in rows[0] if key.startswith(IN_CORPUS) and f"{key}_low" in rows[0]]
    lines = [[names[row["variant"]], *(bounds_of(row, key) for key in keys)] for row in rows]
    columns = ["variant", *_percent_of(key.removeprefix(IN_CORPUS) for key in keys)]
    caption = "The same predictions, the test utterances of one corpus at a time."
    return [Table("UAR in each corpus", columns, lines, caption)] if keys else []


def _recall(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], emotions: Sequence[str]) -> Table:
    lines = []
    for row in rows:
        values = [(row[f"recall_{name}_mean_over_runs"], row[f"recall_{name}_std_over_runs"]) for name in emotions]
        lines.append([names[row["variant"]], *(cells.spread(mean, std) for mean, std in values)])
    caption = "Mean ± standard deviation over runs."
    return Table("Recall of each emotion", ["variant", *_percent_of(emotions)], lines, caption)


def _comparisons(summary: Summary, names: Mapping[str, str]) -> list[Table]:
    """UAR with every test, then WA and macro F1; a row per variant."""
    if summary.comparisons.empty:
        return []
    baseline = names[summary.baseline]
    found: dict[str, dict[str, list[str]]] = {}
    for row in records(summary.comparisons):
        found.setdefault(names[row["variant"]], {})[row["metric"]] = difference_cells(row, "_holm")
    uar = [[name, *tested["uar"]] for name, tested in found.items()]
    others = [[name, *tested["wa"][:2], *tested["macro_f1"][:2]] for name, tested in found.items()]
    several = f"the {len(found)} variants" if len(found) > 1 else "one variant, which changes nothing"
    caption = (
        f"Variant minus {baseline} on the same utterances. p: after Holm's correction for {several}; `ser compare` "
        "shows p of one pair, uncorrected."
    )
    columns = ["variant", "WA (points)", "p speakers", "macro F1 (points)", "p speakers"]
    return [
        Table(f"UAR against {baseline}", ["variant", *DIFFERENCE], uar, f"{caption} {OF_DIFFERENCES}. {READING}"),
        Table(f"WA and macro F1 against {baseline}", columns, others, caption),
    ]


def difference_cells(row: Mapping[str, Any], corrected: str = "") -> list[str]:
    """A difference with its interval, the paired tests (the one over speakers first) and the effect size."""
    difference = cells.bounds(row["difference"], row["low"], row["high"], signed=True)
    tests = [cells.p_text(row[f"{test}{corrected}"]) for test in TESTS]
    return [difference, *tests, cells.effect(row["d_z"])]


def _speakers(summary: Summary, names: Mapping[str, str]) -> Table:
    lines = []
    for variant, analysis in summary.speakers.items():
        line = [names[variant]]
        for key in ("average_f1", "performance_std", "f1_range"):
            line.append(cells.bounds(analysis[key], *analysis["intervals"].get(key, (None, None))))
        for gap in (analysis["gender_gap"], analysis["session_gap"]):
            line.append(cells.bounds(gap["gap"], *(gap["interval"] or (None, None))) if gap else cells.UNKNOWN)
        lines.append(line)
    counts = " or ".join(dict.fromkeys(number(analysis["speakers"]) for analysis in summary.speakers.values()))
    caption = (
        f"Weighted F1 of each of the {counts} speakers, pooled over folds: mean, standard deviation and range. Gaps: "
        "accuracy of the best group minus that of the worst."
    )
    columns = ["variant", "mean F1 (%)", "std of F1 (points)", "best - worst F1 (points)", "gender gap (points)"]
    return Table("Across speakers", [*columns, "session gap (points)"], lines, caption)


def comparison_tables(result: Mapping[str, Any]) -> list[Table]:
    """Result B against result A, from ``ser.evaluation.comparison.compare``."""
    paired, lines = result["paired"], []
    for metric, title in TITLES.items():
        scores = [percent(result[side]["pooled"][metric]) for side in ("a", "b")]
        lines.append([title, *scores, *(difference_cells(paired["metrics"][metric]) if paired else [])])
    caption = "Pooled over all test utterances."
    if paired:
        single = "p: of this pair alone, uncorrected; a summary of several variants corrects for their number (Holm)."
        caption = f"{caption} Difference: B minus A. {METHOD}. {OF_DIFFERENCES}. {single} {READING}"
    return [Table("B against A", ["score", "A (%)", "B (%)", *(DIFFERENCE if paired else [])], lines, caption)]


def choice_table(choices: Iterable[tuple[str, float, float]], epochs: str = "") -> Table:
    """UAR at the epoch that was kept, and at the epoch that is best on the test part, of each name."""
    lines = []
    for name, chosen, claimed in choices:
        lines.append([name, percent(chosen), percent(claimed), percent(claimed - chosen, signed=True)])
    columns = ["variant", "UAR (%)", "UAR (%) if chosen on test", "difference (points)"]
    return Table("Had the epoch been chosen on the test part", columns, lines, f"{CHOICE}{epochs}")


def cross_table(matrix: pd.DataFrame) -> Table:
    """UAR of models trained on each corpus (rows) and tested on each (columns), from ``ser cross``."""
    names = list(dict.fromkeys(matrix["trained"]))
    uar = [cells.bounds(*row) for row in matrix[["uar", "low", "high"]].itertuples(index=False)]
    lines = matrix.assign(uar=uar).pivot(index="trained", columns="tested", values="uar").loc[names, names]
    groups = matrix.groupby("tested")["utterances"]
    sizes = [f"{name} {' or '.join(dict.fromkeys(map(number, counts)))}" for name, counts in groups]
    caption = (
        "UAR in percent with 95% intervals over speakers. Diagonal: cross-validated, on unseen speakers of the same "
        f"corpus. Test utterances: {', '.join(sizes)}."
    )
    rows = lines.reset_index().to_numpy().tolist()
    return Table("Trained on (rows), tested on (columns)", ["trained on", *names], rows, caption)


def curve_table(table: pd.DataFrame) -> Table:
    """UAR of each variant against the size of its training part, from ``ser curve``."""
    names, shared = cells.short_names(list(table["variant"]))
    caption = "Pooled over folds, with 95% intervals over test speakers."
    caption += f" All with {', '.join(shared)}." if shared else ""
    lines = [
        [
            names[row["variant"]] + (f" ({', '.join(marks_of(row))})" if marks_of(row) else ""),
            number(row["speakers"]),
            number(row["utterances"]),
            cells.bounds(row["uar"], row["low"], row["high"]),
            str(row["runs"]),
        ]
        for row in records(table)
    ]
    columns = ["variant", "training speakers", "training utterances", "UAR (%)", "runs"]
    return Table("Learning curve", columns, lines, caption)


def enrolment_table(table: pd.DataFrame, variant: str, shrinkage: float) -> Table:
    """UAR against the number k of unlabelled utterances of the speaker, from ``ser enrol``."""
    none = table["uar"].iloc[0]
    lines = [
        [k, cells.bounds(uar, low, high), percent(uar - none, signed=True)]
        for k, uar, low, high in table.itertuples(index=False)
    ]
    caption = (
        f"Difference: against k = 0. {variant}; mean over draws, 95% intervals over speakers. k: unlabelled utterances "
        "of the speaker, never the tested one; all: all others. Their mean and std are mixed with those of the "
        f"training part, which weigh as {shrinkage:g} s of audio (shrinkage); 0 uses these only. own run: all "
        "utterances of the speaker, the tested one included, unmixed."
    )
    return Table("Enrolment", ["k", "UAR (%)", "difference (points)"], lines, caption)


def reproduction_table(rows: Sequence[tuple[str, str, str, bool, str]]) -> Table:
    """Each figure of a run and of its repetition, and whether they agree, from ``ser.trained.reproduce``."""
    lines = [
        [name, first, second, f"{'agrees' if same else 'DIFFERS'}{f' ({how})' if how else ''}"]
        for name, first, second, same, how in rows
    ]
    return Table("Repetition", ["figure", "original", "again", "agreement"], lines)


def _percent_of(names: Iterable[str]) -> list[str]:
    return [f"{name} (%)" for name in names]
