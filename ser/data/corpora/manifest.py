"""Any other corpus: a table with one row per utterance."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from ser.data.corpora.parsing import assemble, existing_root, log, speaker_groups, validate_emotions
from ser.data.corpora.tables import FIRST_ROW, read_table
from ser.data.corpus import Corpus, Utterance, find_gender
from ser.emotions import common_name
from ser.errors import SerError, first_line, one_line

# Columns and the other names that tables have for them, in lower case.
_COLUMNS = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "wav", "audio", "audio_path", "file_id"),
    "emotion": ("label", "emo", "emotion_label", "emoclass"),
    "speaker": ("spk", "speaker_id", "spkr", "spkrid", "speakerid"),
    "session": (),
    "gender": ("sex",),
    "start": ("start_time", "begin"),
    "end": ("end_time",),
    "id": ("key", "utterance_id", "sid"),
    "seconds": ("duration", "length"),
    "frames": ("feats", "features"),
    "partition": ("split", "split_set", "subset", "set", "dset"),
    "corpus": ("dataset", "database"),
}
_TEXTS = ["path", "emotion", "speaker", "session", "id", "frames", "corpus"]  # no value may be empty
_PARTITIONS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_CONTROL = r"[\x00-\x1f\x7f]"  # of a quote that is closed lines below, for one
_MOST_SHOWN = 300  # characters of the columns in an error
_MOST_TABLES = 5  # in an error
_REMEDY = (
    "set data.manifest=/path/to/table.csv with the columns path, emotion, speaker[, session, gender, start, end, id]"
)


def manifest(
    manifest: str | Path | None,
    root: str | Path | None = None,
    emotions: Sequence[str] | None = None,
    map: Mapping[str, str] | None = None,
    partitions: Mapping[str, str] | None = None,
    name: str = "manifest",
    audio: str = "",
    columns: Mapping[str, str] | None = None,
) -> Corpus:
    """Read a table with the columns ``path, emotion, speaker`` and, if there, those of ``_COLUMNS``.

    Emotion names are lower-cased. Whole numbers in the session column are kept, other names become 1, 2, ... in natural
    order. Without that column the speakers form at most five groups, balanced by gender and number of utterances.
    Without an id column the id is the file name without suffix (the whole path where names repeat), followed by the
    start where there is one.

    Raises:
        SerError: the table or a column is not there, a value is missing or invalid, an id occurs twice, a
            speaker has two genders, or an emotion of ``emotions`` does not occur.
    """
    if not manifest:
        raise SerError(f"no manifest was given; {_REMEDY}.")
    source = Path(manifest).expanduser()
    base = source.parent
    if root or audio:
        base = existing_root(root, name, "set data.root to the folder that the paths start from") / audio
    return corpus_of_table(_read(source, bool(audio)), source, base, name, emotions, map, partitions, columns)


def corpus_of_table(
    table: pd.DataFrame,
    source: Path,
    base: Path,
    name: str,
    emotions: Sequence[str] | None = None,
    map: Mapping[str, str] | None = None,
    partitions: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Corpus:
    """The corpus of a table of texts, one row per utterance, with the columns of a manifest; missing values are empty.

    ``source`` is the file or folder it is from, for error messages; the rest is as for ``manifest``.
    """
    table = _named_columns(table, source, columns or {})
    labels = set(table["emotion"].str.lower())
    if name == "manifest" and (unused := [str(label) for label in map or {} if str(label).lower() not in labels]):
        log.warning("%s: no emotion is called %s, which data.map names", source, ", ".join(unused))
    table = _checked(table, source, map, partitions)
    possible = sorted(set(table["emotion"]))
    wanted = validate_emotions(possible if emotions is None else emotions, possible, str(source))
    spelled = [common_name(name) for name in wanted]
    if several := [name for name in wanted if spelled.count(common_name(name)) > 1]:
        log.warning("%s: %s count as several classes; data.map makes them one", source, ", ".join(several))
    table = table[table["emotion"].isin(wanted)]
    names = table["speaker"].drop_duplicates()
    if (alike := names[names.str.lower().duplicated(keep=False)]).any():
        log.warning(
            "%s: speakers whose names differ in capitals only count as several: %s", source, ", ".join(alike[:4])
        )
    if "session" in table:
        sessions = _numbered(table["session"], source)
    else:
        groups = speaker_groups(zip(table["speaker"], table["gender"], strict=True))
        sessions = [groups[speaker] for speaker in table["speaker"]]
    fields: dict[str, list[Any]] = {"id": _ids(table), "session": sessions}
    fields |= {column: table[column].tolist() for column in ("emotion", "speaker", "gender", "seconds", "start")}
    fields |= {column: table[column].tolist() for column in ("partition", "corpus") if column in table}
    fields["path"] = [_file(base / path) if path else Path() for path in table["path"]]
    fields["end"] = [None if pd.isna(end) else end for end in table["end"]]
    if "frames" in table:
        fields["frames"] = [Path(frames) if frames else None for frames in table["frames"]]
    rows = zip(*fields.values(), strict=True)
    return assemble(name, wanted, (Utterance(**dict(zip(fields, row, strict=True))) for row in rows), source)


def _read(source: Path, in_corpus: bool) -> pd.DataFrame:
    """The table as text.

    Raises:
        SerError: it is not there, or damaged.
    """
    try:
        return read_table(source)
    except FileNotFoundError as error:
        remedy = "set data.root to the folder of the corpus that holds it" if in_corpus else _REMEDY
        beside = sorted(path.name for path in source.parent.glob("*.*sv"))[:_MOST_TABLES]
        remedy += f"; or data.manifest, if it is one of {', '.join(beside)} there" if in_corpus and beside else ""
        raise SerError(f"the manifest {source} does not exist; {remedy}.") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = first_line(error)
        raise SerError(
            f"the manifest {source} cannot be read as a table of text ({reason}), expected CSV in UTF-8; save it so."
        ) from error


def _named_columns(table: pd.DataFrame, source: Path, given: Mapping[str, str]) -> pd.DataFrame:
    """The columns that are given or known, called as here."""
    table.columns = table.columns.str.strip().str.lower()
    own = {column: str(name).strip().lower() for column, name in given.items()}
    seen = one_line(", ".join(filter(None, table.columns)))
    seen = seen if len(seen) <= _MOST_SHOWN else f"{seen[:_MOST_SHOWN]} ..."
    if unknown := [column for column in own if column not in _COLUMNS]:
        raise SerError(f"data.columns names {unknown[0]}, expected one of {', '.join(_COLUMNS)}.")
    if absent := [name for name in own.values() if name not in table]:
        raise SerError(f"data.columns names {absent[0]}, but the manifest {source} has the columns {seen}; name those.")
    used = {
        column: own.get(column) or next((name for name in (column, *others) if name in table), None)
        for column, others in _COLUMNS.items()
    }
    if used["path"] is None and (used["frames"] is not None or used["id"] is not None):
        used["path"] = ""  # frames of features=files need no audio; without the column frames they are named by id
        table[""] = ""
    missing = [column for column in ("path", "emotion", "speaker") if used[column] is None]
    if missing:
        others = "; ".join(f"{column} as {', '.join(_COLUMNS[column][:3])}" for column in missing)
        named = ", ".join(f"{column}: NAME" for column in missing)
        raise SerError(
            f"the manifest {source} has the columns {seen} but not {', '.join(missing)}; add them, or say which they "
            f'are by data.columns="{{{named}}}" (also understood: {others}).'
        )
    if twice := sorted({str(name) for name in table.columns[table.columns.duplicated()]} & set(used.values())):
        raise SerError(f"the manifest {source} has several columns {twice[0]}, expected one; rename the others.")
    if table.empty:
        raise SerError(f"the manifest {source} has no rows below its header, expected one per utterance; {_REMEDY}.")
    found = {column: table[name].fillna("").str.strip() for column, name in used.items() if name is not None}
    return pd.DataFrame(found)


def _checked(
    table: pd.DataFrame, source: Path, mapping: Mapping[str, str] | None, partitions: Mapping[str, str] | None
) -> pd.DataFrame:
    """The rows with gender F, M or "", start and seconds as numbers, end a number or NaN; those of other parts go."""
    if "partition" in table:
        names = {str(name).lower(): part for name, part in (partitions or _PARTITIONS).items()}
        part = table["partition"].str.lower().map(names)
        if partitions is None:
            expected = "train, validation (or dev) or test, or that data.partitions names those to use"
            _refuse(source, part.isna(), table["partition"], "a partition", expected)
        table = table.assign(partition=part)[part.notna()]
    for column in table.columns.intersection(_TEXTS):
        if column != "path" or not ("frames" in table or ("id" in table and table["path"].eq("").all())):
            _refuse(source, table[column].eq(""), table[column], f"no {column}", "a value in every row")
        control = ~table[column].map(str.isprintable) if column == "emotion" else table[column].str.contains(_CONTROL)
        _refuse(source, control, table[column].map(ascii), f"control characters in {column}", "plain text")
    genders = table.get("gender", pd.Series("", index=table.index))
    gender = genders.map(find_gender)
    _refuse(source, gender.isna(), genders, "a gender that is not known", "F, M, female, male or nothing")
    start, end, seconds = (_seconds(source, table, column) for column in ("start", "end", "seconds"))
    _refuse(source, seconds < 0, seconds, "a number of seconds", "0 or more")
    lower = {str(label).lower(): target for label, target in (mapping or {}).items()}
    table = table.assign(
        path=[_path(path) for path in table["path"].tolist()],
        emotion=[str(lower.get(label, label)).lower() for label in table["emotion"].str.lower().tolist()],
        gender=gender,
        start=start.fillna(0.0),
        end=end,
        seconds=seconds.fillna(0.0),
    )
    _refuse(source, (table["start"] < 0) | (table["end"] <= table["start"]), end, "an end", "0 <= start < end")
    table.loc[table["speaker"].str.lower() == "unknown", "gender"] = ""  # of MSP-Podcast: several people
    several = table.groupby("speaker")["gender"].nunique()
    if (several > 1).any():
        raise SerError(f"speaker {several.idxmax()} has more than one gender in {source}; correct the column gender.")
    return table


def _path(path: str) -> str:
    """A path as this system writes it: ``~`` is the home folder, a backslash separates."""
    path = path.replace("\\", "/")
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _file(path: Path) -> Path:
    """The file of a path in a table, where no suffix means .wav, unless there is a file without."""
    return path if "." in path.name or path.is_file() else path.with_name(f"{path.name}.wav")


def _seconds(source: Path, table: pd.DataFrame, column: str) -> "pd.Series[float]":
    """A column of times; NaN where it is empty or not there."""
    text = table.get(column, pd.Series("", index=table.index))
    times = pd.to_numeric(text, errors="coerce").astype(float)
    no_number = (times.isna() | times.abs().eq(float("inf"))) & text.ne("")
    _refuse(source, no_number, text, f"a {column}", "seconds such as 1.5, or nothing")
    return times


def _refuse(source: Path, bad: "pd.Series[bool]", values: pd.Series, given: str, expected: str) -> None:
    """Name the first bad row as an editor counts it: the header is line 1."""
    if bad.any():
        position = int(bad.to_numpy().argmax())
        line = int(bad.index.to_numpy()[position]) + FIRST_ROW  # rows of other emotions are gone, so the index counts
        raise SerError(
            f"{source}, line {line}, has {given} ('{values.iloc[position]}'), expected {expected}; correct the table."
        )


def _ids(table: pd.DataFrame) -> list[str]:
    if "id" in table:
        return list(table["id"])
    names = [PurePosixPath(name) for name in (table["path"] if table["path"].all() else table["frames"])]
    starts = [
        f"_{start:.3f}" if start or not pd.isna(end) else ""
        for start, end in zip(table["start"], table["end"], strict=True)
    ]
    short = [name.stem + start for name, start in zip(names, starts, strict=True)]
    if len(set(short)) == len(short):
        return short
    long = [str(name.with_suffix("")) + start for name, start in zip(names, starts, strict=True)]
    if len(set(long)) == len(long):
        return long
    # a.wav and a.flac; not a.wav and a
    return [stem + (name.suffix or ".wav") for stem, name in zip(long, names, strict=True)]


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
