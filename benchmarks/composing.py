"""The shipped configuration, applied to synthetic features or a corpus of yours: what train.py would train with."""

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from ser.config import compose_config
from ser.data.corpus import Corpus
from ser.data.datamodule import EmotionDataModule
from ser.module import EmotionModule
from ser.run.building import build_module, load_data

FACTS = {"corpus": "synthetic_features", "protocol": "session", "fold": 1, "seed": 1, "hash": ""}


@dataclass
class Experiment:
    """One composed experiment and its parts."""

    cfg: DictConfig
    corpus: Corpus
    data: EmotionDataModule

    def module(self) -> EmotionModule:
        """A new network of the same random weights with its losses and optimizer."""
        return build_module(self.cfg, self.data, FACTS)


def compose_experiment(folder: Path, scale: float, *overrides: str) -> Experiment:
    """Compose, bring the cache up to date and open it.

    Args:
        folder: where the run may write.
        scale: size of the synthetic features relative to IEMOCAP's.
        overrides: further overrides of the command line; ``data=...`` takes another corpus.
    """
    logging.getLogger("ser").setLevel(logging.ERROR)
    own = any(word.startswith("data=") for word in overrides)
    words = [] if own else ["data=synthetic_features", f"data.scale={scale}"]
    cfg = compose_config([*words, f"paths.run={folder}", *overrides])
    loaded = load_data(cfg)
    return Experiment(cfg, loaded.corpus, loaded.module)
