"""Corpus, protocol, encoder and cache of one configuration."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ser.data.audio import SAMPLE_RATE, read_audio
from ser.data.cache import FeatureFile, Origin, fingerprint
from ser.data.corpus import Corpus, Utterance
from ser.doctor.findings import Check, Finding, Status, size
from ser.doctor.installation import free_space
from ser.encoders.weights import remedy
from ser.errors import SerError
from ser.sentences import instantiate

_SAMPLE = 24  # files that are decoded unless all are asked for
_SHARE_UNREADABLE = 0.05  # more than this is no accident but a wrong folder or an incomplete copy


class _NotYet(SerError):  # noqa: N818 - no fault of anybody's
    """Something that the first run makes."""


class Experiment:
    """Builds the objects of a configuration once; whatever cannot be built is reported by its own check.

    Args:
        cfg: as train.py would have it.
        deep: decode every file, run the encoder and verify every checksum of the cache.
    """

    def __init__(self, cfg: DictConfig, deep: bool = False) -> None:
        self.cfg, self.deep = cfg, deep

    def checks(self) -> list[tuple[str, Check]]:
        """All checks by name, in an order that goes from cause to consequence."""
        return [
            ("corpus", self.check_corpus),
            self._given(("corpus",), "audio files", self.check_files),
            self._given(("corpus",), "protocol", self.check_protocol),
            ("encoder", self.check_encoder),
            self._given(("corpus", "description"), "cache", self.check_cache),
        ]

    @cached_property
    def corpus(self) -> Corpus:
        """The parsed corpus."""
        root = self.cfg.data.get("root")
        if str(self.cfg.data.get("_target_", "")).endswith(".synthetic") and not Path(root).is_dir():
            raise _NotYet(f"the synthetic corpus is not in {root} yet; the first run writes it there.")
        corpus: Corpus = instantiate(self.cfg.data)
        return corpus

    @cached_property
    def encoder(self) -> Any:
        """The corpus's own frame source, or the encoder."""
        return self._source or instantiate(self.cfg.features)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What determines the frames; needs the encoder's checkpoint, but downloads nothing."""
        if self._source is None and not self._at_hand(str(self.cfg.features.get("checkpoint") or "")):
            raise SerError("the encoder's checkpoint is not on this machine; see the encoder.")
        description: dict[str, Any] = self.encoder.description()
        return description

    def check_corpus(self) -> Iterator[Finding]:
        """Parse it and count."""
        try:
            corpus = self.corpus
        except _NotYet as error:
            yield Finding("corpus", "ok", str(error))
            return
        counts = Counter(utterance.emotion for utterance in corpus.utterances)
        emotions = ", ".join(f"{counts[emotion]:,} {emotion}" for emotion in corpus.emotions)
        hours = sum(utterance.seconds for utterance in corpus.utterances) / 3600
        yield Finding("corpus", "ok", f"{corpus.name}: {len(corpus.utterances):,} utterances ({hours:.1f} h), "
                      f"{len(corpus.speakers)} speakers, {len(corpus.sessions)} sessions; {emotions}")  # fmt: skip

    def check_files(self) -> Iterator[Finding]:
        """Every header was read by the parser; a sample, or all, is decoded here."""
        utterances = self.corpus.utterances
        if self.corpus.frame_source is not None:
            yield Finding("audio files", "ok", "none: the corpus makes its own frames")
            return
        silent = [utterance for utterance in utterances if utterance.seconds <= 0]
        step = 1 if self.deep else max(1, len(utterances) // _SAMPLE)
        sample = [utterance for utterance in utterances[::step] if utterance.seconds > 0]
        reasons = {u.id: reason for u in [*silent[:1], *sample] if (reason := _unreadable(u))}
        bad = len(silent) + len(reasons.keys() - {utterance.id for utterance in silent})
        text = f"{len(utterances):,} headers read, {len(sample):,} files decoded, {bad:,} unreadable"
        if not bad:
            yield Finding("audio files", "ok", text)
            return
        status: Status = "problem" if bad > _SHARE_UNREADABLE * len(utterances) else "warning"
        first = next(iter(reasons.values()), f"{silent[0].path} has no length" if silent else "")
        yield Finding("audio files", status, f"{text}; the first: {first}",
                      "copy them again; what stays unreadable is left out of training and listed")  # fmt: skip

    def check_protocol(self) -> Iterator[Finding]:
        """Deal every fold."""
        protocol = instantiate(self.cfg.protocol)
        folds, broken, sizes = protocol.folds(self.corpus), {}, []
        for fold in range(1, folds + 1):
            try:
                split = protocol.split(self.corpus, fold, self.cfg.seed)
                sizes.append(len(split.test))
            except SerError as error:
                broken[fold] = str(error)
        if broken or not folds:
            first = next(iter(broken.values()), "the corpus gives no fold.")
            yield Finding("protocol", "problem", f"{protocol.name}: {len(broken)} of {folds} folds cannot be split; "
                          f"the first: {first}", "choose another protocol or complete the corpus")  # fmt: skip
            return
        tested = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
        yield Finding("protocol", "ok", f"{protocol.name}: {folds} folds, each valid, each testing {tested} utterances")

    def check_encoder(self) -> Iterator[Finding]:
        """Whether its checkpoint is there and readable; with ``deep`` also whether it runs."""
        checkpoint = str(self.cfg.features.get("checkpoint") or "")
        if self._source is None and not self._at_hand(checkpoint):
            yield _on_the_hub(checkpoint)
            return
        described = self.description
        text = (
            f"{described.get('encoder', 'frames of the corpus')}: {self.encoder.dim} values, "
            f"{self.encoder.frame_rate:g} frames a second"
        )
        if checkpoint and self._source is None:
            text += f", layers {described.get('layers')}, weights {described.get('weights')} in {self.encoder.folder}"
        if self._source is None and (self.deep or not checkpoint):
            (frames,) = self.encoder([torch.zeros(SAMPLE_RATE)])  # (L, D)
            text += f"; a second of silence gives {len(frames)} frames"
        yield Finding("encoder", "ok", text)

    def check_cache(self) -> Iterator[Finding]:
        """Which sessions are complete, what is missing and how large that will be."""
        origin = Origin(self.corpus.name, self.corpus.fingerprint(), self.description)
        folder = Path(self.cfg.paths.cache) / self.corpus.name / fingerprint(self.description)
        missing: list[Utterance] = []
        complete = parts = 0
        for session in self.corpus.sessions:
            files = [FeatureFile(path) for path in sorted(folder.glob(f"session{session}.*safetensors"))]
            for file in files:
                origin.check(file.path, file.metadata)
            there = {name: file for file in files for name in file.lengths}
            lacking = [u for u in self.corpus.utterances if u.session == session and u.id not in there]
            missing += lacking
            complete += not lacking
            parts += sum(".part" in file.path.name for file in files)
            if self.deep:
                for name, file in there.items():
                    file.read(name)
        text = f"{folder}: {complete} of {len(self.corpus.sessions)} sessions complete"
        if self.deep:
            text += ", every checksum verified"
        if not missing:
            yield Finding("cache", "ok", text)
            return
        room = sum(u.seconds for u in missing) * self.encoder.frame_rate * self.encoder.dim * 2  # half precision
        parted = f" ({parts} parts of an interrupted extraction)" if parts else ""
        failed = " (some failed before, see failures.csv there)" if (folder / "failures.csv").is_file() else ""
        text = f"{text}{parted}; {len(missing):,} utterances to extract, about {size(room)}{failed}"
        if 2 * room > free_space(folder):  # a session's parts and their merged file lie side by side
            yield Finding("cache", "problem", f"{text}, for which the disk has no room", "set paths.cache=/other/disk")
            return
        yield Finding("cache", "ok", text, "train.py or ser extract with the same words makes them")

    @property
    def _source(self) -> Any:
        """The corpus's frame source; None where it has none or cannot be parsed."""
        try:
            return self.corpus.frame_source
        except Exception:  # reported by the corpus's own check
            return None

    def _at_hand(self, checkpoint: str) -> bool:
        if not checkpoint or Path(checkpoint).expanduser().exists() or _no_hub_id(checkpoint):
            return True
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

        return isinstance(try_to_load_from_cache(checkpoint, "config.json"), str)

    def _given(self, names: Sequence[str], title: str, check: Callable[[], Iterator[Finding]]) -> tuple[str, Check]:
        """The check, or a word about what it waits for."""

        def guarded() -> Iterator[Finding]:
            for name in names:
                try:
                    getattr(self, name)
                except Exception as error:  # reported by that object's own check
                    what = "encoder" if name == "description" else name
                    status: Status = "ok" if isinstance(error, _NotYet) else "warning"
                    yield Finding(title, status, f"not checked, since it needs the {what}")
                    return
            yield from check()

        return title, guarded


def _unreadable(utterance: Utterance) -> str:
    """Why an utterance cannot be decoded; empty where it can."""
    try:
        read_audio(utterance.path, utterance.start, utterance.end)
    except Exception as error:  # decoders raise what they like
        return str(error) or type(error).__name__
    return ""


def _no_hub_id(checkpoint: str) -> bool:
    return checkpoint.startswith((".", "~", "/")) or checkpoint.count("/") > 1


def _on_the_hub(checkpoint: str) -> Finding:
    """Whether a checkpoint that is not on this machine could be fetched."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    try:
        HfApi().model_info(checkpoint, timeout=5)
    except Exception as error:  # connection, name and permission errors have no common base
        return Finding("encoder", "problem", f"{checkpoint} is neither on this machine nor to be had from the Hugging "
                       f"Face Hub ({type(error).__name__})", remedy(checkpoint))  # fmt: skip
    return Finding("encoder", "ok", f"{checkpoint} is on the Hugging Face Hub", "the first run fetches it")
