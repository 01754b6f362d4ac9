"""The sections of a report that are about one run or hold for runs and sweeps alike."""

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ser.errors import SerError
from ser.evaluation.predictions import probabilities
from ser.evaluation.report.page import Block, Listing, Section, Table, Text, flat, interval, listed, number, p_value
from ser.evaluation.significance import bootstrap_interval

METRIC_NAMES = {
    "wa": "WA (plain accuracy)",
    "uar": "UAR (mean recall)",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
}
_PACKAGES = ("ser", "torch", "torchaudio", "lightning", "transformers", "numpy", "pandas", "scikit-learn", "scipy")
_MOST_ERRORS = 25


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file.

    Raises:
        SerError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SerError(f"{path} cannot be read as JSON ({error}); run the command that wrote it again.") from error
    return content if isinstance(content, dict) else {"content": content}


def labels_of(facts: Mapping[str, Any]) -> list[str]:
    """The warnings a result has to carry, from ``split.json`` or ``metrics.json``."""
    labels = []
    if facts.get("speaker_overlap"):
        labels.append(
            "speaker overlap: test or validation speakers occur in training; not comparable with "
            "speaker-independent results"
        )
    if facts.get("transductive"):
        labels.append("transductive: uses unlabelled audio of the test speakers")
    return labels


def score_section(table: pd.DataFrame, result: Mapping[str, Any], validation: Mapping[str, Any] | None) -> Section:
    """The four scores with intervals over speakers, beside those of the validation part."""
    rows = []
    for metric, name in METRIC_NAMES.items():
        bounds = bootstrap_interval(table, metric)
        row = [name, number(result[metric]), interval((bounds.low, bounds.high))]
        rows.append(row + ([number(validation.get(metric))] if validation else []))
    columns = ["score", "test", "95% interval", *(["validation"] if validation else [])]
    caption = (
        "Intervals resample speakers, then their utterances: what other speakers would give. "
        "Epochs were chosen on validation UAR."
    )
    return Section("Scores", [Table(columns, rows, caption), emotion_table(result)])


def emotion_table(result: Mapping[str, Any]) -> Table:
    """Precision, recall, F1 and count of each emotion."""
    counts = np.array(result["confusion"]).sum(axis=1)
    rows = [
        [emotion, *(number(result[key][emotion]) for key in ("precision", "recall", "f1")), number(int(count))]
        for emotion, count in zip(result["recall"], counts, strict=True)
    ]
    return Table(["emotion", "precision", "recall", "F1", "utterances"], rows)


def protocol_section(split: Mapping[str, Any], title: str = "Protocol and split") -> Section:
    """Who was trained, chosen and tested on."""
    if "protocol" not in split:
        return Section(title, [Text("A table made by another tool: who was trained on is unknown.")])
    emotions = list(split.get("emotions", []))
    rows = []
    for name, part in split["parts"].items():
        speakers = part["speakers"]
        rows.append(
            [
                name,
                number(part["utterances"]),
                number(part["seconds"] / 60, 1),
                number(len(speakers)),
                listed(part["sessions"]),
                *(number(part["emotions"].get(emotion, 0)) for emotion in emotions),
                str(part["hash"]),
            ]
        )
    columns = ["part", "utterances", "minutes", "speakers", "sessions", *emotions, "hash"]
    held_out = listed(split["parts"].get("test", {}).get("speakers", []))
    text = (
        f"Corpus {split['corpus']}, protocol {split['protocol']}, fold {split['fold']} of {split['folds']}, seed "
        f"{split['seed']}. Left out: {len(split.get('left_out', {}))} utterances. Test speakers: {held_out}."
    )
    return Section(title, [Text(text), Table(columns, rows, f"Split hash {split['hash']}")])


def test_choice(history: pd.DataFrame | None, metrics: Mapping[str, Any]) -> tuple[float, float, int, int] | None:
    """Test UAR at the epoch that validation chose, the best of all epochs, and those two epochs.

    None where the history did not watch the test part. The second figure must never be quoted: it is what choosing the
    epoch on the test part would have claimed.
    """
    if history is None or "test/uar" not in history or not history["test/uar"].notna().any():
        return None
    history = history.drop_duplicates("epoch", keep="last").dropna(subset=["test/uar"]).reset_index(drop=True)
    chosen = history.index[history["epoch"] == metrics.get("best_epoch", -1)]
    if chosen.empty and "val/uar" in history and history["val/uar"].notna().any():
        chosen = pd.Index([int(history["val/uar"].argmax())])
    if chosen.empty:
        return None
    honest, best = int(chosen[0]), int(history["test/uar"].argmax())
    values, epochs = history["test/uar"].to_numpy(dtype=float), history["epoch"].to_numpy(dtype=int)
    return float(values[honest]), float(values[best]), int(epochs[honest]), int(epochs[best])


def choice_section(choices: Mapping[str, Sequence[tuple[float, float, int, int] | None]]) -> Section:
    """What choosing the epoch on the test part would have claimed, a row a variant, averaged over its runs."""
    rows, single = [], sum(map(len, choices.values())) == 1
    for name, entries in choices.items():
        known = [entry for entry in entries if entry is not None]
        if not known:
            continue
        honest, claimed = np.mean([entry[0] for entry in known]), np.mean([entry[1] for entry in known])
        rows.append(
            [
                name,
                number(len(known)),
                number(float(honest)),
                number(float(claimed)),
                f"{claimed - honest:+.3f}",
                *((str(known[0][2]), str(known[0][3])) if single else ()),
            ]
        )
    title = "Had the epoch been chosen on the test part"
    if not rows:
        return Section(
            title,
            [
                Text(
                    "The test part was not watched during training (no test/uar in history.csv), so "
                    "there is no such figure."
                )
            ],
        )
    text = (
        "The first figure is honest. The second is what the same training would have claimed by picking its epoch "
        "on the test part; it is printed to show the size of that mistake and must not be quoted."
    )
    columns = [
        "variant",
        "runs",
        "UAR, epoch chosen on validation",
        "claimed by choosing on test",
        "difference",
        *(("epoch by validation", "epoch by test") if single else ()),
    ]
    return Section(title, [Text(text), Table(columns, rows)])


def speaker_section(analysis: Mapping[str, Any]) -> Section:
    """The cross-speaker analysis: spreads, gaps, and every speaker."""
    names = {
        "overall_accuracy": "overall accuracy (WA)",
        "average_f1": "mean of the speakers' weighted F1",
        "performance_std": "deviation of F1 over speakers",
        "f1_range": "best minus worst speaker, F1",
        "accuracy_std": "deviation of accuracy over speakers",
        "accuracy_range": "best minus worst speaker, accuracy",
    }
    rows = [
        [name, number(analysis.get(key)), interval(analysis.get("intervals", {}).get(key))]
        for key, name in names.items()
    ]
    for key in ("gender", "session"):
        gap = analysis.get(f"{key}_gap")
        name = f"gap between {key}s, accuracy" + (f" ({gap['best']} over {gap['worst']})" if gap else "")
        rows.append([name, number(gap["gap"] if gap else None), interval(gap["interval"] if gap else None)])
    speakers = [
        [
            row["speaker"],
            row["gender"] or "–",
            str(row["session"]),
            number(row["n"]),
            number(row["accuracy"]),
            number(row["weighted_f1"]),
        ]
        for row in analysis["per_speaker"]
    ]
    blocks: list[Block] = [
        Table(
            ["figure", "value", "95% interval"],
            rows,
            "How evenly the speakers are served; intervals resample speakers.",
        ),
        Table(["speaker", "gender", "session", "utterances", "accuracy", "weighted F1"], speakers),
    ]
    return Section("Across speakers", blocks)


def leakage_section(runs: Mapping[str, Sequence[Path]]) -> Section | None:
    """Results of the speaker probe (``leakage.json`` of run folders), a column a variant, figures averaged over runs.

    None where no run has any.

    Raises:
        SerError: a file is damaged.
    """
    columns: dict[str, dict[str, str]] = {}
    for name, folders in runs.items():
        contents = [content for folder in folders if (content := read_json(folder / "leakage.json"))]
        probes = pd.DataFrame(
            [{key: value for key, value in flat(content) if "held_out" not in key} for content in contents]
        )
        if len(probes):
            columns[name + (f" (mean of {len(probes)})" if len(probes) > 1 else "")] = {
                str(key): _average(probes[key], "p_" in str(key)) for key in probes
            }
    if not columns:
        return None
    keys = list(dict.fromkeys(key for content in columns.values() for key in content))
    rows = [[_readable(key), *(content.get(key, "–") for content in columns.values())] for key in keys]
    text = (
        "Probes trained on the frozen pooled features to name the speaker (held-out utterances of training "
        "speakers) and the gender. Near chance means that the features no longer tell who speaks."
    )
    return Section("Speaker leakage", [Text(text), Table(["figure", *columns], rows)])


def _readable(key: str) -> str:
    """A dotted key as words."""
    return key.replace(".", ", ").replace("_", " ")


def _average(values: pd.Series, is_p: bool) -> str:
    """Mean of numbers (of p-values the largest); other values as they are where all runs agree."""
    known = values.dropna()
    if is_p:
        return p_value(float(known.max()) if len(known) else None)
    if len(known) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return number(known.iloc[0].item() if known.nunique() == 1 else float(known.mean()))
    return number(str(known.iloc[0])) if known.astype(str).nunique() == 1 else "–"


def error_section(table: pd.DataFrame, runs: pd.Series | None = None) -> Section:
    """The wrong answers given with the highest confidence.

    Args:
        table: a prediction table.
        runs: which run each row comes from, where there are several.
    """
    confidence = pd.Series(probabilities(table).max(axis=1), index=table.index)
    wrong = confidence[table["emotion"] != table["predicted"]].sort_values(ascending=False, kind="stable")
    surest = table.loc[wrong.index].assign(confidence=wrong).head(_MOST_ERRORS)
    if wrong.empty:
        return Section("Most confident errors", [Text("There is no wrong answer.")])
    columns = ["id", "speaker", "seconds", "true", "predicted", "confidence", *([] if runs is None else ["run"])]
    rows = []
    for index, row in zip(surest.index, surest.to_dict("records"), strict=True):
        rows.append(
            [
                row["id"],
                row["speaker"],
                number(float(row["seconds"]), 2),
                row["emotion"],
                row["predicted"],
                number(row["confidence"]),
                *([] if runs is None else [str(runs.at[index])]),
            ]
        )
    text = f"{len(wrong)} of {len(table)} answers are wrong; these are the surest of them, worth listening to first."
    return Section("Most confident errors", [Text(text), Table(columns, rows)])


def command_of(folder: Path) -> str | None:
    """The command that ran ``folder``, from what Hydra kept there."""
    path = folder / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return None
    overrides = [line[2:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("- ")]
    # YAML quotes an override that would read as something else.
    plain = [entry[1:-1].replace("''", "'") if entry[:1] == entry[-1:] == "'" else entry for entry in overrides]
    return shlex.join(["python", "train.py", *plain])


def reproduction_section(
    commands: list[str], folder: Path, configuration: Path | None, metrics: Mapping[str, Any]
) -> Section:
    """Commands, configuration and versions."""
    known = "\n".join(commands) or "# the folder kept no .hydra/overrides.yaml, so the command is unknown"
    report = shlex.join(["ser", "report", str(folder)])
    blocks: list[Block] = [Listing("Commands", f"{known}\n{report}", folded=len(commands) > 12)]
    if configuration is not None and configuration.is_file():
        blocks.append(Listing("Configuration", configuration.read_text(encoding="utf-8"), folded=True))
        overrides = configuration.with_name("overrides.yaml")
        if overrides.is_file():
            blocks.append(Listing("Overrides", overrides.read_text(encoding="utf-8"), folded=True))
    versions = metrics.get("versions")
    caption = "Versions of the run" if versions else "Versions installed when this page was written"
    rows = [[name, str(version)] for name, version in (versions or _installed()).items()]
    return Section("Reproduce", [*blocks, Table(["package", "version"], rows, caption)])


def _installed() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
