"""The ``ser`` program: exit codes, error messages, and the options that several subcommands share."""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from ser.errors import SerError, SyntheticVoiceWarning

PARTLY_FAILED = 3  # exit code: every readable file was processed, but some were not readable
USE, PREPARE, RESULTS = "Use a model", "Prepare", "Look at results"  # panels of the help

app = typer.Typer(
    help="Recognise emotions in recordings of speech, and examine the models that do it. "
    "[bold]ser train[/] and [bold]ser sweep[/] make them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Command = TypeVar("Command", bound=Callable[..., Any])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code; bad input is one line on standard error and 1 (2 for bad usage)."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_time=False, show_path=False)],
    )
    warnings.filterwarnings("ignore", category=SyntheticVoiceWarning)  # what answers says so on the screen
    for noisy in ("httpx", "matplotlib", "fontTools", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    words = list(sys.argv[1:] if argv is None else argv)
    commands = [found.callback.__name__ for found in app.registered_commands if found.callback]
    given = "".join(f"{word} " for word in words[:1] if word in commands)
    try:
        return int(app(words, prog_name="ser", standalone_mode=False) or 0)
    except SerError as error:
        message, code = str(error), 1
    except typer.TyperException as error:
        message, code = error.format_message(), error.exit_code
        if not message:  # the help was shown, since there was no command
            return code
        message = f"{message.rstrip('.')}; `ser {given}--help` shows what is expected."
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    return code


def command(panel: str, *examples: str) -> Callable[[Command], Command]:
    """Register a function as a subcommand, with examples below its help."""
    shown = "\n\n".join(["[bold]Examples[/]", *(f"[cyan]{escape(example)}[/]" for example in examples)])
    return app.command(epilog=shown, rich_help_panel=panel)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"ser {version('ser-lab')}")
        raise typer.Exit


def positive(value: float | None) -> float | None:
    """The value of an option that must be above zero.

    Raises:
        BadParameter: it is not.
    """
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} was given, expected a number above zero.")
    return value


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings as for ser train, such as data=iemocap.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="RUN",
        help="The model: run folder, .ckpt, exported folder or .onnx file; default: the one that comes with ser-lab.",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER", help="Folder or Hub id of the pretrained encoder, if it has moved; default: SER_ENCODER."
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="Where to compute: cpu, cuda or cuda:1.")]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Fetch the encoder that the model names from the Hugging Face Hub.")
]
NoGate = Annotated[bool, typer.Option("--no-gate", help="Give silence and noise an emotion, too.")]
Output = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table: .csv or .json.")]
Shrinkage = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", callback=positive, help="Weight of the training statistics beside a speaker's own."
    ),
]


@app.callback()
def ser(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself; the help text stands in ``app``."""
