"""What inference costs: ``python -m benchmarks.inference [--checkpoint RUN]``.

Without a checkpoint it takes randomly initialised networks of the default and of a small size on log-mel frames; costs
do not depend on the weights. Prints one table a network:

- overhead: a Recognizer's call beside the bare encoder and network on the same 5 s of sound;
- torch, ONNX, int8: latency of a 5 s window, real-time factor (time for a second of sound), file size, and for the
  exported ones the largest difference of a probability and the share of same labels beside PyTorch;
- folder: files per second through predict_files beside one call a file.

Times are medians of the process's CPU time, which on one thread of an idle machine is the time by the clock, and which
a busy machine disturbs less.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich import get_console
from rich.table import Table

from ser.data.audio import SAMPLE_RATE
from ser.encoders import encode
from ser.inference.checkpoint import FORMAT, ModelConfig
from ser.inference.engines import TorchNetwork, build_encoder
from ser.inference.files import predict_file, predict_files
from ser.inference.onnx import export_onnx, test_sounds
from ser.inference.recognizer import Recognizer
from ser.models.network import build_network

WINDOW = 5.0  # seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="run folder or .ckpt; default: random networks of two sizes")
    parser.add_argument("--encoder", help="folder of the pretrained encoder")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--files", type=int, default=60, help="files in the folder")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    get_console().print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {arguments.threads} "
        f"thread(s), load {os.getloadavg()[0]:.1f}, torch {torch.__version__}",
        highlight=False,
    )
    for name, recognizer in recognizers(arguments.checkpoint, arguments.encoder):
        with tempfile.TemporaryDirectory() as folder:
            get_console().print(measure(name, recognizer, Path(folder), arguments.repetitions, arguments.files))


def recognizers(checkpoint: str | None, encoder: str | None) -> Iterator[tuple[str, Recognizer]]:
    """The model that was named, or two random ones."""
    if checkpoint is not None:
        yield checkpoint, Recognizer.from_checkpoint(checkpoint, encoder)
        return
    for hidden_size in (256, 64):
        torch.manual_seed(0)
        network = {
            "_target_": "ser.models.recurrent.EnhancedGRU",
            "input_size": 80,
            "emotions": 4,
            "hidden_size": hidden_size,
        }
        config = ModelConfig.of(
            {
                "format": FORMAT,
                "network": network,
                "encoder": {"_target_": "ser.encoders.LogMel"},
                "emotions": ["neutral", "happy", "angry", "sad"],
                "sample_rate": SAMPLE_RATE,
                "max_seconds": None,
                "normalization": {"kind": "global", "mean": None, "std": None},
            },
            Path("random"),
        )
        model = Recognizer(config, TorchNetwork(build_network(network)), build_encoder(config))
        yield f"enhanced_gru, H = {hidden_size}, random weights", model


def measure(name: str, recognizer: Recognizer, folder: Path, repetitions: int, files: int) -> Table:
    """The figures of one network."""
    sound = test_sounds()[-1][: round(WINDOW * SAMPLE_RATE)]
    table = Table("what", f"ms for {WINDOW:g} s", "real-time factor", "MB", "beside PyTorch", title=name)

    def add(what: str, seconds: float, size: float | None = None, remark: str = "") -> None:
        table.add_row(
            what, f"{1000 * seconds:.1f}", f"{seconds / WINDOW:.4f}", "" if size is None else f"{size:.2f}", remark
        )

    whole, bare = alternately(lambda: recognizer(sound, SAMPLE_RATE), bare_call(recognizer, sound), repetitions)
    weights = sum(value.numel() * value.element_size() for value in recognizer.parameters()) / 1e6
    add("encoder and network, bare", bare)
    add("Recognizer, torch", whole, weights, f"overhead {100 * (whole / bare - 1):+.1f}%")
    for what, quantize in (("float32", False), ("int8", True)):
        path = folder / f"{what}.onnx"
        found = export_onnx(recognizer, path, quantize=quantize)[what]
        exported = Recognizer.from_checkpoint(path, encoder=recognizer.encoder)
        seconds, _ = alternately(partial(exported, sound, SAMPLE_RATE), int, repetitions)
        size = path.stat().st_size / 1e6
        add(
            f"Recognizer, ONNX {what}",
            seconds,
            size,
            f"{weights / size:.1f} times smaller, difference {found.largest_difference:.1e}, "
            f"same label {100 * found.same_label:.0f}% of {found.recordings}",
        )
    table.caption = folder_throughput(recognizer, folder / "audio", files)
    return table


def bare_call(recognizer: Recognizer, sound: torch.Tensor) -> Callable[[], object]:
    """Encoder and network with nothing around them."""
    encoder, model = recognizer.encoder, recognizer.model
    if encoder is None or not isinstance(model, TorchNetwork):
        raise SystemExit("the benchmark needs a model in PyTorch with its encoder: name a run folder")

    @torch.inference_mode()
    def call() -> object:
        frames = encode(encoder, [sound])[0][None]  # (1, L, D)
        return model.network(frames, torch.tensor([frames.shape[1]])).emotion_logits.softmax(-1)

    return call


def alternately(one: Callable[[], object], other: Callable[[], object], repetitions: int) -> tuple[float, float]:
    """Median seconds of two calls, taken in turn so that the machine's moods fall on both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(2):
        one(), other()
    for _ in range(repetitions):
        for call, column in zip((one, other), times, strict=True):
            begun = time.process_time()
            call()
            column.append(time.process_time() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


def folder_throughput(recognizer: Recognizer, folder: Path, count: int) -> str:
    """Files a second, one call a file and through predict_files; lengths as in IEMOCAP (median 3.6 s)."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = []
    for number, seconds in enumerate(np.clip(generator.lognormal(1.28, 0.64, count), 0.6, 34)):
        paths.append(folder / f"{number:03d}.wav")
        soundfile.write(paths[-1], 0.1 * generator.standard_normal(round(seconds * SAMPLE_RATE)), SAMPLE_RATE)
    begun = time.process_time()
    for path in paths:
        predict_file(recognizer, path)
    alone = count / (time.process_time() - begun)
    begun = time.process_time()
    predict_files(recognizer, paths)
    together = count / (time.process_time() - begun)
    return (
        f"folder of {count} files: {alone:.1f} files/s one by one, {together:.1f} in batches ({together / alone:.2f}x)"
    )


if __name__ == "__main__":
    main()
