"""The sections of a report that set variants beside each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ser.evaluation.leakage import COLUMNS
from ser.evaluation.report.page import Block, Section, Table, Text, interval, listed, number, p_value
from ser.evaluation.report.sections import METRIC_NAMES
from ser.evaluation.runs import Run, by_fold
from ser.evaluation.summary import Summary
from ser.evaluation.summary_tables import LEAKAGE_KEY, leakage_cells
from ser.metrics import METRICS

_SHORT = {"wa": "WA", "uar": "UAR", "macro_f1": "macro F1", "weighted_f1": "weighted F1"}


def summary_section(summary: Summary) -> Section:
    """Every variant: mean over runs and pooled, recall by emotion, and the comparison with the baseline."""
    variants = summary.variants.to_dict("records")
    blocks: list[Block] = [
        Table(
            ["variant", "runs", *(f"{_SHORT[metric]}, mean ± deviation" for metric in METRICS)],
            [
                [
                    _named(row, summary),
                    f"{row['runs']} ({row['folds']} folds, {row['seeds']} seeds)",
                    *(_spread(row, f"{metric}_") for metric in METRICS),
                ]
                for row in variants
            ],
            "Mean over runs: the score of each fold and seed, averaged, with the deviation over runs.",
        )
    ]
    blocks.append(
        Table(
            ["variant", "utterances", *(cell for metric in METRICS for cell in (_SHORT[metric], "95% interval"))],
            [
                [
                    _named(row, summary),
                    number(row["utterances"]),
                    *(
                        cell
                        for metric in METRICS
                        for cell in (
                            number(row[f"{metric}_pooled"]),
                            interval((row[f"{metric}_pooled_low"], row[f"{metric}_pooled_high"])),
                        )
                    ),
                ]
                for row in variants
            ],
            "Pooled: one score over the test utterances of all folds; intervals resample speakers, then utterances.",
        )
    )
    blocks.append(
        Table(
            ["variant", *(f"recall {emotion}" for emotion in summary.emotions)],
            [
                [_named(row, summary), *(_spread(row, f"recall_{emotion}_") for emotion in summary.emotions)]
                for row in variants
            ],
            "Recall of each emotion, mean ± deviation over runs.",
        )
    )
    if len(summary.comparisons):
        blocks.append(_comparison_table(summary))
    blocks += [Text(note) for note in summary.notes]
    return Section("Summary", blocks)


def _comparison_table(summary: Summary) -> Table:
    rows = []
    tests = [key for test in ("utterances", "speakers", "folds") for key in (f"p_{test}", f"p_{test}_holm")]
    for row in sorted(summary.comparisons.to_dict("records"), key=lambda row: row["metric"] != "uar"):
        rows.append(
            [
                str(row["variant"]),
                _SHORT[str(row["metric"])],
                f"{row['difference']:+.3f}",
                interval((row["low"], row["high"])),
                *(p_value(row[key]) for key in tests),
                number(row["d_z"], 2),
                number(row["cliffs_delta"], 2),
            ]
        )
    caption = (
        f"Difference from {summary.baseline} on the same utterances, with a 95% interval over speakers. p: "
        "paired permutation of utterances, of whole speakers, and t-test over folds corrected for overlapping "
        "training sets; each also after Holm's correction for the number of variants."
    )
    columns = [
        "variant",
        "score",
        "difference",
        "95% interval",
        "p utterances",
        "Holm",
        "p speakers",
        "Holm",
        "p folds",
        "Holm",
        "d_z over folds",
        "Cliff's delta",
    ]
    return Table(columns, rows, caption)


def folds_section(runs: Sequence[Run]) -> Section:
    """What each fold tested on, and the splits' hashes."""
    first = runs[0].split
    rows = []
    for fold, entries in by_fold(runs).items():
        hashes = sorted({entry.hash for entry in entries})
        test = entries[0].split["parts"]["test"]
        rows.append(
            [
                str(fold),
                number(len(entries)),
                number(test.get("utterances")),
                listed(test.get("speakers", [])),
                ", ".join(hashes),
            ]
        )
    text = f"Corpus {first.get('corpus', 'unknown')}, protocol {first.get('protocol', 'unknown')}."
    caption = "Results are comparable only where the split hashes are the same."
    return Section(
        "Protocol and splits",
        [Text(text), Table(["fold", "runs", "test utterances", "test speakers", "split hash"], rows, caption)],
    )


def speakers_section(summary: Summary) -> Section:
    """The cross-speaker analysis of every variant, and each speaker's accuracy under each."""
    columns = [
        "variant",
        "speakers",
        "overall accuracy (WA)",
        "mean speaker F1",
        "95% interval",
        "deviation of F1",
        "95% interval",
        "range of F1",
        "gender gap",
        "95% interval",
        "session gap",
        "95% interval",
    ]
    rows = [
        [
            name,
            number(analysis["speakers"]),
            number(analysis["overall_accuracy"]),
            number(analysis["average_f1"]),
            interval(analysis["intervals"].get("average_f1")),
            number(analysis["performance_std"]),
            interval(analysis["intervals"].get("performance_std")),
            number(analysis["f1_range"]),
            *_gap(analysis["gender_gap"]),
            *_gap(analysis["session_gap"]),
        ]
        for name, analysis in summary.speakers.items()
    ]
    accuracy = pd.DataFrame(
        {
            name: {row["speaker"]: row["accuracy"] for row in analysis["per_speaker"]}
            for name, analysis in summary.speakers.items()
        }
    ).sort_index()
    each = [
        [str(speaker), *(number(float(value)) for value in values)]
        for speaker, values in zip(accuracy.index, accuracy.to_numpy(), strict=True)
    ]
    return Section(
        "Across speakers",
        [
            Table(columns, rows, "How evenly the speakers are served; gaps are of accuracy, best minus worst group."),
            Table(["speaker", *accuracy.columns], each, "Accuracy of each speaker"),
        ],
    )


def probes_section(summary: Summary) -> Section | None:
    """Whether the features of the variants tell less about the speaker than the baseline's; None if nobody asked."""
    if summary.leakage.empty:
        return None
    rows = [list(cells.values()) for cells in leakage_cells(summary)]
    columns = ["variant", *(title for title, _ in COLUMNS.values()), "change"]
    return Section("Speaker leakage, compared", [Table(columns, rows, LEAKAGE_KEY)])


def runs_section(runs: Sequence[Run]) -> Section:
    """Every run with its scores."""
    rows = []
    for entry in runs:
        validation = entry.metrics.get("validation", {})
        rows.append(
            [
                entry.variant,
                str(entry.fold),
                str(entry.seed),
                number(entry.test["uar"]),
                number(entry.test["wa"]),
                number(validation.get("uar")),
                number(entry.metrics.get("best_epoch")),
                number(entry.metrics.get("epochs")),
                number(entry.metrics.get("seconds"), 1),
                entry.hash,
            ]
        )
    columns = [
        "variant",
        "fold",
        "seed",
        "UAR",
        "WA",
        "validation UAR",
        "best epoch",
        "epochs",
        "seconds",
        "split hash",
    ]
    return Section("Runs", [Table(columns, rows, f"{METRIC_NAMES['uar']} and {METRIC_NAMES['wa']} of the test part")])


def best_of(summary: Summary) -> Mapping[str, Any]:
    """The row of the variant with the highest pooled UAR."""
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in summary.variants.to_dict("records")
    ]
    return max(rows, key=lambda row: float(row["uar_pooled"]))


def _named(row: Mapping[Any, Any], summary: Summary) -> str:
    flags = {
        "baseline": row["variant"] == summary.baseline,
        "speaker overlap": row["speaker_overlap"],
        "transductive": row["transductive"],
    }
    marks = [word for word, flag in flags.items() if flag]
    return str(row["variant"]) + (f" ({', '.join(marks)})" if marks else "")


def _spread(row: Mapping[Any, Any], prefix: str) -> str:
    mean, deviation = number(row[f"{prefix}mean_over_runs"]), number(row[f"{prefix}std_over_runs"])
    return mean if deviation == "–" else f"{mean} ± {deviation}"


def _gap(gap: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("–", "–") if gap is None else (number(gap["gap"]), interval(gap["interval"]))
