"""Turn a corpus into cached frames: ``ser extract data=iemocap data.root=... features=hubert_base``."""

import argparse

from rich import get_console
from rich.table import Table

from ser.commands.composing import add_overrides, compose_config
from ser.data.extraction import extract
from ser.sentences import instantiate

PARTLY_FAILED = 3  # exit code: everything readable was extracted, but some files were left out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration's words."""
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    """Extract what is missing and list what failed."""
    cfg = compose_config(arguments.overrides)
    corpus = instantiate(cfg.data)
    result = extract(corpus, instantiate(cfg.features), cfg.paths.cache, **cfg.extraction)
    if not result.failures:
        return 0
    table = Table("utterance", "reason", title=f"{len(result.failures)} of {len(corpus.utterances)} left out")
    for identifier, reason in result.failures.items():
        table.add_row(identifier, reason)
    get_console().print(table)
    return PARTLY_FAILED
