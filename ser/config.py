"""What Hydra needs to know before it composes, and what it does not check by itself."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ser.errors import SerError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "conf"

# Where a number leads nowhere although its type is right: least and largest value, None for no limit.
_RANGES: dict[str, tuple[float, float | None]] = {
    "seed": (0, 2**32 - 1),  # numpy's
    "adversarial_weight": (0, None),
    "augmentation.mixup_alpha": (0, None),
    "l2_reg": (0, None),
    "batches.batch_size": (1, None),
    "batches.max_frames": (1, None),
    "batches.max_seconds": (0.001, None),
    "batches.workers": (0, None),
    "extraction.workers": (1, None),
    "features.mels": (1, None),
    "features.hop_seconds": (0.001, 1),
    "features.average": (1, None),
    "features.finetune_lr_factor": (0, None),
    "model.hidden_size": (2, None),  # the heads halve it
    "model.layers": (1, None),
    "model.bottleneck": (1, None),
    "model.noise": (0, None),
    "model.dropout": (0, 1),
    "optimizer.lr": (0, None),
    "lr_schedule.warmup_steps": (0, None),
    "callbacks.early_stopping.patience": (1, None),
    "trainer.max_epochs": (1, None),  # the schedules need an end
}
_FREE = ("trainer.devices",)  # a number, a list or auto
_NULLABLE = (
    "features.layer", "model.bottleneck", "trainer.gradient_clip_val", "batches.max_frames", "batches.max_seconds",
)  # fmt: skip


def register_resolvers() -> None:
    """Make ``${ser.variant:model,overrides}`` known: the folder name that tells runs of one sweep apart."""
    OmegaConf.register_new_resolver("ser.variant", variant_name, replace=True)


def variant_name(model: str, overrides: str | None) -> str:
    """``enhanced_gru`` or ``enhanced_gru,adversarial_weight=0.01``: safe as one folder name."""
    return ",".join(filter(None, [model, overrides or ""])).replace("/", "-").replace(" ", "")


def compose_config(overrides: Sequence[str], name: str = "train") -> DictConfig:
    """The configuration that train.py would run with.

    Raises:
        SerError: the configuration folder is not beside the package, or an override is not valid.
    """
    if not (CONFIG_FOLDER / f"{name}.yaml").is_file():
        raise SerError(
            f"there is no configuration in {CONFIG_FOLDER}; run from a checkout installed with pip install -e ."
        )
    from hydra import compose, initialize_config_dir  # noqa: PLC0415  quick start of commands that need none
    from hydra.core.hydra_config import HydraConfig  # noqa: PLC0415

    from ser.sentences import composition_sentence, does_not_compose  # noqa: PLC0415

    register_resolvers()
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            cfg = compose(name, overrides=list(overrides), return_hydra_config=True)
    except Exception as error:
        if not does_not_compose(error):
            raise
        raise SerError(composition_sentence(error)) from error
    HydraConfig.instance().set_config(cfg)
    plain = cfg.copy()
    with open_dict(plain):  # the composed page is closed to new and removed keys
        plain.pop("hydra")
    check_keys(plain, name)
    check_values(plain, cfg.hydra.runtime.choices, name)
    return plain


def check_keys(cfg: DictConfig, name: str = "train") -> None:
    """Refuse keys of the top-level page that it does not define; Hydra lets ``++typo=1`` pass.

    Raises:
        SerError: naming the unknown key and the nearest known one.
    """
    page = _load(CONFIG_FOLDER / f"{name}.yaml")
    _refuse_unknown(map(str, cfg), _page_keys(page), f"{name}.yaml")
    for section, content in page.items():
        if isinstance(content, dict) and isinstance(cfg.get(section), DictConfig):
            given = (f"{section}.{key}" for key in cfg[section])
            _refuse_unknown(given, {f"{section}.{key}" for key in content}, f"{name}.yaml")


def check_targets(cfg: Any, source: Path) -> None:
    """Refuse a configuration from a run folder that would call anything but what the options of ``conf/`` call.

    A command line is its author's own; a folder may come from a stranger, and ``_target_`` can name any function.

    Args:
        cfg: the configuration, unresolved.
        source: where it was read from.

    Raises:
        SerError: naming the target.
    """
    known = {target for file in CONFIG_FOLDER.rglob("*.yaml") for target in _targets(_load(file))}
    for target in _targets(OmegaConf.to_container(cfg, resolve=False)):
        if target not in known:
            raise SerError(
                f"{source} would call {target}, expected only what the options in {CONFIG_FOLDER} call; if you trust "
                "it, add an option with that _target_ there, or start the run with train.py."
            )


def _targets(content: Any) -> Iterator[Any]:
    """The values of every ``_target_`` in nested content."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from [str(value)] if key == "_target_" else _targets(value)
    elif isinstance(content, list):
        for value in content:
            yield from _targets(value)


def check_values(cfg: DictConfig, choices: Mapping[str, Any], name: str = "train") -> None:
    """Refuse values of another type than the shipped ones, and numbers that lead nowhere (``fold=abc``).

    Args:
        cfg: the composed configuration.
        choices: which option of each group it was composed of (``hydra.runtime.choices``).
        name: the top-level page.

    Raises:
        SerError: naming the key, its value and what is expected.
    """
    defaults = dict(_defaults(choices, name))
    for key, default in defaults.items():
        if key in _FREE or isinstance(default, str | None):
            continue
        given = OmegaConf.select(cfg, key, default=default)
        expected = _expected(given, default)
        if expected and not (given is None and key in _NULLABLE):
            raise SerError(f"{key}={_shown(given)} was given, expected {expected}; the default is {_shown(default)}.")
    for key, (low, high) in _RANGES.items():
        given = OmegaConf.select(cfg, key)
        parent = key.rpartition(".")[0]
        optional = defaults.get(key) is None or key in _NULLABLE
        if given is None and (optional or (parent and OmegaConf.select(cfg, parent) is None)):
            continue
        if not _is_number(given) or given < low or (high is not None and given > high):
            expected = f"a number from {low} to {high}" if high is not None else f"a number of at least {low}"
            raise SerError(f"{key}={_shown(given)} was given, expected {expected}; "
                           f"the default is {_shown(defaults.get(key))}.")  # fmt: skip


def known_keys(prefix: str = "", name: str = "train") -> set[str]:
    """Keys that may stand after ``prefix`` (``optimizer.`` or nothing) in any option of its group."""
    page = _load(CONFIG_FOLDER / f"{name}.yaml")
    if not prefix:
        return _page_keys(page)
    found = {f"{group}.{key}" for group, content in page.items() if isinstance(content, dict) for key in content}
    for file in CONFIG_FOLDER.glob(f"{prefix.partition('.')[0]}/*.yaml"):
        found |= {key for key, _ in _leaves(_load(file), f"{file.parent.name}.")}
    return {key for key in found if key.startswith(prefix)}


def nearest(key: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown key: the one that was meant, or all."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}."


def _refuse_unknown(given: Iterable[str], known: set[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise SerError(f"the key {key!r} was given, but {where} has no such key; {nearest(key, known)}")


def _page_keys(page: Mapping[str, Any]) -> set[str]:
    groups = {group for entry in page["defaults"] if isinstance(entry, dict) for group in entry}
    return (set(page) | groups) - {"defaults"}


def _defaults(choices: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Every shipped key with its value, unresolved: of the page and of the chosen options."""
    yield from _leaves(_load(CONFIG_FOLDER / f"{name}.yaml"), "")
    for group, option in choices.items():
        own = group not in ("experiment", "hydra") and "/" not in group
        if own and (CONFIG_FOLDER / group / f"{option}.yaml").is_file():
            yield from _option(group, str(option))


def _option(group: str, option: str) -> Iterator[tuple[str, Any]]:
    """Keys of a group's option, those of the options it builds on first."""
    content = _load(CONFIG_FOLDER / group / f"{option}.yaml")
    for base in content.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            yield from _option(group, base)
    yield from _leaves(content, f"{group}.")


def _leaves(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key != "defaults":
            yield f"{prefix}{key}", value


def _load(file: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _expected(given: Any, default: Any) -> str | None:
    """What should have been given in place of ``given``; None where it is fine."""
    if isinstance(default, bool):
        return None if isinstance(given, bool) else "true or false"
    if isinstance(default, list):
        return None if given is None or OmegaConf.is_list(given) else "a list in brackets"
    if isinstance(default, int):
        several = OmegaConf.is_list(given)
        return None if several or (_is_number(given) and not isinstance(given, float)) else "a whole number"
    return None if _is_number(given) else "a number"


def _shown(value: Any) -> str:
    """As it would be written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
