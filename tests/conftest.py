import os
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # children of the tests are forked, which CUDA does not survive

import pytest
import torch
from checkpoints import save_checkpoint
from fake_corpora import write_manifest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from small_runs import TINY

from ser.config import CONFIG_FOLDER
from ser.config.page import register_resolvers
from ser.evaluation import speaker_probe
from ser.evaluation.figures import FIGURES
from ser.inference.recognizer import Recognizer


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    """A corpus of six speakers in three sessions, small enough to train on in a second."""
    return write_manifest(tmp_path_factory.mktemp("corpus"), utterances_per_speaker_and_emotion=2, seconds=0.4)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A network of random weights on log-mel frames."""
    return save_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="session")
def recognizer(checkpoint):
    return Recognizer.from_checkpoint(checkpoint)


@pytest.fixture
def few_figures(monkeypatch):
    """Runs draw three of their figures: drawing all takes longer than training a small network."""
    kept = [entry for entry in FIGURES if entry.name in ("confusion", "classes", "training")]
    monkeypatch.setattr("ser.evaluation.figures.FIGURES", kept)


@pytest.fixture
def few_probes(monkeypatch):
    """Discriminant analysis is the only speaker probe, for tests of what is around the probes."""
    monkeypatch.setattr(speaker_probe, "_probes", lambda seed, every=speaker_probe._probes: every(seed)[:2])
    monkeypatch.setattr(speaker_probe, "KINDS", ("LDA",))


@pytest.fixture
def few_sounds(monkeypatch):
    """An export is compared with PyTorch on 8 sounds of 25 ms to 30 s, not on 40."""
    from ser.inference import onnx

    sounds = onnx.test_sounds(8)
    monkeypatch.setattr(onnx, "test_sounds", lambda: sounds)


@pytest.fixture
def configure(tmp_path, manifest, cache):
    """Compose train.yaml for the small corpus, as Hydra would for a run in ``folder``."""

    def compose_for(*overrides: str, folder: Path | None = None, tiny: bool = True):
        register_resolvers()
        folder = folder or tmp_path / "run"
        folder.mkdir(parents=True, exist_ok=True)
        words = ["data=manifest", f"data.manifest={manifest}", f"paths.cache={cache}", f"paths.outputs={tmp_path}"]
        words += [*(TINY if tiny else []), *overrides, f"paths.run={folder}"]
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            cfg = compose("train", overrides=words, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg.hydra
        return cfg

    return compose_for
