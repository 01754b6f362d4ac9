"""Live recognition with pretrained encoders: windows of 5 s every 0.5 s, in real time, by torch, ONNX and int8.

    python -m benchmarks.live --seconds 30

Encoders have the sizes of Whisper base and HuBERT base and random weights, since costs do not depend on them. Each row
streams made-up sound at the pace of a clock. "First" is the time from the start of the stream to the first answer; its
least value is the window. Latency is the time from a window's last sample to its answer.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
import transformers

from ser.data.audio import SAMPLE_RATE
from ser.inference.checkpoint import FORMAT, ModelConfig
from ser.inference.engines import TorchNetwork, build_encoder
from ser.inference.onnx import export_onnx
from ser.inference.onnx_graph import quantize_file
from ser.inference.recognizer import Recognizer
from ser.inference.sources import file_source
from ser.inference.streaming import StreamingRecognizer
from ser.models.network import build_network

WINDOW, HOP, TARGET = 5.0, 0.5, 0.7  # seconds; the target is of the latency


def main() -> None:
    """Print a row per encoder and engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of sound per row (default: %(default)s)")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; windows of {WINDOW:g} s every {HOP:g} s")
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        noise = 0.1 * np.random.default_rng(0).standard_normal(round(options.seconds * SAMPLE_RATE))
        soundfile.write(sound, noise, SAMPLE_RATE)
        for name, save in (("whisper_base", save_whisper), ("hubert_base", save_hubert)):
            for engine, recognizer in engines(Path(folder), name, save):
                print(f"{name}, {engine}: {stream(recognizer, sound)}", flush=True)


def engines(folder: Path, name: str, save: Callable[[Path], None]) -> Iterator[tuple[str, Recognizer]]:
    """The same model in PyTorch, as one ONNX file and as one of 8-bit weights."""
    torch.manual_seed(0)
    save(folder / name)
    network = {"_target_": "ser.models.recurrent.BottleneckGRU", "emotions": 4}
    network["input_size"] = 512 if name == "whisper_base" else 768
    kind, layer = ("WhisperEncoder", 3) if name == "whisper_base" else ("SpeechEncoder", None)  # as in conf/features
    config = ModelConfig.of(
        {
            "format": FORMAT,
            "network": network,
            "encoder": {"_target_": f"ser.encoders.{kind}", "checkpoint": str(folder / name), "layer": layer},
            "emotions": ["neutral", "happy", "angry", "sad"],
            "sample_rate": SAMPLE_RATE,
            "max_seconds": None,
            "normalization": {"kind": "global", "mean": None, "std": None},
        },
        folder,
    )
    model = Recognizer(config, TorchNetwork(build_network(network)), build_encoder(config))
    yield "torch", model
    path = folder / f"{name}.onnx"
    export_onnx(model, path, with_encoder=True)
    yield "ONNX", Recognizer.from_checkpoint(path)
    quantize_file(path)  # what `ser export --quantize int8` does next
    yield "ONNX int8", Recognizer.from_checkpoint(path)


def stream(recognizer: Recognizer, sound: Path) -> str:
    """Stream the file in real time and say what came of it."""
    recognizer.predict_batch([torch.zeros(round(WINDOW * SAMPLE_RATE))])  # loads the weights, as `ser listen` does
    source = file_source(sound)
    with StreamingRecognizer(recognizer, source.sample_rate, window=WINDOW, hop=HOP) as streamed:
        for block in source.blocks:
            streamed.write(block)
    latencies = [event.latency for event in streamed.history()]
    first = WINDOW + latencies[0]
    return (
        f"{streamed.processed} windows answered, {streamed.dropped} dropped, first {first:.1f} s, latency median "
        f"{statistics.median(latencies):.2f} s, longest {max(latencies):.2f} s (target {TARGET:g} s)"
    )


def save_whisper(folder: Path) -> None:
    """An encoder of Whisper base's size."""
    config = transformers.WhisperConfig(
        d_model=512,
        encoder_layers=6,
        encoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_layers=1,
        decoder_attention_heads=8,
    )
    transformers.WhisperModel(config).encoder.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)


def save_hubert(folder: Path) -> None:
    """HuBERT base."""
    transformers.HubertModel(transformers.HubertConfig()).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)


if __name__ == "__main__":
    main()
