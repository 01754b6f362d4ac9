"""The one way a training checkpoint is read: checksums first, then tensors and plain values, nothing executed.

A checkpoint is a zip archive that carries a CRC-32 of each of its records, but ``torch.load`` never looks at them: most
flipped bits of a file would come back as other weights without a word.
"""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch


class DamagedCheckpointError(Exception):
    """What is wrong with a checkpoint, as the end of a sentence; who reads it adds the remedy."""


def read_checkpoint_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint on the CPU.

    Args:
        path: a file that ``torch.save`` wrote.

    Raises:
        DamagedCheckpointError: a record fails its checksum, or the file holds more than tensors and plain values.
        OSError: it cannot be read.
    """
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
            warnings.simplefilter("ignore")  # of pickles it doubts, which are refused below
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever a hostile file leads it to
        raise DamagedCheckpointError(f"it holds more than tensors and plain values ({type(error).__name__})") from error
    if not isinstance(loaded, dict):
        raise DamagedCheckpointError(f"it holds a {type(loaded).__name__} in place of named entries")
    return loaded
