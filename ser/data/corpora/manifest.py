"""Any other corpus: a CSV table with one row per utterance."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from ser.data.corpora.parsing import assemble, existing_root, validate_emotions
from ser.data.corpus import Corpus, Utterance
from ser.errors import SerError

_REQUIRED = ("path", "emotion", "speaker")
_OPTIONAL = ("session", "gender", "start", "end", "id")
_GENDERS = {"f": "F", "female": "F", "m": "M", "male": "M", "": ""}
_MOST_GROUPS = 5  # speaker groups in place of sessions, as many as IEMOCAP's sessions
_REMEDY = (
    "set data.manifest=/path/to/table.csv with the columns path, emotion, speaker[, session, gender, start, end, id]"
)


def manifest(
    manifest: str | Path | None,
    root: str | Path | None = None,
    emotions: Sequence[str] | None = None,
) -> Corpus:
    """Read a CSV with the columns ``path, emotion, speaker[, session, gender, start, end, id]``; others are ignored.

    Emotion names are lower-cased. Whole numbers in the session column are kept, other names become 1, 2, ... in
    natural order. Without that column the speakers form at most five groups, balanced by gender and number
    of utterances. Without an id column the id is the file name without suffix (the whole path where names repeat),
    followed by the start where there is one.

    Args:
        manifest: the CSV file, UTF-8.
        root: where relative paths start; None means the folder of the CSV.
        emotions: the classes in their order, rows of others being left out; None means all that occur, sorted.

    Raises:
        SerError: the table or a column is not there, a value is missing or invalid, an id occurs twice, a
            speaker has two genders, or an emotion of ``emotions`` does not occur.
    """
    if not manifest:
        raise SerError(f"no manifest was given; {_REMEDY}.")
    source = Path(manifest).expanduser()
    table = _table(source)
    base = (
        existing_root(root, "manifest", "set data.root to the folder that the paths start from")
        if root
        else source.parent
    )
    possible = sorted(set(table["emotion"]))
    wanted = validate_emotions(possible if emotions is None else emotions, possible, str(source))
    table = table[table["emotion"].isin(wanted)]
    sessions = _numbered(table["session"], source) if "session" in table else _grouped(table)
    utterances = (
        Utterance(
            identifier,
            base / row["path"],
            row["emotion"],
            row["speaker"],
            session,
            row["gender"],
            start=float(row["start"]),
            end=None if pd.isna(row["end"]) else float(row["end"]),
        )
        for row, session, identifier in zip(table.to_dict("records"), sessions, _ids(table), strict=True)
    )
    return assemble("manifest", wanted, utterances, source)


def _table(source: Path) -> pd.DataFrame:
    """The checked rows: text stripped, gender F, M or "", start a number, end a number or NaN."""
    try:
        table = pd.read_csv(source, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except FileNotFoundError as error:
        raise SerError(f"the manifest {source} does not exist; {_REMEDY}.") from error
    except (OSError, ValueError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise SerError(f"the manifest {source} cannot be read as a UTF-8 CSV table ({reason}); {_REMEDY}.") from error
    table.columns = table.columns.str.strip().str.lower()
    missing = [column for column in _REQUIRED if column not in table]
    if missing:
        raise SerError(
            f"the manifest {source} has the columns {', '.join(table.columns)} but not "
            f"{', '.join(missing)}; add what is missing."
        )
    if table.empty:
        raise SerError(f"the manifest {source} has no rows below its header, expected one per utterance; {_REMEDY}.")
    table = table[[column for column in (*_REQUIRED, *_OPTIONAL) if column in table]].fillna("")
    table = table.apply(lambda text: text.str.strip())
    for column in table.columns.intersection(["path", "emotion", "speaker", "session", "id"]):
        _refuse(source, table[column].eq(""), table[column], f"no {column}", "a value in every row")
    control = ~table["emotion"].map(str.isprintable)
    _refuse(source, control, table["emotion"].map(ascii), "control characters in an emotion", "plain text")
    gender = table.get("gender", pd.Series("", index=table.index))
    _refuse(source, ~gender.str.lower().isin(_GENDERS), gender, "a gender that is none", "F, M or nothing")
    start, end = (_seconds(source, table, column) for column in ("start", "end"))
    table = table.assign(
        emotion=table["emotion"].str.lower(), gender=gender.str.lower().map(_GENDERS), start=start.fillna(0.0), end=end
    )
    _refuse(source, (table["start"] < 0) | (table["end"] <= table["start"]), end, "an end", "0 <= start < end")
    genders = table.groupby("speaker")["gender"].nunique()
    if (genders > 1).any():
        raise SerError(f"speaker {genders.idxmax()} has more than one gender in {source}; correct the column gender.")
    return table


def _seconds(source: Path, table: pd.DataFrame, column: str) -> "pd.Series[float]":
    """A column of times; NaN where it is empty or not there."""
    text = table.get(column, pd.Series("", index=table.index))
    times = pd.to_numeric(text, errors="coerce").astype(float)
    no_number = (times.isna() | times.abs().eq(float("inf"))) & text.ne("")
    _refuse(source, no_number, text, f"a {column}", "seconds or nothing")
    return times


def _refuse(source: Path, bad: "pd.Series[bool]", values: pd.Series, given: str, expected: str) -> None:
    """Name the first bad row as an editor counts it: the header is line 1."""
    if bad.any():
        position = int(bad.to_numpy().argmax())
        line = int(bad.index.to_numpy()[position]) + 2  # rows of other emotions are gone, so the index counts
        raise SerError(
            f"{source}, line {line}, has {given} ('{values.iloc[position]}'), expected {expected}; correct the table."
        )


def _ids(table: pd.DataFrame) -> list[str]:
    if "id" in table:
        return list(table["id"])
    names = [PurePosixPath(path.replace("\\", "/")) for path in table["path"]]
    starts = [
        f"_{start:.3f}" if start or not pd.isna(end) else ""
        for start, end in zip(table["start"], table["end"], strict=True)
    ]
    short = [name.stem + start for name, start in zip(names, starts, strict=True)]
    if len(set(short)) == len(short):
        return short
    return [str(name.with_suffix("")) + start for name, start in zip(names, starts, strict=True)]


def _numbered(sessions: "pd.Series[str]", source: Path) -> list[int]:
    """Whole numbers as they are; other names as 1, 2, ... in natural order (``s2`` before ``s10``)."""
    names = set(sessions)
    if all(name.isdecimal() for name in names):
        _refuse(source, sessions.astype(int).eq(0), sessions, "a session", "numbers from 1 on")
        return [int(name) for name in sessions]
    numbers = {name: number for number, name in enumerate(sorted(names, key=_natural), 1)}
    return [numbers[name] for name in sessions]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _grouped(table: pd.DataFrame) -> list[int]:
    """Speaker groups in place of sessions: largest speakers first, each to the group with the fewest of that gender."""
    speakers = table.groupby("speaker").agg(gender=("gender", "first"), count=("path", "size")).reset_index()
    speakers = speakers.sort_values(["gender", "count", "speaker"], ascending=[True, False, True])
    groups = range(1, min(_MOST_GROUPS, len(speakers)) + 1)
    of_gender = {(group, gender): 0 for group in groups for gender in set(speakers["gender"])}
    size = dict.fromkeys(groups, 0)
    group_of = {}
    for speaker, gender, count in speakers.itertuples(index=False):
        group = min(groups, key=lambda group: (of_gender[group, gender], size[group], group))
        group_of[speaker] = group
        of_gender[group, gender] += 1
        size[group] += count
    return [group_of[speaker] for speaker in table["speaker"]]
