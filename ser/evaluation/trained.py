"""A trained model with what is known of its training, and which speakers of a corpus it has seen there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ser.data.cache import Recording
from ser.data.corpus import Corpus
from ser.data.split import recording_key
from ser.encoders import Encoder
from ser.errors import SerError
from ser.inference.checkpoint import find_model
from ser.inference.engines import OnnxWaveformModel
from ser.inference.recognizer import Recognizer
from ser.io import read_json

_UNNAMED = ("manifest", "folder")  # corpora of any name: equal speakers in two of them mean nothing


@dataclass(frozen=True)
class Trained:
    """A model, and what is known of its training.

    Attributes:
        recognizer: the model.
        encoder: what makes its frames.
        path: its file.
        corpus: what it was trained on, by name.
        name: variant, fold and seed.
        speakers: of its training and validation part.
        recordings: keys of the recordings of these parts; None where no split.json says them.
        paths: outputs, data and cache of the run.
    """

    recognizer: Recognizer
    encoder: Encoder
    path: Path
    corpus: str
    name: dict[str, Any]
    speakers: frozenset[str]
    recordings: frozenset[str] | None
    paths: dict[str, str]

    @classmethod
    def of(
        cls,
        checkpoint: str | Path,
        encoder: str | None = None,
        device: str = "cpu",
        allow_download: bool = False,
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
        folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
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


def seen_speakers(trained: Trained, corpus: Corpus, recordings: Mapping[str, Recording]) -> set[str]:
    """Speakers of the corpus with a recording in the model's training or validation part, or of the same name there."""
    known = trained.recordings or frozenset()
    seen = {u.speaker for u in corpus.utterances if u.id in recordings and recording_key(recordings[u.id]) in known}
    if corpus.name not in _UNNAMED and corpus.name == trained.corpus:
        seen |= trained.speakers & set(corpus.speakers)
    return seen


def refusal(trained: Trained, corpus: Corpus, seen: set[str]) -> str:
    """Why data with seen speakers are not tested, and what to do."""
    count = sum(u.speaker in seen for u in corpus.utterances)
    names = ", ".join(sorted(seen)[:4]) + (f" and {len(seen) - 4} more" if len(seen) > 4 else "")
    return (
        f"{count} of {len(corpus.utterances)} utterances are by {len(seen)} speaker(s) whom {trained.path} was trained "
        f"or validated on ({names}), expected unseen ones; --leave-out-seen tests the others, --allow-seen tests all "
        "and labels the result."
    )


def tested_name(cfg: DictConfig, corpus: Corpus) -> str:
    """The corpus in names and titles: of a manifest or a folder the name of that."""
    return Path(cfg.data.root).name if corpus.name == "folder" else _called(corpus.name, cfg.data.get("manifest"))


def _called(corpus: str, manifest: str | None) -> str:
    """What results call a corpus: its name, or that of its table."""
    return Path(manifest).stem if corpus == "manifest" and manifest else corpus
