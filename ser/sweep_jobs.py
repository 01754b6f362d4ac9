"""What a sweep consists of: the words of its command line as runs, each with its folder and overrides."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ser.config import CONFIG_FOLDER, variant_name
from ser.errors import SerError


@dataclass(frozen=True)
class Job:
    """One run of a sweep: its folder and the words that make train.py fill it."""

    folder: Path
    overrides: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run has its metrics."""
        return (self.folder / "metrics.json").is_file()


def read_words(words: Sequence[str]) -> tuple[dict[str, Any], list[str], list[list[str]]]:
    """Part the command line into the sweep's settings, words for every run, and further swept words.

    Returns:
        settings ``variant, fold, seed, baseline``; words that hold for all runs; for each swept word its points.
    """
    settings: dict[str, Any] = dict(OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / "sweep.yaml")))  # type: ignore[arg-type]
    shared: list[str] = []
    swept: list[list[str]] = []
    for word, override in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
        if override.key_or_group in settings:
            settings[override.key_or_group] = _points(override)
        elif override.is_sweep_override():
            swept.append([f"{override.get_key_element()}={point}" for point in override.sweep_string_iterator()])
        else:
            shared.append(word)
    for key in ("variant", "fold", "seed"):
        settings[key] = settings[key] if isinstance(settings[key], list) else [settings[key]]
    if isinstance(settings["baseline"], list):
        settings["baseline"] = settings["baseline"][0]
    return settings, shared, swept


def _points(override: Override) -> list[Any]:
    if override.is_sweep_override():
        return [_number(point) for point in override.sweep_string_iterator()]
    value = override.value()
    return list(value) if isinstance(value, list) else [value]


def _number(word: str) -> int | str:
    return int(word) if word.isdigit() else word


def list_jobs(hydra: Hydra, settings: dict[str, Any], shared: list[str], swept: list[list[str]]) -> list[Job]:
    """Every run of the sweep: folds within seeds within variants.

    Raises:
        SerError: a variant is neither a model nor an experiment, the configuration does not compose, or a finished run
            has other settings.
    """
    jobs = []
    for variant in settings["variant"]:
        for points in itertools.product(*swept):
            name = variant_name(str(variant), ",".join(points))
            words = [variant_word(str(variant)), *points, f"variant='{name}'"]
            cfg = hydra.compose_config("train", [*shared, *words], run_mode=RunMode.RUN)
            HydraConfig.instance().set_config(cfg)  # the folder's name asks it for the choices
            base = Path(cfg.paths.outputs) / str(cfg.name) / str(cfg.variant)
            for seed, fold in itertools.product(settings["seed"], fold_numbers(settings["fold"], cfg)):
                overrides = (*words, f"fold={fold}", f"seed={seed}", "resume=true")
                jobs.append(Job(base / f"fold{fold}" / f"seed{seed}", overrides))
                _check_settings(jobs[-1], cfg)
    return jobs


def _check_settings(job: Job, cfg: DictConfig) -> None:
    """Refuse to pass a finished run off as one of this sweep when it was trained with other settings.

    Raises:
        SerError: naming the first setting that differs.
    """
    kept = job.folder / ".hydra" / "config.yaml"
    if not job.finished or not kept.is_file():
        return
    ours, theirs = (dict(_leaves(OmegaConf.to_container(config))) for config in (cfg, OmegaConf.load(kept)))
    ignored = {*cfg.hydra.job.config.override_dirname.exclude_keys, "paths", "data", "callbacks", "hydra"}
    ignored -= {"features", "model"}
    for key in ours.keys() & theirs.keys():
        parents = [key[:end] for end in range(len(key) + 1) if key[end : end + 1] in ("", ".")]
        if ours[key] != theirs[key] and not ignored & set(parents):
            theirs[key], ours[key] = ("null" if value is None else value for value in (theirs[key], ours[key]))
            raise SerError(
                f"{job.folder} was trained with {key}={theirs[key]} and this sweep has {key}={ours[key]}; keep both by "
                "giving this sweep a name (name=second), or delete the folder to train it again."
            )


def _leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, content


def variant_word(variant: str) -> str:
    """The override that a variant's name stands for.

    Raises:
        SerError: there is no such model or experiment.
    """
    for group in ("experiment", "model"):
        if (CONFIG_FOLDER / group / f"{variant}.yaml").is_file():
            return f"{group}={variant}"
    raise SerError(
        f"variant={variant} was given, but there is no conf/model/{variant}.yaml or conf/experiment/{variant}.yaml; "
        "name models or experiments."
    )


def fold_numbers(folds: list[Any], cfg: DictConfig) -> list[int]:
    """The folds asked for; ``all`` asks the protocol how many the corpus has."""
    if folds != ["all"]:
        return [int(fold) for fold in folds]
    from ser.sentences import instantiate  # noqa: PLC0415  torch loads only when a corpus has to be read

    corpus = instantiate(cfg.data)
    return list(range(1, instantiate(cfg.protocol).folds(corpus) + 1))
