"""A trained model as one ONNX file, checked against PyTorch before it is in place."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ser.data.audio import SAMPLE_RATE, SHORTEST_SAMPLES
from ser.encoders import FrameFiles
from ser.encoders.base import HOP_SAMPLES
from ser.errors import SerError, first_line
from ser.inference.checkpoint import to_plain
from ser.inference.engines import FRAMES, METADATA_KEY, WAVEFORM
from ser.inference.onnx_graph import FrameGraph, WaveformGraph, quantize_file, translations
from ser.inference.recognizer import Prediction, Recognizer
from ser.io import atomic_path

TOLERANCE = 1e-4  # of a probability, between PyTorch and ONNX in single precision
# With the encoder inside, its last digits decide now and then to which half-precision number a frame's value rounds.
TOLERANCE_WITH_ENCODER = 1e-3
_OPSET = 18


@dataclass(frozen=True)
class Agreement:
    """How an exported file answers compared with the model in PyTorch."""

    recordings: int  # how many were compared
    shortest: float  # seconds
    longest: float  # seconds
    largest_difference: float  # of a probability
    same_label: float  # fraction of recordings with the same label
    size: int  # bytes of the file


def export_onnx(
    recognizer: Recognizer, path: str | Path, *, with_encoder: bool = False, quantize: bool = False
) -> dict[str, Agreement]:
    """Write an ONNX file with dynamic batch and time, and compare it with PyTorch before it is in place.

    Inputs are ``frames`` (B, L, D) as the encoder made them (averaging and normalisation are inside) or ``waveform``
    (B, N) at 16 kHz mono, and ``lengths`` (B,) int64 in frames or samples; the output is ``probabilities`` (B, C). The
    metadata hold the emotions and the description that Recognizer needs. With ``quantize`` weights are 8-bit integers.

    Returns:
        Agreement of the single-precision file (``float32``) and, if asked for, of the quantised one (``int8``).

    Raises:
        SerError: packages are missing, the model cannot be exported, or the file disagrees with PyTorch.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise SerError(
            f"ONNX export needs {' and '.join(missing)}, which this installation lacks; pip install 'ser-lab[export]'."
        )
    found: dict[str, Agreement] = {}
    with atomic_path(path) as temporary:
        _write(recognizer, temporary, with_encoder)
        found["float32"] = agreement(recognizer, temporary)
        tolerance = TOLERANCE_WITH_ENCODER if with_encoder else TOLERANCE
        if found["float32"].largest_difference > tolerance:
            raise SerError(
                f"the exported model differs from PyTorch by {found['float32'].largest_difference:.1e} in a "
                f"probability, expected at most {tolerance:.0e}; nothing was written, so please report it."
            )
        if quantize:
            quantize_file(temporary)
            found["int8"] = agreement(recognizer, temporary)
    return found


def agreement(recognizer: Recognizer, path: Path, waveforms: Sequence[Tensor] | None = None) -> Agreement:
    """Compare a model with its ONNX file on waveforms at 16 kHz; None takes synthetic sounds of 25 ms to 30 s."""
    waveforms = test_sounds() if waveforms is None else waveforms
    exported = Recognizer.from_checkpoint(path, encoder=recognizer.encoder)
    pairs = [tuple(_predict(form, waveform) for form in (recognizer, exported)) for waveform in waveforms]
    values = [[list(prediction.probabilities.values()) for prediction in pair] for pair in pairs]
    gaps = np.ptp(np.array(values), axis=1)  # (n, C)
    seconds = [len(waveform) / SAMPLE_RATE for waveform in waveforms]
    same = [first.label == second.label for first, second in pairs]
    size = path.stat().st_size
    return Agreement(len(pairs), min(seconds), max(seconds), float(gaps.max()), float(np.mean(same)), size)


def _predict(recognizer: Recognizer, waveform: Tensor) -> Prediction:
    """The prediction of a waveform (N,), or of made-up frames of its length where the model takes no audio."""
    if not isinstance(recognizer.encoder, FrameFiles):
        return recognizer.predict_batch([waveform])[0]
    mean, std = recognizer.config.statistics.mean, recognizer.config.statistics.std
    length = len(waveform) // HOP_SAMPLES  # as encoders of 50 frames per second have
    noise = torch.randn(length, len(mean), generator=torch.Generator().manual_seed(length))
    return recognizer.classify([mean + std * noise], [length * HOP_SAMPLES / SAMPLE_RATE])[0]


def test_sounds(count: int = 40, seed: int = 0) -> list[Tensor]:
    """Gliding harmonics in noise, as different from each other as voices are; 25 ms to 30 s, in geometric steps."""
    generator = np.random.default_rng(seed)
    sounds = []
    for samples in np.geomspace(SHORTEST_SAMPLES, 30 * SAMPLE_RATE, count).astype(int):
        time = np.arange(samples) / SAMPLE_RATE
        pitch = generator.uniform(80, 300) * (1 + 0.3 * np.sin(2 * np.pi * generator.uniform(0.2, 2) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
        tilt = generator.uniform(0.5, 2)
        voice = sum(np.sin(order * phase) / order**tilt for order in range(1, 15))
        envelope = np.abs(np.sin(2 * np.pi * generator.uniform(1, 5) * time)) ** generator.uniform(0.5, 3)
        noise = generator.uniform(1e-4, 0.02) * generator.standard_normal(samples)
        sounds.append(torch.from_numpy(generator.uniform(0.02, 0.3) * voice * envelope + noise).float())
    return sounds


def _write(recognizer: Recognizer, path: Path, with_encoder: bool) -> None:
    graph: nn.Module
    if with_encoder:
        graph, name, time = WaveformGraph(recognizer), WAVEFORM, "samples"
        example, lengths = torch.randn(2, SAMPLE_RATE), torch.tensor([SAMPLE_RATE, SAMPLE_RATE // 2])
    else:
        graph, name, time = FrameGraph(recognizer), FRAMES, "time"
        example, lengths = torch.randn(2, 37, recognizer.config.input_size), torch.tensor([37, 20])
    batch = torch.export.Dim("batch")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph.eval(),
                (example, lengths),
                dynamo=True,
                dynamic_shapes=({0: batch, 1: torch.export.Dim(time)}, {0: batch}),
                opset_version=_OPSET,
                input_names=[name, "lengths"],
                output_names=["probabilities"],
                verbose=False,
                custom_translation_table=translations(),
            )
    except torch.onnx.OnnxExporterError as error:  # what can be exported grows with torch
        raise SerError(
            f"torch {torch.__version__} cannot export this network ({first_line(error.__cause__ or error)}); torch "
            "2.14.1 exports every network and encoder of this project."
        ) from error
    if program is None:
        raise SerError(
            "torch.onnx.export gave no program, expected one; install the versions that ser-lab[export] names."
        )
    program.model.metadata_props.update(
        {
            METADATA_KEY: json.dumps(to_plain(recognizer.config.plain)),
            "emotions": ",".join(recognizer.emotions),
            "sample_rate": str(SAMPLE_RATE),
        }
    )
    program.save(path, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice off the screen; its errors are exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
