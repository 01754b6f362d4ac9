"""The configuration's shape: types of the top-level page, folder names, and which keys exist."""

import difflib
import hashlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hydra.utils
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ser.errors import SerError, explain


def find_config_folder() -> Path:
    """The folder ``conf/``: inside the package once installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


CONFIG_FOLDER = find_config_folder()
_PLACE = re.compile(r"data\.\w+\.(root|manifest)=")  # of a part of data=combined
LONGEST_NAME = 120  # bytes of a folder name; file systems allow 255


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


def register_resolvers() -> None:
    """Make the page's types and the resolvers of its folder names known to Hydra."""
    ConfigStore.instance().store(name="train_page", node=TrainPage)
    OmegaConf.register_new_resolver("ser.variant", variant_name, replace=True)
    OmegaConf.register_new_resolver("ser.source", source_name, replace=True)
    OmegaConf.register_new_resolver("ser.folder", folder_name, replace=True)


def source_name(option: str, path: str | None, corpora: Sequence[str] | None = None) -> str:
    """A corpus or an encoder in a folder name: the option, or the files that ``data=manifest`` or ``files`` takes.

    The short hash tells files of one name in different folders apart; those of the working folder go without.

    Args:
        option: of ``data`` or ``features``.
        path: manifest, or folder of frames.
        corpora: of ``data=combined``.
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

    Args:
        model: chosen option of the group.
        experiment: chosen option, which replaces the model as the name.
        overrides: Hydra's ``override_dirname``.
    """
    settings = [part for part in name_parts(overrides or "") if part and not _PLACE.match(part)]
    if not experiment:
        settings = [setting for setting in settings if setting != f"model={model}"]
    return ",".join([experiment or model, *settings]).replace(" ", "").replace("/", "-")


def name_parts(name: str) -> list[str]:
    """A variant's name and each of its settings; a comma inside a value stays."""
    return re.split(r",(?=[\w.+~/@-]+=)", name)


def folder_name(name: str) -> str:
    """``name`` as one folder: without separators and control characters, cut to a short hash where it is too long."""
    plain = "".join(letter if letter.isprintable() and letter not in "/\\" else "-" for letter in str(name))
    if len(plain.encode()) > LONGEST_NAME:
        start = plain.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
        plain = f"{start}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
    return plain if plain.strip(". ") else "-"


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration that ``ser train`` would run with; it becomes Hydra's current one.

    Raises:
        SerError: conf/ is missing, or an override is not valid.
    """
    check_overrides(overrides)
    cfg = _compose(overrides)
    HydraConfig.instance().set_config(cfg)
    plain = cfg.copy()
    with open_dict(plain):  # the composed page is closed to removed keys
        plain.pop("hydra")
    return plain


def compose_options(options: Mapping[str, Any]) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration of these options of groups with their own values, and the option of every group in it."""
    plain = _compose([f"{group}={option}" for group, option in options.items()])
    choices = {str(group): choice for group, choice in plain.hydra.runtime.choices.items()}
    with open_dict(plain):
        plain.pop("hydra")
    return plain, choices


def check_overrides(overrides: Sequence[str], several: bool = False) -> list[str]:
    """Refuse overrides that Hydra would not compose; return them with the repeated points of a sweep dropped.

    Args:
        overrides: as typed.
        several: whether commas make a sweep, as after ``-m``.

    Raises:
        SerError: naming what is wrong, and the key that was probably meant.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise SerError(str(explain(error))) from error
    known = known_keys()
    points = []
    for override in parsed:
        _check_key(override, known)
        swept = several and override.is_sweep_override() and override.is_discrete_sweep()
        found = override.sweep_string_iterator() if swept else []
        points.append(list(dict.fromkeys(f"{override.get_key_element()}={point}" for point in found)))
    for number in range(max([1, *map(len, points)]) if several else 0):
        given = zip(parsed, points, strict=True)
        _compose(
            [o.input_line or "" if not p else p[number % len(p)] for o, p in given if p or not o.is_sweep_override()]
        )
    return [_joined(override, found) for override, found in zip(parsed, points, strict=True)]


def _joined(override: Override, points: Sequence[str]) -> str:
    line = override.input_line or ""
    if not points or len(points) == sum(1 for _ in override.sweep_string_iterator()):
        return line
    key = override.get_key_element()
    return f"{key}={','.join(point.removeprefix(f'{key}=') for point in points)}"


def _compose(overrides: Sequence[str]) -> DictConfig:
    if not (CONFIG_FOLDER / "train.yaml").is_file():
        raise SerError(f"there is no {CONFIG_FOLDER}/train.yaml; install ser-lab again.")
    register_resolvers()
    try:
        # Inside a run Hydra is there already.
        running = GlobalHydra.instance().is_initialized()
        with nullcontext() if running else initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose("train", overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: normalization=-1
        raise SerError(explain(error) or f"{error}; correct the overrides.") from error


def _check_key(override: Override, known: set[str]) -> None:
    """Refuse a key that no option of any group has; what ``+`` adds must at least begin with a known one."""
    key = override.key_or_group.partition("@")[0]
    top = re.split(r"[./]", key)[0]
    if top == "hydra" or override.is_delete():
        return
    adds = override.is_add() or override.is_force_add()
    closed = top in {entry.name for entry in fields(TrainPage) if entry.type in (Batches, Extraction, Paths)}
    if key not in known and not (adds and top in known and not closed):
        raise SerError(f"the key {key!r} was given, but the configuration has no such key; {nearest(key, known)}")


def known_keys() -> set[str]:
    """Every key that an override may name: groups, keys of the page, and keys of any option of a group."""
    page = OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / "train.yaml"))
    groups = {str(file.parent.relative_to(CONFIG_FOLDER)) for file in CONFIG_FOLDER.glob("**/*.yaml")} - {"."}
    found = {group for group in groups if not group.startswith(("hydra", "experiment/"))}
    found |= {key for key in _keys(page) if not key.startswith("defaults")}
    for group in found & groups - {"experiment"}:
        prefix = group.replace("/", ".")
        files: list[Any] = [
            OmegaConf.to_container(OmegaConf.load(file)) for file in (CONFIG_FOLDER / group).glob("*.yaml")
        ]
        keys = {key for content in files for key in _keys(content)}
        parts = [part for content in files for part in content.get("defaults", []) if "@" in str(part)]
        found |= {f"{prefix}.{key}" for key in keys}
        found |= {f"{prefix}.{part.partition('@')[2]}.{key}" for part in parts for key in keys}
    return found


def _keys(content: Any) -> Iterator[str]:
    """Dotted keys of nested dictionaries, inner nodes included."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        yield str(key)
        yield from (f"{key}.{inner}" for inner in _keys(value))


def nearest(key: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown key: the one that was probably meant, or all top-level ones."""
    known = sorted(known)
    if near := difflib.get_close_matches(key, known, n=1, cutoff=0.75):
        return f"did you mean {near[0]}?"
    last = {name: name.rpartition(".")[2] for name in known}
    leaf = difflib.get_close_matches(key.rpartition(".")[2], set(last.values()), n=1)
    # The page and the optimizer come before what is nested deeper.
    usual = [
        (name.count("."), not name.startswith("optimizer."), name) for name in known if leaf and last[name] == leaf[0]
    ]
    meant = [name for _, _, name in sorted(usual)]
    near = difflib.get_close_matches(key, known, n=1)
    if meant or near:
        return f"did you mean {(meant or near)[0]}?"
    return f"known are {', '.join(name for name in known if '.' not in name and '/' not in name) or 'none'}."


def instantiate(cfg: DictConfig, key: str, **keywords: Any) -> Any:
    """Hydra's ``instantiate`` of ``cfg[key]``; settings that the target refuses become a SerError.

    Args:
        cfg: the configuration.
        key: dotted key of a description with a ``_target_``; errors name it.
        keywords: further arguments of the target.

    Returns:
        The object; of a partial a function that raises the same errors.

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
