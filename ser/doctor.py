"""What ``ser doctor`` looks at: installation, corpus, encoder and cache, each check with its remedy."""

import importlib
import os
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch
from omegaconf import DictConfig
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Column, Table

from ser.config import compose_config, instantiate
from ser.data.audio import SAMPLE_RATE, read_audio, resample_mono
from ser.data.cache import FeatureCache, Recording
from ser.data.corpus import Corpus
from ser.data.inventory import CacheFolder
from ser.encoders import FrameFiles, encode
from ser.encoders.weights import on_this_machine, remedy
from ser.errors import SerError, explain

Status = Literal["ok", "warning", "problem"]
_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_IMPORTED = ("torch", "torchaudio", "lightning", "hydra", "transformers", "safetensors", "soundfile", "torchmetrics")
_INSTALL = "run `pip install --upgrade ser-lab`, in a checkout `make test`"
_LITTLE_SPACE, _NO_SPACE = 2e9, 100e6  # bytes of free disk
_DECODED = 24  # files that are decoded without --deep
_UNREADABLE_LIMIT = 0.05  # a larger fraction of unreadable files means a wrong folder or an incomplete copy
_FRAME_FILES = "ser.encoders.FrameFiles"
_MOST_UNKNOWN = 1000  # files without a length that are decoded without --deep
_NAMED = 3  # recordings that a line lists by name


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        check: what was examined.
        status: ok, warning (worth knowing) or problem (training or extraction would fail).
        text: what was found.
        remedy: what to do; empty where nothing is to be done.
    """

    check: str
    status: Status
    text: str
    remedy: str = ""


Check = Callable[[], Iterable[Finding]]


def examine(overrides: Sequence[str], deep: bool = False) -> Iterator[Finding]:
    """Findings about the installation and about the experiment that ``overrides`` describe.

    Args:
        overrides: as for ``ser train``.
        deep: decode every file, run the encoder and verify every checksum of the cache.
    """
    checks: list[tuple[str, Check]] = [("packages", check_packages), ("audio", check_audio)]
    try:
        cfg = compose_config(overrides)
    except SerError as error:
        wrong = Finding("configuration", "problem", str(error))
        checks += [("device", partial(check_device, "cpu", "cpu")), ("configuration", lambda: [wrong])]
    else:
        checks.append(("device", partial(check_device, str(cfg.trainer.accelerator), str(cfg.extraction.device))))
        for key, folder in (("paths.outputs", cfg.paths.outputs), ("paths.cache", cfg.paths.cache)):
            checks.append((key, partial(check_folder, key, Path(folder))))
        checks.append(("experiment", Experiment(cfg, deep).findings))
    yield from run_checks([*checks, ("optional", check_optional)])


def run_checks(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Findings of all checks in order; an exception in one is a problem and does not stop the others."""
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Finding(name, "problem", explain(error) or f"{type(error).__name__}: {error}")


def show(findings: Sequence[Finding]) -> int:
    """Print findings as a table that fits 80 columns; 1 where there is a problem, else 0."""
    table = Table(
        Column("check", no_wrap=True), Column("", no_wrap=True), Column("found", overflow="fold"), box=SIMPLE_HEAD
    )
    for finding in findings:
        text = escape(finding.text) + (f"\n[bold]->[/] {escape(finding.remedy)}" if finding.remedy else "")
        table.add_row(finding.check, f"[{_STYLES[finding.status]}]{finding.status}[/]", text)
    counts = Counter(finding.status for finding in findings)
    console = get_console()
    console.print(table)
    console.print(f"ok: {counts['ok']}, warnings: {counts['warning']}, problems: {counts['problem']}", highlight=False)
    return int(counts["problem"] > 0)


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
    for name in _IMPORTED:
        try:
            loaded.append(f"{name} {getattr(importlib.import_module(name), '__version__', '')}".strip())
        except Exception as error:  # a binary built for another torch may raise anything
            wrong.append(f"{name} cannot be loaded ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})")
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
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
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
    yield Finding("optional", "ok", ", ".join(there.values()) or "none installed")
    if missing:
        extras = ",".join(dict.fromkeys(missing.values()))
        yield Finding("optional", "ok", f"not installed: {', '.join(missing)}", f"pip install 'ser-lab[{extras}]'")


class Experiment:
    """Checks of one configuration, from causes to consequences.

    Args:
        cfg: as ``ser train`` composes it.
        deep: decode every file, run the encoder and verify every checksum of the cache.
    """

    def __init__(self, cfg: DictConfig, deep: bool = False) -> None:
        self.cfg, self.deep = cfg, deep
        self.corpus: Any = None
        self.not_yet = False  # the first run makes the corpus
        self.encoder: Any = None  # or the corpus's own frame source

    def findings(self) -> Iterator[Finding]:
        """Findings of all checks; what needs a broken corpus or encoder is not checked."""
        yield from run_checks([("corpus", self.check_corpus)])
        if self.not_yet:
            yield from run_checks([("encoder", self.check_encoder)])
            return
        no_corpus = None if self.corpus else "corpus"
        yield from self._run("speakers", self.check_speakers, no_corpus)
        yield from self._run("audio files", self.check_files, no_corpus)
        yield from self._run("protocol", self.check_protocol, no_corpus)
        yield from run_checks([("encoder", self.check_encoder)])
        yield from self._run("cache", self.check_cache, no_corpus or (None if self.encoder else "encoder"))

    @staticmethod
    def _run(name: str, check: Check, lacking: str | None) -> Iterator[Finding]:
        wait = [Finding(name, "warning", f"not checked, since it needs the {lacking}")]
        return run_checks([(name, check)]) if lacking is None else iter(wait)

    def check_corpus(self) -> Iterator[Finding]:
        """Number of utterances, hours, speakers, sessions and utterances per emotion."""
        data = self.cfg.data
        if str(data.get("_target_", "")).endswith(".synthetic") and not Path(data.root).is_dir():
            self.not_yet = True
            yield Finding("corpus", "ok", f"the synthetic corpus is not in {data.root} yet; the first run writes it")
            return
        self.corpus = corpus = instantiate(self.cfg, "data")
        counts = Counter(utterance.emotion for utterance in corpus.utterances)
        emotions = ", ".join(f"{counts[emotion]:,} {emotion}" for emotion in corpus.emotions)
        hours = sum(utterance.seconds for utterance in corpus.utterances) / 3600
        yield Finding("corpus", "ok", f"{corpus.name}: {len(corpus.utterances):,} utterances ({hours:.1f} h), "
                      f"{len(corpus.speakers)} speakers, {len(corpus.sessions)} sessions; {emotions}")  # fmt: skip

    def check_speakers(self) -> Iterator[Finding]:
        """Utterances and classes per speaker, and speakers who show one class only."""
        of_speaker: dict[str, Counter[str]] = {}
        for utterance in self.corpus.utterances:
            of_speaker.setdefault(utterance.speaker, Counter())[utterance.emotion] += 1
        sizes = sorted(counts.total() for counts in of_speaker.values())
        lacking = sum(len(counts) < len(self.corpus.emotions) for counts in of_speaker.values())
        spread = f"{sizes[0]:,} to {sizes[-1]:,} utterances each (median {sizes[len(sizes) // 2]:,})"
        text = spread if sizes[0] < sizes[-1] else f"{sizes[0]:,} utterances each"
        several = f"{lacking:,} of {len(sizes):,} lack a class" if lacking else "every speaker has every class"
        yield Finding("speakers", "ok", f"{text}; {several}")
        if alone := [name for name, counts in of_speaker.items() if len(counts) == 1]:
            yield Finding("speakers", "warning", f"{len(alone):,} have one class only: {_listed(alone)}",
                          "their voice gives the class away in training; their results have no UAR")  # fmt: skip

    def check_files(self) -> Iterator[Finding]:
        """Whether a sample of the files, or all of them, can be decoded; with ``deep`` also what is in them."""
        corpus = self.corpus
        if corpus.frame_source is not None or self.cfg.features.get("_target_") == _FRAME_FILES:
            yield Finding("audio files", "ok", "not needed: the frames do not come from audio")
            return
        utterances = corpus.utterances
        sample = list(utterances[:: 1 if self.deep else max(1, len(utterances) // _DECODED)])
        chosen = {u.id for u in sample}
        unknown = [u for u in utterances if u.seconds <= 0 and u.id not in chosen]
        sample += unknown if self.deep else unknown[:_MOST_UNKNOWN]
        reasons: dict[str, str] = {}
        faults: dict[str, list[str]] = {}
        for utterance in sample:
            try:
                waveform = read_audio(utterance.path, utterance.start, utterance.end).numpy()
            except Exception as error:  # decoders raise exceptions of many kinds
                reasons[utterance.id] = str(error) or type(error).__name__
            else:
                if fault := audio_fault(waveform):
                    faults.setdefault(fault, []).append(utterance.id)
        text = f"{len(utterances):,} headers read, {len(sample):,} files decoded, {len(reasons):,} unreadable"
        if reasons:
            status: Status = "problem" if len(reasons) > _UNREADABLE_LIMIT * len(utterances) else "warning"
            yield Finding("audio files", status, f"{text}; the first: {next(iter(reasons.values()))}",
                          "copy them again; training leaves unreadable files out and lists them")  # fmt: skip
        else:
            yield Finding("audio files", "ok", text)
        for fault, names in faults.items():
            yield Finding("recordings", "warning", f"{len(names):,} {fault}: {_listed(names)}", "listen to them")

    def check_protocol(self) -> Iterator[Finding]:
        """Split the corpus for every fold."""
        protocol = instantiate(self.cfg, "protocol")
        folds, broken = protocol.folds(self.corpus), {}
        sizes: list[tuple[int, int]] = []
        overlaps = False
        for fold in range(1, folds + 1):
            try:
                split = protocol.split(self.corpus, fold, self.cfg.seed)
                sizes.append((len(split.train), len(split.test)))
                overlaps |= split.speaker_overlap
            except SerError as error:
                broken[fold] = str(error)
        if broken or not folds:
            first = next(iter(broken.values()), "the corpus gives no fold.")
            yield Finding("protocol", "problem", f"{protocol.name}: {len(broken)} of {folds} folds cannot be split; "
                          f"the first: {first}", "choose another protocol or complete the corpus")  # fmt: skip
            return
        trained, tested = (
            f"{min(part):,}" if min(part) == max(part) else f"{min(part):,} to {max(part):,}"
            for part in zip(*sizes, strict=True)
        )
        yield Finding("protocol", "ok", f"{protocol.name}: {folds} folds, each valid, each training on {trained} and "
                      f"testing {tested} utterances{'; speakers overlap, as declared' * overlaps}")  # fmt: skip

    def check_encoder(self) -> Iterator[Finding]:
        """Whether its checkpoint is there and readable; with ``deep`` also whether it runs."""
        own = self.corpus.frame_source if self.corpus else None
        checkpoint = str(self.cfg.features.get("checkpoint") or "")
        if own is None and not on_this_machine(checkpoint):
            yield _on_the_hub(checkpoint)
            return
        encoder: Any = own or instantiate(self.cfg, "features")
        described, rate = encoder.description(), encoder.frame_rate
        text = f"{described.get('encoder', 'frames of the corpus')}: {encoder.dim} values, {rate:g} frames/s"
        if checkpoint and own is None:
            text += f", layers {described.get('layers')}, weights {described.get('weights')} in {encoder.folder}"
        if isinstance(encoder, FrameFiles):
            text = f"files: {encoder.dim} values, {len(encoder.entries):,} files or entries in {encoder.root}"
        elif own is None and (self.deep or not checkpoint):
            (frames,) = encode(encoder, [torch.zeros(SAMPLE_RATE)])  # (L, D)
            text += f"; a second of silence gives {len(frames)} frames"
        self.encoder = encoder
        yield Finding("encoder", "ok", text)

    def check_cache(self) -> Iterator[Finding]:
        """Copies of recordings, which sessions are cached, what is missing and how large that will be."""
        for _, part in self.corpus.parts or [("", self.corpus)]:
            folder = CacheFolder.of(part, self.encoder, self.cfg.paths.cache, self.cfg.extraction.trust_cache)
            yield from self._copies(part, folder)
            yield from self._cached(part, folder)

    def _copies(self, corpus: Corpus, folder: CacheFolder) -> Iterator[Finding]:
        """Utterances that are the same stretch of the same recording."""
        same: dict[Recording, list[str]] = {}
        for name, recording in folder.recordings.items():
            same.setdefault(recording, []).append(name)
        if copies := [names for names in same.values() if len(names) > 1]:
            speaker = {utterance.id: utterance.speaker for utterance in corpus.utterances}
            apart = sum(len({speaker[name] for name in names}) > 1 for names in copies)
            yield Finding("duplicates", "warning", f"recordings that occur more than once: {len(copies):,}, of "
                          f"these under two speakers: {apart:,}; {_listed([' = '.join(names) for names in copies])}",
                          "remove the copies; a run refuses them where they lie in two parts")  # fmt: skip

    def _cached(self, corpus: Corpus, folder: CacheFolder) -> Iterator[Finding]:
        utterances = corpus.utterances
        missing = folder.missing(utterances)
        sessions = {utterance.session for utterance in utterances}
        complete = len(sessions - {utterance.session for utterance in missing})
        text = f"{folder.path}: {complete} of {len(sessions)} sessions complete"
        if self.deep and folder.places:
            cache = FeatureCache(folder.places)
            for name in folder.places:
                cache.read(name)
            if changed := folder.hashes.changed(utterance.path for utterance in utterances):
                yield Finding("cache", "problem", f"{changed[0]} has other content than when it was extracted, "
                              f"although its size and time are the same ({len(changed)} such files)",
                              "touch these files and extract again")  # fmt: skip
                return
            text += ", every checksum verified"
        if not missing:
            yield Finding("cache", "ok", text)
            return
        room = int(sum(u.seconds for u in missing) * self.encoder.frame_rate * self.encoder.dim * 2)  # half precision
        failed = " (some failed before, see failures.csv there)" if (folder.path / "failures.csv").is_file() else ""
        text = f"{text}; {len(missing):,} utterances to extract, about {decimal(room)}{failed}"
        if room > free_space(folder.path):
            yield Finding("cache", "problem", f"{text}, but the disk is too small", "set paths.cache=/other/disk")
            return
        yield Finding("cache", "ok", text, "ser train or ser extract with the same overrides extracts them")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")


def audio_fault(waveform: np.ndarray) -> str:
    """What makes a waveform (N,) useless for training: silent, constant, nearly empty or clipped; else empty."""
    if len(waveform) < 0.1 * SAMPLE_RATE:
        return "shorter than 0.1 s"
    if np.abs(waveform).max() < 1e-4:
        return "silent"
    if waveform.std() < 1e-4:
        return "without sound (a constant offset)"
    if (np.abs(waveform) > 0.999).mean() > 0.01:
        return "clipped (over 1% of the samples)"
    return ""


def _on_the_hub(checkpoint: str) -> Finding:
    """Whether a checkpoint that is not on this machine could be fetched."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    try:
        HfApi().model_info(checkpoint, timeout=5)
    except Exception as error:  # connection, name and permission errors have no common base
        return Finding("encoder", "problem", f"{checkpoint} is neither on this machine nor to be had from the Hugging "
                       f"Face Hub ({type(error).__name__})", remedy(checkpoint))  # fmt: skip
    return Finding("encoder", "ok", f"{checkpoint} is on the Hugging Face Hub", "the first run fetches it")
