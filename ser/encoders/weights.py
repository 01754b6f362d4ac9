"""Where a pretrained checkpoint lies, what its configuration says and which weights it holds."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from ser.errors import SerError

_CONFIG_FILES = ["config.json", "preprocessor_config.json"]


def checkpoint_folder(checkpoint: str) -> Path:
    """The local folder of a checkpoint, downloaded first where it is a Hub id that is not cached.

    Raises:
        SerError: there is no such folder, and the Hub neither knows nor can give it.
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() or not _weight_files(folder):
            raise SerError(
                f"{checkpoint} is no transformers checkpoint: expected config.json and *.safetensors in "
                f"it; {remedy(checkpoint)}."
            )
        return folder
    if folder.is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") > 1:
        raise SerError(f"there is no folder {checkpoint}, expected a transformers checkpoint; {remedy(checkpoint)}.")
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    error: Exception | None = None
    for local in (True, False):
        # The weights come as safetensors, or in older repositories as a pickle that only tensors are read from.
        for weights in ("model*.safetensors*", "pytorch_model*.bin*"):
            try:
                found = Path(
                    snapshot_download(checkpoint, allow_patterns=[*_CONFIG_FILES, weights], local_files_only=local)
                )
            except Exception as failure:  # connection, name, permission and cache errors have no common base
                error = failure
                break
            if (found / "config.json").is_file() and _weight_files(found):
                return found
    reason = first_line(error) if error else "no weights in it"
    raise SerError(
        f"{checkpoint} is neither a local folder nor to be had from the Hugging Face Hub ({reason}); "
        f"{remedy(checkpoint)}."
    ) from error


def on_this_machine(checkpoint: str) -> bool:
    """Whether a checkpoint needs no download; a missing local folder is reported when it is opened."""
    no_hub_id = checkpoint.startswith((".", "~", "/")) or checkpoint.count("/") > 1
    if not checkpoint or Path(checkpoint).expanduser().exists() or no_hub_id:
        return True
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    return isinstance(try_to_load_from_cache(checkpoint, "config.json"), str)


def remedy(checkpoint: str) -> str:
    """What to do for want of ``checkpoint``, as the end of a sentence."""
    plain = checkpoint.count("/") == 1 and not checkpoint.startswith((".", "~", "/"))
    name = checkpoint if plain else "facebook/hubert-base-ls960"
    return (
        f"on a machine with internet run `hf download {name} --local-dir {name.rpartition('/')[2]}`, then set "
        f"features.checkpoint=<that folder>"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message, short enough to stand inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")[:200]


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def weights_hash(folder: Path) -> str:
    """Hash of the weight files' contents, computed once a process."""
    files = _weight_files(folder)
    return _hash_files(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=16)
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """SHA-256 over the contents; size and time are there to notice a file that was replaced."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def read_json(path: Path) -> dict[str, Any]:
    """Read one of the checkpoint's JSON files.

    Raises:
        SerError: it is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise SerError(
            f"{path} cannot be read ({first_line(error)}), expected the checkpoint's own settings; copy "
            "the checkpoint again, all files of it."
        ) from error
    return content
