"""What a configuration builds: the data of a fold, and the module with its network and adversary."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from ser.adversary import Adversary
from ser.config import instantiate
from ser.console import announce
from ser.data.augmentation import Augmentation
from ser.data.cache import FRAME_CODE, FeatureCache
from ser.data.corpus import Corpus, Utterance
from ser.data.datamodule import EmotionDataModule, check_batches
from ser.data.protocols import EvaluationProtocol
from ser.data.split import (
    Split,
    recording_key,
    refuse_shared_recordings,
    split_record,
    with_auxiliary,
    with_less_training,
)
from ser.encoders import Encoder, FrameFiles
from ser.encoders.pretrained import PretrainedEncoder
from ser.errors import SerError, check_number
from ser.extraction.frames import Extraction, extract
from ser.extraction.voices import other_voices
from ser.inference.checkpoint import FORMAT
from ser.losses import AuxiliaryEmotions
from ser.models.finetuned import check_finetuning, make_network
from ser.models.network import Network
from ser.models.statistics import StatisticsLogistic, StatisticsMLP
from ser.module import EmotionModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """What the configuration's data part stands for, as one fold is trained on it."""

    corpus: Corpus
    encoder: Encoder
    extraction: Extraction
    split: Split
    module: EmotionDataModule
    record: dict[str, Any]  # content of split.json


def load_data(cfg: DictConfig) -> Data:
    """Corpus, frames and split of the configuration."""
    # Before the corpus, which may have to be written first.
    encoder: Encoder = instantiate(cfg, "features")
    normalization, protocol = instantiate(cfg, "normalization"), instantiate(cfg, "protocol")
    augmentation: Augmentation = instantiate(cfg, "augmentation")
    corpus: Corpus = instantiate(cfg, "data")
    announce(corpus)
    own_frames = corpus.frame_source is not None
    check_finetuning(encoder, normalization.kind, augmentation, own_frames)
    voices = other_voices(encoder, augmentation.voices, own_frames)
    others = other_emotions(cfg, corpus) if cfg.auxiliary_weight else ()
    # Faults of the split or the settings are reported before hours of extraction.
    trial = _split(cfg, protocol, corpus, others)
    check_settings(
        cfg, (corpus.frame_source or encoder).dim, len({u.speaker for u in trial.train}), len(corpus.emotions)
    )
    extraction, copies = _frames(cfg, replace(corpus, utterances=(*corpus.utterances, *others)), encoder, voices)
    corpus = corpus.without(extraction.failures)
    split = _split(cfg, protocol, corpus, [u for u in others if u.id not in extraction.failures])
    recordings, signatures = extraction.cache.recordings, extraction.cache.signatures()
    refuse_shared_recordings(split, recordings, signatures, allowed=cfg.allow_duplicates)
    module = EmotionDataModule(
        corpus,
        split,
        extraction.cache,
        normalization,
        copies=copies,
        frame_rate=(corpus.frame_source or encoder).frame_rate,
        average=encoder.average,
        seed=cfg.seed,
        test=cfg.test,
        test_each_epoch=cfg.test_each_epoch,
        **cfg.batches,
    )
    keys = {name: (recording_key(recording), signatures[name]) for name, recording in recordings.items()}
    record = split_record(split, corpus, extraction.failures, module.normalization.transductive, keys)
    if (source := corpus.frame_source) is not None:  # whoever uses the model has to bring frames, too
        encoder = FrameFiles(dim=source.dim, frame_rate=source.frame_rate, average=encoder.average)
    return Data(corpus, encoder, extraction, split, module, record)


def _frames(
    cfg: DictConfig, corpus: Corpus, encoder: Encoder, voices: Sequence[Encoder]
) -> tuple[Extraction, list[FeatureCache]]:
    """Frames of a corpus, and those of its copies in other voices; utterances that have none are logged."""
    extraction = extract(corpus, encoder, cfg.paths.cache, **cfg.extraction)
    for identifier, reason in extraction.failures.items():
        log.warning("left out %s: %s", identifier, reason)
    return extraction, [extract(corpus, voice, cfg.paths.cache, **cfg.extraction).cache for voice in voices]


def measured(data: Data) -> dict[str, Any]:
    """What a run's identity has beside its settings: labels, split, audio and encoder as they are."""
    return {
        "labels": data.record["corpus_fingerprint"],
        "split": data.record["hash"] + data.record.get("auxiliary", {}).get("hash", ""),
        "audio": data.extraction.cache.fingerprint(),
        "frame_code": FRAME_CODE,
        "unchecked": len(data.extraction.trusted),
        "encoder": (data.corpus.frame_source or data.encoder).description(),
    }


def _split(cfg: DictConfig, protocol: EvaluationProtocol, corpus: Corpus, others: Sequence[Utterance]) -> Split:
    split = protocol.split(corpus, cfg.fold, cfg.seed)
    split = with_less_training(split, cfg.train_speakers, cfg.train_fraction)
    return with_auxiliary(split, others) if cfg.auxiliary_weight else split


def other_emotions(cfg: DictConfig, corpus: Corpus) -> tuple[Utterance, ...]:
    """Utterances of the corpus's speakers whose emotions are not among ``data.emotions``.

    Raises:
        SerError: the corpus has one set of emotions only, or is made of several.
    """
    if corpus.parts or "emotions" not in cfg.data:
        raise SerError(
            f"auxiliary_weight={cfg.auxiliary_weight} was given for data={corpus.name}, expected a single corpus with "
            "data.emotions, whose other emotions are then learned, too; set auxiliary_weight=0."
        )
    with open_dict(cfg := cfg.copy()):
        cfg.data.emotions = None
    session = {utterance.speaker: utterance.session for utterance in corpus.utterances}
    whole: Corpus = instantiate(cfg, "data")
    return tuple(
        replace(utterance, session=session[utterance.speaker])
        for utterance in whole.utterances
        if utterance.emotion not in corpus.emotions and utterance.speaker in session
    )


def build_module(
    cfg: DictConfig, datamodule: EmotionDataModule, facts: dict[str, Any], encoder: Encoder | None = None
) -> EmotionModule:
    """Network, adversary, losses and optimizer, with the plain description that goes into every checkpoint."""
    sizes = {"input_size": datamodule.cache.dim, "emotions": len(datamodule.emotions)}
    model: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    network, description = make_network(instantiate(cfg, "model"), model, sizes, encoder)
    if max(datamodule.cache.lengths.values()) == 1 and not isinstance(network, StatisticsLogistic | StatisticsMLP):
        log.warning(
            "every utterance is one vector, but %s reads sequences of frames; model=statistics_logistic and "
            "statistics_mlp are meant for vectors",
            type(network).__name__,
        )
    fitted = isinstance(network, StatisticsLogistic)
    adversary = None if fitted else build_adversary(cfg, network, len(datamodule.speakers), len(datamodule.emotions))
    if network.erase is not None:
        description = {**description, "erase": network.erase.rank}
    auxiliary = None
    if others := datamodule.split.other_emotions:
        classes = len(datamodule.emotions) + len(others)
        auxiliary = None if fitted else AuxiliaryEmotions(network.pooled_size, classes, cfg.auxiliary_weight)
    loss = instantiate(cfg, "loss")
    if hasattr(loss, "fit_class_counts"):
        loss.fit_class_counts(datamodule.emotion_counts())
    removal = {} if fitted else OmegaConf.to_container(cfg.adversarial, resolve=True)
    return EmotionModule(
        network,
        adversary,
        loss,
        instantiate(cfg, "optimizer"),
        datamodule.emotions,
        augmentation=instantiate(cfg, "augmentation"),
        auxiliary=auxiliary,
        l2_reg=cfg.l2_reg,
        seed=cfg.seed,
        config={"network": description, "adversary": removal, **_kept_facts(cfg, datamodule, facts, encoder)},
    )


def _kept_facts(
    cfg: DictConfig, datamodule: EmotionDataModule, facts: Mapping[str, Any], encoder: Encoder | None
) -> dict[str, Any]:
    """What every checkpoint holds beside the descriptions of network and adversary, in plain types."""
    described: dict[str, Any] = OmegaConf.to_container(cfg.features, resolve=True)  # type: ignore[assignment]
    if isinstance(encoder, PretrainedEncoder):
        described["checkpoint"] = encoder.checkpoint  # absolute, if it is a folder
    if isinstance(encoder, FrameFiles):
        described = {"_target_": "ser.encoders.FrameFiles", "dim": encoder.dim, "frame_rate": encoder.frame_rate}
        described |= {key: getattr(encoder, key) for key in ("transposed", "average", "max_seconds")} | {"root": None}
    kept = {key: facts[key] for key in ("corpus", "protocol", "fold", "seed", "hash")}
    if "cross_validation" in facts:  # of a training on everyone; the place of the sweep stays out
        record = facts["cross_validation"] or {}
        kept["cross_validation"] = {key: value for key, value in record.items() if key != "folder"} or None
    return kept | {
        "format": FORMAT,
        "encoder": described,
        "encoder_identity": None if encoder is None else encoder.description(),
        "emotions": datamodule.emotions,
        "speakers": datamodule.speakers,
        "sample_rate": 16_000,
        "max_seconds": cfg.batches.max_seconds,
        "normalization": {
            "kind": datamodule.normalization.kind,
            "mean": datamodule.statistics.mean[0].clone(),
            "std": datamodule.statistics.std[0].clone(),
        },
    }


def check_settings(cfg: DictConfig, dim: int, speakers: int, emotions: int) -> None:
    """Refuse settings that batches or module would refuse; random numbers stay as they are."""
    check_batches(**cfg.batches)
    with torch.random.fork_rng(devices=[]):
        network: Network = instantiate(cfg, "model")(input_size=dim, emotions=emotions)
        if not isinstance(network, StatisticsLogistic):
            build_adversary(cfg, network, speakers, emotions)
        values = instantiate(cfg, "optimizer")(network.parameters()).defaults
        for key in values.keys() & {"lr", "weight_decay", "eps"}:  # torch takes infinite ones
            check_number(f"optimizer.{key}", values[key], 0)
        for key in ("loss", "alpha_schedule", "lr_schedule"):
            instantiate(cfg, key)


def build_adversary(cfg: DictConfig, network: Network, speakers: int, emotions: int) -> Adversary | None:
    """The adversary of ``cfg.adversarial``, attached to the network; None for adversarial=none."""
    if "_target_" not in cfg.adversarial:
        return None
    make = instantiate(cfg, "adversarial", weight=cfg.adversarial_weight)
    adversary: Adversary = make(network.pooled_size, speakers, emotions)
    adversary.attach(network)
    return adversary
