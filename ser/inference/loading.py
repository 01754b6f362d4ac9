"""Where a model comes from: its encoder, its device, the Hub."""

from collections.abc import Callable
from pathlib import Path

import torch

from ser.encoders import Encoder
from ser.errors import SerError
from ser.inference.checkpoint import ModelConfig
from ser.models.build import construct


def build_encoder(
    config: ModelConfig, checkpoint: str | Path | None = None, device: torch.device | str = "cpu"
) -> Encoder:
    """The encoder that a model was trained with.

    Args:
        config: the model's description.
        checkpoint: local folder or Hub id that takes the place of the one in training.
        device: where it computes.

    Raises:
        SerError: it cannot be built, or its frames do not fit the network.
    """
    description = dict(config.plain["encoder"])
    if checkpoint is not None:
        if "checkpoint" not in description:
            raise SerError(
                f"the model's encoder is {description.get('_target_')}, which reads no checkpoint; leave out --encoder."
            )
        description["checkpoint"] = str(checkpoint)
    encoder: Encoder = construct(description, "ser.encoders")
    if not all(hasattr(encoder, name) for name in ("dim", "frame_rate", "description", "to")):
        raise SerError(f"{description.get('_target_')} is no encoder; use a checkpoint that train.py wrote.")
    if encoder.dim != config.input_size:
        raise SerError(
            f"the encoder gives frames of {encoder.dim} values, the network expects {config.input_size}; "
            "name the encoder it was trained with (--encoder FOLDER)."
        )
    return encoder.to(device)


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        SerError: this machine has none.
    """
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise SerError(
            f"device {name!r} is not usable here ({str(error).splitlines()[0]}); use --device cpu."
        ) from error
    return place


def from_hub(name: str) -> Path:
    """The local copy of a Hub repository, downloaded where it is not cached.

    Raises:
        SerError: the Hub neither knows nor can give it.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    download: Callable[..., str] = snapshot_download
    wanted = ["config.json", "model.safetensors"]
    error: Exception | None = None
    for local in (True, False):
        try:
            return Path(download(name, allow_patterns=wanted, local_files_only=local))
        except Exception as failure:  # connection, name and permission errors have no common base
            error = failure
    reason = (str(error).strip().splitlines() or ["?"])[0][:200]
    raise SerError(
        f"{name} is neither a local folder nor to be had from the Hugging Face Hub ({reason}); check the "
        "name, or copy the folder here."
    ) from error
