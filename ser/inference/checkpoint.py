"""Descriptions and weights of trained models, checked before anything is built from them."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ser.data.audio import SAMPLE_RATE
from ser.data.normalization import FrameStatistics
from ser.errors import SerError, first_line
from ser.io import DamagedCheckpointError, read_checkpoint_file

FORMAT = 2
_SOURCES = {
    "none": "none",
    "global": "global",
    "speaker": "training",
    "corpus": "training",
}  # kind in training -> name in a Prediction
_SMALLEST_STD = 1e-6  # training replaces a smaller std than 1e-5 by 1
_LARGEST_FRAME = 65504.0  # frames are cached in half precision
_LARGEST_DESCRIPTION = 10_000_000  # bytes of config.json
_MOST_LAYERS, _LARGEST_SIZE = 256, 1_000_000  # of a network; more would exhaust time or memory before it fails
_COUNTS = ("folds", "seeds", "speakers", "utterances")  # of a cross-validation
PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained"  # the model that comes with the package
SYNTHETIC = "this model has only heard a synthetic voice: on people its answers mean nothing"
_EXPECTED = (
    "expected a run folder, a .ckpt that `ser train` wrote, a folder of `ser export --format hub` or an .onnx "
    "file of `ser export --format onnx`"
)


@dataclass(frozen=True)
class ModelConfig:
    """The plain description that every form of a model carries."""

    plain: dict[str, Any]  # in JSON's types: network, encoder, emotions, normalization, corpus, protocol, fold
    statistics: FrameStatistics  # of the frames of the training part

    @classmethod
    def of(cls, config: Any, source: Path) -> "ModelConfig":
        """Check a description.

        Raises:
            SerError: an entry is missing or impossible, or the description has another format.
        """
        try:
            if config["format"] != FORMAT or config["sample_rate"] != SAMPLE_RATE:
                raise SerError(
                    f"{source} has format {config['format']} and {config['sample_rate']} Hz, expected "
                    f"{FORMAT} and {SAMPLE_RATE}; use the version of ser that wrote it."
                )
            plain = {**config, "normalization": dict(config["normalization"])}
            plain["max_seconds"] = None if plain["max_seconds"] is None else float(plain["max_seconds"])
            _check_emotions(plain["emotions"], plain["network"]["emotions"])
            _check_sizes(plain["network"])
            _check_score(plain.get("cross_validation"), plain["emotions"])
            if not isinstance(plain["encoder"], Mapping) or not isinstance(
                plain.get("encoder_identity") or {}, Mapping
            ):
                raise ValueError("no encoder")
            if plain["max_seconds"] is not None and not 0 < plain["max_seconds"] < math.inf:
                raise ValueError(f"max_seconds={plain['max_seconds']:g}, expected a number above zero")
            return cls(plain, _statistics(plain["normalization"], int(plain["network"]["input_size"])))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
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
    def cross_validation(self) -> dict[str, Any] | None:
        """Scores of its recipe on speakers not in training, of a model trained on everyone; None where unknown."""
        found: dict[str, Any] | None = self.plain.get("cross_validation")
        return found

    @property
    def notes(self) -> list[str]:
        """What must be said wherever this model answers."""
        notes = [SYNTHETIC] if str(self.plain.get("corpus")).startswith("synthetic") else []
        return notes + ([score_line(self.cross_validation)] if "cross_validation" in self.plain else [])

    @property
    def average(self) -> int:
        """Consecutive frames of the encoder that are averaged into one."""
        return int(self.plain["encoder"].get("average", 1))

    @property
    def input_size(self) -> int:
        """Values per frame (D)."""
        return int(self.plain["network"]["input_size"])

    @property
    def max_seconds(self) -> float | None:
        """Training cut longer utterances, or only their frames, to so many seconds; None: whole utterances."""
        given = (self.plain["max_seconds"], self.plain["encoder"].get("max_seconds"))
        return min((float(value) for value in given if value is not None), default=None)


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
    state = {str(name): value for name, value in content["state_dict"].items()}
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    _check_weights(weights, path)
    return ModelConfig.of(content["config"], path), weights


def read_folder(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Description and network weights of a folder that ``ser export --format hub`` wrote.

    Raises:
        SerError: a file is damaged or of another kind.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        if (folder / "config.json").stat().st_size > _LARGEST_DESCRIPTION:
            raise ValueError(f"config.json is larger than {_LARGEST_DESCRIPTION / 1e6:.0f} MB")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise SerError(f"{folder} cannot be read as an exported model ({error}), {_EXPECTED}.") from error
    _check_weights(weights, folder)
    return ModelConfig.of(config, folder), weights


def find_model(path: str | Path) -> Path:
    """The file or exported folder that ``path`` means: itself, or a run folder's best checkpoint.

    Raises:
        SerError: there is no model at ``path``.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        return path
    candidates = [path / "checkpoints" / "best.ckpt", path / "best.ckpt", *sorted(path.glob("[!.]*.onnx"))]
    if found := next(filter(Path.is_file, candidates), None):
        return found
    nested = next(path.glob("**/checkpoints/best.ckpt"), None) if path.is_dir() else None
    hint = f" (there is one in {nested.parent.parent})" if nested else ""
    what = "holds no model" if path.is_dir() else "does not exist"
    raise SerError(f"{path} {what}{hint}, {_EXPECTED}.")


def run_folder(model: Path) -> Path:
    """The folder of the run that a model file from ``find_model`` belongs to."""
    return model.parent.parent if model.parent.name == "checkpoints" else model.parent


def from_hub(name: str) -> Path:
    """The local copy of a model on the Hugging Face Hub, downloaded where it is not cached.

    Raises:
        SerError: the Hub does not know it or cannot be reached.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    wanted = ["config.json", "model.safetensors"]
    with suppress(Exception):  # connection, name and permission errors have no common base
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True))
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        raise SerError(
            f"{name} is neither a local folder nor to be had from the Hugging Face Hub ({first_line(error)}); check "
            "the name, or copy the folder here."
        ) from error


def score_line(record: Mapping[str, Any] | None) -> str:
    """What is known of a model that was trained on everyone, from the record of its cross-validation."""
    if record is None:
        return "trained on every speaker for a given number of epochs: how good it is was never measured"
    bounds = "" if record["uar_low"] is None else f" [{100 * record['uar_low']:.1f}, {100 * record['uar_high']:.1f}]"
    return (
        f"cross-validated UAR {100 * record['uar']:.1f}%{bounds} on {record['speakers']} speakers not in training "
        f"({record['folds']} folds); this model was trained on all of them and cannot be tested on them"
    )


def told_settings(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an encoder that say something: none that is null, nor of fine-tuning where there is none."""
    idle = set() if encoder.get("finetune") else {"finetune_lr_factor"}
    return {key: value for key, value in encoder.items() if value is not None and key[0] != "_" and key not in idle}


def _check_score(record: Any, emotions: Sequence[str]) -> None:
    """Refuse a cross-validated score that is none."""
    if record is None:
        return
    values = [record["uar"], record["wa"], *record["recall"].values()]
    values += [value for value in (record["uar_low"], record["uar_high"]) if value is not None]
    values += [value for value in dict(record.get("leakage") or {}).values() if value is not None]
    known = list(record["recall"]) == list(emotions) and all(isinstance(record[key], int) for key in _COUNTS)
    if not known or not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
        raise ValueError("a cross-validated score that is none")


def to_plain(value: Any) -> Any:
    """``value`` with tensors as lists of numbers, for JSON; single precision survives the way there and back."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _check_emotions(names: Any, count: Any) -> None:
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError("no emotions")
    if not all(name.strip() and name.isprintable() for name in names):
        raise ValueError(f"the emotions {names}, expected names that can be printed")
    if len(set(names)) < len(names):
        raise ValueError(f"an emotion occurs twice among {', '.join(names)}")
    if count != len(names):
        raise ValueError(f"{len(names)} emotions for a network of {count}")


def _check_sizes(description: Any) -> None:
    """Refuse numbers that would exhaust memory or time while the network is built."""
    items = description.items() if isinstance(description, Mapping) else enumerate(description)
    for key, value in items:
        if isinstance(value, Mapping | list | tuple):
            _check_sizes(value)
        elif isinstance(value, int | float):
            largest = _MOST_LAYERS if "layers" in str(key) else _LARGEST_SIZE
            if not abs(value) <= largest:
                raise ValueError(f"{key}={value}, expected at most {largest}")


def _statistics(normalization: Mapping[str, Any], width: int) -> FrameStatistics:
    """Mean and std (D,) of the training part, zeros and ones where it was not normalised."""
    found = []
    for key, default in (("mean", torch.zeros(width)), ("std", torch.ones(width))):
        given = normalization.get(key)
        values = default if given is None else torch.as_tensor(given, dtype=torch.float32).flatten()
        if len(values) != width or not bool(torch.isfinite(values).all()):
            raise ValueError(f"a {key} of {len(values)} values, expected {width} finite ones")
        found.append(values)
    mean, std = found
    if not bool((std >= _SMALLEST_STD).all()):
        raise ValueError(f"a std of {float(std.min()):.1g}, expected at least {_SMALLEST_STD:g}")
    if float(largest := torch.stack((mean.abs(), std)).max()) > _LARGEST_FRAME:
        raise ValueError(f"a mean or std of {float(largest):.1g}, expected at most {_LARGEST_FRAME:g}")
    return FrameStatistics(mean, std, _SOURCES[normalization["kind"]])


def _check_weights(weights: Mapping[str, Any], source: Path) -> None:
    """Refuse NaN and infinite weights, and tensors that claim more values than the file holds."""
    for name, weight in weights.items():
        if not isinstance(weight, Tensor) or weight.layout != torch.strided:
            raise SerError(f"{name} in {source} is no dense tensor, {_EXPECTED}.")
        if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise SerError(f"the weights {name} in {source} are larger than the file, {_EXPECTED}.")
        if not bool(torch.isfinite(weight).all()):
            raise SerError(
                f"the weights {name} in {source} hold NaN or infinite values; train or copy the model again."
            )
