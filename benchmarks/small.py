"""A whole run on a corpus as small as EMO-DB: processor seconds and memory, beside those of the imports alone.

    python -m benchmarks.small

339 clips of at most 2 s, ten epochs of ``recommended`` in batches of 16, frames cached, one thread, everything
included: test of each epoch, speaker probe, figures, TensorBoard. Each line is a process of its own; the least of
several counts, since other programs only add to it. ``benchmarks/peers.md`` compares it with other programs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET_SECONDS, TARGET_MB = 12.0, 800.0
ROOT = Path(__file__).resolve().parent.parent
TASK = ["data=synthetic", "data.utterances=339", "features=logmel", "features.max_seconds=2"]
RUN = ["experiment=recommended", "trainer.max_epochs=10", "batches.batch_size=16", "fold=1"]


def main() -> None:
    """Print what the imports cost, then the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="of which the least counts (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        task = [*TASK, f"paths.outputs={folder}"]
        measure(["-m", "ser.cli", "extract", *task])
        for what in ("import torch", "import torch, lightning"):
            seconds, memory = map(min, zip(*(measure(["-c", what]) for _ in range(options.rounds)), strict=True))
            print(f"{what}: {seconds:.1f} s of processor time, {memory:.0f} MB", flush=True)
        found = []
        for _ in range(options.rounds):
            found.append(measure(["train.py", *RUN, *task]))
            shutil.rmtree(Path(folder) / "synthetic-logmel")
        seconds, memory = map(min, zip(*found, strict=True))
        print(f"whole run: {seconds:.1f} s (target {TARGET_SECONDS:g}), {memory:.0f} MB (target {TARGET_MB:g})")


def measure(command: list[str]) -> tuple[float, float]:
    """Processor seconds and most memory (MB) of a Python process on one thread.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, **quiet)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(status, command)
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit


if __name__ == "__main__":
    main()
