"""Training part of a pretrained encoder with the network: where the two are put together."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ser.data.augmentation import Augmentation
from ser.encoders import FULL, Encoder, SpeechEncoder
from ser.errors import SerError
from ser.models.finetuned import FineTuned
from ser.models.network import Network

log = logging.getLogger(__name__)


def check_finetuning(encoder: Encoder, normalization: str, augmentation: Augmentation, own_frames: bool) -> None:
    """Refuse what the tuned layers cannot work with; nothing where the encoder is frozen.

    Args:
        encoder: makes the frames.
        normalization: kind of frame normalisation.
        augmentation: changes training frames.
        own_frames: the corpus brings frames of its own, and the encoder is not used.

    Raises:
        SerError: naming the word that mends it.
    """
    finetune = getattr(encoder, "finetune", None)
    if finetune is None:
        return
    if own_frames:
        raise SerError(
            f"features.finetune={finetune} was given for a corpus that brings its own frames, expected audio; "
            "choose another data, or features.finetune=null."
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
    """The network, inside the encoder's tuned layers where it has some, and the plain description that rebuilds it.

    Args:
        make: the network, from its sizes.
        description: plain form of ``make``.
        sizes: input_size, emotions.
        encoder: may ask for fine-tuning; None does not.
    """
    if not isinstance(encoder, SpeechEncoder) or encoder.finetune is None:
        return make(**sizes), {**description, **sizes}
    inner = {**sizes, "input_size": encoder.width}
    settings: dict[str, Any] = {**sizes, **encoder.tuned(), "lr_factor": encoder.finetune_lr_factor}
    network = FineTuned(**settings, network=make(**inner))
    network.load_pretrained(encoder.whole_model())
    nested = {key: value for key, value in {**description, **inner}.items() if key != "_partial_"}
    tuned = sum(weight.numel() for weight in network.encoder.parameters() if weight.requires_grad)
    own = sum(weight.numel() for weight in network.parameters() if weight.requires_grad) - tuned
    log.info(
        "fine-tuning %s of %s: %s parameters of the encoder at %g times the learning rate, %s of the network",
        "all" if encoder.finetune == FULL else f"layers {settings['first'] + 1} to {settings['last']}",
        encoder.checkpoint,
        f"{tuned:,}",
        encoder.finetune_lr_factor,
        f"{own:,}",
    )
    return network, {"_target_": f"{FineTuned.__module__}.{FineTuned.__name__}", **settings, "network": nested}
