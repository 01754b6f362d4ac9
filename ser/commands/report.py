"""One self-contained HTML page: ``ser report outputs/ravdess-logmel``."""

import argparse
from pathlib import Path

from rich import get_console

from ser.evaluation.report.report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to report on, and where to."""
    parser.add_argument("path", metavar="RUN_OR_SWEEP", help="run folder, folder of runs, or prediction table (.csv)")
    parser.add_argument("--output", metavar="FILE", help="the page (default: report.html in the folder)")
    parser.add_argument("--baseline", metavar="VARIANT", help="of a sweep: what the others are compared with")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    output = None if arguments.output is None else Path(arguments.output)
    page = write_report(arguments.path, output, arguments.baseline)
    get_console().print(str(page), highlight=False, soft_wrap=True, markup=False)
    return 0
