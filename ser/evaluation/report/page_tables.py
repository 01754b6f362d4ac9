"""The tables that only the report page shows: one run in detail, and the runs, folds and speakers of a sweep."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ser.config.identity import installed_versions
from ser.evaluation.bootstrap import METHOD
from ser.evaluation.predictions import probabilities
from ser.evaluation.report.cells import UNKNOWN, Table, interval, listed, number, percent, ranges
from ser.evaluation.report.tables import choice
from ser.evaluation.runs import Run, by_fold
from ser.evaluation.scores import calibration
from ser.evaluation.significance import bootstrap_intervals
from ser.evaluation.summary import Summary
from ser.metrics import MEANINGS, TITLES

_MOST_ERRORS, _MOST_REASONS = 25, 5


def score_tables(run: Run) -> list[Table]:
    """The tables below "Scores" on the page of a run."""
    return [_scores(run), _classes(run.test), _calibration(run)]


def speaker_tables(analysis: Mapping[str, Any]) -> list[Table]:
    """The tables below "Across speakers" on the page of a run, from ``cross_speaker``."""
    return [_spread(analysis), _speakers(analysis)]


def evaluation_notes(run: Run) -> list[str]:
    """What ``ser evaluate`` left out and could not check, a sentence each."""
    facts, notes = run.metrics, []
    for key, side in (("only_corpus", "corpus"), ("only_model", "model")):
        if facts.get(key):
            notes.append(f"Only the {side} knows {', '.join(facts[key])}, so that is left out.")
    reasons = Counter(run.split.get("left_out", {}).values())
    notes += [f"Left out: {count:,} ({reason.rstrip('.')})." for reason, count in reasons.most_common(_MOST_REASONS)]
    if more := sum(count for _, count in reasons.most_common()[_MOST_REASONS:]):
        notes.append(f"Left out for other reasons: {more:,}; split.json lists them.")
    if not facts.get("seen_checked"):
        notes.append("Whether these recordings were in training is unknown: no split.json lists those of the training.")
    return notes


def _scores(run: Run) -> Table:
    """The four scores with intervals over speakers, beside those of the validation part."""
    validation = run.metrics.get("validation", {})
    rows, intervals = [], bootstrap_intervals(run.predictions)
    for metric, title in TITLES.items():
        bounds = intervals[metric]
        row = [f"{title}, {MEANINGS[metric]}", percent(run.test[metric]), interval(bounds.low, bounds.high)]
        rows.append(row + ([percent(validation.get(metric))] if validation else []))
    columns = ["score", "test (%)", "95% interval (%)", *(["validation (%)"] if validation else [])]
    caption = f"{METHOD}. {choice(run.metrics)}" if validation else f"{METHOD}."
    return Table("Scores", columns, rows, caption)


def _classes(result: Mapping[str, Any]) -> Table:
    """Precision, recall, F1 and count of each emotion."""
    counts = np.array(result["confusion"]).sum(axis=1)
    rows = [
        [emotion, *(percent(result[key][emotion]) for key in ("precision", "recall", "f1")), number(int(count))]
        for emotion, count in zip(result["recall"], counts, strict=True)
    ]
    return Table("Emotions", ["emotion", "precision (%)", "recall (%)", "F1 (%)", "utterances"], rows)


def _calibration(run: Run) -> Table:
    """How far the confidence can be trusted."""
    found = calibration(run.predictions)
    rows = [
        ["expected calibration error (15 bins)", percent(found["ece"])],
        [f"mean confidence of the {found['n_right']:,} right answers", percent(found["confidence_right"])],
        [f"mean confidence of the {found['n_wrong']:,} wrong answers", percent(found["confidence_wrong"])],
    ]
    caption = "Usual for networks as trained, of images and text: an error of 4 to 10% (Guo et al. 2017)."
    return Table("Calibration", ["figure", "value (%)"], rows, caption)


def split_table(split: Mapping[str, Any]) -> Table:
    """Utterances, speakers and emotions of each part, with the protocol and the test speakers below."""
    emotions, rows = list(split.get("emotions", [])), []
    for name, part in split["parts"].items():
        if not part["utterances"]:  # protocol=everyone has one part
            continue
        counts = [number(part["emotions"].get(emotion, 0)) for emotion in emotions]
        minutes, speakers = number(part["seconds"] / 60, 1), number(len(part["speakers"]))
        rows.append([name, number(part["utterances"]), minutes, speakers, ranges(part["sessions"]), *counts])
    columns = ["part", "utterances", "audio (min)", "speakers", "sessions", *emotions]
    facts = []
    if "protocol" in split:
        facts.append(f"Protocol {split['protocol']}, fold {split['fold']} of {split['folds']}, seed {split['seed']}.")
    if split.get("left_out"):
        facts.append(f"Left out: {number(len(split['left_out']))} utterances.")
    if tested := split["parts"].get("test", {}).get("speakers"):
        facts.append(f"Test speakers: {listed(tested)}.")
    facts.append(f"Split hash {split['hash']} (equal hashes: the same parts).")
    return Table("Parts", columns, rows, " ".join(facts))


def _spread(analysis: Mapping[str, Any]) -> Table:
    """How much scores differ between speakers, genders, sessions and corpora, from ``cross_speaker``."""
    names = {
        "overall_accuracy": "accuracy over all utterances (%)",
        "average_f1": "mean over speakers of weighted F1 (%)",
        "performance_std": "std over speakers of weighted F1 (points)",
        "f1_range": "best minus worst speaker, weighted F1 (points)",
        "accuracy_std": "std over speakers of accuracy (points)",
        "accuracy_range": "best minus worst speaker, accuracy (points)",
    }
    rows = [
        [name, percent(analysis.get(key)), interval(*analysis["intervals"].get(key, (None, None)))]
        for key, name in names.items()
    ]
    for key, several in (("gender", "genders"), ("session", "sessions"), ("corpus", "corpora")):
        name, gap = f"gap between {several}, accuracy (points)", analysis.get(f"{key}_gap")
        if gap:
            known = interval(*(gap["interval"] or (None, None)))
            rows.append([f"{name}: {gap['best']} over {gap['worst']}", percent(gap["gap"]), known])
        elif key != "corpus":
            rows.append([name, UNKNOWN, UNKNOWN])
    return Table("Differences between speakers", ["figure", "value", "95% interval"], rows, f"{METHOD}.")


def _speakers(analysis: Mapping[str, Any]) -> Table:
    """Every speaker of one run."""
    rows = []
    for row in analysis["per_speaker"]:
        scores = [percent(row[key]) for key in ("accuracy", "weighted_f1")]
        rows.append([row["speaker"], row["gender"] or UNKNOWN, str(row["session"]), number(row["n"]), *scores])
    return Table("Speakers", ["speaker", "gender", "session", "utterances", "accuracy (%)", "weighted F1 (%)"], rows)


def speaker_accuracy_table(summary: Summary, names: Mapping[str, str]) -> Table:
    """Accuracy of each speaker under each variant."""
    accuracy = pd.DataFrame(
        {
            names[variant]: pd.DataFrame(analysis["per_speaker"]).set_index("speaker")["accuracy"]
            for variant, analysis in summary.speakers.items()
        }
    ).sort_index()
    rows = [[str(speaker), *map(percent, values)] for speaker, *values in accuracy.itertuples()]
    return Table("Accuracy of each speaker", ["speaker", *(f"{name} (%)" for name in accuracy)], rows)


def folds_table(runs: Sequence[Run]) -> Table:
    """What each fold was tested on."""
    rows = []
    for fold, entries in by_fold(runs).items():
        test = entries[0].split["parts"]["test"]
        hashes = listed(sorted({run.hash for run in entries}))
        speakers = listed(test.get("speakers", []))
        rows.append([str(fold), number(len(entries)), number(test.get("utterances")), speakers, hashes])
    columns = ["fold", "runs", "test utterances", "test speakers", "split hash"]
    return Table("Folds", columns, rows, "Results can be compared only where the split hashes are the same.")


def runs_table(runs: Sequence[Run], names: Mapping[str, str]) -> Table:
    """Scores, epochs and cost of every run."""
    rows = []
    for run in runs:
        scores = run.test["uar"], run.test["wa"], run.metrics.get("validation", {}).get("uar")
        counts = [number(run.metrics.get(key)) for key in ("best_epoch", "epochs", "parameters")]
        cost = [number(run.metrics.get("seconds"), 1), *_epoch_cost(run)]
        row = [names[run.variant], str(run.fold), str(run.seed), *map(percent, scores), *counts, *cost, run.hash]
        rows.append(row)
    columns = ["variant", "fold", "seed", "UAR (%)", "WA (%)", "validation UAR (%)", "epoch kept", "epochs"]
    columns += ["parameters", "time (s)", "time per epoch (s)", "peak memory (MB)", "split hash"]
    caption = "UAR and WA of the test part. Time per epoch: the median; peak memory: the largest of all epochs."
    return Table("Runs", columns, rows, caption)


def _epoch_cost(run: Run) -> tuple[str, str]:
    """Median seconds of an epoch, and the largest memory (MB) of all."""
    history = pd.DataFrame() if run.history is None else run.history
    seconds, memory = (history.get(key, pd.Series(dtype=float)) for key in ("seconds", "peak_memory_mb"))
    return number(seconds.median(), 2), number(memory.max())


def efficiency_table(run: Run) -> Table:
    """Size, time and memory of one run."""
    seconds, memory = _epoch_cost(run)
    predicted = sum(part["utterances"] for part in run.split["parts"].values())
    taken = run.metrics.get("prediction_seconds")
    rows = [
        ["parameters", number(run.metrics.get("parameters"))],
        ["of these trained", number(run.metrics.get("trainable_parameters"))],
        ["epochs", number(run.metrics.get("epochs"))],
        ["time per epoch, median (s)", seconds],
        ["peak memory of training (MB)", memory],
        ["whole run (s)", number(run.metrics.get("seconds"), 1)],
        ["prediction from cached frames, per utterance (ms)", number(taken and 1000 * taken / predicted, 1)],
    ]
    return Table("Efficiency", ["figure", "value"], rows, "On the machine of the run; the encoder's time is not in it.")


def errors_table(table: pd.DataFrame, origin: pd.Series | None = None) -> Table:
    """The wrong answers with the highest confidence; ``origin`` says of each row which of several runs it is from."""
    confidence = pd.Series(probabilities(table).max(axis=1), index=table.index)
    wrong = confidence[table["emotion"] != table["predicted"]].sort_values(ascending=False, kind="stable")
    surest = table.loc[wrong.index].head(_MOST_ERRORS)
    columns = {
        **{name: surest[name] for name in ("id", "speaker")},
        "time (s)": surest["seconds"].map(partial(number, digits=2)),
        **{"true": surest["emotion"], "predicted": surest["predicted"]},
        "confidence (%)": wrong.head(_MOST_ERRORS).map(percent),
        **({} if origin is None else {"run": origin}),
    }
    rows = pd.DataFrame(columns, index=surest.index).to_numpy().tolist()
    caption = f"{len(wrong):,} of {len(table):,} answers are wrong; these are the surest of them, worth a listen first."
    return Table("Most confident errors", list(columns), rows, caption)


def packages_table(record: Mapping[str, Any], of_which: str) -> Table:
    """Versions of the packages: those in ``record``, a run's run.json, else those installed now."""
    kept = isinstance(record.get("versions"), dict)
    title = f"Versions{of_which}" if kept else "Versions installed when this page was written"
    found = record["versions"] if kept else installed_versions()
    return Table(title, ["package", "version"], [[name, str(version)] for name, version in found.items()])
