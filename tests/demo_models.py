"""A tiny network that really listens: a low voice is sad, a high one happy, for tests of the page."""

import torch
from checkpoints import ENCODER, GRU, make_config
from torch.nn.functional import cross_entropy

from ser.encoders import LogMel, encode
from ser.models.network import build_network

SAD, HAPPY = 3, 1  # places in checkpoints.EMOTIONS
LOW, HIGH = 130.0, 900.0  # Hz


def tone(pitch, seconds, rate=16000, loudness=0.2):
    """Harmonics of a pitch that wavers like a voice."""
    time = torch.arange(round(seconds * rate)) / rate
    phase = 2 * torch.pi * torch.cumsum(pitch * (1 + 0.03 * torch.sin(2 * torch.pi * 4 * time)), 0) / rate
    return loudness * (torch.sin(phase) + 0.5 * torch.sin(2 * phase)) * (0.6 + 0.4 * torch.sin(2 * torch.pi * 3 * time))


def save_pitch_checkpoint(path):
    """Train it on a few tones (seconds of work) and write it as training would."""
    config = make_config(model=GRU, kind="none")
    config["normalization"] = {"kind": "global", "mean": torch.full((40,), -6.0), "std": torch.full((40,), 3.0)}
    torch.manual_seed(0)
    encoder, network = LogMel(**{key: value for key, value in ENCODER.items() if key != "_target_"}), None
    network = build_network(config["network"])
    pitches = [LOW * factor for factor in (0.9, 1.0, 1.1)] + [HIGH * factor for factor in (0.9, 1.0, 1.1)]
    sounds = [tone(pitch, 1.0, loudness=loudness) for pitch in pitches for loudness in (0.05, 0.3)]
    frames = (torch.stack(encode(encoder, sounds)) + 6.0) / 3.0  # (B, L, D)
    labels = torch.tensor([SAD] * 6 + [HAPPY] * 6)
    lengths = torch.full((len(sounds),), frames.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(network(frames, lengths).emotion_logits, labels).backward()
        optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "config": config, "epoch": 40}, path)
    return path
