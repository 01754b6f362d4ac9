"""Compose the training configuration outside Hydra's own entry point."""

import argparse
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from ser.config import CONFIG_FOLDER, check_keys, check_values, register_resolvers
from ser.errors import SerError
from ser.sentences import composition_sentence, does_not_compose


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Take the same words as train.py: ``data=ravdess data.root=... features=whisper_base``."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for train.py, e.g. data=iemocap")


def compose_config(overrides: Sequence[str], name: str = "train") -> DictConfig:
    """The configuration that train.py would run with.

    Raises:
        SerError: the configuration folder is not beside the package, or an override is not valid.
    """
    if not (CONFIG_FOLDER / f"{name}.yaml").is_file():
        raise SerError(
            f"there is no configuration in {CONFIG_FOLDER}; run from a checkout installed with pip install -e ."
        )
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
