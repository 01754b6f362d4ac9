"""One self-contained HTML page about a run or a sweep: opens from disk, fetches nothing."""

import json
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ser.evaluation.bootstrap import FEWEST_UNITS
from ser.evaluation.figures import caption_of, figures_of_run, figures_of_sweep
from ser.evaluation.leakage import leakage_of
from ser.evaluation.report import cells, tables
from ser.evaluation.report import page_tables as parts
from ser.evaluation.report.leakage_tables import probe_tables
from ser.evaluation.report.render import Listing, Page, Picture, Section, to_html
from ser.evaluation.runs import WARNINGS, Run, declared, marks_of, pooled, scan_runs, warnings_in, warnings_of
from ser.evaluation.scores import cross_speaker
from ser.evaluation.significance import bootstrap_interval
from ser.evaluation.summary import Summary, summarize, test_choice
from ser.io import read_json, write_text

log = logging.getLogger(__name__)


def write_report(folder: str | Path, output: str | Path | None = None, baseline: str | None = None) -> Path:
    """Write the HTML report of a run, of a folder of runs, or of prediction tables made by another tool.

    By default it is ``report.html`` in the folder, or beside a table, and the baseline is that of the summary.

    Raises:
        SerError: there is no finished run, none can be read, the runs have different classes, or the page cannot be
            written.
    """
    folder = Path(folder)
    runs, left_out = scan_runs(folder)
    if len(runs) == 1 and not left_out:
        page = run_page(runs[0])
    else:
        for reason in left_out:
            log.warning("left out: %s", reason)
        runs, summary = in_order_of_summary(folder, runs, baseline, left_out)
        page = sweep_page(runs, folder, summary)
    default = folder.with_suffix(".html") if folder.suffix.lower() == ".csv" else folder / "report.html"
    path = Path(output) if output is not None else default
    write_text(path, to_html(page))
    return path


def in_order_of_summary(
    folder: Path, runs: Sequence[Run], baseline: str | None = None, left_out: Sequence[str] = ()
) -> tuple[list[Run], Summary]:
    """The runs of a sweep and their summary, with the order and, unless one is given, the baseline of summary.json."""
    kept, order, command = _kept_summary(folder, runs)
    runs = sorted(runs, key=lambda run: order.get(run.variant, len(order)))
    return runs, replace(summarize(runs, baseline or kept, left_out), command=command)


def run_page(run: Run) -> Page:
    """The report of one run."""
    table, result = run.predictions, run.test
    uar = bootstrap_interval(table)
    frequent = table["emotion"].value_counts(normalize=True).iloc[0]
    chance = f"chance {cells.percent(1 / table['emotion'].nunique())}"
    headline = [
        ("UAR, mean recall (%)", cells.percent(uar.estimate), f"{_meaning(uar.low, uar.high)}; {chance}"),
        ("WA, accuracy (%)", cells.percent(result["wa"]), f"always the largest class: {cells.percent(frequent)}"),
        ("Tested on", cells.number(len(table)), f"utterances of {table['speaker'].nunique()} speakers"),
    ]
    analysis = cross_speaker(table)
    notes = parts.evaluation_notes(run) if run.origin else []
    split = [parts.split_table(run.split)] if run.metrics else []
    sections = [
        Section("Scores", parts.score_tables(run)),
        Section("Protocol and split", [_source(run), *notes, *split]),
        *_choice_section(run),
        _figure_section(figures_of_run(run)),
        Section("Across speakers", parts.speaker_tables(analysis)),
    ]
    if (leakage := leakage_of(run)) is not None:
        sections.append(Section("Speaker leakage", probe_tables({run.variant: [(run, leakage)]})))
    if run.metrics.get("epochs") is not None:
        sections.append(Section("Efficiency", [parts.efficiency_table(run)]))
    sections += [
        Section("Most confident errors", [parts.errors_table(table)]),
        _reproduction([run], run.folder if run.metrics else run.table_path),
    ]
    known = (key for key in ("corpus", "features", "protocol") if run.metrics.get(key))
    facts = [f"fold {run.fold}, seed {run.seed}", *(f"{key} {run.metrics[key]}" for key in known)]
    name, settings = cells.name_and_settings(run.variant)
    facts += [f"with {settings}"] if settings else []
    if run.metrics.get("parameters"):
        facts.append(f"{run.metrics['parameters']:,} parameters")
    return Page(name, "; ".join([*facts, f"split {run.hash}"]), headline, warnings_of([run]), sections)


def sweep_page(runs: Sequence[Run], folder: Path, summary: Summary) -> Page:
    """The report of several runs."""
    rows = cells.records(summary.variants)
    names, _ = cells.short_names([row["variant"] for row in rows])
    honest = [row for row in rows if not warnings_in(row)]
    most = max(row["utterances"] for row in honest or rows)  # one fold is no score of the corpus
    whole = [row for row in honest or rows if row["utterances"] == most]
    best = max(whole, key=lambda row: float(row["uar_pooled"]))
    name = names[best["variant"]] + (f" ({', '.join(marks_of(best))})" if marks_of(best) else "")
    limits = [f"not labelled {' or '.join(marks_of(declared(runs)))}"] if 0 < len(honest) < len(rows) else []
    limits += ["tested on most recordings"] if len(whole) < len(honest or rows) else []
    among = f"of {len(whole)} variants" if len(whole) > 1 else "the only variant"
    among += f" {' and '.join(limits)}" if limits else ""
    headline = [
        (
            "Highest UAR, mean recall (%)",
            cells.percent(best["uar_pooled"]),
            f"{name}, {among}, pooled over folds; {_meaning(best['uar_pooled_low'], best['uar_pooled_high'])}",
        ),
        ("Its WA, accuracy (%)", cells.percent(best["wa_pooled"]), f"{name}, pooled over folds"),
        _against_baseline(summary, best["variant"], names),
    ]
    notes = [note for note in summary.notes if not any(text in note for text in WARNINGS.values())]
    origins = [f"{names[run.variant]}, fold {run.fold}, seed {run.seed}" for run in runs]
    origin = pd.Series([name for name, run in zip(origins, runs, strict=True) for _ in range(len(run.predictions))])
    sections = [
        Section("Summary", [*notes, *tables.summary_tables(summary)]),
        Section("Protocol and splits", [_source(runs[0]), parts.folds_table(runs)]),
        _figure_section(figures_of_sweep(runs, summary)),
        Section("Each speaker", [parts.speaker_accuracy_table(summary, names)]),
        Section("Most confident errors", [parts.errors_table(pooled(runs), origin)]),
        Section("Runs", [parts.runs_table(runs, names)]),
        _reproduction(runs, folder, summary.command),
    ]
    subtitle = (
        f"{len(runs)} runs of {len(rows)} variants; the highest of several scores is too high because it was chosen, "
        "so read it with the paired tests"
    )
    warnings = warnings_of([replace(run, variant=names[run.variant]) for run in runs])
    return Page(f"Sweep {folder.resolve().name}", subtitle, headline, warnings, sections)


def _kept_summary(folder: Path, runs: Sequence[Run]) -> tuple[str | None, dict[str, int], str]:
    """Of the sweep's summary: the baseline, if it is here, places of variants, command of just these runs."""
    with suppress(KeyError, TypeError):
        kept = read_json(folder / "summary.json") or {}
        baseline = kept["baseline"] if any(run.variant == kept["baseline"] for run in runs) else None
        same = sum(row["runs"] for row in kept["variants"]) == len(runs)
        order = {row["variant"]: place for place, row in enumerate(kept["variants"])}
        return baseline, order, str(kept["command"]) if same else ""
    return None, {}, ""


def _meaning(low: float, high: float) -> str:
    if pd.isna(low):
        return f"{cells.interval(low, high)} (fewer than {FEWEST_UNITS})"
    return f"95% interval over speakers {cells.interval(low, high)}"


def _against_baseline(summary: Summary, best: str, names: Mapping[str, str]) -> tuple[str, str, str]:
    name = f"UAR against {names[summary.baseline]} (points)"
    rows = cells.records(summary.comparisons)
    found = [row for row in rows if row["variant"] == best and row["metric"] == "uar"]
    if not found:
        highest = best == summary.baseline
        return name, cells.UNKNOWN, "the baseline itself is highest" if highest else "not compared, see the notes"
    row = found[0]
    limits = cells.interval(row["low"], row["high"], signed=True)
    known = [test for test in ("speakers", "training") if not pd.isna(row[f"p_{test}"])]
    tests = [f"p {test} {cells.p_text(row[f'p_{test}_holm'])}" for test in known]
    meaning = f"95% interval {limits}" + f"; {', '.join(tests)} after Holm's correction" * bool(tests)
    meaning += "; one seed, so p training is unknown" * bool(pd.isna(row["p_training"]))
    return name, cells.percent(row["difference"], signed=True), meaning


def _source(run: Run) -> str:
    """On which data the network was trained and tested, as far as that is known."""
    if run.origin:
        return cells.sentence(run.origin)
    if not run.metrics:
        return "Made by another tool: the training speakers are unknown."
    return f"Corpus {run.split['corpus']}, protocol {run.split['protocol']}, {run.split['folds']} folds."


def _choice_section(run: Run) -> list[Section]:
    found = test_choice(run)
    if found is None:
        return []
    _, honest, best, claimed = found
    epochs = f" {tables.choice(run.metrics)} Epoch {best} is best on the test part."
    return [Section("Choice of the epoch", [tables.choice_table([(run.variant, honest, claimed)], epochs)])]


def _figure_section(figures: Mapping[str, Figure]) -> Section:
    return Section("Figures", [Picture(figure, name, caption_of(name)) for name, figure in figures.items()])


def _reproduction(runs: Sequence[Run], folder: Path, typed: str = "") -> Section:
    typed = typed or str(runs[0].metrics.get("command", "")) * (len(runs) == 1)
    commands = [typed] if typed else train_commands(runs)
    known = "\n".join(commands) or "# the folder has no run.json, so the command is unknown"
    report = shlex.join(["ser", "report", str(folder)])
    blocks = [Listing("Commands", f"{known}\n{report}", folded=len(commands) > 12)]
    of_which = " of the run" if len(runs) == 1 else " of the first run"
    record = (read_json(runs[0].folder / "run.json") if runs[0].metrics else None) or {}
    if record:
        settings = json.dumps(record.get("config"), indent=2, ensure_ascii=False)
        blocks.append(Listing(f"Configuration{of_which}", settings, folded=True))
    return Section("Reproduce", [*blocks, parts.packages_table(record, of_which)])


def train_commands(runs: Sequence[Run]) -> list[str]:
    """The command that makes these runs: one for a run or a full grid of settings, else one per run."""
    settings: list[dict[str, str | None]] = []
    for run in runs:
        record = read_json(run.folder / "run.json")
        if not run.metrics or record is None or not isinstance(record.get("overrides"), list):
            return []
        overrides = [str(override) for override in record["overrides"]]
        settings.append({key: value for key, _, value in (override.partition("=") for override in overrides)})
    values = {key: list(dict.fromkeys(one.get(key) for one in settings)) for one in settings for key in one}
    size = math.prod(map(len, values.values()))
    same = [one for one, run in zip(settings, runs, strict=True) if run.deterministic and "seed" in one]
    repeated = [{**one, "seed": seed} for one in same for seed in values["seed"]]  # a sweep leaves these out by itself
    points = {tuple(sorted(one.items())) for one in [*settings, *repeated] if None not in one.values()}
    if len(points) == size and not any(None in found for found in values.values()):
        grid = [f"{key}={','.join(map(str, found))}" for key, found in values.items()]
        return [shlex.join(["ser", "train", *(["-m"] if size > 1 else []), *grid])]
    lines = [[f"{key}={value}" for key, value in one.items()] for one in settings]
    return list(dict.fromkeys(shlex.join(["ser", "train", *line]) for line in lines))
