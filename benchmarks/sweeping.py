"""A sweep's own cost, and what a second worker brings: the same small runs through sweep.py, one or two at a time.

    python -m benchmarks.sweeping --runs 10

Runs are of log-mel frames of the synthetic corpus and a small `gru`. The overhead is what one worker's sweep takes
beyond the runs themselves (each says its seconds in metrics.json): start of the program, composing, summary. Probes and
figures belong to the runs and are switched off.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = (
    "variant=gru", "data.utterances=150", "model.hidden_size=64", "trainer.max_epochs=6", "batches.batch_size=8",
    "callbacks.progress_bar=null", "logger=none", "leakage=false", "figures=false",
)  # fmt: skip


def main() -> None:
    """Print overhead a run and the ratio of one worker's time to two workers'."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="runs of each sweep (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shared = [f"paths.data={folder}/data", f"paths.cache={folder}/cache"]
        sweep(Path(folder) / "warm", 1, *shared, "fold=1", "seed=99")  # writes corpus and cache
        seeds = f"seed={','.join(map(str, range(1, options.runs + 1)))}"
        one = sweep(Path(folder) / "one", options.runs, *shared, "fold=1", seeds, "hydra/launcher=joblib",
                    "hydra.launcher.n_jobs=1")  # fmt: skip
        two = sweep(Path(folder) / "two", options.runs, *shared, "fold=1", seeds, "hydra/launcher=joblib",
                    "hydra.launcher.n_jobs=2")  # fmt: skip
        again = sweep(Path(folder) / "two", options.runs, *shared, "fold=1", seeds)
    print(
        f"{options.runs} runs: {one[0]:.1f} s by one worker, {two[0]:.1f} s by two (ratio {one[0] / two[0]:.2f}, aim "
        f"1.5); beyond the runs' own {one[1]:.1f} s: {(one[0] - one[1]) / options.runs:.1f} s a run (target 2); "
        f"repeated when all are finished: {again[0]:.1f} s"
    )


def sweep(outputs: Path, runs: int, *words: str) -> tuple[float, float]:
    """Seconds of the whole command, and the sum of what its runs say of themselves.

    Raises:
        RuntimeError: the sweep failed.
    """
    command = [sys.executable, "sweep.py", *WORDS, f"paths.outputs={outputs}", *words]
    threads = {"OMP_NUM_THREADS": "1"}  # a worker; two workers of two threads each would wait for each other
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | threads, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - start
    found = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in outputs.rglob("metrics.json")]
    if done.returncode or len(found) != runs:
        raise RuntimeError(f"{' '.join(command)} finished {len(found)} of {runs} runs:\n{done.stdout}\n{done.stderr}")
    return elapsed, sum(found)


if __name__ == "__main__":
    main()
