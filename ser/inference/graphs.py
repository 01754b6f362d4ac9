"""What an exported file computes, as modules that can be exported with batch and time left open."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from ser.data.batching import average_frames
from ser.encoders import FULL, Encoder, LogMel, SpeechEncoder, Waveform, WhisperEncoder
from ser.encoders.base import FRAME_SAMPLES, HOP_SAMPLES
from ser.encoders.speech_model import LayerStack, SpeechModel
from ser.errors import SerError
from ser.inference.engines import TorchNetwork
from ser.inference.onnx_gru import exportable
from ser.inference.recognizer import Recognizer


class FrameGraph(nn.Module):
    """Frames (B, L, D) as the encoder made them and lengths (B,) to probabilities (B, C).

    Args:
        recognizer: a model in PyTorch.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        network, statistics = torch_network(recognizer).network, recognizer.config.statistics
        self.network = exportable(_plain(network))
        self.longest, self.average = recognizer.longest_frames, recognizer.config.average
        self.register_buffer("mean", statistics.mean.clone())
        self.register_buffer("std", statistics.std.clone())

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Cut, average, normalise, classify, softmax."""
        if self.longest is not None:
            lengths = lengths.clamp(max=self.longest)
        frames, lengths = average_frames(frames, lengths, self.average)
        normalised = (frames - self.mean) / self.std  # (B, L, D)
        mask = torch.arange(frames.shape[1], device=lengths.device) < lengths[:, None]  # (B, L)
        normalised = normalised.masked_fill(~mask.unsqueeze(-1), 0.0)
        probabilities: Tensor = self.network(normalised, lengths).emotion_logits.softmax(dim=-1)
        return probabilities


class WaveformGraph(nn.Module):
    """Waveforms (B, N) at 16 kHz and their samples (B,) to probabilities (B, C).

    Args:
        recognizer: a model in PyTorch with its encoder.

    Raises:
        SerError: the encoder is of a kind that cannot be exported, or computes in another precision.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.encode = encoder_graph(recognizer.encoder)
        self.classify = FrameGraph(recognizer)

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """The encoder, half precision as in the feature cache, then the network."""
        frames, counts = self.encode(waveform, lengths)
        return self.classify(frames.half().float(), counts)


class LogMelGraph(nn.Module):
    """The steps of LogMel on a padded batch."""

    def __init__(self, encoder: LogMel) -> None:
        super().__init__()
        self.spectrogram, self.hop = encoder._mel, encoder.hop

    def forward(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) and (B,) to (B, L, D) and (B,)."""
        energy = self.spectrogram(waveform).transpose(1, 2)  # (B, L, D)
        return (energy.clamp(min=1e-10).log() + 12) / 4, (samples - FRAME_SAMPLES) // self.hop + 1


class RowsGraph(nn.Module):
    """The steps of Waveform on a padded batch."""

    def forward(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) and (B,) to (B, L, 320) and (B,)."""
        count = (waveform.shape[1] - FRAME_SAMPLES) // HOP_SAMPLES + 1
        rows = waveform[:, : count * HOP_SAMPLES].reshape(-1, count, HOP_SAMPLES)
        return rows, (samples - FRAME_SAMPLES) // HOP_SAMPLES + 1


class WhisperGraph(nn.Module):
    """The steps of WhisperEncoder on a padded batch: windows of 30 s, log-mel energies, frames of the true length."""

    window: Tensor
    filters: Tensor

    def __init__(self, encoder: WhisperEncoder) -> None:
        super().__init__()
        model, extractor = copy.deepcopy(encoder.model).cpu(), encoder._extractor
        self.first, self.second, self.positions = model.conv1, model.conv2, model.embed_positions
        norm = model.layer_norm if len(model.layers) == int(encoder.config["encoder_layers"]) else None
        self.stack, self.wanted = LayerStack(model.layers, norm), encoder.layers
        self.join = encoder.join_states
        self.frames = int(encoder.config["max_source_positions"])  # of a window
        self.size, self.hop = int(extractor.n_fft), int(extractor.hop_length)
        self.register_buffer("window", torch.hann_window(self.size))
        self.register_buffer("filters", torch.as_tensor(extractor.mel_filters, dtype=torch.float32))  # (bins, mels)

    def forward(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) and (B,) to (B, L, D) and (B,)."""
        whole = self.frames * HOP_SAMPLES  # samples of a window
        valid = torch.arange(waveform.shape[1], device=samples.device) < samples[:, None]
        count = (waveform.shape[1] + whole - 1) // whole
        padded = F.pad(waveform * valid, (0, count * whole - waveform.shape[1]))
        hidden = self._encode(self._mel(padded.reshape(-1, whole)))  # (B * count, frames, D)
        rest = torch.round((samples % whole) / HOP_SAMPLES).long()
        lengths = samples // whole * self.frames + rest
        return hidden.reshape(waveform.shape[0], -1, hidden.shape[-1]), lengths

    def _mel(self, waveform: Tensor) -> Tensor:
        """Windows (W, N) to (W, mels, 2 * frames)."""
        around = F.pad(waveform.unsqueeze(1), (self.size // 2, self.size // 2), mode="reflect").squeeze(1)
        spectrum = torch.view_as_real(
            torch.stft(around, self.size, self.hop, window=self.window, center=False, return_complex=True)
        )
        energy = spectrum.square().sum(-1)[..., :-1]  # (W, bins, 2 * frames)
        log = (energy.transpose(1, 2) @ self.filters).clamp(min=1e-10).log10()
        log = torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - 8.0)
        return ((log + 4.0) / 4.0).transpose(1, 2)

    def _encode(self, mels: Tensor) -> Tensor:
        """(W, mels, 2 * frames) to (W, frames, D)."""
        hidden = F.gelu(self.second(F.gelu(self.first(mels)))).transpose(1, 2) + self.positions.weight
        states = self.stack(hidden, None)
        return self.join([states[number] for number in self.wanted])


def encoder_graph(encoder: Encoder | None) -> nn.Module:
    """Padded waveforms (B, N) and samples (B,) to frames (B, L, D) and lengths (B,), as ``encoder`` makes them.

    Raises:
        SerError: it is of a kind that cannot be exported, or computes in another precision.
    """
    if getattr(encoder, "dtype", "float32") != "float32":
        raise SerError(
            f"the encoder computes in {getattr(encoder, 'dtype', '?')}, expected float32 for a file that holds "
            "it; leave out --with-encoder."
        )
    if isinstance(encoder, LogMel):
        return LogMelGraph(encoder)
    if isinstance(encoder, WhisperEncoder):
        return WhisperGraph(encoder)
    if isinstance(encoder, Waveform) or (isinstance(encoder, SpeechEncoder) and encoder.finetune == FULL):
        return RowsGraph()
    if isinstance(encoder, SpeechEncoder):
        model = _plain(encoder.model)
        return SpeechModel(model, encoder.layers, encoder.depth, encoder.normalizes, encoder.join_states)
    raise SerError(
        f"{type(encoder).__name__} cannot be exported with the network, expected log-mel, HuBERT, WavLM, wav2vec "
        "2.0 or Whisper; leave out --with-encoder."
    )


def torch_network(recognizer: Recognizer) -> TorchNetwork:
    """The network of a model in PyTorch.

    Raises:
        SerError: it is an ONNX file.
    """
    if not isinstance(recognizer.model, TorchNetwork):
        raise SerError(
            "an ONNX file cannot be exported again, expected a run folder, .ckpt or exported folder; name "
            "one with --checkpoint."
        )
    return recognizer.model


def _plain(module: nn.Module) -> nn.Module:
    """A copy on the CPU whose convolutions hold their weight as one tensor, not as the product they are trained as."""
    module = copy.deepcopy(module).cpu()
    for parent in list(module.modules()):
        for name, old in list(parent.named_children()):
            if isinstance(old, nn.Conv1d) and is_parametrized(old, "weight"):
                # Not remove_parametrizations: the copy shares its class with the original, which would be changed too.
                sizes = (old.in_channels, old.out_channels, old.kernel_size[0])
                new = nn.Conv1d(*sizes, padding=old.padding[0], groups=old.groups).requires_grad_(False)
                new.load_state_dict({"weight": old.weight, "bias": old.bias})
                setattr(parent, name, new)
    return module
