"""Run every benchmark beside this file in short settings: ``python -m benchmarks [name ...]``.

Each runs in a process of its own. Figures are ratios measured within one run, since absolute times say more about the
machine and its other users than about the program. The same command goes on where it was interrupted.
"""

import argparse
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

from ser.io import atomic_path

FOLDER = Path(__file__).parent
SHORT = {  # options of a quick run; a benchmark not named here runs with its defaults
    "coverage": ["--trials", "30"],
    "padding": ["--epochs", "1"],
    "loading": ["--scale", "0.2", "--steps", "6"],
    "overhead": ["--scale", "0.1", "--rounds", "2"],
    "extraction": ["--clips", "16"],
    "growth": ["--scale", "0.01"],
    "inference": ["--repetitions", "8", "--files", "40"],
    "live": ["--seconds", "7"],
    "small": ["--rounds", "1"],
    "recurrent": ["--repeats", "3"],
    "scale": ["--utterances", "20000"],
    "sweeping": ["--runs", "6"],
}


def main() -> int:
    """Print the machine, then each benchmark's command and its lines as soon as they are measured.

    What a benchmark printed at this commit is kept in ``outputs/benchmarks``, so the same command goes on where it was
    interrupted; at the end the kept outputs become ``docs/measured.md``.

    Returns:
        1 if a benchmark failed or took longer than the limit, else 0.
    """
    available = sorted(path.stem for path in FOLDER.glob("*.py") if "argparse" in path.read_text(encoding="utf-8"))
    available = [name for name in available if name not in {"__main__", "results"}]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {', '.join(available)} (default: all)")
    parser.add_argument("--limit", type=float, default=240, help="seconds per benchmark (default: %(default)g)")
    parser.add_argument("--again", action="store_true", help="measure anew what was measured at this commit")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(available)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; choose from {', '.join(available)}")
    kept = FOLDER.parent / "outputs" / "benchmarks" / commit()
    kept.mkdir(parents=True, exist_ok=True)
    print(machine(), flush=True)
    failed = False
    for name in options.names or available:
        record = kept / f"{name}.txt"
        if record.exists() and not options.again:
            print(f"\n{record.read_text(encoding='utf-8')}", flush=True)
            continue
        lines, done = measure(name, options.limit)
        failed |= not done
        if done:
            with atomic_path(record) as temporary:
                temporary.write_text(lines, encoding="utf-8")
    write_page(kept)
    return int(failed)


def measure(name: str, limit: float) -> tuple[str, bool]:
    """Run one benchmark, passing its lines on as they come.

    Returns:
        What it printed under its command, and whether it ended well within the limit.
    """
    arguments = ["-m", f"benchmarks.{name}", *SHORT.get(name, [])]
    lines = [f"$ python {shlex.join(arguments)}\n"]
    print(f"\n{lines[0]}", end="", flush=True)
    start = time.perf_counter()
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "110"}
    with subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True) as process:
        watch = threading.Timer(limit, process.kill)
        watch.start()
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
        watch.cancel()
    outcome = "" if process.returncode == 0 else f"stopped or failed (limit {limit:g} s), "
    lines.append(f"({outcome}{time.perf_counter() - start:.0f} s)\n")
    print(lines[-1], end="", flush=True)
    return "".join(lines), process.returncode == 0


def write_page(kept: Path) -> None:
    """Make the documentation's page of what was measured at this commit."""
    page = [
        "# Measured by `make bench`",
        "",
        f"Commit {kept.name}, {machine()}.",
        "Figures are ratios within one run where that is possible. [Benchmarks](benchmarks.md) says what they mean.",
    ]
    for record in sorted(kept.glob("*.txt")):
        about = importlib.import_module(f"benchmarks.{record.stem}").__doc__ or ""
        page += ["", f"## {record.stem}", "", about.partition("\n")[0], "", "```text"]
        page += [*record.read_text(encoding="utf-8").splitlines(), "```"]
    with atomic_path(FOLDER.parent / "docs" / "measured.md") as temporary:
        temporary.write_text("\n".join(page) + "\n", encoding="utf-8")


def commit() -> str:
    """The short hash of the commit that is checked out, with ``-changed`` where files differ from it."""
    described = ["git", "describe", "--always", "--dirty=-changed", "--exclude=*"]
    done = subprocess.run(described, cwd=FOLDER, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Processor, cores, load and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
        cpu = next((value.strip() for key, _, value in lines if key.strip() == "model name"), cpu)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    threads += " thread" if threads == "1" else " threads"
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("torch", "lightning"))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {os.cpu_count()} cores, {threads}{load}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    sys.exit(main())
