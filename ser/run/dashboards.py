"""What TensorBoard and Weights & Biases show of a finished run, its settings and the chosen epoch, and the login."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig

from ser.config import compose_options
from ser.config.identity import describe
from ser.errors import SerError, first_line
from ser.evaluation.leakage import COLUMNS, figures
from ser.metrics import TITLES

_SHOWN = ("uar", "wa", "macro_f1")
_PROBE = ("speaker", "chance", "eer")  # of the speaker probe: figures beside the scores
_NOT_SETTINGS = ("format", "processes", "fold", "seed")  # entries of ``describe``
_WITHOUT_LOGIN = ("offline", "dryrun", "disabled")  # modes of Weights & Biases, of the setting or WANDB_MODE


def check_login(loggers: Mapping[str, Any]) -> None:
    """Refuse Weights & Biases without a key that its server accepts: it would ask for one only after the extraction.

    Raises:
        SerError: there is no key, or it is refused, or the server cannot be reached; offline none is needed.
    """
    for name, node in loggers.items():
        if not node["_target_"].endswith("WandbLogger") or node.get("offline"):
            continue
        import wandb  # noqa: PLC0415  an extra

        if (node.get("mode") or wandb.setup().settings.mode) in _WITHOUT_LOGIN:
            continue
        try:
            reason = "" if wandb.login(prompt=False, verify=True) else "no API key is configured"
        except (wandb.Error, ValueError) as error:
            reason = first_line(error)
        if reason:
            raise SerError(
                f"logger={name} cannot log in to Weights & Biases ({reason}), expected a key that its server accepts; "
                f"run wandb login, or keep the results here with +logger.{name}.offline=true."
            )


def shown_settings(cfg: DictConfig, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Variant, fold and seed, the options that are not the default ones, and the values that differ from theirs."""
    _, usual = compose_options({})
    options = {
        group: choice
        for group, choice in choices.items()
        if group in usual and usual[group] != choice and group not in ("logger", "callbacks", "experiment")
    }
    plain = describe(compose_options(options)[0], {})
    values = {
        key: value
        for key, value in describe(cfg, {}).items()
        if key not in (*_NOT_SETTINGS, *options) and not key.endswith("_target_") and (key, value) not in plain.items()
    }
    return {"variant": cfg.variant, "fold": cfg.fold, "seed": cfg.seed, **options, **values}


def shown_result(metrics: Mapping[str, Any], leakage: Mapping[str, Any] | None) -> dict[str, float]:
    """Scores of metrics.json and leakage.json as fractions, by names such as ``result/test UAR``."""
    parts = [part for part in ("test", "validation") if part in metrics]  # HParams shows the first five columns
    result = {f"{part} {TITLES[key]}": metrics[part][key] for key in _SHOWN for part in parts}
    probed = figures(leakage) if leakage else {}
    result |= {f"probe: {COLUMNS[key][0]}": value for key in _PROBE if (value := probed.get(key)) is not None}
    return {f"result/{name}": float(value) for name, value in result.items() if value is not None}


def log_result(loggers: Sequence[Logger], settings: Mapping[str, Any], result: Mapping[str, float]) -> None:
    """Write a row of TensorBoard's HParams table and the summary of Weights & Biases."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(settings), dict(result))
            logger.save()
        elif isinstance(logger, WandbLogger):
            logger.experiment.summary.update(dict(result))


@contextmanager
def finished(loggers: Sequence[Logger]) -> Iterator[None]:
    """Finish the loggers after a run, also a failed one: the next run of a sweep must not write into its W&B run."""
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)  # does nothing but in the first process
            if isinstance(logger, WandbLogger):
                import wandb  # noqa: PLC0415  an extra

                wandb.finish(exit_code=int(status == "failed"))
