"""How Lightning's checkpoints reach the disk and come back: whole or not at all, checked when they are read."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from ser.checkpoint_file import DamagedCheckpointError, read_checkpoint_file
from ser.errors import SerError
from ser.io import atomic_path


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, and verifies checksums on the way back.

    Lightning's own writes into the system's folder for temporary files and moves the result. Where that is another
    file system the move is a copy, and a process killed during it leaves a part of a checkpoint in place of the last
    whole one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            SerError: the folder cannot be written or the disk is full; what was there before is intact.
        """
        content = io.BytesIO()  # straight into a file, torch tells of a full disk in terms of its own
        torch.save(checkpoint, content)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read it on the CPU, where the strategy takes it from; never unpickles.

        Raises:
            SerError: it is damaged.
        """
        try:
            return read_checkpoint_file(Path(path))
        except DamagedCheckpointError as error:
            raise SerError(f"{path} is damaged: {error}; delete its folder and train again.") from error
