"""Python, packages, audio, device and disk: what does not depend on the corpus."""

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import numpy as np
import soundfile
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ser.data.audio import SAMPLE_RATE, read_audio, resample_mono
from ser.doctor.findings import Finding, size

_IMPORTED = ("torch", "torchaudio", "lightning", "hydra", "transformers", "safetensors", "soundfile", "torchmetrics")
_INSTALL = "run `pip install -e . -c constraints.txt` in the checkout"
_LITTLE, _TOO_LITTLE = 2e9, 100e6  # bytes of free disk
_OPTIONAL = {
    "wandb": "logger=wandb",
    "sounddevice": "microphone",
    "gradio": "demo in the browser",
    "onnx": "export",
    "onnxruntime": "running exported models",
    "hydra-joblib-launcher": "parallel sweeps",
    "hydra-submitit-launcher": "sweeps on SLURM",
    "hydra-ray-launcher": "sweeps on Ray",
    "hydra-optuna-sweeper": "searches",
}


def check_python() -> Iterator[Finding]:
    """The interpreter against the package's own bound."""
    wanted, found = SpecifierSet(metadata("ser")["Requires-Python"] or ""), platform.python_version()
    fit = wanted.contains(found, prereleases=True)
    yield Finding("Python", "ok" if fit else "problem", f"{found} (needs {wanted}), {platform.system()} "
                  f"{platform.machine()}", "" if fit else "make a new environment with a fitting Python")  # fmt: skip


def check_versions() -> Iterator[Finding]:
    """Installed versions against the bounds of pyproject.toml."""
    needed = [requirement for requirement in _requirements() if requirement.marker is None]
    misfits = [told for told in map(_misfit, needed) if told]
    if misfits:
        yield Finding("packages", "problem", "; ".join(misfits), _INSTALL)
    else:
        yield Finding("packages", "ok", f"all {len(needed)} within their bounds")


def check_imports() -> Iterator[Finding]:
    """Whether the packages load: binaries of another torch fail only here."""
    loaded, broken = [], []
    for name in _IMPORTED:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken binary may raise anything
            reason = (str(error).splitlines() or [""])[0]
            broken.append(f"{name} ({type(error).__name__}: {reason})")
        else:
            loaded.append(f"{name} {getattr(module, '__version__', '')}".strip())
    if broken:
        yield Finding("imports", "problem", "cannot be loaded: " + "; ".join(broken), _INSTALL)
    yield Finding("imports", "ok", ", ".join(loaded))


def check_audio() -> Iterator[Finding]:
    """Write and read a WAV and a FLAC, and look for MP3."""
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("wav", "flac"):
            path = Path(folder) / f"tone.{suffix}"
            soundfile.write(path, tone, SAMPLE_RATE)
            if np.abs(read_audio(path).numpy() - tone).max() > 1e-3:
                yield Finding("audio", "problem", f"{suffix} does not come back as it was written", _INSTALL)
                return
    formats = soundfile.available_formats()
    library = f"libsndfile {soundfile.__libsndfile_version__}"
    if "MP3" in formats:
        yield Finding("audio", "ok", f"WAV, FLAC and MP3 are read ({library})")
    else:
        yield Finding("audio", "warning", f"WAV and FLAC are read, MP3 is not ({library})",
                      "pip install -U soundfile brings a libsndfile that reads MP3")  # fmt: skip


def check_resampling() -> Iterator[Finding]:
    """A 1 kHz tone at 44.1 kHz must be a 1 kHz tone at 16 kHz."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(44100) / 44100).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(resample_mono(tone, 44100).numpy()))
    found = float(spectrum.argmax()) * SAMPLE_RATE / (2 * (len(spectrum) - 1))
    fit = abs(found - 1000) < 2
    yield Finding("resampling", "ok" if fit else "problem", f"44.1 kHz to 16 kHz: a tone of 1000 Hz is at {found:.0f} "
                  "Hz", "" if fit else _INSTALL)  # fmt: skip


def check_device(accelerator: str, extraction: str) -> Iterator[Finding]:
    """The device that the configuration asks for, and a better one that is there.

    Args:
        accelerator: ``trainer.accelerator``.
        extraction: ``extraction.device``.
    """
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    cuda = torch.cuda.is_available()
    if not cuda and (accelerator in ("gpu", "cuda") or extraction.startswith("cuda")):
        yield Finding("device", "problem", "a GPU is asked for but CUDA is not available",
                      "install torch with CUDA and a driver, or use trainer=cpu extraction.device=cpu")  # fmt: skip
    elif cuda and accelerator == "cpu":
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Finding("device", "warning", f"CPU is asked for, though there is CUDA: {names}",
                      "add trainer=gpu extraction.device=cuda")  # fmt: skip
    elif cuda:
        free, total = torch.cuda.mem_get_info()
        yield Finding("device", "ok", f"CUDA, {size(free)} of {size(total)} free; {threads}")
    else:
        yield Finding("device", "ok", f"CPU, {threads}; no CUDA device")


def check_folder(key: str, folder: Path) -> Iterator[Finding]:
    """Whether a folder, or the nearest one above it, takes files and has room for them."""
    place = _existing(folder)
    elsewhere = f"choose another folder: {key}=/path"
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
    except OSError as error:
        yield Finding(key, "problem", f"{folder} cannot be written ({error.strerror})", elsewhere)
        return
    free = free_space(folder)
    text = f"{folder} can be written, {size(free)} free"
    if free < _LITTLE:
        yield Finding(key, "problem" if free < _TOO_LITTLE else "warning", text, f"free space, or {elsewhere}")
    else:
        yield Finding(key, "ok", text)


def free_space(folder: Path) -> int:
    """Free bytes on the disk where ``folder`` is or would be."""
    return shutil.disk_usage(_existing(folder)).free


def check_extras() -> Iterator[Finding]:
    """Packages that only some commands need."""
    there, missing = [], []
    for name, purpose in _OPTIONAL.items():
        try:
            there.append(f"{name} {version(name)} ({purpose})")
        except PackageNotFoundError:
            missing.append(name)
    if there:
        yield Finding("optional", "ok", ", ".join(there))
    if missing:
        text = ", ".join(f"{name} ({_OPTIONAL[name]})" for name in missing)
        yield Finding("optional", "ok", f"not installed: {text}", f"where wanted: pip install {' '.join(missing)}")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    place = folder.expanduser().absolute()
    while not place.exists():
        place = place.parent
    return place


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in requires("ser") or []]


def _misfit(requirement: Requirement) -> str:
    """Why a requirement is not met; empty where it is."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{requirement.name} {found} is installed, {requirement.specifier} needed"
