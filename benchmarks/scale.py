"""Time and memory until the first batch, of a large corpus by 1,500 speakers in ten sessions.

    python -m benchmarks.scale --utterances 200000

A manifest and frames in emotion2vec's flat layout are generated. Each step runs in a process of its own: ``ser doctor``
on an empty cache, the split, the import of all frames, ``ser doctor`` on the full cache, and the first batch of a run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.memory import peak_mb

SPEAKERS, SESSIONS, DIM = 1500, 10, 32
EMOTIONS = ("angry", "happy", "neutral", "sad")
STEPS = ("doctor", "split", "import", "doctor", "first batch")
SECONDS, MEGABYTES = 60.0, 2000.0  # of every step but the import


def main() -> None:
    """Print one line per step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=200_000, help="how many (default: %(default)s)")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options.step, options.folder)))
        return
    with tempfile.TemporaryDirectory() as place:
        generate(Path(place), options.utterances)
        print(f"{options.utterances:,} utterances, {SPEAKERS:,} speakers, {SESSIONS} sessions")
        print(f"limits of every step but the import: {SECONDS:g} s, {MEGABYTES / 1e3:g} GB")
        for step in STEPS:
            command = [sys.executable, "-m", "benchmarks.scale", "--step", step, "--folder", place]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, processor, peak = json.loads(done.stdout.splitlines()[-1])
            print(f"{step:12} {seconds:7.1f} s ({processor:.1f} s of processor time)  {peak / 1e3:5.2f} GB", flush=True)


def generate(folder: Path, utterances: int) -> None:
    """Write ``manifest.csv`` and the frames of all utterances, 1 to 40 each, into ``folder``."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(1.5, 0.6, utterances), 1, 40).astype(int)
    frames = folder / "frames"  # apart from the cache, whose shards would count as files of frames
    frames.mkdir(exist_ok=True)
    np.save(frames / "train.npy", random.standard_normal((int(lengths.sum()), DIM)).astype(np.float16))
    (frames / "train.lengths").write_text("\n".join(map(str, lengths)) + "\n")
    names = [f"utterance{number:07d}" for number in range(utterances)]
    (frames / "train.emo").write_text("".join(f"{name} x\n" for name in names))
    emotions = random.integers(len(EMOTIONS), size=utterances)
    rows = ["path,emotion,speaker,gender,session,seconds"]
    for number, name in enumerate(names):
        speaker = number % SPEAKERS
        who = f"spk{speaker:04d},{'FM'[speaker % 2]},{speaker % SESSIONS + 1}"
        rows.append(f"audio/{speaker}/{name}.wav,{EMOTIONS[emotions[number]]},{who},{lengths[number] / 10:.1f}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def measure(step: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and peak memory in MB of one step."""
    from ser.config import compose_config, instantiate  # noqa: PLC0415  the parent process needs none of it
    from ser.doctor.experiment import examine  # noqa: PLC0415
    from ser.extraction.frames import extract  # noqa: PLC0415
    from ser.run.building import load_data  # noqa: PLC0415

    start, processor = time.perf_counter(), time.process_time()
    words = [
        "data=manifest",
        f"data.manifest={folder}/manifest.csv",
        "features=files",
        f"features.root={folder}/frames",
    ]
    words += [f"paths.cache={folder}/cache", f"paths.outputs={folder}/outputs"]
    cfg = compose_config(words)
    if step == "doctor":
        found = list(examine(words))
        if any(finding.status == "problem" for finding in found):
            raise SystemExit(f"the doctor found problems: {found}")
    elif step == "split":
        instantiate(cfg, "protocol").split(instantiate(cfg, "data"), 1, 1)
    elif step == "import":
        extract(instantiate(cfg, "data"), instantiate(cfg, "features"), cfg.paths.cache)
    else:
        next(iter(load_data(cfg).module.train_dataloader()))
    return time.perf_counter() - start, time.process_time() - processor, peak_mb()


if __name__ == "__main__":
    main()
