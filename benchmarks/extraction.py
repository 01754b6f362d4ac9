"""Frames per second of extraction in batches against one file at a time, for log-mel and a HuBERT of random weights.

    python -m benchmarks.extraction --clips 48 --dim 256 --layers 4

Prints one line an encoder: both rates, their ratio, and the encoder's bare forward on the same batches. Lengths are
drawn from a log-normal law with IEMOCAP's median (3.6 s) and 95% point (11 s).
"""

import argparse
import csv
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor
from transformers.utils.logging import disable_progress_bar

from ser.data.audio import SAMPLE_RATE, read_audio
from ser.data.corpus import Corpus, Utterance
from ser.encoders import Encoder, LogMel, SpeechEncoder, encode
from ser.extraction.frames import extract
from ser.extraction.sharing import portions


def main() -> None:
    """Time each encoder three ways on the same clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=48, help="number of clips (default: %(default)s)")
    parser.add_argument("--index", type=Path, help="CSV with a column `seconds`: lengths to draw from instead")
    parser.add_argument("--dim", type=int, default=256, help="width of the HuBERT; base has 768 (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="its depth; base has 12 (default: %(default)s)")
    parser.add_argument("--batch-seconds", type=float, default=60.0, help="padded audio a batch (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the encoder computes (default: %(default)s)")
    options = parser.parse_args()
    logging.getLogger("ser").setLevel(logging.ERROR)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        corpus = build_corpus(Path(folder), options.clips, options.index)
        hubert = build_hubert(Path(folder) / "hubert", options.dim, options.layers)
        seconds = sum(utterance.seconds for utterance in corpus.utterances)
        print(
            f"{len(corpus.utterances)} clips, {seconds:.0f} s of audio, {torch.get_num_threads()} threads, "
            f"batches of {options.batch_seconds:g} s, device {options.device}"
        )
        for name, encoder in (("logmel", LogMel()), (f"hubert {options.layers}x{options.dim}", hubert)):
            compare(name, encoder.to(options.device), corpus, Path(folder), options.batch_seconds, options.device)


def compare(name: str, encoder: Encoder, corpus: Corpus, folder: Path, batch_seconds: float, device: str) -> None:
    """Print one encoder's line."""
    few = Corpus(corpus.name, corpus.emotions, corpus.utterances[:3])
    settings: dict[str, Any] = {"device": device, "show_progress": False}
    extract(few, encoder, folder / "warm" / name, batch_seconds=batch_seconds, **settings)  # loads weights, imports
    parts = portions(corpus.utterances, {}, batch_seconds)
    batches = [[read_audio(u.path) for u in batch] for part in parts for batch in part.batches]
    singles = [[waveform] for batch in batches for waveform in batch]
    frames = sum(len(row) for batch in batches for row in encode(encoder, batch))
    bare = timed(lambda: [encode(encoder, batch) for batch in batches])
    bare_single = timed(lambda: [encode(encoder, single) for single in singles])
    whole = timed(lambda: extract(corpus, encoder, folder / "batched" / name, batch_seconds=batch_seconds, **settings))
    single = timed(lambda: extract(corpus, encoder, folder / "single" / name, batch_seconds=1e-3, **settings))
    print(
        f"{name:14s} extraction {frames / whole:8.0f} frames/s, one file at a time {frames / single:8.0f}: ratio "
        f"{single / whole:.2f}; bare forward {frames / bare:8.0f}, one at a time {frames / bare_single:8.0f}; "
        f"extraction / bare forward {bare / whole:.2f}"
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def build_corpus(folder: Path, clips: int, index: Path | None) -> Corpus:
    """Noise of realistic lengths in wav files."""
    generator = np.random.default_rng(0)
    if index is None:
        lengths = np.clip(3.6 * np.exp(0.68 * generator.standard_normal(clips)), 0.6, 34)
    else:
        with index.open(newline="") as file:
            lengths = generator.choice([float(row["seconds"]) for row in csv.DictReader(file)], clips)
    utterances = []
    for number, seconds in enumerate(lengths):
        path = folder / f"clip{number}.wav"
        soundfile.write(path, 0.1 * generator.standard_normal(int(seconds * SAMPLE_RATE)), SAMPLE_RATE)
        utterances.append(Utterance(path.stem, path, "neutral", "speaker", 1, "", float(seconds)))
    return Corpus("benchmark", ("neutral",), tuple(utterances))


def build_hubert(folder: Path, dim: int, layers: int) -> SpeechEncoder:
    """A base-form HuBERT (group norm, full convolutional front) of random weights."""
    config = HubertConfig(
        hidden_size=dim, num_hidden_layers=layers, num_attention_heads=dim // 64, intermediate_size=4 * dim
    )
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return SpeechEncoder(str(folder))


if __name__ == "__main__":
    main()
