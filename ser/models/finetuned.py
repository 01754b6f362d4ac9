"""A network with the part of a pretrained encoder that is trained together with it.

The second place that imports transformers, late, beside ser.encoders: those encoders are frozen and outside the
network, while these layers are part of it, have their weights in its checkpoint and must be rebuilt from that alone.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser.encoders.speech_model import LayerStack, SpeechModel
from ser.errors import SerError
from ser.models.layers import valid_frames
from ser.models.network import Network

_CLASSES = {"hubert": "Hubert", "wavlm": "WavLM", "wav2vec2": "Wav2Vec2"}
ROW, TAIL = 320, 80  # samples: a frame's distance to the next, and what the last window has beyond it


class FineTuned(Network):
    """Transformer layers, or a whole speech model, then LayerNorm, then the network proper.

    Args:
        input_size: D, values a frame: the layers' width, or 320 samples for a whole model.
        emotions: C, number of classes.
        config: the checkpoint's config.json, of a HuBERT, WavLM or wav2vec 2.0.
        first: layers ahead of the tuned ones, whose output the frames are; None: frames are the waveform in rows of
            320 samples, and the whole model is here.
        last: number of the last layer.
        normalize: the checkpoint wants waveforms of mean 0 and variance 1; of a whole model only.
        lr_factor: learning rate of the encoder's part relative to the network's.
        network: classifies the frames of the tuned layers.

    Raises:
        SerError: the configuration is of another kind of model.
    """

    def __init__(
        self,
        input_size: int,
        emotions: int,
        *,
        config: Mapping[str, Any],
        first: int | None,
        last: int,
        normalize: bool,
        lr_factor: float,
        network: Network,
    ) -> None:
        super().__init__()
        depth, width = int(config["num_hidden_layers"]), int(config["hidden_size"])
        if input_size != (ROW if first is None else width):
            raise ValueError(f"frames of {input_size} values for layers of width {width}")
        self.first, self.last, self.depth, self.normalize = first, last, depth, normalize
        self.encoder = self._part(_random_model(config, last - (first or 0)), 0)
        self.encoder.lr_factor = lr_factor  # type: ignore[assignment]  # read by ser.module
        self.norm = nn.LayerNorm(width)  # in place of the normalisation of frozen frames
        self.network = network
        self.pooled_size = network.pooled_size

    @property
    def head(self) -> nn.Module:  # type: ignore[override]  # it stays the inner network's, with its place in checkpoints
        """The inner network's head."""
        return self.network.head

    def body(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Run the tuned layers, then the inner network's body, on frames as the encoder made them."""
        if self.first is None:
            frames = frames.masked_fill(~valid_frames(lengths, frames.shape[1]).unsqueeze(-1), 0.0)
            waveforms = F.pad(frames.flatten(1), (0, TAIL))  # (B, 320 L + 80): as many frames as rows
            hidden, _ = self.encoder(waveforms, lengths * ROW + TAIL)
        else:
            hidden = self.encoder(frames, valid_frames(lengths, frames.shape[1]))[-1]  # (B, L, D)
        return self.network.body(self.norm(hidden), lengths, return_attention)

    def load_pretrained(self, model: nn.Module) -> None:
        """Take the weights of the whole ``model`` of transformers, which is left cut."""
        self.encoder.load_state_dict(self._part(model, self.first or 0).state_dict())

    def _part(self, model: Any, begin: int) -> nn.Module:
        """What is tuned of ``model``, whose layer number ``begin`` (from 0) comes first."""
        trunk = model.encoder
        layers = trunk.layers[begin : begin + self.last - (self.first or 0)]
        if self.first is None:
            trunk.layers = layers
            return SpeechModel(model, [self.last], self.depth, self.normalize)
        positions = getattr(trunk.layers[0].attention, "rel_attn_embed", None)
        if positions is not None:  # WavLM's first layer keeps these for all of them; the tuned ones leave them alone
            layers[0].attention.rel_attn_embed = positions.requires_grad_(False)
        ends = model.config.do_stable_layer_norm and self.last == self.depth
        return LayerStack(layers, trunk.layer_norm if ends else None)


def _random_model(config: Mapping[str, Any], layers: int) -> Any:
    """A model of transformers as ``config`` has it, with ``layers`` layers of random weights."""
    import transformers  # noqa: PLC0415

    kind = str(config.get("model_type"))
    if kind not in _CLASSES:
        raise SerError(f"the checkpoint tunes a {kind!r} model, expected {', '.join(_CLASSES)}; train it again.")
    plain = {str(key): value for key, value in config.items() if not str(key).startswith("_")}
    # No layer is dropped at random: a resumed run and a batch's mates would not be independent of it.
    plain |= {"num_hidden_layers": layers, "layerdrop": 0.0, "apply_spec_augment": False}
    settings = getattr(transformers, f"{_CLASSES[kind]}Config")(**plain)
    model = getattr(transformers, f"{_CLASSES[kind]}Model")(settings)
    return model.to(torch.float32)
