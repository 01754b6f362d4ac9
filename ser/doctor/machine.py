"""What ``ser doctor`` says of the machine, and the table of all that it says."""

import importlib
import os
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Column, Table

from ser import fast_imports
from ser.data.audio import SAMPLE_RATE, read_audio, resample_mono
from ser.errors import explain, first_line

Status = Literal["ok", "warning", "problem"]
_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_NAME_WIDTH = len("configuration")  # characters of the longest check


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    check: str  # what was examined
    status: Status  # ok, warning (worth knowing) or problem (training or extraction would fail)
    text: str  # what was found
    remedy: str = ""  # what to do; empty where nothing is to be done


Check = Callable[[], Iterable[Finding]]


def run_checks(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Findings of all checks in order; an exception in one is a problem and does not stop the others."""
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Finding(name, "problem", explain(error) or f"{type(error).__name__}: {error}")


def show(findings: Iterable[Finding]) -> int:
    """Print findings, each as it comes, as a table that fits 80 columns; 1 where there is a problem, else 0."""
    console, counts = get_console(), Counter[str]()
    for finding in findings:
        table = Table(
            Column("check", no_wrap=True, width=_NAME_WIDTH), Column("", no_wrap=True, width=max(map(len, _STYLES))),
            Column("found", overflow="fold"), box=SIMPLE_HEAD, show_edge=False, show_header=not counts,
        )  # fmt: skip
        text = escape(finding.text) + (f"\n[bold]->[/] {escape(finding.remedy)}" if finding.remedy else "")
        table.add_row(finding.check, f"[{_STYLES[finding.status]}]{finding.status}[/]", text)
        console.print(table)
        counts[finding.status] += 1
    found = f"\nok: {counts['ok']}, warnings: {counts['warning']}, problems: {counts['problem']}"
    console.print(found, highlight=False)
    return int(counts["problem"] > 0)


_IMPORTED = ("torch", "torchaudio", "lightning", "hydra", "transformers", "safetensors", "soundfile", "torchmetrics")
_INSTALL = "run `pip install --upgrade ser-lab`, in a checkout `make test`"
_NATIVE = {"sounddevice", "onnxruntime"}  # optional packages that may be installed and yet not load
_LITTLE_SPACE, _NO_SPACE = 2e9, 100e6  # bytes of free disk


def check_packages() -> Iterator[Finding]:
    """Python and packages against the bounds of pyproject.toml, and whether the binaries load."""
    needed = [found for found in map(Requirement, requires("ser-lab") or []) if found.marker is None]
    python, wanted = platform.python_version(), metadata("ser-lab")["Requires-Python"] or ""
    wrong = [] if SpecifierSet(wanted).contains(python, prereleases=True) else [f"Python {python}, {wanted} needed"]
    for requirement in needed:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
        else:
            if not requirement.specifier.contains(found, prereleases=True):
                wrong.append(f"{requirement.name} {found} is installed, {requirement.specifier} needed")
    loaded = [f"Python {python} on {platform.system()} {platform.machine()}"]
    with fast_imports():
        for name in _IMPORTED:
            try:
                loaded.append(f"{name} {getattr(importlib.import_module(name), '__version__', '')}".strip())
            except Exception as error:  # a binary built for another torch may raise anything
                wrong.append(f"{name} cannot be loaded ({type(error).__name__}: {first_line(error)})")
    if wrong:
        yield Finding("packages", "problem", "; ".join(wrong), _INSTALL)
    else:
        yield Finding("packages", "ok", f"all {len(needed)} within their bounds: {', '.join(loaded)}")


def check_audio() -> Iterator[Finding]:
    """Write and read WAV and FLAC, look for MP3, and resample a tone of 1 kHz from 44.1 kHz."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(44100) / 44100).astype(np.float32)
    resampled = resample_mono(tone, 44100).numpy()
    wrong = []
    peak = float(np.abs(np.fft.rfft(resampled)).argmax()) * SAMPLE_RATE / len(resampled)  # Hz
    if abs(peak - 1000) >= 2:
        wrong.append(f"a tone of 1000 Hz is at {peak:.0f} Hz after resampling from 44.1 kHz")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("wav", "flac"):
            soundfile.write(path := Path(folder) / f"tone.{suffix}", 0.5 * resampled, SAMPLE_RATE)
            if np.abs(read_audio(path).numpy() - 0.5 * resampled).max() > 1e-3:
                wrong.append(f"{suffix} does not come back as it was written")
    library = f"libsndfile {soundfile.__libsndfile_version__}"
    if wrong:
        yield Finding("audio", "problem", f"{'; '.join(wrong)} ({library})", _INSTALL)
    elif "MP3" in soundfile.available_formats():
        yield Finding("audio", "ok", f"WAV, FLAC and MP3 are read, 44.1 kHz is resampled ({library})")
    else:
        yield Finding("audio", "warning", f"WAV and FLAC are read, MP3 is not ({library})",
                      "pip install -U soundfile brings a libsndfile that reads MP3")  # fmt: skip


def check_device(accelerator: str, extraction: str) -> Iterator[Finding]:
    """The devices that the configuration names (``trainer.accelerator``, ``extraction.device``) and a better one."""
    import torch  # noqa: PLC0415  a wrong configuration or folder is told before it loads

    count = torch.get_num_threads()
    threads = f"{count} thread{'s' * (count != 1)} on {os.cpu_count()} cores"
    cuda = torch.cuda.is_available()
    if not cuda and (accelerator in ("gpu", "cuda") or extraction.startswith("cuda")):
        yield Finding("device", "problem", "the configuration names a GPU, but CUDA is not available",
                      "install torch with CUDA and a driver, or use trainer=cpu extraction.device=cpu")  # fmt: skip
    elif cuda and accelerator == "cpu":
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Finding("device", "warning", f"the configuration names the CPU, but there is CUDA: {names}",
                      "add trainer=gpu extraction.device=cuda")  # fmt: skip
    elif cuda:
        free, total = torch.cuda.mem_get_info()
        yield Finding("device", "ok", f"CUDA, {decimal(free)} of {decimal(total)} free; {threads}")
    else:
        yield Finding("device", "ok", f"CPU, {threads}; no CUDA device")


def check_folder(key: str, folder: Path) -> Iterator[Finding]:
    """Whether a folder, or the nearest existing one above it, can be written and has space."""
    elsewhere = f"choose another folder: {key}=/path"
    try:
        with tempfile.NamedTemporaryFile(dir=_existing(folder)):
            free = free_space(folder)
    except OSError as error:
        yield Finding(key, "problem", f"{folder} cannot be written ({error.strerror})", elsewhere)
        return
    status: Status = "problem" if free < _NO_SPACE else "warning" if free < _LITTLE_SPACE else "ok"
    advice = "" if status == "ok" else f"free space, or {elsewhere}"
    yield Finding(key, status, f"{folder} can be written, {decimal(free)} free", advice)


def free_space(folder: Path) -> int:
    """Free bytes on the disk where ``folder`` is or would be."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def check_optional() -> Iterator[Finding]:
    """Packages that only some commands need, with the extra of this package that brings each."""
    there: dict[str, str] = {}
    missing: dict[str, str] = {}
    for requirement in map(Requirement, requires("ser-lab") or []):
        extra = str(requirement.marker or "").partition('extra == "')[2].strip('"')
        if extra in ("", "dev"):
            continue
        try:
            there[requirement.name] = f"{requirement.name} {version(requirement.name)} ({extra})"
        except PackageNotFoundError:
            missing[requirement.name] = extra
    broken = []
    for name in sorted(_NATIVE & there.keys()):
        try:
            importlib.import_module(name)
        except Exception as error:  # PortAudio is missing, or a binary was built for another machine
            broken.append(f"{there.pop(name)} cannot be loaded ({first_line(error)})")
    yield Finding("optional", "ok", ", ".join(there.values()) or "none installed")
    if broken:
        yield Finding(
            "optional",
            "warning",
            "; ".join(broken),
            "the microphone needs PortAudio (on Debian and Ubuntu: "
            "apt-get install libportaudio2); others: pip install again",
        )
    if missing:
        extras = ",".join(dict.fromkeys(missing.values()))
        yield Finding("optional", "ok", f"not installed: {', '.join(missing)}", f"pip install 'ser-lab[{extras}]'")
