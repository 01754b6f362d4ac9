"""Lightning's trainer, with the callbacks and loggers of the configuration."""

import logging
import math
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import signature
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf, open_dict
from rich import get_console

from ser.callbacks import COLUMNS, WholeFileCheckpointIO
from ser.config import instantiate
from ser.console import is_quiet
from ser.cpu import has_bf16_instructions
from ser.errors import SerError, check_number
from ser.run.folder import is_first

log = logging.getLogger(__name__)
SMALL_NETWORK = 2_000_000  # parameters; the parallel parts of smaller ones are short, so threads wait for each other
_SCORES = [name for name in COLUMNS if not name.startswith("test/")]


def check_trainer(cfg: DictConfig) -> None:
    """Refuse settings of trainer, callbacks and loggers, before anything is computed.

    Test scores of each epoch are recorded; an epoch or a learning rate chosen by them would be a false result.
    """
    _quieten()
    for group in ("callbacks", "logger"):
        for name, node in (cfg[group] or {}).items():
            if node is not None and not (OmegaConf.is_dict(node) and "_target_" in node):
                raise SerError(f"{group}.{name}={node} was given, expected settings with a _target_, or null.")
    _check_loggers(cfg.logger or {})
    choosing = {f"callbacks.{name}": node for name, node in cfg.callbacks.items()} | {"lr_schedule": cfg.lr_schedule}
    for name, node in choosing.items():
        monitor = (node or {}).get("monitor")
        if str(monitor).startswith("test/"):
            raise SerError(
                f"{name} has monitor={monitor}, but nothing may be chosen by the test part; take val/uar or val/loss."
            )
        if monitor is not None and monitor not in _SCORES:
            raise SerError(f"{name} has monitor={monitor}, expected a score of an epoch: {', '.join(_SCORES)}.")
    for key in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        check_number(f"trainer.{key}", cfg.trainer.get(key, 1), 1, whole=True)
    for key in ("gradient_clip_val", "log_every_n_steps"):
        check_number(f"trainer.{key}", cfg.trainer.get(key) or 0, 0)
    for key in ("fast_dev_run", "overfit_batches"):
        if cfg.trainer.get(key):
            raise SerError(
                f"trainer.{key}={cfg.trainer[key]} was given, which trains nothing to keep; trainer.max_epochs=1 is a "
                "short run."
            )
    with open_dict(cfg := cfg.copy()):
        if str(cfg.trainer.precision) == "bf16-mixed":  # accepted here; the training warns if it is slower
            cfg.trainer.precision = "32-true"
    trainer = build_trainer(cfg, batches=1)
    if not any(one.filename == "best" and one.save_top_k for one in _checkpoints(trainer)):
        found = "; ".join(f"filename={one.filename}, save_top_k={one.save_top_k}" for one in _checkpoints(trainer))
        raise SerError(
            f"callbacks.checkpoint would keep no epoch as best.ckpt ({found or 'null'}), expected filename=best and "
            "save_top_k=1; drop these settings."
        )
    count_threads(cfg.trainer, torch.nn.Identity())


def _checkpoints(trainer: lightning.Trainer) -> list[ModelCheckpoint]:
    return [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]


def _check_loggers(loggers: Mapping[str, Any]) -> None:
    """Refuse what loggers would refuse only when they write first, by errors of Python."""
    for name, node in loggers.items():
        check_number(f"logger.{name}.flush_logs_every_n_steps", node.get("flush_logs_every_n_steps", 1), 1, whole=True)
        if node["_target_"].endswith("WandbLogger") and find_spec("wandb") is None:
            raise SerError(f"logger={name} needs wandb, which is not installed; pip install 'ser-lab[wandb]'.")
        if node["_target_"].endswith("TensorBoardLogger"):  # hands what it does not know to TensorBoard's writer
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  loads TensorBoard

            known = {**signature(TensorBoardLogger).parameters, **signature(SummaryWriter).parameters}
            if unknown := [str(key) for key in node if key not in known and key != "_target_"]:
                raise SerError(
                    f"logger.{name}.{unknown[0]} was given, expected a setting of TensorBoardLogger or SummaryWriter: "
                    f"{', '.join(known)}."
                )


def build_trainer(cfg: DictConfig, batches: int, schedules: bool = True) -> lightning.Trainer:
    """The trainer with its callbacks and loggers; without ``schedules`` for a network that is fitted at once.

    Without ``trainer.max_epochs`` there are as many epochs of so many ``batches`` (on all devices) as
    ``trainer.min_epochs`` and ``trainer.min_steps`` ask for.
    """
    callbacks = [
        *([instantiate(cfg, "alpha_schedule"), instantiate(cfg, "lr_schedule")] if schedules else []),
        *(instantiate(cfg, f"callbacks.{name}") for name, callback in cfg.callbacks.items() if callback is not None),
    ]
    wanted = cfg.trainer.enable_progress_bar and get_console().is_terminal and not is_quiet()
    shown = wanted and any(isinstance(callback, ProgressBar) for callback in callbacks)
    loggers = [instantiate(cfg, f"logger.{name}") for name in cfg.logger] if cfg.logger else False
    with open_dict(cfg := cfg.copy()):
        cfg.trainer.pop("threads", None)  # not one of Lightning's own
    trainer: lightning.Trainer = instantiate(
        cfg,
        "trainer",
        max_epochs=cfg.trainer.max_epochs or 1,
        precision=_precision(cfg.trainer.precision, cfg.trainer.accelerator),
        callbacks=[callback for callback in callbacks if shown or not isinstance(callback, ProgressBar)],
        enable_progress_bar=shown,  # else Lightning would add a bar of its own
        logger=loggers,
        plugins=[WholeFileCheckpointIO()],
    )
    if cfg.trainer.max_epochs is None:
        steps = max(1, batches // (trainer.world_size * trainer.accumulate_grad_batches))  # per epoch
        trainer.fit_loop.max_epochs = max(cfg.trainer.min_epochs or 1, math.ceil((cfg.trainer.min_steps or 0) / steps))
    return trainer


class _EndAtNextBatch(lightning.Callback):
    """Raises KeyboardInterrupt at the next batch once Ctrl-C has come."""

    came = False

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """End before a step, so that no part of an epoch counts."""
        if self.came:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """End after the last step, too."""
        self.on_train_batch_start(trainer)


@contextmanager
def noted_ctrl_c(trainer: lightning.Trainer) -> Iterator[None]:
    """Inside, Ctrl-C ends the fit even where Python drops its exception, as it does in destructors: at the next batch.

    Nothing is done outside the main thread, or where SIGINT is ignored or handled by somebody else.
    """
    usual, ender = signal.default_int_handler, _EndAtNextBatch()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        ender.came = True
        usual(number, frame)

    trainer.callbacks.append(ender)  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        trainer.callbacks.remove(ender)  # type: ignore[attr-defined]


def count_threads(trainer: DictConfig, network: torch.nn.Module) -> int | None:
    """``trainer.threads``; of ``auto`` one for a small network on the CPU, else None: the library's own number.

    Raises:
        SerError: neither ``auto`` nor a whole number from 1.
    """
    if trainer.threads == "auto":
        small = sum(value.numel() for value in network.parameters()) < SMALL_NETWORK
        return 1 if small and trainer.accelerator == "cpu" else None
    threads: int = trainer.threads
    check_number("trainer.threads", threads, 1, whole=True)
    return threads


def _precision(asked: str | int | None, accelerator: str) -> str | int | None:
    """The precision asked for, or float32 where bfloat16 would only cost time."""
    if accelerator != "cpu" or not str(asked).startswith("bf16") or has_bf16_instructions():
        return asked
    log.warning("trainer.precision=%s would be slower: this CPU has no bf16 instructions; training in 32-true", asked)
    return "32-true"


def _quieten() -> None:
    """Silence advice that does not apply, and every process but the first."""
    # Loaders read whole batches, and the run folder is cleared on purpose.
    for advice in (
        "does not have many workers",
        "exists and is not empty",
        "LeafSpec",
        "smaller than the logging",
        "across ranks is zero",
        "but have no logger configured",  # logger=none, and `ser reproduce`
    ):
        warnings.filterwarnings("ignore", message=f".*{advice}")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logger = logging.getLogger(name)
        logger.handlers.clear()  # the root logger has the screen already
        logger.setLevel(logging.WARNING)
    if not is_first():
        get_console().quiet = True
        logging.getLogger().setLevel(logging.ERROR)
