"""The page conf/train.yaml: types of its keys, keys that change no result, names of run folders, objects of it."""

import hashlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hydra.utils
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import MISSING, DictConfig, OmegaConf

from ser.errors import SerError

_PACKAGE = Path(__file__).resolve().parents[1]
# conf/ is inside the package once installed, beside it in a checkout.
CONFIG_FOLDER = (_PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent) / "conf"
LONGEST_NAME = 120  # bytes of a folder name; file systems allow 255
IRRELEVANT = {  # settings that two runs of one identity may differ in, and why
    "paths.*": "where files lie; their content is compared",
    "data.root": "where the corpus lies; labels and audio are compared",
    "data.manifest": "where the table lies; labels and audio are compared",
    "data.*.root": "where a corpus lies; labels and audio are compared",
    "data.*.manifest": "where a table lies; labels and audio are compared",
    "data.columns": "how a table is read; labels and audio are compared",
    "data.*.columns": "how a table is read; labels and audio are compared",
    "features.root": "where frames lie; their content is compared",
    "features.checkpoint": "where the encoder lies; its weights are compared",
    "experiment": "the settings it stands for are compared",
    "name": "names the folder",
    "variant": "names the folder",
    "logger*": "loggers only watch",
    "callbacks.progress_bar*": "only shown on screen",
    "callbacks.history.confusion": "loggers only watch",
    "callbacks.*.dirpath": "the run folder",
    "callbacks.*.folder": "the run folder",
    "test_each_epoch": "recorded, never used",
    "allow_duplicates": "refuses or not; labels and audio are compared",
    "figures": "drawn from the finished tables",
    "leakage": "computed from the finished tables",
    "test": "whether the test part is opened after training, once",
    "epochs_from": "where the sweep lies; the epochs it found are compared",
    "search_folds": "each fold is a run of its own",
    "resume": "a resumed run ends like an uninterrupted one",
    "extraction.device": "where the encoder computes",
    "extraction.workers": "how fast audio is decoded",
    "extraction.processes": "how many processes share the same work",
    "extraction.batch_seconds": "batch mates change an utterance's frames by rounding only",
    "extraction.trust_cache": "refuses or not; the number of unchecked utterances is compared",
    "batches.workers": "how fast batches are read",
    "trainer.accelerator": "where the network computes",
    "trainer.devices": "which devices; their number is compared as processes",
    "trainer.threads": "how fast it computes; sums may differ in their last digits, as on another device",
    "trainer.num_nodes": "compared as processes",
    "trainer.log_every_n_steps": "loggers only watch",
    "trainer.num_sanity_val_steps": "computed before training, kept nowhere",
    "trainer.enable_*": "only shown on screen",
}


@dataclass
class Batches:
    """Types of ``batches``."""

    batch_size: int = MISSING
    max_frames: int | None = MISSING
    jitter: float = MISSING
    balance: str | None = MISSING
    max_seconds: float | None = MISSING
    workers: int = MISSING


@dataclass
class Extraction:
    """Types of ``extraction``."""

    device: str = MISSING
    workers: int = MISSING
    processes: Any = MISSING
    batch_seconds: float = MISSING
    trust_cache: bool = MISSING


@dataclass
class Paths:
    """Types of ``paths``."""

    outputs: str = MISSING
    data: str = MISSING
    cache: str = MISSING
    run: str = MISSING


@dataclass
class TrainPage:
    """Types of conf/train.yaml, whose values are there; Hydra refuses other keys and types by it."""

    data: Any = MISSING
    features: Any = MISSING
    normalization: Any = MISSING
    protocol: Any = MISSING
    model: Any = MISSING
    adversarial: Any = MISSING
    augmentation: Any = MISSING
    alpha_schedule: Any = MISSING
    lr_schedule: Any = MISSING
    optimizer: Any = MISSING
    loss: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    trainer: Any = MISSING
    experiment: Any = None
    fold: int = MISSING
    seed: int = MISSING
    train_speakers: int | None = MISSING
    train_fraction: float = MISSING
    epochs_from: str | None = MISSING
    resume: bool = MISSING
    adversarial_weight: float | None = MISSING
    auxiliary_weight: float = MISSING
    l2_reg: float = MISSING
    test_each_epoch: bool = MISSING
    test: bool = MISSING
    search_folds: list[int] | None = MISSING
    allow_duplicates: bool = MISSING
    leakage: bool = MISSING
    figures: Any = MISSING
    batches: Batches = field(default_factory=Batches)
    extraction: Extraction = field(default_factory=Extraction)
    paths: Paths = field(default_factory=Paths)
    name: str = MISSING
    variant: str = MISSING


def irrelevant(key: str) -> bool:
    """Whether a setting, given by its dotted key, is declared not to change a result."""
    return any(fnmatch(key, pattern) for pattern in IRRELEVANT)


def register_resolvers() -> None:
    """Make the page's types and the resolvers of its folder names known to Hydra."""
    ConfigStore.instance().store(name="train_page", node=TrainPage)
    OmegaConf.register_new_resolver("ser.variant", variant_name, replace=True)
    OmegaConf.register_new_resolver("ser.source", source_name, replace=True)
    OmegaConf.register_new_resolver("ser.folder", folder_name, replace=True)


def source_name(option: str, path: str | None, corpora: Sequence[str] | None = None) -> str:
    """A corpus or an encoder in a folder name: the option, or the files that ``data=manifest`` or ``files`` takes.

    The short hash tells files of one name in different folders apart; those of the working folder go without.

    ``path`` is the manifest or the folder of frames; ``corpora`` are those of ``data=combined``.
    """
    if option == "combined" and corpora:
        return "+".join(corpora)
    if option not in ("manifest", "files") or not path:
        return option
    place = Path(path).expanduser().absolute()
    apart = "" if place.parent == Path.cwd() else f"-{hashlib.sha256(str(place).encode()).hexdigest()[:6]}"
    return f"{place.stem}{apart}"


def variant_name(model: str, experiment: str | None, overrides: str | None) -> str:
    """``enhanced_gru`` or ``recommended,model=gru,l2_reg=1e-5``: what tells the runs of one corpus apart.

    An experiment takes the place of the model as the name; ``overrides`` is Hydra's ``override_dirname``.
    """
    settings = [
        part for part in name_parts(overrides or "") if part and not irrelevant(part.split("=")[0].lstrip("+~"))
    ]
    if not experiment:
        settings = [setting for setting in settings if setting != f"model={model}"]
    return ",".join([experiment or model, *settings]).replace(" ", "").replace("/", "-")


def name_parts(name: str) -> list[str]:
    """A variant's name and each of its settings; a comma inside a value stays."""
    return re.split(r",(?=[\w.+~/@-]+=)", name)


def short_setting(setting: str, most: int = 24) -> str:
    """``data.emodb.map={bored:neutral,fearf…``: one of ``name_parts`` with at most ``most`` characters of its value."""
    key, sign, value = setting.partition("=")
    return f"{key}{sign}{value if len(value) <= most else f'{value[: most - 1]}…'}"


def folder_name(name: str) -> str:
    """``name`` as one folder: without separators and control characters, cut to a short hash where it is too long.

    Braces and quotes go, too: a shell would expand or drop those of ``data.map={joy:"喜",fear:sad}`` in a pasted path.
    """
    letters = (letter for letter in str(name) if letter not in '{}"')
    plain = "".join(letter if letter.isprintable() and letter not in "/\\" else "-" for letter in letters)
    if len(plain.encode()) > LONGEST_NAME:
        start = plain.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
        plain = f"{start}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
    return plain if plain.strip(". ") else "-"


def instantiate(cfg: DictConfig, key: str, **keywords: Any) -> Any:
    """The object that ``cfg[key]`` describes by its ``_target_`` (a partial: a function that raises the same errors).

    Raises:
        SerError: naming the overrides and the target's reason.
    """
    node = OmegaConf.select(cfg, key)
    _refuse_text(node, key)
    made = _build(key, hydra.utils.instantiate, node, **keywords)
    return partial(_build, key, made) if isinstance(made, partial) else made


def _refuse_text(node: Any, where: str) -> None:
    """Refuse text for a parameter that its target declares as a number: ``patience=abc`` would fail in mid-training."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return
    target = _build(where, hydra.utils.get_object, node["_target_"])
    for owner in reversed(inspect.getmro(target)) if inspect.isclass(target) else [target]:
        try:
            hints = get_type_hints(owner.__init__ if inspect.isclass(owner) else owner)
        except (TypeError, NameError):  # names that only a type checker knows
            continue
        for key, hint in hints.items():
            numeric = all(kind in (int, float, bool, type(None)) for kind in get_args(hint) or (hint,))
            if numeric and isinstance(node.get(key), str):
                raise SerError(f"{where}.{key}={node[key]} was given, expected a number; correct {where}.")


def _build(where: str, target: Any, *arguments: Any, **keywords: Any) -> Any:
    try:
        return target(*arguments, **keywords)
    except (TypeError, ValueError, ImportError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, SerError):
            raise cause from error
        group = where.partition(".")[0]
        words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        given = [word for word in words if word.lstrip("+~").startswith((f"{group}.", f"{group}=", f"{group}@"))]
        reason = " ".join(str(cause).split()).rstrip(". ")
        raise SerError(f"{' '.join(given) or where} was given, but {reason}; correct {where}.") from error


register_resolvers()  # at import, so that the worker processes of a launcher know them, too
