"""One experiment, one fold: the only reader of the configuration, and the run it starts."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict
from threadpoolctl import threadpool_limits

from ser.config.identity import depends_on_seed, describe, run_record
from ser.console import count_parameters, show_network, show_scores, show_split
from ser.cpu import network_products, reuse_freed_memory
from ser.data.datamodule import EmotionDataModule
from ser.encoders import FrameFiles
from ser.errors import TERMINATED, SerError, check_number
from ser.evaluation.figures import write_figures
from ser.evaluation.figures.network import write_attention
from ser.evaluation.figures.style import figure_formats
from ser.io import read_json
from ser.models.statistics import StatisticsLogistic
from ser.module import EmotionModule
from ser.run.building import Data, build_module, load_data, measured
from ser.run.dashboards import check_login, finished, log_result, shown_result, shown_settings
from ser.run.everyone import recipe_for
from ser.run.folder import RunFolder
from ser.run.results import collect, score_parts
from ser.run.trainer import build_trainer, check_trainer, count_threads, noted_ctrl_c

log = logging.getLogger(__name__)


def run(cfg: DictConfig, choices: Mapping[str, Any] | None = None, overrides: Sequence[str] | None = None) -> float:
    """Carry out the experiment that ``cfg`` describes and return its validation UAR.

    With ``resume``, a finished run is not repeated and an interrupted one goes on, if they are of the same identity.
    ``choices`` (the option of each group) and ``overrides`` are what it was composed of; None asks Hydra.

    Raises:
        SerError: bad input; nothing already computed is lost, and no folder is left behind.
    """
    from_hydra = overrides is None
    choices = dict(HydraConfig.get().runtime.choices) if choices is None else choices
    overrides = list(HydraConfig.get().overrides.task if overrides is None else overrides)
    cfg = cfg.copy()  # its run folder may move
    folder = RunFolder(cfg.paths.run)
    with folder.logged():
        return _carry_out(cfg, choices, overrides, folder, from_hydra)


def _carry_out(
    cfg: DictConfig, choices: Mapping[str, Any], overrides: list[str], folder: RunFolder, from_hydra: bool
) -> float:
    _forget_other_corpora(cfg)
    _check_numbers(cfg)
    recipe = recipe_for(cfg, overrides)
    lightning.seed_everything(cfg.seed, verbose=False)
    check_trainer(cfg)
    if not (cfg.resume and (folder.path / "metrics.json").exists()):  # a finished run needs no logger
        check_login(cfg.logger or {})
    data = load_data(cfg)
    identity = describe(cfg, measured(data) | (recipe.facts if recipe else {}))
    if recipe is not None:
        recipe.check(identity)
    metrics = folder.choose(identity, resume=cfg.resume, test=cfg.test)
    if metrics is not None:
        log.info("finished already: %s", folder.path)
        show_scores(metrics)
        if cfg.test and cfg.figures and not (folder.path / "figures").is_dir():  # killed while drawing
            _draw(cfg, folder.path, data)
        return _objective(metrics)
    record = run_record(cfg, identity, choices, overrides)
    cfg.paths.run = str(folder.work)
    show_split(data.record)
    facts = _facts(cfg, choices, data) | ({} if recipe is None else {"cross_validation": recipe.record})
    module = build_module(cfg, data.module, facts, data.encoder)
    show_network(module, choices["model"])
    batches = len(data.module.train_dataloader())  # per epoch
    trainer = build_trainer(cfg, batches=batches, schedules=not isinstance(module.network, StatisticsLogistic))
    module.configure_optimizers()  # here, so that refused settings leave no folder behind
    reuse_freed_memory()
    products = network_products(module.network, on_cpu=isinstance(trainer.accelerator, CPUAccelerator))
    with threadpool_limits(count_threads(cfg.trainer, module)), products, folder.hold():
        checkpoint = folder.start(record, data.record, resume=cfg.resume)
        with finished(trainer.loggers):  # they write into the folder, which may move
            for logger in trainer.loggers:
                logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
            metrics = train(data.module, module, trainer, folder, facts, checkpoint, cfg.leakage)
            if trainer.is_global_zero:
                show_scores(metrics)
                if trainer.loggers:
                    result = shown_result(metrics, read_json(folder.work / "leakage.json"))
                    log_result(trainer.loggers, shown_settings(cfg, choices), result)
                if cfg.test and cfg.figures:
                    _draw(cfg, folder.work, data, trainer.loggers)
        if trainer.is_global_zero:
            if folder.work != folder.path:
                folder.replace_earlier()
            if from_hydra:  # ser reproduce says itself where they lie, and whether they stay
                log.info("results lie in %s", folder.path)
    return _objective(metrics)


def _facts(cfg: DictConfig, choices: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """What metrics.json and the checkpoints hold about settings and data."""
    split = ("protocol", "fold", "folds", "speaker_overlap", "transductive", "hash")
    return {
        "corpus": data.corpus.name,
        "features": choices["features"],
        "variant": cfg.variant,
        "seed": cfg.seed,
        "deterministic": not depends_on_seed(cfg),
        "trusted_frames": len(data.extraction.trusted),
        **{key: data.record[key] for key in split},
    }


def _objective(metrics: Mapping[str, Any]) -> float:
    """Validation UAR; of a training on everyone the cross-validated UAR, NaN where it is unknown."""
    found: Mapping[str, Any] = metrics.get("validation") or metrics.get("cross_validation") or {}
    return float(found.get("uar", math.nan))


def _check_numbers(cfg: DictConfig) -> None:
    """Refuse what the libraries that get these settings would not refuse in one line."""
    limits = {key: cfg.trainer[key] for key in ("max_epochs", "min_epochs", "min_steps")}
    for key, value in limits.items():
        if value is not None or limits == dict.fromkeys(limits):
            check_number(f"trainer.{key}", value, 1, whole=True)
    check_number("seed", cfg.seed, 0, 2**32 - 1)
    for key in ("adversarial_weight", "auxiliary_weight", "l2_reg"):
        check_number(key, cfg[key] or 0, 0)
    figure_formats(cfg.figures)
    for key in ("outputs", "run"):
        if not cfg.paths[key]:
            raise SerError(f"paths.{key}= was given, expected a folder; leave it out for the default.")


def _forget_other_corpora(cfg: DictConfig) -> None:
    """Of ``data=combined``, keep the settings of the corpora that are used: others do not belong to the run."""
    with open_dict(cfg):
        for name in [key for key, node in cfg.data.items() if OmegaConf.is_dict(node) and "_partial_" in node]:
            if name not in cfg.data.corpora and set(cfg.data.corpora) <= cfg.data.keys():
                del cfg.data[name]


def train(
    datamodule: EmotionDataModule,
    module: EmotionModule,
    trainer: lightning.Trainer,
    folder: RunFolder,
    facts: dict[str, Any],
    checkpoint: Path | None = None,
    probe: bool = False,
) -> dict[str, Any]:
    """Fit, take the epoch that its ModelCheckpoint kept, test it once (if the test part is open), write the run folder.

    It goes on from ``checkpoint``; None starts anew. With ``probe`` the speaker leakage is measured.
    The content of metrics.json is returned; ``facts`` are what it has beside figures.
    """
    if isinstance(module.network, StatisticsLogistic):
        facts = facts | fit_at_once(datamodule, module, module.network, trainer, folder)
    else:
        fit_by_epochs(datamodule, module, trainer, checkpoint)
        facts = facts | {"epoch_chosen_by": epoch_chosen_by(trainer, folder)}
    best = folder.read_best()
    module.load_state_dict(best["state_dict"])
    started = time.monotonic()
    predictions = trainer.predict(module, datamodule=datamodule) or []
    _exit_if_terminated(trainer)
    facts = facts | {"prediction_seconds": round(time.monotonic() - started, 3)}
    if len(datamodule.datasets) == 1:  # with one loader Lightning returns a flat list
        predictions = [predictions]
    parts = {
        part: collect(batches, datamodule, part) for part, batches in zip(datamodule.datasets, predictions, strict=True)
    }
    facts = facts | {
        "best_epoch": best["epoch"],
        "epochs": trainer.current_epoch,
        **dict(zip(("parameters", "trainable_parameters"), count_parameters(module), strict=True)),
    }
    return folder.finish(parts, facts, probe) if trainer.is_global_zero else score_parts(parts, facts, folder.started)


def fit_by_epochs(
    datamodule: EmotionDataModule, module: EmotionModule, trainer: lightning.Trainer, checkpoint: Path | None
) -> None:
    """Train until the trainer stops; its ModelCheckpoint keeps an epoch."""
    if checkpoint is not None:
        log.info("going on from %s", checkpoint)
    try:
        with noted_ctrl_c(trainer):
            trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # how Lightning ends on Ctrl-C
        if not trainer.interrupted:
            raise
        _exit_if_terminated(trainer)
        log.warning("interrupted in epoch %d; the same command with resume=true goes on", trainer.current_epoch)
        raise KeyboardInterrupt from None
    _exit_if_terminated(trainer)


def _exit_if_terminated(trainer: lightning.Trainer) -> None:
    """Exit if a SIGTERM came; after the last training step Lightning does not exit by itself."""
    if trainer.received_sigterm:
        log.warning("ended by SIGTERM; the same command with resume=true goes on")
        raise SystemExit(TERMINATED) from None


def epoch_chosen_by(trainer: lightning.Trainer, folder: RunFolder) -> str:
    """The metric by which the trainer kept an epoch, such as ``val/uar``; ``last`` where it keeps the last one."""
    kept = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return next((c.monitor for c in kept if c.monitor and c.filename == folder.best_checkpoint.stem), "last")


def fit_at_once(
    datamodule: EmotionDataModule,
    module: EmotionModule,
    network: StatisticsLogistic,
    trainer: lightning.Trainer,
    folder: RunFolder,
) -> dict[str, float]:
    """Estimate a network that needs no epochs, write it as the best checkpoint, and return facts for metrics.json."""
    parts = (
        (
            (batch.frames, batch.lengths, batch.emotion)
            for batch in (datamodule.on_after_batch_transfer(batch, 0) for batch in datamodule.loader(part))
        )
        for part in ("train", "validation" if "validation" in datamodule.datasets else "train")
    )
    found = network.fit(*parts)
    trainer.validate(module, datamodule=datamodule, verbose=False)  # for the loggers; it also attaches the module
    trainer.save_checkpoint(folder.best_checkpoint, weights_only=True)
    return found


def _draw(cfg: DictConfig, folder: Path, data: Data, loggers: Sequence[Logger] = ()) -> None:
    """Draw the figures; one that fails is only a warning, since the run is already finished."""
    steps = [partial(write_figures, folder, loggers, figure_formats(cfg.figures))]
    made_up = data.corpus.frame_source is not None or isinstance(data.encoder, FrameFiles)
    if not made_up and not data.extraction.trusted:  # there is audio
        steps.insert(0, partial(write_attention, folder, data.split.test, data.encoder, data.extraction.cache))
    for step in steps:
        try:
            step()
        except SerError as error:
            log.warning("the run is finished, but without all of its figures (`ser figures` draws them): %s", error)
