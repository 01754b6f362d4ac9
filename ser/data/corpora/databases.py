"""Corpora of no layout of their own: databases of audformat and Hugging Face.

Nothing in a database is executed: pickled tables, YAML tags that build objects, and loading scripts are not read.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ser.data.corpora.manifest import corpus_of_table
from ser.data.corpora.parsing import existing_root
from ser.data.corpus import Corpus
from ser.errors import SerError, first_line
from ser.io import atomic_path

_IDS = {"id", "key", "utterance_id", "sid"}  # columns that a manifest takes as id
_PARTITIONS = {"train": "train", "dev": "validation", "test": "test"}  # types of audformat's splits


def audformat_database(
    root: str | Path | None,
    tables: Sequence[str] | None = None,
    scheme: str = "emotion",
    emotions: Sequence[str] | None = None,
    map: Mapping[str, str] | None = None,
    name: str = "audformat",
) -> Corpus:
    """Read an audformat database: a folder with ``db.yaml``, its tables as CSV or Parquet, and the audio.

    The emotion is the scheme or column ``scheme``; speaker and gender come from any table, per file or per segment.
    (audeering.github.io/audformat)

    Raises:
        SerError: the library or the folder is not there, a table cannot be read, or the table is not one of a manifest.
    """
    folder = existing_root(root, "audformat", "set data.root to the folder of db.yaml")
    database = _open_database(folder)
    if unknown := set(tables or ()) - set(database.tables):
        raise SerError(f"{folder} has no table {', '.join(unknown)}, expected some of {', '.join(database.tables)}.")
    try:
        labels = database.get(scheme, tables=None if tables is None else list(tables))[scheme].dropna()
    except ValueError as error:  # tables that contradict each other
        raise SerError(
            f"{folder}: {first_line(error)}; choose data.tables among {', '.join(database.tables)}."
        ) from error
    table = labels.rename("emotion").reset_index()
    for column in ("speaker", "gender"):
        values = database.get(column)
        if not values.empty:
            table[column] = _values_at(labels.index, values[column])
    parts = {
        row: _PARTITIONS[split.type]
        for key, split in database.splits.items()
        if split.type in _PARTITIONS
        for row in database.get(scheme, splits=[key], tables=tables).index
    }
    if parts:
        table["partition"] = [parts.get(row, "") for row in labels.index]
        table = table[table["partition"] != ""]
    for column in {"start", "end"} & set(table):
        seconds = table[column].dt.total_seconds()
        table[column] = ["" if pd.isna(value) else repr(value) for value in seconds.tolist()]
    return corpus_of_table(table.astype(object).fillna("").astype(str), folder, folder, name, emotions, map)


def _library(name: str) -> Any:
    """The library of the corpus ``data=<name>``, which is an extra of the same name."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise SerError(f"data={name} needs the library {name}; pip install 'ser-lab[{name}]'.") from error


def _open_database(folder: Path) -> Any:
    """The database with its tables, of which pickled ones are not read."""
    audformat = _library("audformat")
    header = folder / "db.yaml"
    try:
        yaml.safe_load(header.read_text(encoding="utf-8"))  # audformat's own reader would build objects from tags
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SerError(f"{header} cannot be read as plain YAML ({first_line(error)}), expected a database.") from error
    with tempfile.TemporaryDirectory() as place:
        for path in [header, *folder.glob("db.*.csv"), *folder.glob("db.*.parquet")]:
            Path(place, path.name).symlink_to(path.absolute())
        try:
            database = audformat.Database.load(place)
            for table in [*database.tables, *database.misc_tables]:
                database[table].load(str(Path(place, f"db.{table}")))  # else at its first use
        except Exception as error:  # it passes on whatever pandas and pyarrow raise
            raise SerError(
                f"the tables in {folder} cannot be read ({first_line(error)}), expected CSV or Parquet; pickled ones "
                "are not opened, so save them again by Database.save(storage_format='csv')."
            ) from error
    return database


def _values_at(index: pd.Index, values: "pd.Series[Any]") -> "pd.Series[Any]":
    """The value of each row: of the same segment, else of its file where that has one value only."""
    values = values.dropna()
    files = {file: found.iloc[0] for file, found in values.groupby(level="file") if found.nunique() == 1}
    of_file = pd.Series([files.get(file) for file in index.get_level_values("file")], dtype=object)
    if index.nlevels == values.index.nlevels:
        return pd.Series(values.reindex(index).to_numpy()).fillna(of_file)
    return of_file


def hugging_face_dataset(
    root: str | Path | None,
    audio: str = "audio",
    files: str | Path = "outputs/data",
    emotions: Sequence[str] | None = None,
    map: Mapping[str, str] | None = None,
    name: str = "datasets",
) -> Corpus:
    """Read a folder of ``Dataset.save_to_disk``, or of the Arrow or Parquet files of a dataset.

    Columns are called as those of a manifest (``emotion`` or ``label``, ``speaker_id`` ...); class labels become their
    names and splits the column ``partition``. Embedded audio is written once into a folder below ``files``, named by
    its content. (huggingface.co/docs/datasets)

    Raises:
        SerError: the library or the folder is not there, a file or the audio column cannot be read, or the table is not
            one of a manifest.
    """
    folder = existing_root(root, "datasets", "set data.root to a folder of Dataset.save_to_disk")
    tables = []
    for part, dataset in _open_datasets(folder).items():
        if audio not in dataset.column_names:
            names = ", ".join(dataset.column_names)
            raise SerError(f"{folder} has the columns {names} and no {audio}; set data.audio to the audio's.")
        table = pd.DataFrame(dict(_text_columns(dataset, audio)))
        if not _IDS & {str(column).lower() for column in table}:
            table["id"] = [f"{part or 'row'}-{row:06d}" for row in range(len(table))]
        table["path"] = [_audio_file(found, folder, Path(files) / name) for found in _audio(dataset, audio)]
        tables.append(table.assign(partition=part) if part else table)
    return corpus_of_table(pd.concat(tables, ignore_index=True).fillna(""), folder, folder, name, emotions, map)


def _open_datasets(folder: Path) -> dict[str, Any]:
    """The dataset of each split."""
    datasets = _library("datasets")
    try:
        if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(str(folder))
            return dict(found) if isinstance(found, dict) else {"": found}
        readers = {".arrow": datasets.Dataset.from_file, ".parquet": datasets.Dataset.from_parquet}
        paths = [path for path in sorted(folder.rglob("*")) if path.suffix in readers]
        if not paths:
            raise ValueError("it holds no state.json, .arrow or .parquet file")
        splits = {path.name.partition("-")[0] if "-of-" in path.name else "" for path in paths}
        return {
            split if len(splits) > 1 else "": datasets.concatenate_datasets(
                [readers[path.suffix](str(path)) for path in paths if path.name.startswith(split)]
            )
            for split in sorted(splits)
        }
    except Exception as error:  # it passes on whatever pyarrow and its own readers raise
        raise SerError(f"{folder} cannot be read as a dataset ({first_line(error)}); save it again.") from error


def _text_columns(dataset: Any, audio: str) -> Iterator[tuple[str, list[str]]]:
    """Every plain column but the audio as text."""
    for column, feature in dataset.features.items():
        if column != audio and hasattr(feature, "dtype") and not isinstance(feature, list | dict):
            values = dataset.with_format(None)[column]
            named = getattr(feature, "int2str", str)
            yield column, ["" if value is None else str(named(value)) for value in values]


def _audio(dataset: Any, audio: str) -> Iterator[Mapping[str, Any]]:
    """Path and bytes of each recording, not decoded."""
    undecoded = _library("datasets").Audio(decode=False)
    try:
        yield from dataset.select_columns([audio]).cast_column(audio, undecoded)[audio]
    except Exception as error:  # of pyarrow, by what the column holds
        raise SerError(f"the column {audio} holds no audio files ({first_line(error)}); set data.audio.") from error


def _audio_file(found: Mapping[str, Any], folder: Path, files: Path) -> str:
    """Path of a recording, which is written where the dataset embeds it."""
    if not found["bytes"]:
        return str(folder / (found["path"] or ""))
    stem = hashlib.sha256(found["bytes"]).hexdigest()[:24]
    path = files.absolute() / f"{stem}{Path(found['path'] or '.wav').suffix or '.wav'}"
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_bytes(found["bytes"])
    return str(path)
