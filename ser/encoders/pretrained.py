"""What all pretrained transformers encoders share: checkpoint, settings and wanted layers."""

import hashlib
import itertools
import json
import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ser.data.audio import SAMPLE_RATE
from ser.encoders.base import Encoder
from ser.encoders.weights import check_size, checkpoint_folder, read_preprocessor, read_settings, remedy, weights_hash
from ser.errors import SerError, check_number, first_line

log = logging.getLogger(__name__)

# Keys of config.json that say who wrote it and not what it computes.
_CONFIG_NOISE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
JOINS = ("mean", "concatenate")

Layer = int | Sequence[int] | None


class PretrainedEncoder(Encoder):
    """A transformers encoder: where its checkpoint is, which layers are wanted, and which are trained.

    Layers count as in transformers' ``hidden_states``: 0 is the input of the first layer, k the output of layer k, and
    the last one the model's own output (with its final norm, where it has one). Later layers are not computed.

    Layers that are trained with the network belong to the network, and the frames are their input: the output of the
    last frozen layer.
    """

    model_types: tuple[str, ...] = ()
    trained_whole: tuple[str, ...] = ()  # the value of ``finetune`` that trains all of the model, where that works
    size_keys = ("hidden_size", "num_hidden_layers", "intermediate_size")  # width, depth, feed-forward in config.json

    def __init__(
        self,
        checkpoint: str,
        layer: Layer = None,
        dtype: str = "float32",
        average: int = 1,
        join: str = "mean",
        finetune: int | str | None = None,
        finetune_lr_factor: float = 0.1,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__(average, max_seconds)
        check_number("features.finetune_lr_factor", finetune_lr_factor, 0)
        if join not in JOINS:
            raise SerError(f"join {join!r} is not known, expected {' or '.join(JOINS)}; set features.join.")
        if dtype not in DTYPES:
            raise SerError(f"dtype {dtype!r} is not known, expected one of {', '.join(DTYPES)}; set features.dtype.")
        folder = Path(checkpoint).expanduser()
        # Absolute, so that a checkpoint of the network finds its encoder from any working directory.
        self.checkpoint = str(folder.absolute()) if folder.is_dir() else str(checkpoint)
        self.layer: int | list[int] | None = layer if layer is None or isinstance(layer, int) else list(layer)
        self.dtype, self.join = dtype, join
        self.finetune = self._checked(finetune)
        self.finetune_lr_factor = finetune_lr_factor
        self.allow_download = True  # False for names from a stranger's model
        self.model: nn.Module | None = None

    def _checked(self, finetune: int | str | None) -> int | str | None:
        if finetune in (None, "none"):
            return None
        number = isinstance(finetune, int) and not isinstance(finetune, bool) and finetune > 0
        if not number and finetune not in self.trained_whole:
            expected = " or ".join(("null", "a number of layers from 1", *self.trained_whole))
            raise SerError(
                f"features.finetune={finetune} was given, expected {expected}; null trains none of the encoder."
            )
        if self.average != 1:
            raise SerError(
                f"features.finetune={finetune} was given with features.average={self.average}, but the trained layers "
                "expect every frame; set features.average=1."
            )
        return finetune

    @cached_property
    def folder(self) -> Path:
        """The local folder with configuration and weights; fetches them from the Hub where necessary."""
        return checkpoint_folder(self.checkpoint, self.allow_download)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config.json, checked against the size of its weight files.

        Raises:
            SerError: it is missing, of another kind of model, or describes more weights than there are.
        """
        config = read_settings(self.folder / "config.json")
        if config.get("model_type") not in self.model_types:
            raise SerError(
                f"{self.checkpoint} is a {config.get('model_type', 'nameless')!r} model, expected "
                f"{' or '.join(self.model_types)}; choose the matching features group."
            )
        try:
            width, depth, inner = (int(config[key]) for key in self.size_keys)
            fronts = [1, *(int(channels) for channels in config.get("conv_dim", ()))]
        except (KeyError, TypeError, ValueError) as error:
            raise SerError(
                f"{self.folder / 'config.json'} lacks a usable {error}, expected the sizes of a "
                f"{config['model_type']} model; copy the checkpoint again, all its files."
            ) from error
        convolutions = sum(before * after for before, after in itertools.pairwise(fronts))
        check_size(self.folder, config, depth * width * (4 * width + 2 * inner) + convolutions)
        return config

    @cached_property
    def preprocessor(self) -> dict[str, Any]:
        """The checkpoint's feature-extractor settings.

        Raises:
            SerError: they are missing, or for another sample rate.
        """
        settings = read_preprocessor(self.folder)
        if settings.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise SerError(
                f"{self.checkpoint} was trained at {settings['sampling_rate']} Hz, expected {SAMPLE_RATE}; "
                "choose another checkpoint."
            )
        return settings

    @property
    def dim(self) -> int:
        """Values per frame (D)."""
        return self.joined_width(self.layers)

    @property
    def width(self) -> int:
        """Values per frame behind each layer."""
        return int(self.config[self.size_keys[0]])

    @property
    def depth(self) -> int:
        """Layers of the whole checkpoint."""
        return int(self.config[self.size_keys[1]])

    @property
    def plain_config(self) -> dict[str, Any]:
        """The part of config.json that says what the model computes."""
        return {key: value for key, value in self.config.items() if key not in _CONFIG_NOISE}

    @cached_property
    def layers(self) -> list[int]:
        """Numbers of the layers that the frames are made of: the last frozen one where others are trained.

        Raises:
            SerError: there are fewer layers than are to be trained, or a wanted one lies below them.
        """
        wanted = self.wanted_layers()
        if not isinstance(self.finetune, int):
            return wanted
        first = wanted[-1] - self.finetune
        if not 0 <= first <= wanted[0]:
            raise SerError(
                f"features.finetune={self.finetune} was given for layers {wanted} of {self.checkpoint}, expected at "
                f"least {wanted[-1] - wanted[0]} and at most {wanted[-1]}, so that each wanted layer is trained or the "
                "last frozen one; set features.finetune or features.layer."
            )
        return [first]

    def tuned(self) -> dict[str, Any]:
        """What rebuilds the trained part of the model, as arguments of ser.models.finetuned.FineTuned."""
        first = self.layers[0] if isinstance(self.finetune, int) else None
        return {"config": self.plain_config, "first": first, "wanted": self.wanted_layers(), "join": self.join}

    def wanted_layers(self) -> list[int]:
        """What the setting ``layer`` means for this checkpoint.

        Raises:
            SerError: the checkpoint has no such layer.
        """
        wanted = [self.depth] if self.layer is None else [self.layer] if isinstance(self.layer, int) else self.layer
        if not wanted or not all(0 <= layer <= self.depth for layer in wanted):
            raise SerError(
                f"layer {self.layer} is not in {self.checkpoint}, expected numbers from 0 to {self.depth}; "
                "set features.layer."
            )
        return sorted(set(wanted))

    def description(self) -> dict[str, Any]:
        """Settings and hashes that determine the frames; the place of the checkpoint is not among them."""
        return super().description() | {
            "encoder": self.config["model_type"],
            "layers": self.layers,
            "dim": self.dim,
            "dtype": self.dtype,
            "config": hashlib.sha256(json.dumps(self.plain_config, sort_keys=True).encode()).hexdigest()[:16],
            "weights": weights_hash(self.folder),
            **({"join": self.join} if self.join != "mean" and len(self.layers) > 1 else {}),
        }

    def load(self) -> None:
        """Load the weights, if they are not loaded yet."""
        if self.model is None:
            log.debug("reading the encoder in %s", self.folder)
            self.model = self._build().eval().requires_grad_(False).to(self.device)

    @abstractmethod
    def _build(self) -> nn.Module:
        """The model with its weights, cut after the last wanted layer."""

    def _read(self, model_class: Any, attention: str = "sdpa") -> Any:
        """A transformers model from the checkpoint, which must hold all of its weights."""
        from transformers.utils import logging as shown  # noqa: PLC0415

        bar, verbosity = shown.is_progress_bar_enabled(), shown.get_verbosity()
        shown.disable_progress_bar()  # its bar would cut through the extraction's own
        shown.set_verbosity_error()  # or it reports the head of a classifier, which is not needed
        try:
            model, found = model_class.from_pretrained(
                self.folder,
                dtype=DTYPES[self.dtype],
                attn_implementation=attention,  # config.json may name code on the Hub
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # transformers passes on whatever its readers raise
            raise SerError(
                f"the weights in {self.folder} cannot be read ({first_line(error)}), expected an intact checkpoint; "
                f"{remedy(self.checkpoint)}."
            ) from error
        finally:
            shown.set_verbosity(verbosity)
            if bar:
                shown.enable_progress_bar()
        missing = [name for name in found["missing_keys"] if "masked_spec_embed" not in name]
        if missing:
            raise SerError(
                f"the weights in {self.folder} lack {len(missing)} tensors (first: {sorted(missing)[0]}), "
                f"expected a complete checkpoint; {remedy(self.checkpoint)}."
            )
        return model

    def joined_width(self, layers: Sequence[int]) -> int:
        """Values per frame that the states of ``layers`` have together."""
        return self.width * (len(layers) if self.join == "concatenate" else 1)

    @abstractmethod
    def whole_model(self) -> Any:
        """The transformers model with all its layers, from which the trained ones take their first weights."""
