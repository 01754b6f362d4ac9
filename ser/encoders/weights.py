"""Finds a pretrained checkpoint, reads its settings, hashes its weights and bounds its size."""

import hashlib
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from ser.errors import EncoderNotHereError, SerError, first_line
from ser.io import require_json

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"  # transformers 4 and 5
_CONFIG_FILES = ["config.json", PREPROCESSOR, PROCESSOR]
_WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*")
_LONGEST_JSON = 10_000_000  # bytes
_LARGEST_SIZE = 1_000_000  # of any number in config.json


def checkpoint_folder(checkpoint: str, allow_download: bool = True) -> Path:
    """The local folder of a checkpoint, downloaded first where it is a Hub id that is not cached.

    Names that a stranger's model brings along are used without ``allow_download``: only local files.

    Raises:
        SerError: there is no such folder, and the Hub does not have it or may not be asked.
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() or not _weight_files(folder):
            raise SerError(
                f"{checkpoint} is no transformers checkpoint: expected config.json and *.safetensors in it; "
                f"{remedy(checkpoint)}."
            )
        return folder
    if not _is_hub_id(checkpoint):
        raise SerError(f"there is no folder {checkpoint}, expected a transformers checkpoint; {remedy(checkpoint)}.")
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    error: Exception | None = None
    for local in (True, False) if allow_download else (True,):
        # Weights are in safetensors files or, in older repositories, in a pickle of which only tensors are read.
        for weights in _WEIGHTS:
            try:
                found = Path(
                    snapshot_download(checkpoint, allow_patterns=[*_CONFIG_FILES, weights], local_files_only=local)
                )
            except Exception as failure:  # connection, name, permission and cache errors have no common base
                error = failure
                break
            if (found / "config.json").is_file() and _weight_files(found):
                return found
    if not allow_download:
        raise EncoderNotHereError(checkpoint)
    reason = first_line(error) if error else "no weights in it"
    raise SerError(
        f"{checkpoint} is neither a local folder nor available from the Hugging Face Hub ({reason}); "
        f"{remedy(checkpoint)}."
    ) from error


def download_size(checkpoint: str) -> str | None:
    """``290 MB``: what fetching a checkpoint of the Hub takes; None where the Hub does not answer."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    try:
        files = HfApi().model_info(checkpoint, files_metadata=True, timeout=10).siblings or []
    except Exception:  # as above
        return None
    sizes = {kind: sum(file.size or 0 for file in files if fnmatch(file.rfilename, kind)) for kind in _WEIGHTS}
    return f"{next(filter(None, sizes.values()), 0) / 1e6:.0f} MB"


def remedy(checkpoint: str) -> str:
    """What to do where ``checkpoint`` is missing, as the end of an error message."""
    place = "features.checkpoint=FOLDER for training, --encoder FOLDER for use"
    if not _is_hub_id(checkpoint):
        return f"name the folder where it is now ({place})"
    return (
        f"on a machine with internet run `hf download {checkpoint} --local-dir {checkpoint.rpartition('/')[2]}`, then "
        f"name that folder ({place})"
    )


def on_this_machine(checkpoint: str) -> bool:
    """Whether a checkpoint needs no download; a missing local folder is reported when it is opened."""
    if not _is_hub_id(checkpoint) or Path(checkpoint).expanduser().exists():
        return True
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    return isinstance(try_to_load_from_cache(checkpoint, "config.json"), str)


def _is_hub_id(checkpoint: str) -> bool:
    return bool(checkpoint) and not checkpoint.startswith((".", "~", "/")) and checkpoint.count("/") <= 1


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weight files' contents (first 16 digits), computed once per process."""
    files = _weight_files(folder)
    return _hash_files(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=16)
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """The hash; sizes and times are arguments so that a replaced file is hashed again."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def read_settings(path: Path) -> dict[str, Any]:
    """The object in one of the checkpoint's JSON files.

    Raises:
        SerError: the file is missing, too large, or holds no JSON object.
    """
    return require_json(path, "copy the checkpoint again, all its files", _LONGEST_JSON)


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """The checkpoint's feature-extractor settings; transformers 5 keeps them inside ``processor_config.json``.

    Raises:
        SerError: neither file holds them.
    """
    if not (folder / PREPROCESSOR).is_file() and (folder / PROCESSOR).is_file():
        settings = read_settings(folder / PROCESSOR).get("feature_extractor")
        if isinstance(settings, dict):
            return settings
    return read_settings(folder / PREPROCESSOR)


def check_size(folder: Path, config: Mapping[str, Any], parameters: int) -> None:
    """Refuse a checkpoint that would grow far beyond its files when it is built.

    ``parameters`` is the number of weights that the ``config`` implies at least.
    """
    numbers = [item for value in config.values() for item in (value if isinstance(value, list) else [value])]
    largest = max((item for item in numbers if isinstance(item, int)), default=0)
    files = _weight_files(folder)
    size = sum(file.stat().st_size for file in files)
    if largest > _LARGEST_SIZE or parameters > size:  # a weight takes at least one byte
        raise SerError(
            f"{folder / 'config.json'} describes a model of at least {parameters:,} weights (largest setting "
            f"{largest:,}), but its weight files hold {size:,} bytes; copy the checkpoint again, all its files."
        )
    for file in files:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                content = sum(entry.file_size for entry in archive.infolist())
            if content > 2 * file.stat().st_size:
                raise SerError(
                    f"{file} holds {file.stat().st_size:,} bytes that would become {content:,}, expected an "
                    "uncompressed checkpoint; use one that is saved as safetensors."
                )
