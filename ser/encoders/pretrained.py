"""What all frozen transformers encoders share: checkpoint, layers, hash."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ser.data.audio import SAMPLE_RATE
from ser.encoders.base import HOP_SAMPLES
from ser.encoders.weights import checkpoint_folder, first_line, read_json, remedy, weights_hash
from ser.errors import SerError

# Keys of config.json that say who wrote it and not what it computes.
_CONFIG_NOISE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Layer = int | Sequence[int] | None
JOINS = ("mean", "concatenate")


class PretrainedEncoder(ABC):
    """A frozen transformers encoder: where it lies, what it is, which layers are wanted.

    Layers count as in transformers' ``hidden_states``: 0 is the input of the first layer, k the output of layer k, and
    the last one the model's own output (with its final norm, where it has one).

    Args:
        checkpoint: folder, or id on the Hugging Face Hub.
        layer: None for the last, a number, or several numbers.
        dtype: precision of the computation; "bfloat16" and "float16" are for GPUs.
        max_batch_seconds: padded audio that one forward pass may hold.
        average: consecutive frames that readers average into one; the encoder gives every frame.
        join: what becomes of several layers: their "mean", or "concatenate" for a network that weighs them itself (the
            frames get as many times wider).
    """

    model_types: tuple[str, ...] = ()

    def __init__(
        self,
        checkpoint: str,
        layer: Layer = None,
        dtype: str = "float32",
        max_batch_seconds: float = 120.0,
        average: int = 1,
        join: str = "mean",
    ) -> None:
        if join not in JOINS:
            raise SerError(f"join {join!r} is not known, expected {' or '.join(JOINS)}; set features.join.")
        if dtype not in DTYPES:
            raise SerError(f"dtype {dtype!r} is not known, expected one of {', '.join(DTYPES)}; set features.dtype.")
        self.checkpoint = str(checkpoint)
        self.layer: int | list[int] | None = layer if layer is None or isinstance(layer, int) else list(layer)
        self.dtype = dtype
        self.max_batch_seconds = max_batch_seconds
        self.average, self.join = average, join
        self.frame_rate = SAMPLE_RATE / HOP_SAMPLES
        self.device = torch.device("cpu")

    @cached_property
    def folder(self) -> Path:
        """The local folder with configuration and weights; fetches them from the Hub where necessary."""
        return checkpoint_folder(self.checkpoint)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config.json."""
        config = read_json(self.folder / "config.json")
        if config.get("model_type") not in self.model_types:
            raise SerError(
                f"{self.checkpoint} is a {config.get('model_type', 'nameless')!r} model, expected "
                f"{' or '.join(self.model_types)}; choose the matching features group."
            )
        return config

    @cached_property
    def preprocessor(self) -> dict[str, Any]:
        """The checkpoint's feature-extractor settings."""
        settings = read_json(self.folder / "preprocessor_config.json")
        if settings.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise SerError(
                f"{self.checkpoint} was trained at {settings['sampling_rate']} Hz, expected {SAMPLE_RATE}; "
                "choose another checkpoint."
            )
        return settings

    @property
    def dim(self) -> int:
        """Values a frame."""
        return self.width * (len(self.layers) if self.join == "concatenate" else 1)

    @property
    def width(self) -> int:
        """Values a frame behind each layer."""
        return int(self.config[self._keys[0]])

    @property
    def _keys(self) -> tuple[str, str]:
        """Names of width and depth in config.json."""
        return "hidden_size", "num_hidden_layers"

    @property
    def plain_config(self) -> dict[str, Any]:
        """What of the checkpoint's config.json says what it computes."""
        return {key: value for key, value in self.config.items() if key not in _CONFIG_NOISE}

    @property
    def depth(self) -> int:
        """Layers of the whole checkpoint."""
        return int(self.config[self._keys[1]])

    @cached_property
    def layers(self) -> list[int]:
        """The layers that the frames are made of."""
        return self._wanted_layers()

    def _wanted_layers(self) -> list[int]:
        """What ``layer`` means, checked against the depth of the checkpoint."""
        wanted = [self.depth] if self.layer is None else [self.layer] if isinstance(self.layer, int) else self.layer
        if not wanted or not all(0 <= layer <= self.depth for layer in wanted):
            raise SerError(
                f"layer {self.layer} is not in {self.checkpoint}, expected numbers from 0 to {self.depth}; "
                "set features.layer."
            )
        return sorted(set(wanted))

    def description(self) -> dict[str, Any]:
        """Settings and hashes that determine the frames; the place of the checkpoint does not."""
        return {
            "encoder": self.config["model_type"],
            "layers": self.layers,
            "dim": self.dim,
            "dtype": self.dtype,
            "config": hashlib.sha256(json.dumps(self.plain_config, sort_keys=True).encode()).hexdigest()[:16],
            "weights": weights_hash(self.folder),
            **({"join": self.join} if self.join != "mean" and len(self.layers) > 1 else {}),
        }

    def to(self, device: str | torch.device) -> Self:
        """Compute on ``device`` from now on."""
        self.device = torch.device(device)
        if "model" in self.__dict__:
            self.model.to(self.device)
        return self

    @cached_property
    def model(self) -> Any:
        """The frozen model, cut after the last wanted layer."""
        model = self._load(self._model_class())
        trunk = self._trunk(model)
        trunk.layers = trunk.layers[: max(1, *self.layers)]
        return model.eval().requires_grad_(False).to(self.device)

    @abstractmethod
    def _model_class(self) -> Any:
        """The transformers class that reads the weights."""

    @abstractmethod
    def _trunk(self, model: Any) -> Any:
        """The part of ``model`` that holds ``layers``."""

    def _load(self, model_class: Any) -> Any:
        """Read the weights; every one the model needs must be in the checkpoint."""
        from transformers.utils import logging  # noqa: PLC0415

        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # its bar would cut through the extraction's own
        try:
            model, found = model_class.from_pretrained(
                self.folder, dtype=DTYPES[self.dtype], local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # transformers passes on whatever its readers raise
            raise SerError(
                f"the weights in {self.folder} cannot be read ({first_line(error)}), expected an intact "
                f"checkpoint; {remedy(self.checkpoint)}."
            ) from error
        finally:
            if shown:
                logging.enable_progress_bar()
        missing = [name for name in found["missing_keys"] if "masked_spec_embed" not in name]
        if missing:
            raise SerError(
                f"the weights in {self.folder} lack {len(missing)} tensors (first: {sorted(missing)[0]}), "
                f"expected a complete checkpoint; {remedy(self.checkpoint)}."
            )
        return model

    def join_states(self, states: Sequence[Tensor]) -> Tensor:
        """Wanted layers (B, L, width) each to frames (B, L, D)."""
        return torch.cat(list(states), dim=-1) if self.join == "concatenate" else torch.stack(list(states)).mean(dim=0)

    def _joined_layers(self, trunk: Any, *arguments: Any, **keywords: Any) -> Tensor:
        """Run ``trunk`` and join the wanted hidden states, (B, L, D) in float32."""
        states: dict[int, Tensor] = {}

        def keep_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            states[0] = inputs[0]

        def keep_output(index: int, output: Any) -> None:
            states[index] = output[0] if isinstance(output, tuple) else output

        hooks = [trunk.layers[0].register_forward_pre_hook(keep_input)]
        for number in set(self.layers) - {0}:
            hooks.append(
                trunk.layers[number - 1].register_forward_hook(
                    lambda module, inputs, output, number=number: keep_output(number, output)
                )
            )
        try:
            states[self.depth] = trunk(*arguments, **keywords).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return self.join_states([states[number].float() for number in self.layers])
