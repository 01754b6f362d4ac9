"""Whole files or none: everything the package writes goes through a temporary file and a rename."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ser.errors import SerError

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")  # as atomic_path names them


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` when the block succeeds.

    A reader sees the old file or the new one, never a part. When the block fails the temporary file is removed and
    ``path`` keeps what it had.

    Raises:
        SerError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    # The process id keeps two writers apart; the suffix stays last because some writers choose a format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with told_writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # a read-only file system refuses even to remove what is not there
            temporary.unlink(missing_ok=True)


@contextmanager
def told_writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into one sentence.

    Raises:
        SerError: the folder cannot be written or the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise SerError(
            f"could not write {path}: {error.strerror or error}; free space or choose a writable folder, "
            "then run the same command again (what was there before is intact)."
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in ``folder`` and below; nobody may be writing there."""
    for path in folder.rglob(".*.tmp*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON to ``path``, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=True) + "\n")


def spreadsheet_safe(text: str) -> str:
    """``text`` as a spreadsheet shows it: a leading ``= + - @`` or control character would start a formula."""
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text
