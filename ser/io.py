"""Whole files or none: writing goes through a temporary file and a rename; checkpoints are checked when read."""

import errno
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ser.errors import SerError, first_line

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_UMASK = os.umask(0)  # it cannot be read without being set
os.umask(_UMASK)
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
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # a read-only file system refuses even to remove what is not there
            temporary.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise a SerError where the system refuses to write ``path``."""
    try:
        yield
    except OSError as error:
        raise SerError(
            f"could not write {path}: {error.strerror or error}; free space or choose a writable folder, "
            "then run the same command again (what was there before is intact)."
        ) from error


def leftovers(folder: Path) -> list[Path]:
    """Temporary files in ``folder`` and below, which killed processes left (or others are writing now)."""
    return [path for path in folder.rglob(".*.tmp*") if _TEMPORARY.fullmatch(path.name) and path.is_file()]


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(content: Any) -> str:
    """``content`` as indented JSON."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=True) + "\n"


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON to ``path``, whole or not at all."""
    write_text(path, json_text(content))


def write_tensors(path: Path, tensors: "Mapping[str, NDArray[Any]]", metadata: Mapping[str, str]) -> None:
    """Write ``tensors`` as a safetensors file with the permissions of any new file.

    Raises:
        OSError: it cannot be written or the disk is full.
    """
    from safetensors import SafetensorError  # noqa: PLC0415  every command imports this module
    from safetensors.numpy import save_file  # noqa: PLC0415

    try:
        save_file(dict(tensors), path, dict(metadata))
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(None, str(error)) from error
    path.chmod(0o666 & ~_UMASK)  # safetensors lets only the owner read its files


def plain_rows(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows of a table in plain Python types; missing values are None."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows


def safe_csv(table: "pd.DataFrame") -> str:
    """A table as CSV in which no text acts as a spreadsheet formula, begun by ``= + - @`` or a control character."""

    def safe(cell: Any) -> Any:
        return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell

    return table.map(safe).to_csv(index=False)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``; None where the file is absent, damaged or holds something else."""
    try:
        return require_json(path, "")
    except SerError:
        return None


def require_json(
    path: Path,
    remedy: str,
    longest: int = 1_000_000_000,
    kinds: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The JSON object in ``path``; the ``remedy`` is the end of the error message.

    The file may have ``longest`` bytes. Entries are of these ``kinds``; a missing one is None.

    Raises:
        SerError: the file is missing, damaged, longer, or holds something else.
    """
    try:
        if (size := path.stat().st_size) > longest:
            raise ValueError(f"{size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except FileNotFoundError as error:
        raise SerError(f"{path} is missing; {remedy}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise SerError(f"{path} is not readable JSON ({first_line(error)}); {remedy}.") from error
    if wrong := [key for key, kind in kinds.items() if not isinstance(content.get(key), kind)]:
        raise SerError(f"{path} has no valid {', '.join(wrong)}; {remedy}.")
    return content


def append_line(path: Path, line: str) -> None:
    """Append ``line`` to ``path`` in one write, so that several processes may do it at once."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            content = f"{line}\n".encode()
            if os.write(handle, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)


class DamagedCheckpointError(Exception):
    """The fault of a checkpoint as a phrase, to which the caller adds file and remedy."""


def read_checkpoint_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint on the CPU: tensors and plain values, nothing executed.

    A checkpoint is a zip archive that carries a CRC-32 of each of its records. ``torch.load`` does not look at them:
    most flipped bits of a file would come back as other weights.

    Raises:
        DamagedCheckpointError: a record fails its checksum, or the file holds more than tensors and plain values.
        OSError: it cannot be read.
    """
    import torch  # noqa: PLC0415  every command imports this module, few read checkpoints

    content = path.read_bytes()  # once: what was checked is what is loaded
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                raise DamagedCheckpointError("its records are compressed, as torch.save never writes them")
            damaged = archive.testzip()
    except DamagedCheckpointError:
        raise
    except Exception as error:  # a damaged archive leads the reader to errors of many kinds
        raise DamagedCheckpointError(f"it is no whole archive of records ({type(error).__name__})") from error
    if damaged is not None:
        raise DamagedCheckpointError(f"its record {damaged} fails its checksum")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles, which are refused below
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever a hostile file leads it to
        raise DamagedCheckpointError(f"it holds more than tensors and plain values ({type(error).__name__})") from error
    if not isinstance(loaded, dict):
        raise DamagedCheckpointError(f"it holds a {type(loaded).__name__} in place of named entries")
    return loaded
