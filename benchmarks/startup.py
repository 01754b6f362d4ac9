"""Waiting before anything happens: ``python train.py --help``, and the way to the first training step on a warm cache.

    python -m benchmarks.startup

Each is a process of its own, run several times; the least elapsed time counts, since other programs only add to it.
Processor time stands beside it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELP_TARGET, STEP_TARGET = 3.0, 10.0  # seconds
ROOT = Path(__file__).resolve().parent.parent
FIRST_STEP = """
import os, runpy, sys, time
import lightning

class Stop(lightning.Callback):
    def on_train_batch_end(self, *arguments):
        os._exit(0)

build = lightning.Trainer.__init__

def with_stop(self, *arguments, **keywords):
    keywords["callbacks"] = [*keywords["callbacks"], Stop()]
    build(self, *arguments, **keywords)

lightning.Trainer.__init__ = with_stop
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = ["data=synthetic", "data.utterances=40", f"paths.outputs={folder}", "callbacks.progress_bar=null"]
        subprocess.run([sys.executable, "-m", "ser.cli", "extract", *words], cwd=ROOT, capture_output=True, check=True)
        for what, command, target in (
            ("train.py --help", ["train.py", "--help"], HELP_TARGET),
            ("first training step, warm cache", ["-c", FIRST_STEP, *words], STEP_TARGET),
        ):
            elapsed, processor = (min(column) for column in zip(*map(timed, [command] * options.rounds), strict=True))
            print(f"{what}: {elapsed:.1f} s (target {target:g}), processor {processor:.1f} s", flush=True)


def timed(command: list[str]) -> tuple[float, float]:
    """Elapsed and processor seconds of a Python process."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=True)
    after = os.times()
    used = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return time.perf_counter() - start, used


if __name__ == "__main__":
    main()
