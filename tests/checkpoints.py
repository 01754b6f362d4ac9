"""Checkpoints as training writes them, of randomly initialised networks, for tests of what uses them."""

import numpy as np
import soundfile
import torch

from ser.models.network import build_network

EMOTIONS = ["neutral", "happy", "angry", "sad"]
PROBABILITIES = [f"p_{name}" for name in EMOTIONS]  # columns of a prediction table
ENCODER = {"_target_": "ser.encoders.LogMel", "mels": 40, "hop_seconds": 0.02}
GRU = {
    "_target_": "ser.models.recurrent.GRU",
    "_partial_": True,
    "hidden_size": 16,
    "layers": 2,
    "dropout": 0.2,
    "attention": {"_target_": "ser.models.attention.DotAttention", "_partial_": True},
}
ENHANCED = {
    "_target_": "ser.models.recurrent.EnhancedGRU",
    "_partial_": True,
    "hidden_size": 8,
    "layers": 2,
    "heads": 2,
    "dropout": 0.3,
}


def make_config(model=ENHANCED, encoder=ENCODER, kind="global", max_seconds=None, width=40):
    generator = torch.Generator().manual_seed(5)
    return {
        "format": 2,
        "network": {**model, "input_size": width, "emotions": 4},
        "encoder": dict(encoder),
        "emotions": EMOTIONS,
        "speakers": [f"s{number}" for number in range(6)],
        "sample_rate": 16000,
        "normalization": {
            "kind": kind,
            "mean": torch.randn(width, generator=generator),
            "std": torch.rand(width, generator=generator) + 0.5,
        },
        "max_seconds": max_seconds,
        "corpus": "synthetic",
        "protocol": "session",
        "fold": 1,
        "seed": 1,
        "hash": "abc",
    }


def save_checkpoint(path, seed=0, **settings):
    """Write a checkpoint with weights large enough that probabilities differ from utterance to utterance."""
    config = make_config(**settings)
    torch.manual_seed(seed)
    network = build_network(config["network"])
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "config": config, "epoch": 3}, path)
    return path


def voice(seconds, seed=0, rate=16000):
    """Something with the ups and downs of speech: gliding harmonics in noise."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * rate)) / rate
    pitch = 100 + 80 * torch.rand(1, generator=generator) + 30 * torch.sin(2 * torch.pi * (0.7 + seed % 3) * time)
    phase = 2 * torch.pi * torch.cumsum(pitch, 0) / rate
    sound = sum(torch.sin(order * phase) / order for order in range(1, 12))
    envelope = 0.1 + torch.sin(2 * torch.pi * 2.3 * time + seed).abs()
    return 0.1 * envelope * sound + 0.003 * torch.randn(len(time), generator=generator)


def write_audio(path, samples, rate=16000, subtype="FLOAT"):
    """Write samples (N,) or (N, channels) into a file, whose path it returns; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(samples), rate, subtype=subtype)
    return path
