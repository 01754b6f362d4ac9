"""How time and memory of training grow with the corpus: 1, 4 and 16 times as many utterances.

    python -m benchmarks.growth --scale 0.05

Each size trains a small ``gru`` for two epochs in a process of its own; the second epoch counts. Time an utterance and
peak resident memory should stay what they are at the smallest size. Frames are extracted beforehand, in other
processes. Attention is off: its memory goes with the square of the longest utterance, and a larger sample of the same
lengths holds a longer one.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from benchmarks.composing import compose_experiment
from benchmarks.memory import peak_mb
from benchmarks.reference import Ours

FACTORS = (1, 4, 16)
TARGET = 1.10
DIM = 256  # values a frame: a third of HuBERT's, so that the largest size fits small disks


def main() -> None:
    """Print one line a size and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.05, help="the smallest, of IEMOCAP (default: %(default)s)")
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    rows = []
    for factor in FACTORS:
        scale = options.scale * factor
        data = ["data=synthetic_features", f"data.scale={scale}", f"data.dim={DIM}"]
        subprocess.run([sys.executable, "-m", "ser.cli", "extract", *data], capture_output=True, check=True)
        words = [sys.executable, "-m", "benchmarks.growth", "--measure", str(scale)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        row = rows[-1]
        print(f"{factor:2d}x: {row['utterances']:5d} training utterances, {1000 * row['seconds']:.2f} ms each, "
              f"peak {row['peak_mb']:.0f} MB", flush=True)  # fmt: skip
    ratios = [[row[key] / rows[0][key] for row in rows[1:]] for key in ("seconds", "peak_mb")]
    time_ratio, memory_ratio = (", ".join(f"{ratio:.2f}" for ratio in found) for found in ratios)
    print(f"against the smallest: time an utterance {time_ratio}, peak memory {memory_ratio} (target {TARGET:.2f})")


def measure(scale: float) -> dict[str, float]:
    """Seconds an utterance of the second epoch, and this process's peak memory."""
    warnings.filterwarnings("ignore")
    logging.getLogger("ser").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        words = ["model=gru", "model.hidden_size=8", "adversarial=none", "augmentation=none"]
        words += ["model.attention=null", f"data.dim={DIM}"]
        training = Ours(compose_experiment(Path(folder), scale, *words))
        training.epoch(0)
        start = time.process_time()
        training.epoch(1)
        seconds = time.process_time() - start
    count = len(training.data.split.train)
    return {"utterances": count, "seconds": seconds / count, "peak_mb": peak_mb()}


if __name__ == "__main__":
    main()
