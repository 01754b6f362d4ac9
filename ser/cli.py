"""The ``ser`` command: one file a subcommand under ``ser/commands``, imported when it is asked for."""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from rich import get_console
from rich.logging import RichHandler
from rich.markup import escape

from ser.errors import SerError

COMMANDS = {
    "extract": "turn a corpus into cached frames, ahead of training",
    "predict": "recognise the emotion of files and folders",
    "listen": "recognise the emotion of a microphone or a file as it plays",
    "demo": "serve a page for microphone, files and folders in the browser",
    "export": "write a trained model as ONNX or as a Hugging Face folder",
    "report": "write one HTML page about a run, a sweep or a prediction table",
    "compare": "set two results beside each other, with paired tests",
    "probe": "test how much of the speaker the features of finished runs tell",
    "figures": "draw finished runs again from their tables",
    "reproduce": "carry out a finished run again and say whether the figures agree",
    "doctor": "check installation, corpus, encoder and cache, and say what to do",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code; bad input is one sentence and exit code 1."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="ser", description=__doc__)
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if argv and argv[0] == name:  # only the asked command pays for its imports
            importlib.import_module(f"ser.commands.{name}").add_arguments(subparser)
    arguments = parser.parse_args(argv)
    if arguments.version:
        return _print_version()
    if arguments.command is None:
        parser.print_help()
        return 2
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_time=False, show_path=False)]
    )
    for noisy in ("httpx", "matplotlib", "fontTools", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return int(importlib.import_module(f"ser.commands.{arguments.command}").run(arguments) or 0)
    except SerError as error:
        get_console().print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        return 1
    except KeyboardInterrupt:
        get_console().print("interrupted")
        return 130


def _print_version() -> int:
    from importlib.metadata import version  # noqa: PLC0415

    get_console().print(f"ser {version('ser')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
