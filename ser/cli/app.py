"""The ``ser`` program: exit codes, error messages, and what subcommands share: options, and the model they name."""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from typer.main import get_command

from ser.errors import EncoderNotHereError, SerError, SyntheticVoiceWarning, explain

if TYPE_CHECKING:
    from ser.inference.recognizer import Recognizer

log = logging.getLogger(__name__)

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


class ScreenHandler(RichHandler):
    """Shows log messages on a terminal as Rich does, in a file as one line each; of libraries only warnings."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out what libraries only inform of, such as each request to the Hub."""
        ours = record.name.partition(".")[0] in ("ser", "__main__")
        return (ours or record.levelno >= logging.WARNING) and bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message."""
        if self.console.is_terminal:
            super().emit(record)
        else:
            line = f"{record.levelname:8} {self.format(record)}"
            self.console.print(line, soft_wrap=True, markup=False, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code; bad input is one line on standard error and 1 (2 for bad usage)."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[ScreenHandler(console=Console(stderr=True), show_time=False, show_path=False)],
    )
    warnings.filterwarnings("ignore", category=SyntheticVoiceWarning)  # the commands print it
    try:
        return int(app(argv, prog_name="ser", standalone_mode=False) or 0)
    except SerError as error:
        message, code = str(error), 1
    except (OSError, RuntimeError) as error:
        if (reason := explain(error)) is None:
            raise
        message, code = reason, 1
    except typer.TyperException as error:
        message, code = error.format_message(), error.exit_code
        if not message:  # the help was shown, since there was no command
            return code
        message = f"{message.rstrip('.')}; `{_command_of(error, argv)} --help` shows what is expected."
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    return code


def _command_of(error: typer.TyperException, argv: Sequence[str] | None) -> str:
    """What a usage error is about: ``ser``, or the subcommand with it."""
    context = getattr(error, "ctx", None)
    if context:
        return str(context.command_path)
    first = (sys.argv[1:] if argv is None else argv)[0]  # an option without its value names no context
    return f"ser {first}" if first in get_command(app).commands else "ser"  # type: ignore[attr-defined]


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
    """The value of an option that must be above zero."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} was given, expected a number above zero.")
    return value


def option(metavar: str, text: str, **settings: Any) -> Any:
    """A typer option that takes a value."""
    return typer.Option(metavar=metavar, help=text, **settings)


def flag(name: str, text: str) -> Any:
    """A typer option without a value, and without its negation."""
    return typer.Option(name, help=text, metavar="")  # or typer writes <bool> beside it


def argument(metavar: str, text: str, **settings: Any) -> Any:
    """A typer argument."""
    return typer.Argument(metavar=metavar, help=text, **settings)


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


Overrides = Annotated[
    list[str] | None,
    argument("KEY=VALUE", "Settings as for ser train, such as data=iemocap.", autocompletion=complete_override),
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
    str | None, option("FOLDER", "Folder or Hub id of the pretrained encoder, if it has moved; default: SER_ENCODER.")
]
Device = Annotated[str, option("NAME", "Where to compute: cpu, cuda or cuda:1.")]
AllowDownload = Annotated[
    bool, flag("--allow-download", "Fetch the encoder that the model names from the Hugging Face Hub.")
]
NoGate = Annotated[bool, flag("--no-gate", "Give silence and noise an emotion, too.")]
Output = Annotated[Path | None, option("FILE", "Also write the table: .csv or .json.")]
Shrinkage = Annotated[
    float, option("SECONDS", "Weight of the training statistics beside a speaker's own.", callback=positive)
]


@app.callback()
def ser(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself; the help text stands in ``app``."""


def open_model(
    checkpoint: str | None, encoder: str | None = None, device: str = "cpu", allow_download: bool = False
) -> "Recognizer":
    """The model of a command, by default (with a message) that of the package; a terminal user may allow a download."""
    from ser.data.corpus import about  # noqa: PLC0415  --help needs no torch
    from ser.inference.recognizer import PRETRAINED, Recognizer  # noqa: PLC0415

    path = checkpoint or PRETRAINED
    try:
        recognizer = Recognizer.from_checkpoint(path, encoder, device, allow_download=allow_download)
    except EncoderNotHereError as missing:
        if not may_fetch(missing.encoder):
            raise
        recognizer = Recognizer.from_checkpoint(path, encoder, device, allow_download=True)
    if checkpoint is None:
        corpus, emotions = str(recognizer.config.plain["corpus"]), ", ".join(recognizer.emotions)
        text = "no --checkpoint: the model that comes with ser-lab answers (%s: %s); licence: %s"
        log.info(text, corpus.upper(), emotions, about(corpus).licence)
    return recognizer


def may_fetch_encoders(models: Sequence[str], encoder: str | None) -> bool:
    """Whether encoders may be fetched for models that are loaded later; asks where one is missing.

    Raises:
        EncoderNotHereError: no model can be used without.
    """
    from ser.inference.recognizer import Recognizer  # noqa: PLC0415

    missing = []
    for path in models:
        try:
            Recognizer.from_checkpoint(path, encoder)
        except EncoderNotHereError as error:
            if may_fetch(error.encoder):
                return True
            missing.append(error)
        except SerError:
            continue  # said where it is opened
    if len(missing) == len(models):
        raise missing[0]
    return False


def may_fetch(encoder: str) -> bool:
    """Whether the user, asked with the size, agrees to fetch an encoder; False without a terminal or the Hub."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    from rich.prompt import Confirm  # noqa: PLC0415

    from ser.encoders.weights import download_size  # noqa: PLC0415

    if (size := download_size(encoder)) is None:
        return False  # the Hub does not answer
    question = f"The encoder {encoder} is not on this machine. Fetch it from the Hugging Face Hub ({size})?"
    console = Console(stderr=True)
    try:
        return Confirm.ask(question, console=console, default=False)
    except EOFError:  # Ctrl-D
        console.print()  # what follows begins a line
        return False
