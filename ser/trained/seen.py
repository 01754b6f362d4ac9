"""A trained model beside a corpus: what is known of its training, the speakers it has seen, the classes in common."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from ser.data.corpus import Corpus
from ser.emotions import common_name
from ser.encoders import Encoder
from ser.errors import SerError
from ser.inference.checkpoint import find_model, run_folder
from ser.inference.engines import OnnxWaveformModel
from ser.inference.recognizer import Recognizer
from ser.io import read_json

_UNNAMED = ("manifest", "folder")  # corpora of any name: equal speakers in two of them mean nothing


@dataclass(frozen=True)
class Trained:
    """A model, and what is known of its training."""

    recognizer: Recognizer
    encoder: Encoder  # makes its frames
    path: Path  # its file
    corpus: str  # what it was trained on, by name
    name: dict[str, Any]  # variant, fold, seed and features
    speakers: frozenset[str]  # of its training and validation part
    recordings: frozenset[str] | None  # keys of the recordings of these parts, by file and by frames; None: unknown
    paths: dict[str, str]  # outputs, data and cache of the run

    @classmethod
    def of(
        cls, checkpoint: str | Path, encoder: str | None = None, device: str = "cpu", allow_download: bool = False
    ) -> "Trained":
        """Load a model, and read split.json, metrics.json and run.json of the run folder around it.

        Raises:
            SerError: there is no model, or it gives no frames because its encoder is inside.
        """
        path = find_model(checkpoint)
        recognizer = Recognizer.from_checkpoint(path, encoder, device, allow_download=allow_download)
        own = recognizer.encoder
        if isinstance(recognizer.model, OnnxWaveformModel) or own is None:
            raise SerError(f"{path} holds its encoder and takes no cached frames; give the run folder it came from.")
        folder = run_folder(path)
        metrics, split, record = (read_json(folder / f"{name}.json") or {} for name in ("metrics", "split", "run"))
        plain = recognizer.config.plain
        config = record.get("config") or {}
        data = config.get("data") or {}
        name = {"variant": path.stem, "fold": plain.get("fold", 1), "seed": plain.get("seed", 0), "features": ""}
        name |= {key: metrics[key] for key in name if key in metrics}
        parts = [split.get("parts", {}).get(part, {}) for part in ("train", "validation")]
        known = all("recordings" in part for part in parts)
        return cls(
            recognizer,
            own,
            path,
            _called(str(plain.get("corpus", "an unknown corpus")), data.get("manifest")),
            name,
            frozenset(speaker for part in parts for speaker in part.get("speakers", plain.get("speakers", ()))),
            frozenset(key for part in parts for key in part["recordings"]) if known else None,
            {key: str(value) for key, value in (config.get("paths") or {}).items()},
        )


def digest_of(model: Path) -> str:
    """Hash by which an evaluation identifies the model file; empty for a folder."""
    return hashlib.sha256(model.read_bytes()).hexdigest()[:16] if model.is_file() else ""


def seen_speakers(trained: Trained, corpus: Corpus, keys: Mapping[str, str]) -> set[str]:
    """Speakers of the corpus with a recording in the model's training or validation part, or of the same name there.

    ``keys`` are those of the utterances' files, or of their frames.
    """
    known = trained.recordings or frozenset()
    seen = {u.speaker for u in corpus.utterances if keys.get(u.id) in known}
    if corpus.name not in _UNNAMED and corpus.name == trained.corpus:
        seen |= trained.speakers & set(corpus.speakers)
    return seen


class SeenSpeakersError(SerError):
    """The data hold speakers of the training or validation part of the model."""


def tested_name(cfg: DictConfig, corpus: Corpus) -> str:
    """The corpus in names and titles: of a manifest or a folder the name of that."""
    return Path(cfg.data.root).name if corpus.name == "folder" else _called(corpus.name, cfg.data.get("manifest"))


def _called(corpus: str, manifest: str | None) -> str:
    """What results call a corpus: its name, or that of its table."""
    return Path(manifest).stem if corpus == "manifest" and manifest else corpus


@dataclass(frozen=True)
class SharedClasses:
    """How the model's classes and the corpus's labels become shared classes."""

    emotions: list[str]  # the shared classes, in the model's order
    of_label: dict[str, str]  # shared class of each label of the corpus
    of_class: list[int | None]  # place among ``emotions`` of each class of the model; None: the corpus lacks it
    only_model: list[str]  # classes that the corpus does not know
    only_corpus: list[str]  # labels that the model does not know

    @classmethod
    def of(cls, model: Sequence[str], corpus: Sequence[str], mapping: Mapping[str, str]) -> "SharedClasses":
        """Names are compared after ``mapping``, and aliases such as anger and angry are the same.

        Raises:
            SerError: a mapped name occurs on neither side, or fewer than two classes are shared.
        """
        unknown = sorted(set(mapping) - {*model, *corpus})
        if unknown:
            raise SerError(
                f"map.{unknown[0]} was given, but neither the model ({', '.join(model)}) nor the corpus "
                f"({', '.join(corpus)}) has that class; correct the name."
            )

        def common(name: str) -> str:
            return common_name(mapping.get(name, name))

        spelled = {common(name): mapping.get(name, name) for name in reversed(model)}
        shared = [name for name in dict.fromkeys(map(common, model)) if name in {common(label) for label in corpus}]
        if len(shared) < 2:
            raise SerError(
                f"the model knows {', '.join(model)} and the corpus {', '.join(corpus)}, expected two or more classes "
                "in common; map the others, for example map.calm=neutral."
            )
        return cls(
            [spelled[name] for name in shared],
            {label: spelled[common(label)] for label in corpus if common(label) in shared},
            [shared.index(common(name)) if common(name) in shared else None for name in model],
            [name for name in model if common(name) not in shared],
            [label for label in corpus if common(label) not in shared],
        )

    def shared_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """(n, C) of the model to (n, shared classes): merged classes are summed, absent ones left out."""
        if self.of_class == list(range(len(self.emotions))):
            return probabilities
        summed = np.zeros((len(probabilities), len(self.emotions)))
        for place, target in enumerate(self.of_class):
            if target is not None:
                summed[:, target] += probabilities[:, place]
        summed = np.maximum(summed, np.finfo(float).tiny)  # the model may give all of it to classes left out
        shares: np.ndarray = summed / summed.sum(axis=1, keepdims=True)
        return shares
