"""What a run was made of: the identity that decides whether its files may be reused, and the configuration it kept."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ser.config import CONFIG_FOLDER, irrelevant
from ser.errors import SerError
from ser.io import read_json

FORMAT = 2  # of run.json and of the files beside it
_PACKAGES = ("ser-lab", "torch", "torchaudio", "lightning", "transformers", "numpy", "pandas", "scikit-learn", "scipy")


def describe(cfg: DictConfig, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a run: every setting that may change its result, and ``facts`` measured from its input.

    ``facts`` are split, labels, audio, encoder ...; nested dictionaries are flattened.
    """
    settings = {key: value for key, value in leaves(OmegaConf.to_container(cfg, resolve=True)) if not irrelevant(key)}
    devices = cfg.trainer.get("devices", 1)
    processes = f"{len(devices) if OmegaConf.is_list(devices) else devices} x {cfg.trainer.get('num_nodes', 1)}"
    content = {"format": FORMAT, **settings, "processes": processes, **dict(leaves(dict(facts)))}
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def depends_on_seed(cfg: DictConfig) -> bool:
    """Whether another seed may change the result: of the network, of its split, or by a setting that refers to it."""
    drawn = any(getattr(get_object(cfg[group]["_target_"]), "seeded", True) for group in ("model", "protocol"))
    settings = OmegaConf.to_container(cfg, resolve=False)
    named = {key: value for key, value in settings.items() if key not in ("hydra", "paths", "logger")}  # type: ignore[union-attr]
    fewer = cfg.train_speakers is not None or cfg.train_fraction != 1  # drawn by the seed
    return drawn or fewer or cfg.features.get("finetune") is not None or "{seed}" in str(named)


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> str | None:
    """``batches.batch_size = 32, now 16``: the first entry in which two identities differ; None where they agree.

    Entries in ``ignored`` may differ, such as fold and seed among the runs of one variant.
    """
    for key in dict.fromkeys([*new, *old]):
        if key not in ignored and (key not in old or key not in new or old[key] != new[key]):
            before, now = (_shown(entry.get(key)) if key in entry else "absent" for entry in (old, new))
            return f"{key} = {before}, now {now}"
    return None


def run_record(cfg: DictConfig, identity: Mapping[str, Any], choices: Mapping[str, Any], overrides: list[str]) -> Any:
    """The content of ``run.json``: identity, and what it takes to carry the run out again."""
    return {
        "format": FORMAT,
        "identity": dict(identity),
        "overrides": overrides,
        "choices": dict(choices),
        "config": OmegaConf.to_container(cfg, resolve=True),
        "folder": str(Path.cwd()),
        "versions": installed_versions(),
    }


def read_identity(folder: Path) -> dict[str, Any]:
    """The identity in a run folder's ``run.json``.

    Raises:
        SerError: it is absent, damaged, or of another format.
    """
    record = read_json(folder / "run.json")
    if record is None or record.get("format") != FORMAT or not isinstance(record.get("identity"), dict):
        raise SerError(
            f"{folder} has no readable run.json of format {FORMAT}, so what the run was made of is unknown; run it "
            "again without resume=true, or under another variant=."
        )
    found: dict[str, Any] = record["identity"]
    return found


def stored_config(run: Path, folder: Path) -> tuple[DictConfig, dict[str, str], list[str]]:
    """Configuration, choices and overrides of a finished run, to carry it out again in ``folder``.

    The folder may come from a stranger, so nothing in it is resolved, and only what conf/ calls may be called.

    Raises:
        SerError: there is none, or it would call or write something else.
    """
    read_identity(run)
    record = read_json(run / "run.json") or {}
    config, choices, overrides = record.get("config"), record.get("choices"), record.get("overrides")
    if not (isinstance(config, dict) and isinstance(choices, dict) and isinstance(overrides, list)):
        raise SerError(f"{run}/run.json lacks config, choices or overrides; the file is damaged, so run it again.")
    check_stored(config, run / "run.json")
    old = str((config.get("paths") or {}).get("run", ""))
    config = _moved({**config, "logger": {}, "resume": False}, old, str(folder))
    config["paths"] = {**config.get("paths", {}), "run": str(folder)}
    written = {key: value for key, value in leaves(config) if re.fullmatch(r"paths\.cache|data\.(\w+\.)?root", key)}
    for key, value in written.items():
        place = Path(value).absolute() if isinstance(value, str) else Path.cwd()
        if not (place.exists() or place.is_relative_to(Path.cwd())):
            raise SerError(
                f"{run}/run.json would make the folder {value} ({key}); make it yourself if you trust this run."
            )
    for key, value in leaves(config.get("callbacks", {})):
        place = Path(value) if isinstance(value, str) else Path()
        if ".." in place.parts or (place.is_absolute() and not place.is_relative_to(folder)):
            raise SerError(
                f"{run}/run.json would write to {value} (callbacks.{key}), expected paths in the run folder."
            )
    return OmegaConf.create(config), {str(key): str(value) for key, value in choices.items()}, list(map(str, overrides))


@contextmanager
def where_it_ran(run: Path) -> Iterator[None]:
    """Inside the block, the working folder of a finished run, where relative paths in its configuration start."""
    folder = Path(str((read_json(run / "run.json") or {}).get("folder")))
    with chdir(folder) if folder.is_dir() else nullcontext():
        yield


def check_stored(content: Any, source: Path) -> None:
    """Refuse a stored configuration that would call anything but what the options of ``conf/`` call.

    A run keeps resolved settings. An interpolation in them is not its own, and could build a target when it is read.
    """
    known = {
        value
        for file in CONFIG_FOLDER.rglob("*.yaml")
        for key, value in leaves(OmegaConf.to_container(OmegaConf.load(file), resolve=False), lists=True)
        if key.split(".")[-1] == "_target_"
    }
    for key, value in leaves(content, lists=True):
        if "${" in key or (isinstance(value, str) and "${" in value):
            raise SerError(
                f"{source} holds the interpolation {_shown(value)}, expected resolved settings; do not use it."
            )
        if "_target_" in key.split(".") and not (isinstance(value, str) and value in known):
            raise SerError(
                f"{source} would call {_shown(value)}, expected only what the options in {CONFIG_FOLDER} call; if you "
                "trust it, add an option with that _target_ there, or start the run with `ser train`."
            )


def leaves(content: Any, prefix: str = "", lists: bool = False) -> Iterator[tuple[str, Any]]:
    """Every value of nested dictionaries, and of ``lists``, under its dotted key; an empty one is a value."""
    if isinstance(content, dict | list if lists else dict) and (content or not prefix):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key), lists)
    else:
        yield prefix, content


def _moved(content: Any, old: str, new: str) -> Any:
    """Nested content with paths below ``old`` made paths below ``new``."""
    if isinstance(content, dict):
        return {key: _moved(value, old, new) for key, value in content.items()}
    if isinstance(content, list):
        return [_moved(value, old, new) for value in content]
    below = isinstance(content, str) and old and (content == old or content.startswith(f"{old}/"))
    return new + content[len(old) :] if below else content


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, bool | None) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def installed_versions() -> dict[str, str]:
    """The version of each package whose version may matter, of those that are installed."""
    found = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
