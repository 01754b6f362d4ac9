"""Draw finished runs again from their tables: ``ser figures outputs/ravdess-logmel``."""

import argparse

from rich import get_console

from ser.analysis import write_figures
from ser.evaluation.runs import find_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs."""
    parser.add_argument("path", metavar="RUN_OR_SWEEP", help="run folder, or folder of runs")


def run(arguments: argparse.Namespace) -> int:
    """Draw every run into its ``figures/``."""
    for entry in find_runs(arguments.path):
        write_figures(entry.folder)
        get_console().print(str(entry.folder / "figures"), highlight=False, soft_wrap=True, markup=False)
    return 0
