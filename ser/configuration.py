"""What Hydra needs to know before it composes, and what it does not check by itself."""

import difflib
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ser.errors import SerError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "conf"


def register_resolvers() -> None:
    """Make ``${ser.variant:model,overrides}`` known: the folder name that tells runs of one sweep apart."""
    OmegaConf.register_new_resolver("ser.variant", variant_name, replace=True)


def variant_name(model: str, overrides: str | None) -> str:
    """``enhanced_gru`` or ``enhanced_gru,adversarial_weight=0.01``: safe as one folder name."""
    return ",".join(filter(None, [model, overrides or ""])).replace("/", "-").replace(" ", "")


def check_keys(cfg: DictConfig, name: str = "train") -> None:
    """Refuse top-level keys that the configuration does not define; Hydra lets ``++typo=1`` pass.

    Raises:
        SerError: naming the unknown key and the nearest known one.
    """
    page = OmegaConf.load(CONFIG_FOLDER / f"{name}.yaml")
    groups = {group for entry in page.defaults if entry != "_self_" for group in entry}
    known = ({str(key) for key in page} | groups) - {"defaults"}
    for key in map(str, cfg):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(known))}."
            raise SerError(f"the key {key!r} was given, but {name}.yaml has no such key; {hint}")
