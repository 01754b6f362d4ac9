"""One self-contained HTML page about a run or a sweep: opens from disk, fetches nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ser.evaluation.figures.folders import by_variant, figures_of_run, figures_of_sweep, note_of
from ser.evaluation.report import sections as parts
from ser.evaluation.report import sweep
from ser.evaluation.report.page import Page, Picture, Section, interval, number, p_value, render
from ser.evaluation.runs import Run, find_runs, pooled
from ser.evaluation.scores import cross_speaker
from ser.evaluation.significance import bootstrap_interval
from ser.evaluation.summary import Summary, summarize
from ser.io import write_text

CAPTIONS = {
    "confusion": "Look off the diagonal: which emotion is taken for which, in utterances and as a share of the true "
    "one.",
    "classes": "An emotion with high recall and low precision is answered too often; the reverse, too rarely.",
    "radar": "A dent towards the centre is an emotion that is served worse than the others.",
    "speakers": "Bars far below the band are speakers the network fails; the line is the mean over speakers, the band "
    "one standard deviation.",
    "groups": "Bars of one panel should be alike; a step between them is a gap between genders or sessions.",
    "features": "Clusters by emotion on the left are wanted; clusters by speaker on the right mean that the features "
    "still tell who speaks.",
    "reliability": "A curve under the diagonal is overconfident, one above it underconfident; bins with few utterances "
    "say little.",
    "confidence": "The further apart the two heaps, the more the confidence helps to find wrong answers.",
    "duration": "Does the network need long utterances? Short ones usually score lower.",
    "training": "Validation loss that rises while training loss falls is overfitting; alpha is the strength of the "
    "gradient reversal.",
    "ladder": "Intervals over speakers; whether a variant differs from the baseline is told by the paired tests of the "
    "summary, not by overlapping intervals.",
    "folds": "Every dot is a run; compare the width of the boxes with the distance between them.",
    "speaker_matrix": "Dark columns are speakers that every variant finds hard; look for variants that help them.",
    "confusions": "Which mistakes a variant removes, and which it adds.",
}


def write_report(folder: str | Path, output: str | Path | None = None, baseline: str | None = None) -> Path:
    """Write the HTML report of a run, of a folder of runs, or of a prediction table made by another tool.

    Args:
        folder: a finished run, a folder that holds several, or a ``.csv`` table.
        output: where to write; by default ``report.html`` in the folder, beside a table.
        baseline: the variant of a sweep that the others are compared with.

    Returns:
        The path of the page.

    Raises:
        SerError: there is no finished run, its files are damaged, the runs have different classes, or the page cannot
            be written.
    """
    folder = Path(folder)
    runs = find_runs(folder)
    page = run_page(runs[0]) if len(runs) == 1 else sweep_page(runs, folder, summarize(runs, baseline))
    default = folder.with_suffix(".html") if folder.suffix.lower() == ".csv" else folder / "report.html"
    path = Path(output) if output is not None else default
    write_text(path, render(page))
    return path


def run_page(run: Run) -> Page:
    """What there is to say about one run."""
    table, result = run.predictions, run.test
    uar = bootstrap_interval(table)
    frequent = table["emotion"].value_counts(normalize=True).iloc[0]
    headline = [
        (
            "UAR, mean recall",
            number(uar.estimate),
            f"95% interval over speakers {interval((uar.low, uar.high))}; chance {1 / table['emotion'].nunique():.3f}",
        ),
        ("WA, plain accuracy", number(result["wa"]), f"always the most frequent emotion: {frequent:.3f}"),
        ("Tested on", number(len(table)), f"utterances of {table['speaker'].nunique()} speakers"),
    ]
    sections = [
        parts.score_section(table, result, run.metrics.get("validation")),
        parts.protocol_section(run.split),
        parts.choice_section({run.variant: [parts.test_choice(run.history, run.metrics)]}),
        _figure_section(figures_of_run(run)),
        parts.speaker_section(cross_speaker(table)),
        parts.leakage_section({run.variant: [run.folder]}),
        parts.error_section(table),
        _reproduction([run], run.folder if run.metrics else run.table_path),
    ]
    known = (key for key in ("corpus", "features", "protocol") if run.metrics.get(key))
    facts = [f"fold {run.fold}, seed {run.seed}", *(f"{key} {run.metrics[key]}" for key in known)]
    if run.metrics.get("parameters"):
        facts.append(f"{run.metrics['parameters']:,} parameters")
    return Page(
        run.variant,
        "; ".join([*facts, f"split {run.hash}"]),
        headline,
        _labels([run]),
        [section for section in sections if section],
    )


def sweep_page(runs: Sequence[Run], folder: Path, summary: Summary) -> Page:
    """What there is to say about several runs."""
    found, best = by_variant(runs), sweep.best_of(summary)
    members = {name: found[name] for name in summary.variants["variant"]}
    table = pooled(runs)
    bounds = interval((best["uar_pooled_low"], best["uar_pooled_high"]))
    headline = [
        (
            "Highest UAR, mean recall",
            number(best["uar_pooled"]),
            f"{best['variant']}, pooled; 95% interval over speakers {bounds}",
        ),
        ("Its WA, plain accuracy", number(best["wa_pooled"]), f"{best['variant']}, pooled"),
        _against_baseline(summary, str(best["variant"])),
    ]
    names = [f"{run.variant}, fold {run.fold}, seed {run.seed}" for run in runs]
    choices = {
        name: [parts.test_choice(run.history, run.metrics) for run in entries] for name, entries in members.items()
    }
    origin = pd.Series([name for name, run in zip(names, runs, strict=True) for _ in range(len(run.predictions))])
    sections = [
        sweep.summary_section(summary),
        sweep.folds_section(runs),
        parts.choice_section(choices),
        _figure_section(figures_of_sweep(runs, summary)),
        sweep.speakers_section(summary),
        sweep.probes_section(summary),
        parts.leakage_section({name: [run.folder for run in entries] for name, entries in members.items()}),
        parts.error_section(table, origin),
        sweep.runs_section(runs),
        _reproduction(runs, folder),
    ]
    subtitle = (
        f"{len(runs)} runs of {len(members)} variants; the highest of several scores is flattered by the "
        "choice, so read it with the paired tests"
    )
    return Page(
        f"Sweep {folder.resolve().name}",
        subtitle,
        headline,
        _labels(runs),
        [section for section in sections if section],
    )


def _against_baseline(summary: Summary, best: str) -> tuple[str, str, str]:
    name = f"UAR difference from {summary.baseline}"
    rows = summary.comparisons.to_dict("records")
    found = [row for row in rows if row["variant"] == best and row["metric"] == "uar"]
    if not found:
        highest = best == summary.baseline
        return name, "–", "the baseline itself is highest" if highest else "not compared, see the notes"
    row = found[0]
    meaning = (
        f"95% interval {interval((row['low'], row['high']))}; p over speakers "
        f"{p_value(row['p_speakers_holm'])} after Holm's correction"
    )
    return name, f"{row['difference']:+.3f}", meaning


def _labels(runs: Sequence[Run]) -> list[str]:
    note = note_of(runs)
    return [f"{phrase[:1].upper()}{phrase[1:]}." for phrase in note.split("; ")] if note else []


def _figure_section(figures: Mapping[str, Figure]) -> Section:
    pictures = [Picture(figure, name, CAPTIONS[name.split("-")[0]]) for name, figure in figures.items()]
    return Section("Figures", [*pictures])


def _reproduction(runs: Sequence[Run], folder: Path) -> Section:
    commands = [command for run in runs if (command := parts.command_of(run.folder))]
    return parts.reproduction_section(commands, folder, runs[0].folder / ".hydra" / "config.yaml", runs[0].metrics)
