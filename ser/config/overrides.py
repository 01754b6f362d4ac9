"""Overrides as typed on a command line: what they compose, and the key that was probably meant."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ser.config.page import CONFIG_FOLDER, Batches, Extraction, Paths, TrainPage, register_resolvers
from ser.config.suggestions import nearest_key, nearest_option, options_of_groups
from ser.errors import SerError, explain


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration that ``ser train`` would run with; it becomes Hydra's current one.

    Raises:
        SerError: conf/ is missing, or an override is not valid.
    """
    overrides = [quoted(word) for word in overrides]
    check_overrides(overrides)
    cfg = _compose(overrides)
    HydraConfig.instance().set_config(cfg)
    return _without_hydra(cfg)


def quoted(word: str) -> str:
    """An override with quotes around what is not ASCII, such as a path or a column's name: Hydra refuses it bare.

    Values of lists and mappings are quoted one by one; what is quoted already stays. Names before a colon cannot be
    quoted: a mapping that has such is made of a text by OmegaConf's own resolver.
    """
    key, sign, value = word.partition("=")
    if value.isascii() or "${" in value or re.search(r"[\ud800-\udfff]", value):  # bytes that are no UTF-8 are refused
        return word
    if value.startswith("{") and not "".join(re.findall(r"[{,]([^,:{}]*):", value)).isascii():
        text = re.sub(r"([\"'])", r"\\\1", re.sub(r":\s*", ": ", value))
        return f"{key}{sign}'${{oc.create:\"{text}\"}}'"

    def element(found: re.Match[str]) -> str:
        name, text = found["name"] or "", found["text"]
        return found[0] if text[0] in "\"'" or text.isascii() else f'{name}"{text.strip()}"'

    name = r"(?P<name>[^,:\[\]{}\"']+:\s*)?" if value.startswith("{") else "(?P<name>)"
    text = r"(?P<text>\"[^\"]*\"|'[^']*'|[^,\[\]{}\"'\s][^,\[\]{}\"']*)"
    return f"{key}{sign}{re.sub(name + text, element, value)}"


def compose_options(options: Mapping[str, Any]) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration of these options of groups with their own values, and the option of every group in it."""
    page = compose_page([f"{group}={option}" for group, option in options.items()])
    return _without_hydra(page), {str(group): choice for group, choice in page.hydra.runtime.choices.items()}


def compose_page(overrides: Sequence[str]) -> DictConfig:
    """The page and the options of all groups, with Hydra's own settings under ``hydra``.

    Raises:
        SerError: conf/ is missing, or Hydra refuses an override.
    """
    if not (CONFIG_FOLDER / "train.yaml").is_file():
        raise SerError(f"there is no {CONFIG_FOLDER}/train.yaml; install ser-lab again.")
    register_resolvers()
    try:
        # Inside a run Hydra is there already.
        running = GlobalHydra.instance().is_initialized()
        with nullcontext() if running else initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose("train", overrides=list(overrides), return_hydra_config=True)
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        raise SerError(
            f"{group}={option} was given, but the group {group} has no such option; "
            f"{nearest_option(group, option, CONFIG_FOLDER)}"
        ) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: normalization=-1
        raise SerError(explain(error) or f"{error}; correct the overrides.") from error


def _without_hydra(page: DictConfig) -> DictConfig:
    plain = page.copy()
    with open_dict(plain):  # the composed page is closed to removed keys
        plain.pop("hydra")
    return plain


def check_overrides(overrides: Sequence[str], several: bool = False) -> list[str]:
    """Refuse overrides that Hydra would not compose; return them with the repeated points of a sweep dropped.

    With ``several``, as after ``-m``, commas make a sweep.
    """
    refuse_bare(overrides)
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise SerError(str(explain(error))) from error
    known = known_keys()
    known = known | {  # of an option that is added under a name of its own: +data@data.second=manifest
        f"{override.package}{key.removeprefix(override.key_or_group)}"
        for override in parsed
        if override.is_add() and override.package
        for key in known
        if key.startswith(f"{override.key_or_group}.")
    }
    points: list[list[str]] = []
    for override in parsed:
        _check_key(override, known)
        swept = several and override.is_sweep_override() and override.is_discrete_sweep()
        found = override.sweep_string_iterator() if swept else []
        points.append(list(dict.fromkeys(f"{override.get_key_element()}={point}" for point in found)))
    for number in range(max([1, *map(len, points)]) if several else 0):
        given = zip(parsed, points, strict=True)
        page = _compose(
            [o.input_line or "" if not p else p[number % len(p)] for o, p in given if p or not o.is_sweep_override()]
        )
    if several:
        variant = OmegaConf.to_container(page, resolve=False)["variant"]  # type: ignore[call-overload, index]
        keys = [o.get_key_element() for o, p in zip(parsed, points, strict=True) if len(p) > 1]
        keys += sorted(page.hydra.sweeper.get("params") or {})  # the trials of a search
        _refuse_one_folder(variant, keys)
        if page.hydra.runtime.choices["hydra/launcher"] != "submitit_slurm":  # Slurm starts the processes itself
            refuse_processes(page, "a sweep")
    return [_joined(override, found) for override, found in zip(parsed, points, strict=True)]


def _compose(overrides: Sequence[str]) -> DictConfig:
    """The composed page; if only other options of its group have a key, the error message names them."""
    try:
        return compose_page(overrides)
    except SerError as error:
        for key in (override.lstrip("+").partition("=")[0] for override in overrides):
            entry = re.search(rf"'{re.escape(key)}'.*Key '(.+)' is not in struct", str(error))
            if entry and entry[1] != key.rpartition(".")[2]:
                raise SerError(
                    f"{key} was given with {entry[1]}, which its own value does not have; write ++{key}=... to add to "
                    "it (an entry of null is left out)."
                ) from error
            if f"'{key}'" in str(error) and (options := _options_with(key)):
                raise SerError(
                    f"the key {key!r} was given, which needs {key.replace('/', '.').partition('.')[0]}="
                    f"{' or '.join(options)}; add that, or leave the key out."
                ) from error
        raise


def _options_with(key: str) -> list[str]:
    """The options of a key's group that have it, of their own, inherited or as a nested group."""
    group, _, inner = key.replace("/", ".").partition(".")
    content = _options(group)

    def has(name: str) -> bool:
        parts = content.get(name, {}).get("defaults", [])
        own = {part for entry in parts if isinstance(entry, dict) for part in entry}  # nested groups
        own |= set() if "/" in key else set(_keys(content.get(name, {})))
        return inner in own or any(has(part) for part in parts if isinstance(part, str) and part != "_self_")

    return [name for name in sorted(content) if has(name)]


def _refuse_one_folder(variant: Any, swept: Sequence[str]) -> None:
    """Refuse a sweep whose runs would replace each other, since a variant that was named does not tell them apart."""
    apart = ("variant", "fold", "seed", "name", "experiment")
    keys = [key for key in swept if key not in apart and not key.startswith(("paths.", "hydra"))]
    named = {"variant", "name", "experiment", "paths.run", "paths.outputs"} & set(swept) or "${" in str(variant)
    if keys and not named:
        source = f"hydra:runtime.choices.{keys[0]}" if (CONFIG_FOLDER / keys[0]).is_dir() else keys[0]
        raise SerError(
            f"the runs of this sweep differ in {', '.join(keys)} and all have the variant {variant}, so that each "
            f"would replace the one before; give their folders names that differ: 'variant={variant}-${{{source}}}'."
        )


def refuse_processes(cfg: DictConfig, what: str) -> None:
    """Refuse several devices or computers for a training in ``what``: each process would start the command anew.

    Raises:
        SerError: ``trainer`` asks for more than one.
    """
    for key in ("devices", "num_nodes"):
        value = cfg.trainer.get(key, 1)
        if not (len(value) == 1 if OmegaConf.is_list(value) else str(value) == "1"):
            raise SerError(
                f"trainer.{key}={value} was given, but only a single `ser train` can use several; {what} takes "
                "trainer=gpu or trainer=cpu, with trainer.devices=1."
            )


def _joined(override: Override, points: Sequence[str]) -> str:
    line = override.input_line or ""
    if not points or len(points) == sum(1 for _ in override.sweep_string_iterator()):
        return line
    key = override.get_key_element()
    return f"{key}={','.join(point.removeprefix(f'{key}=') for point in points)}"


def refuse_bare(overrides: Iterable[str], key_of_options: str = "") -> None:
    """Refuse an experiment or model without its key, and a key with dashes, and say how to write them.

    ``key_of_options`` is the key by which a command chooses experiments and models; by default their own keys.
    """
    groups = options_of_groups(CONFIG_FOLDER)
    options = {name: key_of_options or group for group in ("model", "experiment") for name in groups[group]}
    for word in overrides:
        if (shown := os.fsencode(word).decode("utf-8", "backslashreplace")) != word:
            raise SerError(f"{shown} was given, expected UTF-8; rename it, or give a link to it (ln -s).")
        key, _, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and key in known_keys():  # Hydra's own options are none of them
            raise SerError(f"{word} was given, expected key=value; write {key}={value or '...'}, without dashes.")
        if word in options:
            raise SerError(f"{word!r} was given, expected key=value; write {options[word]}={word}.")


def _check_key(override: Override, known: set[str]) -> None:
    """Refuse a key that no option of any group has; what ``+`` adds must at least begin with a known one."""
    key = override.key_or_group.partition("@")[0]
    top = re.split(r"[./]", key)[0]
    if top == "hydra" or override.is_delete():
        return
    adds = override.is_add() or override.is_force_add()
    closed = top in {entry.name for entry in fields(TrainPage) if entry.type in (Batches, Extraction, Paths)}
    if key == "baseline":
        raise SerError("baseline was given, which belongs to `ser sweep`; run that, or leave it out.")
    if key not in known and not (adds and top in known and not closed):
        meant = nearest_key(key, known, CONFIG_FOLDER)
        raise SerError(f"the key {key!r} was given, but the configuration has no such key; {meant}")


@cache
def known_keys() -> set[str]:
    """Every key that an override may name: groups, keys of the page, and keys of any option of a group."""
    page = OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / "train.yaml"))
    groups = options_of_groups(CONFIG_FOLDER).keys()
    found = groups | {key for key in _keys(page) if not key.startswith("defaults")}
    for group in groups - {"experiment"}:
        prefix = group.replace("/", ".")
        options = _options(group).values()
        keys = {key for content in options for key in _keys(content)}
        parts = [part for content in options for part in content.get("defaults", []) if "@" in str(part)]
        found |= {f"{prefix}.{key}" for key in keys}
        found |= {f"{prefix}.{part.partition('@')[2]}.{key}" for part in parts for key in keys}
    return found


def _options(group: str) -> dict[str, Any]:
    """The content of each option of a group."""
    return {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in (CONFIG_FOLDER / group).glob("*.yaml")}


def _keys(content: Any) -> Iterator[str]:
    """Dotted keys of nested dictionaries, inner nodes included."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        yield str(key)
        yield from (f"{key}.{inner}" for inner in _keys(value))
