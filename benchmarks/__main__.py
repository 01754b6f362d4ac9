"""Run every benchmark beside this file in short settings: ``python -m benchmarks [name ...]``.

Each runs in a process of its own. Figures are ratios measured within one run, since absolute times say more about the
machine and its other users than about the program.
"""

import argparse
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
SHORT = {  # options of a quick run; a benchmark not named here runs with its defaults
    "padding": ["--epochs", "1"],
    "loading": ["--steps", "6"],
    "overhead": ["--scale", "0.1", "--rounds", "3"],
    "extraction": ["--clips", "16"],
    "reference": ["--scale", "0.08"],
    "recurrent": ["--repeats", "3"],
}


def main() -> int:
    """Print the machine, then each benchmark's command and figures as soon as they are measured.

    Returns:
        1 if a benchmark failed, else 0.
    """
    available = sorted(path.stem for path in FOLDER.glob("*.py") if "argparse" in path.read_text(encoding="utf-8"))
    available.remove("__main__")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {', '.join(available)} (default: all)")
    names = parser.parse_args().names or available
    if unknown := sorted(set(names) - set(available)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; choose from {', '.join(available)}")
    print(machine(), flush=True)
    failed = False
    for name in names:
        arguments = ["-m", f"benchmarks.{name}", *SHORT.get(name, [])]
        print(f"\npython {shlex.join(arguments)}", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], env=os.environ | {"PYTHONUNBUFFERED": "1"}, check=False)
        failed |= done.returncode != 0
        outcome = "" if done.returncode == 0 else "failed, "
        print(f"({outcome}{time.perf_counter() - start:.0f} s)", flush=True)
    return int(failed)


def machine() -> str:
    """Processor, cores, load and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
        cpu = next((value.strip() for key, _, value in lines if key.strip() == "model name"), cpu)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("torch", "lightning"))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {os.cpu_count()} cores, {threads} threads{load}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    sys.exit(main())
