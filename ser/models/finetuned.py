"""Fine-tuning: a network together with the layers of a pretrained encoder that are trained with it.

These layers belong to the network: a checkpoint holds their weights and must be enough to rebuild them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser.data.augmentation import Augmentation
from ser.data.batching import valid_frames
from ser.encoders import FULL, Encoder
from ser.encoders.base import FRAME_SAMPLES, HOP_SAMPLES, Layers, joined
from ser.encoders.pretrained import PretrainedEncoder
from ser.encoders.ssl import SpeechModel
from ser.errors import SerError
from ser.models.network import Network

log = logging.getLogger(__name__)

_CONFIGS = {"hubert": "HubertConfig", "wavlm": "WavLMConfig", "wav2vec2": "Wav2Vec2Config", "whisper": "WhisperConfig"}
_SPEECH_SIZES, _WHISPER_SIZES = ("num_hidden_layers", "hidden_size"), ("encoder_layers", "d_model")
_TAIL = FRAME_SAMPLES - HOP_SAMPLES  # samples of the last window beyond the last row
# Far above every published model; a checkpoint from a stranger must not fill the memory.
_LARGEST = {
    **{"num_hidden_layers": 200, "hidden_size": 8192, "intermediate_size": 32768, "conv_dim": 4096},
    **{"encoder_layers": 200, "d_model": 8192, "encoder_ffn_dim": 32768, "max_source_positions": 100_000},
    **{"vocab_size": 1_000_000, "num_mel_bins": 1024},
}


class FineTuned(Network):
    """Transformer layers, or a whole speech model, then LayerNorm, then the network proper.

    The frames are the output of the layer ``first`` of the model that ``config`` (its config.json) describes, or the
    waveform in rows of 320 samples, where ``first`` is None and the whole model is here. The network sees the states of
    the ``wanted`` layers, ascending from ``first``. The encoder's part has ``lr_factor`` times the network's learning
    rate. A whole model may want waveforms of mean 0 and variance 1 (``normalize``).

    Raises:
        SerError: the configuration is of another kind of model, or too large.
        ValueError: ``input_size`` does not fit it.
    """

    def __init__(
        self,
        input_size: int,
        emotions: int,
        *,
        config: Mapping[str, Any],
        first: int | None,
        wanted: Sequence[int],
        join: str,
        lr_factor: float,
        network: Network,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        whisper = config.get("model_type") == "whisper"
        depth, width = (int(config[key]) for key in (_WHISPER_SIZES if whisper else _SPEECH_SIZES))
        if input_size != (HOP_SAMPLES if first is None else width):
            raise ValueError(f"frames of {input_size} values for layers of width {width}")
        self.first, self.depth, self.normalize = first, depth, normalize
        self.wanted, self.join = [number - (first or 0) for number in wanted], join
        # Whisper hears 30 seconds at a time; in the other models a frame attends to the whole utterance.
        self.window = int(config["max_source_positions"]) if whisper else None
        self.encoder = self._part(_random_model(config, self.wanted[-1]), 0)
        self.encoder.lr_factor = lr_factor  # type: ignore[assignment]  # read where the optimizer is made
        # In place of the normalisation of frozen frames.
        self.norm = nn.LayerNorm(width * (len(wanted) if join == "concatenate" else 1))
        self.network = network
        self.pooled_size = network.pooled_size

    @property
    def head(self) -> nn.Module:  # type: ignore[override]  # stays at the inner network's place in checkpoints
        """The inner network's head."""
        return self.network.head

    @property
    def statistics_size(self) -> int:
        """The inner network's width before its bottleneck."""
        return self.network.statistics_size

    def reduce(self, statistics: Tensor) -> Tensor:
        """Pooled features (B, P) of pooled statistics (B, F), by the inner network's bottleneck."""
        return self.network.reduce(statistics)

    def body(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Pooled statistics (B, F) and attention (B, L, L) or None, of frames (B, L, D) as the encoder made them."""
        mask = valid_frames(lengths, frames.shape[1])  # (B, L)
        if self.first is None:
            rows = frames.masked_fill(~mask.unsqueeze(-1), 0.0)
            waveforms = F.pad(rows.flatten(1), (0, _TAIL))  # (B, 320 L + 80): as many frames as rows
            states, _ = self.encoder(waveforms, lengths * HOP_SAMPLES + _TAIL)
        else:
            states = self._tuned_states(frames, mask)
        return self.network.body(self.norm(joined(states, self.join)), lengths, return_attention)

    def _tuned_states(self, frames: Tensor, mask: Tensor) -> list[Tensor]:
        """Wanted states (B, L, D) of frames (B, L, D); of Whisper, each window of 30 seconds by itself."""
        rows, longest, width = frames.shape
        if self.window is not None:
            size: Any = torch.sym_min(longest, self.window)  # a symbol in an exported graph, where min() fixes it
            behind = (longest + size - 1) // size * size - longest
            frames = F.pad(frames, (0, 0, 0, behind)).reshape(-1, size, width)  # (B * windows, size, D)
            mask = F.pad(mask, (0, behind)).reshape(-1, size)
        states = self.encoder(frames, mask)
        return [states[number].reshape(rows, -1, width)[:, :longest] for number in self.wanted]

    def load_pretrained(self, model: nn.Module) -> None:
        """Take the weights of a whole transformers ``model``, whose layers are cut."""
        self.encoder.load_state_dict(self._part(model, self.first or 0).state_dict())

    def _part(self, model: Any, begin: int) -> nn.Module:
        """The tuned part of ``model``, whose layer number ``begin`` (from 0) comes first."""
        trunk = getattr(model, "encoder", model)  # a Whisper's is the model itself
        layers = trunk.layers[begin : begin + self.wanted[-1]]
        if self.first is None:
            trunk.layers = layers
            return SpeechModel(model, self.wanted, self.depth, self.normalize)
        positions = getattr(getattr(trunk.layers[0], "attention", None), "rel_attn_embed", None)
        if positions is not None:  # WavLM's first layer keeps these for all layers; the tuned ones leave them frozen
            layers[0].attention.rel_attn_embed = positions.requires_grad_(False)
        ends = (self.first or 0) + self.wanted[-1] == self.depth
        normed_last = self.window is not None or model.config.do_stable_layer_norm
        return Layers(layers, trunk.layer_norm if ends and normed_last else None)


def _random_model(config: Mapping[str, Any], layers: int) -> Any:
    """A transformers model of ``config`` with ``layers`` layers of random weights."""
    import transformers  # noqa: PLC0415

    kind = str(config.get("model_type"))
    if kind not in _CONFIGS:
        raise SerError(f"the checkpoint tunes a {kind!r} model, expected {', '.join(_CONFIGS)}; train it again.")
    plain = {str(key): value for key, value in config.items() if not str(key).startswith("_")}
    # No layer is dropped at random: a resumed run and a batch's mates would depend on it.
    depth = "encoder_layers" if kind == "whisper" else "num_hidden_layers"
    plain |= {depth: layers, "layerdrop": 0.0, "encoder_layerdrop": 0.0, "apply_spec_augment": False}
    for name, largest in _LARGEST.items():
        value = plain.get(name, 0)
        if max(value if isinstance(value, list | tuple) else [value], default=0) > largest:
            raise SerError(
                f"the checkpoint tunes a model with {name}={value}, expected at most {largest}; use a checkpoint from "
                "a source you trust."
            )
    # A stranger's configuration may name attention code on the Hub.
    plain["attn_implementation"] = "eager" if kind == "wavlm" else "sdpa"
    settings = getattr(transformers, _CONFIGS[kind])(**plain)
    if kind == "whisper":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Half  # noqa: PLC0415

        return Half(settings).float()
    return transformers.AutoModel.from_config(settings).float()


def check_finetuning(encoder: Encoder, normalization: str, augmentation: Augmentation, own_frames: bool) -> None:
    """Refuse settings that the tuned layers cannot work with; a frozen encoder accepts all."""
    finetune = getattr(encoder, "finetune", None)
    if finetune is None:
        return
    if own_frames:
        raise SerError(
            f"features.finetune={finetune} was given for a corpus that has its own frames, expected audio; choose "
            "another data, or features.finetune=null."
        )
    if normalization != "none":
        raise SerError(
            f"features.finetune={finetune} was given with normalization={normalization}, but pretrained layers expect "
            "their input as it is; add normalization=none (a LayerNorm behind the layers takes its place)."
        )
    if finetune == FULL and augmentation.transforms:
        raise SerError(
            "features.finetune=full was given with augmentation of frames, but its frames are the waveform itself; "
            "add augmentation=none."
        )


def make_network(
    make: Callable[..., Network], description: Mapping[str, Any], sizes: Mapping[str, int], encoder: Encoder | None
) -> tuple[Network, dict[str, Any]]:
    """The network, inside the encoder's tuned layers if it has some, and the plain description that rebuilds it.

    ``description`` is the plain form of ``make``; an ``encoder`` of None asks for no fine-tuning.
    """
    if not isinstance(encoder, PretrainedEncoder) or encoder.finetune is None:
        return make(**sizes), {**description, **sizes}
    inner = {**sizes, "input_size": encoder.joined_width(encoder.wanted_layers())}
    settings: dict[str, Any] = {**sizes, **encoder.tuned(), "lr_factor": encoder.finetune_lr_factor}
    network = FineTuned(**settings, network=make(**inner))
    network.load_pretrained(encoder.whole_model())
    nested = {key: value for key, value in {**description, **inner}.items() if key != "_partial_"}
    tuned = sum(weight.numel() for weight in network.encoder.parameters() if weight.requires_grad)
    own = sum(weight.numel() for weight in network.parameters() if weight.requires_grad) - tuned
    log.info(
        "fine-tuning %s of %s: %s parameters of the encoder at %g times the learning rate, %s of the network",
        "all" if encoder.finetune == FULL else f"layers {settings['first'] + 1} to {settings['wanted'][-1]}",
        encoder.checkpoint,
        f"{tuned:,}",
        encoder.finetune_lr_factor,
        f"{own:,}",
    )
    return network, {"_target_": f"{FineTuned.__module__}.{FineTuned.__name__}", **settings, "network": nested}
