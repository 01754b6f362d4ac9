"""Tables of texts as other programs write them, with errors that name the line."""

import codecs
import csv
import re
from pathlib import Path
from sys import intern

import pandas as pd

from ser.errors import SerError

FIRST_ROW = 2  # the line of the first row where nothing else stands above it
_SEPARATORS = ",\t;|"


def read_table(source: Path) -> pd.DataFrame:
    """The rows of a table with a header, all values texts; the index is the line of a row less ``FIRST_ROW``.

    Separated by comma, tab, semicolon or bar, which the header tells, or a line such as ``sep=;`` above it. Rows
    without any value and spaces around quotes are left out; what a short row lacks is empty.

    Raises:
        SerError: there is no header, or a row has more values than it, or a quote is not closed.
        OSError: it cannot be read.
        UnicodeDecodeError: it is neither UTF-8 nor UTF-16 that says so, as spreadsheets write it.
    """
    with source.open("rb") as beginning:
        wide = beginning.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    with source.open(encoding="utf-16" if wide else "utf-8-sig", newline="") as file:
        first = next((line.strip() for line in file if line.strip()), "")
        told = first.lower().startswith("sep=") and len(first) == len("sep=;")
        separator = first[-1] if told else max(_SEPARATORS, key=first.count)
        file.seek(0)
        close = re.compile(rf'" +(?=[{separator}\r\n]|$)')
        lines_of_file = (close.sub('"', line) for line in file)
        reader = csv.reader(lines_of_file, delimiter=separator, strict=True, skipinitialspace=True)
        header: list[str] | None = None if told else []  # None: the line with the separator comes first
        rows, lines, before = [], [], 0
        try:
            for row in reader:
                line, before = before + 1, reader.line_num
                if header and any(row[len(header) :]):
                    raise SerError(
                        f"{source}, line {line}, has {len(row)} values, but the header names {len(header)} columns; "
                        f"quote values that hold {separator!r}, or name every column."
                    )
                if header and any(row):
                    lines.append(line - FIRST_ROW)
                    rows.append([intern(value) for value in row[: len(header)]] + [""] * (len(header) - len(row)))
                elif not header and "".join(row).strip():
                    header = [] if header is None else row
        except csv.Error as error:
            raise SerError(
                f"{source}, line {before + 1}, has a quote that is not closed, or text behind a closed one ({error}), "
                "expected quotes around whole values; correct the table."
            ) from error
    if not header:
        raise SerError(f"{source} is empty, expected a line with the names of the columns.")
    names = [name.strip("\ufeff\u200b ") or f"unnamed: {number}" for number, name in enumerate(header)]
    return pd.DataFrame(rows, columns=names, index=lines, dtype=str)
