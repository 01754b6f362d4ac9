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

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent
INDEX = FOLDER.parent.parent / "shared" / "iemocap_index.csv"
SHORT = {  # words of a quick run; a benchmark not named here runs with its defaults
    "padding": ["--index", str(INDEX)] if INDEX.is_file() else [],
    "loading": ["--steps", "6"],
    "overhead": ["--scale", "0.1", "--rounds", "3"],
    "extraction": ["--clips", "16"],
    "reference": ["--scale", "0.08"],
    "recurrent": ["--repeats", "3"],
}


def main() -> int:
    """Print a table of what each benchmark printed, beside its command and the machine.

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
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table("command", "figures", title=machine(), show_lines=True)
    failed = False
    for name in names:
        words = ["-m", f"benchmarks.{name}", *SHORT.get(name, [])]
        console.print(f"running {name} ...", highlight=False)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        failed |= done.returncode != 0
        text = done.stdout if done.returncode == 0 else f"failed: {done.stderr.strip().splitlines()[-1]}"
        command = f"python {shlex.join(words)}\n({time.perf_counter() - start:.0f} s)"
        table.add_row(command, text.strip())
    console.print(table, highlight=False)
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
