"""What ``ser doctor`` looks at, in order, and what it says of an experiment: corpus, protocol, encoder and cache.

PyTorch loads only after the check of the corpus, so that the most common faults are shown at once.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.filesize import decimal

from ser.config import compose_config, instantiate
from ser.data.audio import SAMPLE_RATE, read_audio
from ser.data.cache import FeatureCache, Recording
from ser.data.corpus import Corpus
from ser.doctor import machine
from ser.doctor.machine import Check, Finding, Status, free_space, run_checks
from ser.errors import SerError

if TYPE_CHECKING:
    from ser.extraction.inventory import CacheFolder

_DECODED = 24  # files that are decoded without --deep
_UNREADABLE_LIMIT = 0.05  # a larger fraction of unreadable files means a wrong folder or an incomplete copy
_FRAME_FILES = "ser.encoders.FrameFiles"
_MOST_UNKNOWN = 1000  # files without a length that are decoded without --deep
_NAMED = 3  # recordings that a line lists by name


def examine(overrides: Sequence[str], deep: bool = False) -> Iterator[Finding]:
    """Findings about the installation and about the experiment that ``overrides`` describe.

    With ``deep``, every file is decoded, the encoder runs, and every checksum of the cache is verified.
    """
    experiment, devices = None, ("cpu", "cpu")
    try:
        cfg = compose_config(overrides)
    except SerError as error:
        yield Finding("configuration", "problem", str(error))
    else:
        experiment, devices = Experiment(cfg, deep), (str(cfg.trainer.accelerator), str(cfg.extraction.device))
        yield from run_checks([("corpus", experiment.check_corpus)])
    yield from run_checks(
        [
            ("packages", machine.check_packages),
            ("audio", machine.check_audio),
            ("device", partial(machine.check_device, *devices)),
        ]
    )
    if experiment is not None:
        for key, folder in (("paths.outputs", cfg.paths.outputs), ("paths.cache", cfg.paths.cache)):
            yield from run_checks([(key, partial(machine.check_folder, key, Path(folder)))])
        yield from experiment.findings()
    yield from run_checks([("optional", machine.check_optional)])


class Experiment:
    """Checks of one configuration, from causes to consequences; with ``deep`` of every file and checksum."""

    def __init__(self, cfg: DictConfig, deep: bool = False) -> None:
        self.cfg, self.deep = cfg, deep
        self.corpus: Any = None
        self.overlaps = False  # whether the protocol lets speakers lie in two parts
        self.not_yet = False  # the first run makes the corpus
        self.encoder: Any = None  # or the corpus's own frame source

    def findings(self) -> Iterator[Finding]:
        """Findings of all checks after that of the corpus; what needs a broken corpus or encoder is not checked."""
        if self.not_yet:
            yield from run_checks([("encoder", self.check_encoder)])
            return
        no_corpus = None if self.corpus else "corpus"
        yield from self._run("speakers", self.check_speakers, no_corpus)
        yield from self._run("audio files", self.check_files, no_corpus)
        yield from self._run("protocol", self.check_protocol, no_corpus)
        yield from run_checks([("encoder", self.check_encoder)])
        lacking = no_corpus or (None if self.encoder else "encoder")
        yield from self._run("settings", self.check_settings, lacking)
        yield from self._run("cache", self.check_cache, lacking)

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
        self.corpus = instantiate(self.cfg, "data")
        yield Finding("corpus", "ok", self.corpus.summary())

    def check_speakers(self) -> Iterator[Finding]:
        """Utterances and classes per speaker, and speakers who show one class only."""
        of_speaker: dict[str, Counter[str]] = {}
        for utterance in self.corpus.utterances:
            of_speaker.setdefault(utterance.speaker, Counter())[utterance.emotion] += 1
        sizes = sorted(counts.total() for counts in of_speaker.values())
        without = {name: [e for e in self.corpus.emotions if e not in counts] for name, counts in of_speaker.items()}
        lacking = [f"{name} ({', '.join(emotions)})" for name, emotions in without.items() if emotions]
        spread = f"{sizes[0]:,} to {sizes[-1]:,} utterances each (median {sizes[len(sizes) // 2]:,})"
        text = spread if sizes[0] < sizes[-1] else f"{sizes[0]:,} utterances each"
        several = "every speaker has every class"
        if lacking:
            several = f"{len(lacking):,} of {len(sizes):,} without some class: {_listed(lacking)}"
        yield Finding("speakers", "ok", f"{text}; {several}")
        if alone := [name for name, counts in of_speaker.items() if len(counts) == 1]:
            text = f"{len(alone):,} of {len(sizes):,} with one class only: {_listed(alone)}"
            remedy = "their voice gives the class away in training; their results have no UAR"
            yield Finding("speakers", "warning", text, remedy)

    def check_files(self) -> Iterator[Finding]:
        """Whether a sample of the files, or all of them, can be decoded; with ``deep`` also what is in them."""
        from ser.extraction.frames import audio_fault  # noqa: PLC0415

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
                          "correct that; training leaves unreadable files out and lists them")  # fmt: skip
        else:
            yield Finding("audio files", "ok", text)
        for fault, names in faults.items():
            yield Finding("recordings", "warning", f"{len(names):,} {fault}: {_listed(names)}", "listen to them")

    def check_protocol(self) -> Iterator[Finding]:
        """Split the corpus for every fold."""
        protocol = instantiate(self.cfg, "protocol")
        folds, broken = protocol.folds(self.corpus), {}
        sizes: list[tuple[int, int]] = []
        for fold in range(1, folds + 1):
            try:
                split = protocol.split(self.corpus, fold, self.cfg.seed)
                sizes.append((len(split.train), len(split.test)))
                self.overlaps |= split.speaker_overlap
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
                      f"testing {tested} utterances{'; speakers overlap, as declared' * self.overlaps}")  # fmt: skip

    def check_encoder(self) -> Iterator[Finding]:
        """Whether its checkpoint is there and readable; with ``deep`` also whether it runs."""
        import torch  # noqa: PLC0415

        from ser.encoders import FrameFiles, encode  # noqa: PLC0415
        from ser.encoders.weights import on_this_machine  # noqa: PLC0415

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

    def check_settings(self) -> Iterator[Finding]:
        """Whether trainer, callbacks, loggers, batches, network and adversary accept theirs."""
        from ser.run.building import check_settings  # noqa: PLC0415  Lightning loads once the rest was said
        from ser.run.dashboards import check_login  # noqa: PLC0415
        from ser.run.trainer import check_trainer  # noqa: PLC0415

        check_trainer(self.cfg)
        check_login(self.cfg.logger or {})
        check_settings(self.cfg, self.encoder.dim, len(self.corpus.speakers), len(self.corpus.emotions))
        yield Finding("settings", "ok", "trainer, callbacks, loggers, batches and network accept theirs")

    def check_cache(self) -> Iterator[Finding]:
        """Copies of recordings, which sessions are cached, what is missing and how large that will be."""
        from ser.extraction.inventory import CacheFolder  # noqa: PLC0415

        same: dict[Recording, list[str]] = {}
        cached: list[Finding] = []
        for name, part in self.corpus.parts or [("", self.corpus)]:
            folder = CacheFolder.of(part, self.encoder, self.cfg.paths.cache, self.cfg.extraction.trust_cache)
            for own, recording in folder.recordings.items():
                same.setdefault(recording, []).append(f"{name}/{own}" if name else own)
            cached += self._cached(part, folder)
        yield from self._copies(same)
        yield from cached

    def _copies(self, same: Mapping[Recording, Sequence[str]]) -> Iterator[Finding]:
        """Utterances, also of several corpora, that are the same stretch of the same recording."""
        if copies := [names for names in same.values() if len(names) > 1]:
            speaker = {utterance.id: utterance.speaker for utterance in self.corpus.utterances}
            apart = sum(len({speaker[name] for name in names}) > 1 for names in copies)
            text = (
                f"recordings that occur more than once: {len(copies):,}, of these under two speakers: {apart:,}; "
                f"{_listed([_listed(names, ' = ') for names in copies])}"
            )
            if apart or self.overlaps:
                remedy = "remove the copies; a run refuses them where they lie in two parts"
                yield Finding("duplicates", "warning", text, remedy)
            else:
                yield Finding("duplicates", "ok", f"{text}; they can stay: those of one speaker lie in one part")

    def _cached(self, corpus: Corpus, folder: "CacheFolder") -> Iterator[Finding]:
        utterances = corpus.utterances
        missing = folder.missing(utterances)
        sessions = {utterance.session for utterance in utterances}
        complete = len(sessions - {utterance.session for utterance in missing})
        text = f"{folder.path}: {complete} of {len(sessions)} sessions complete"
        text += f", but for {len(folder.failures):,} utterances without a file" if folder.failures else ""
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


def _listed(names: Sequence[str], sign: str = ", ") -> str:
    return sign.join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")


def _on_the_hub(checkpoint: str) -> Finding:
    """Whether a checkpoint that is not on this machine could be fetched."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    from ser.encoders.weights import remedy  # noqa: PLC0415

    try:
        HfApi().model_info(checkpoint, timeout=5)
    except Exception as error:  # connection, name and permission errors have no common base
        return Finding("encoder", "problem", f"{checkpoint} is neither on this machine nor to be had from the Hugging "
                       f"Face Hub ({type(error).__name__})", remedy(checkpoint))  # fmt: skip
    return Finding("encoder", "ok", f"{checkpoint} is on the Hugging Face Hub", "the first run fetches it")
