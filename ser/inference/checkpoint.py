"""What a checkpoint, an exported folder or an ONNX file says about itself, checked before anything is built of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ser.checkpoint_file import DamagedCheckpointError, read_checkpoint_file
from ser.data.audio import SAMPLE_RATE
from ser.data.normalization import FrameStatistics
from ser.errors import SerError

FORMAT = 2
_SOURCES = {"none": "none", "global": "global", "speaker": "training"}  # kind in training -> name in a Prediction
_EXPECTED = (
    "expected a run folder, a .ckpt that train.py wrote, a folder of `ser export --format hub` or an .onnx "
    "file of `ser export --format onnx`"
)


@dataclass(frozen=True)
class ModelConfig:
    """The plain description that every form of a model carries.

    Attributes:
        plain: all of it in JSON's types: network, encoder, emotions, speakers, normalization, corpus, protocol, fold.
        statistics: of the training part's frames.
    """

    plain: dict[str, Any]
    statistics: FrameStatistics

    @classmethod
    def of(cls, config: Any, source: Path) -> "ModelConfig":
        """Check a description.

        Raises:
            SerError: it lacks something, or belongs to another format.
        """
        try:
            if config["format"] != FORMAT or config["sample_rate"] != SAMPLE_RATE:
                raise SerError(
                    f"{source} has format {config['format']} and {config['sample_rate']} Hz, expected "
                    f"{FORMAT} and {SAMPLE_RATE}; use the version of ser that wrote it."
                )
            plain = {**config, "normalization": dict(config["normalization"])}
            kind, width = plain["normalization"]["kind"], int(plain["network"]["input_size"])
            mean = _vector(plain["normalization"], "mean", torch.zeros(width))
            std = _vector(plain["normalization"], "std", torch.ones(width))
            if len(mean) != width or len(std) != width or not bool((std > 0).all()):
                raise ValueError(f"statistics of {len(mean)} and {len(std)} positive values for frames of {width}")
            names = plain["emotions"]
            if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
                raise ValueError("no emotions")
            if plain["network"]["emotions"] != len(names):
                raise ValueError(f"{len(names)} emotions for a network of {plain['network']['emotions']}")
            if not isinstance(plain["encoder"], Mapping):
                raise ValueError("no encoder")
            plain["max_seconds"] = None if plain["max_seconds"] is None else float(plain["max_seconds"])
            return cls(plain, FrameStatistics(mean, std, _SOURCES[kind]))
        except (KeyError, TypeError, ValueError) as error:
            raise SerError(
                f"{source} holds no usable description of a model ({type(error).__name__}: {error}), {_EXPECTED}."
            ) from error

    @property
    def emotions(self) -> list[str]:
        """Class names in order."""
        return list(self.plain["emotions"])

    @property
    def kind(self) -> str:
        """Normalisation in training: none, global or speaker."""
        return str(self.plain["normalization"]["kind"])

    @property
    def average(self) -> int:
        """Consecutive frames of the encoder that are averaged into one."""
        return int(self.plain["encoder"].get("average", 1))

    @property
    def input_size(self) -> int:
        """Values a frame (D)."""
        return int(self.plain["network"]["input_size"])

    @property
    def max_seconds(self) -> float | None:
        """Training cut longer utterances to their first so many seconds; None: whole utterances."""
        value: float | None = self.plain["max_seconds"]
        return value


def read_checkpoint(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Description and network weights of a ``.ckpt``; nothing in the file is executed.

    Raises:
        SerError: it is damaged, no checkpoint of ours, or holds more than tensors and plain values.
    """
    try:
        content = read_checkpoint_file(path)
    except (DamagedCheckpointError, OSError) as error:
        raise SerError(f"{path} was refused without running anything in it: {error}, {_EXPECTED}.") from error
    if not isinstance(content.get("state_dict"), dict) or "config" not in content:
        raise SerError(f"{path} is a checkpoint of another kind (it lacks state_dict or config), {_EXPECTED}.")
    prefix = "network."
    weights = {
        str(name).removeprefix(prefix): value
        for name, value in content["state_dict"].items()
        if str(name).startswith(prefix)
    }
    return ModelConfig.of(content["config"], path), weights


def read_folder(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Description and network weights of a folder that ``ser export --format hub`` wrote.

    Raises:
        SerError: a file is damaged or of another kind.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise SerError(f"{folder} cannot be read as an exported model ({error}), {_EXPECTED}.") from error
    return ModelConfig.of(config, folder), weights


def find_model(path: str | Path) -> Path:
    """The file or exported folder that ``path`` means: itself, or a run folder's best checkpoint.

    Raises:
        SerError: there is nothing of the kind.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    candidates = [path / "checkpoints" / "best.ckpt", path / "best.ckpt", *sorted(path.glob("[!.]*.onnx"))]
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        return path
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    nested = sorted(path.glob("**/checkpoints/best.ckpt"))[:1] if path.is_dir() else []
    hint = f" (there is one in {nested[0].parent.parent})" if nested else ""
    what = "holds no model" if path.is_dir() else "does not exist"
    raise SerError(f"{path} {what}{hint}, {_EXPECTED}.")


def _vector(normalization: Mapping[str, Any], key: str, default: Tensor) -> Tensor:
    value = normalization.get(key)
    return default if value is None else torch.as_tensor(value, dtype=torch.float32).flatten()


def to_plain(value: Any) -> Any:
    """``value`` with tensors as lists of numbers, for JSON; single precision survives the way there and back."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value
