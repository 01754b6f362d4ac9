"""The configuration: its page, overrides of it, and the objects that it describes."""

from ser.config.overrides import (
    check_overrides,
    compose_config,
    compose_options,
    compose_page,
    quoted,
    refuse_bare,
    refuse_processes,
)
from ser.config.page import CONFIG_FOLDER, instantiate, irrelevant, name_parts, short_setting, variant_name

__all__ = [
    "CONFIG_FOLDER",
    "check_overrides",
    "compose_config",
    "compose_options",
    "compose_page",
    "instantiate",
    "irrelevant",
    "name_parts",
    "quoted",
    "refuse_bare",
    "refuse_processes",
    "short_setting",
    "variant_name",
]
