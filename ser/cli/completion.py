"""What the Tab key offers for KEY=VALUE: the groups of conf/ and their options."""

from collections.abc import Mapping

import typer


def complete_override(context: typer.Context, incomplete: str) -> list[str]:
    """The keys and options that begin as ``incomplete`` does; of a list, such as ``model=gru,``, its last entry.

    A group is offered by its key alone while others match, too: a shell adds a space behind what is unique.
    Bash hands ``model=gru`` over in three parts and wants the last one completed, other shells as a whole.
    """
    from ser.config import CONFIG_FOLDER  # noqa: PLC0415  --help needs no Hydra
    from ser.config.suggestions import options_of_groups  # noqa: PLC0415

    groups = options_of_groups(CONFIG_FOLDER)
    if context.command.name == "sweep":
        groups = {"variant": [*groups["model"], *groups["experiment"]], **groups}
    before = [str(word) for word in context.params.get("overrides") or []]
    if "=" in incomplete:
        key, _, value = incomplete.partition("=")
        return [f"{key}={found}" for found in _options(groups, key, value)]
    if before[-1:] == ["="]:
        return _options(groups, before[-2] if len(before) > 1 else "", incomplete)
    if not incomplete and before and before[-1] in groups:
        return _options(groups, before[-1], "")
    keys = [key for key in groups if key.startswith(incomplete)]
    return [f"{key}={option}" for key in keys for option in groups[key]] if len(keys) == 1 else [f"{k}=" for k in keys]


def _options(groups: Mapping[str, list[str]], key: str, value: str) -> list[str]:
    """The lists that ``value`` can become by another option of the group ``key``."""
    first, comma, last = value.rpartition(",")
    taken = first.split(",")
    return [
        f"{first}{comma}{option}" for option in groups.get(key, ()) if option.startswith(last) and option not in taken
    ]
