"""The exception whose message is for users, and one-line messages for exceptions of other libraries."""

import errno
import math
import re
import signal
from typing import Literal, TypeAlias

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # exit codes, as a shell has them
_DISK = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EIO,
         errno.ENAMETOOLONG)  # fmt: skip
# Libraries whose own error classes say that they were used wrongly, by the module that defines them.
_USAGE_ERRORS = ("lightning.fabric.utilities.exceptions", "wandb.errors")

AudioFault: TypeAlias = Literal["empty", "undecodable", "truncated", "not_finite", "short", "rate", "loud"]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # line breaks, escape sequences of a terminal and the like
_ENDS_OF_SEARCHES = ("No trials are completed", "`Study.stop` is supposed")  # Optuna, after failed trials
_NO_RESULT = (
    "the search has no result, because every trial failed, or the last one of a grid; correct the settings that the "
    "messages above name."
)


class SyntheticVoiceWarning(UserWarning):
    """The model was trained on a synthetic voice only; commands print this themselves."""


class SerError(Exception):
    """Bad input in one line: what was given, what was expected, what to do.

    Entry points print the message without a traceback and exit with code 1. Every other exception is a defect of the
    program and keeps its traceback. Constructors raise it for a setting out of range, and whatever "refuses" raises it;
    their docstrings do not say so again.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))  # it quotes what was given, which may have line breaks


class AudioError(SerError):
    """A recording cannot be used; pages in other languages word it by its ``fault``."""

    def __init__(self, message: str, fault: AudioFault = "undecodable") -> None:  # a default: it crosses processes
        super().__init__(message)
        self.fault = fault


class EncoderNotHereError(SerError):
    """A model needs an encoder of the Hugging Face Hub that is not on this machine, and a download was not allowed."""

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder
        super().__init__(
            f"the model needs the encoder {encoder} of the Hugging Face Hub, which is not on this machine; name its "
            "local folder with --encoder FOLDER or SER_ENCODER, or add --allow-download to fetch it."
        )


def check_number(
    name: str, value: object, low: float, high: float = math.inf, *, above: bool = False, whole: bool = False
) -> None:
    """Refuse a setting that is no finite number from ``low`` to ``high``; with ``above``, ``low`` is refused, too.

    ``name`` is the setting as the user writes it, such as ``model.dropout``.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        within = low <= value <= high and abs(value) < math.inf and not (above and value == low)
        if within and (not whole or float(value).is_integer()):
            return
    kind = "a whole number" if whole else "a number"
    if high == math.inf:
        expected = f"{kind} above {low:.12g}" if above else f"{kind} of at least {low:.12g}"
    else:
        expected = (
            f"{kind} above {low:.12g} and at most {high:.12g}" if above else f"{kind} from {low:.12g} to {high:.12g}"
        )
    raise SerError(f"{name}={value} was given, expected {expected}.")


def one_line(text: str) -> str:
    """``text`` with control characters as Python writes them: a line break as backslash and n."""
    return _CONTROL.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def explain(error: BaseException) -> str | None:
    """One line for the user, or None where the error is a defect of the program and needs its traceback."""
    reason = _explain(error)
    return None if reason is None else one_line(reason)


def _explain(error: BaseException) -> str | None:
    cause: BaseException | None = error
    while cause is not None:  # Hydra and others wrap what a constructor raises
        if isinstance(cause, SerError):
            return str(cause)
        cause = cause.__cause__
    if (invalid := _explain_hydra(error)) is not None:
        return invalid
    if isinstance(error, OSError):
        return _explain_torchaudio(error) or _explain_disk(error)
    if type(error).__name__ == "OutOfMemoryError":
        return f"the device's memory is full ({first_line(error)}); lower batches.batch_size or set batches.max_frames."
    if type(error).__module__.startswith(_USAGE_ERRORS) or str(error).startswith("Early stopping conditioned"):
        return f"{' '.join(str(error).split()).rstrip('. ')}; correct the trainer, callbacks or logger settings."
    return _NO_RESULT if str(error).startswith(_ENDS_OF_SEARCHES) else _explain_torchaudio(error)


def first_line(error: BaseException) -> str:
    """The first line of an error message, else the name of its class; no full stop, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()[:200].rstrip(". ")


def _explain_torchaudio(error: BaseException) -> str | None:
    """One line on a torchaudio whose compiled part does not fit the installed torch; None for any other error."""
    line = first_line(error)
    if not isinstance(error, OSError | RuntimeError) or "torchaudio" not in line.lower():
        return None
    if not any(sign in line for sign in ("load this library", "undefined symbol", "different CUDA")):
        return None
    return (
        f"torchaudio cannot be loaded ({line}), expected the version and build (CPU or CUDA) of torch; install both "
        "from one index, such as by pip install --force-reinstall torch torchaudio."
    )


def _explain_disk(error: OSError) -> str | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "the disk is full, expected room for the run's files and for temporary ones; free space and run the same "
            "command again, with resume=true where it had trained."
        )
    if error.errno in _DISK and error.filename:
        return (
            f"{error.filename} could not be read or written ({error.strerror}), expected a writable folder or a "
            "readable file; choose another (of results: paths.outputs=), or correct its permissions."
        )
    return None


def _explain_hydra(error: BaseException) -> str | None:
    """What is wrong with a configuration; None where the error is not Hydra's."""
    # Hydra is loaded wherever its errors can occur; prediction alone does not pay for it.
    from hydra.errors import HydraException, OverrideParseException  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    if isinstance(error, OverrideParseException):
        if "=" not in str(error.override):
            return f"{error.override!r} was given, expected key=value; for example fold=1."
        lines = error.message.splitlines()
        reason = next((line for line in lines if not line.startswith(("Error parsing override", "See http"))), "")
        key, _, value = str(error.override).partition("=")
        given = f"{error.override} was given, expected key=value ({reason})"
        if value.startswith(("{", "[")):
            return f"{given}; quote each value inside that has such signs: {{a: 'x (y)'}}."
        return f"""{given}; a value with such signs is quoted: '{key}="{value}"'."""
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    reasons: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        reasons.append(first_line(cause))
        cause = cause.__cause__
    if reasons[0].startswith("Ambiguous value"):
        return f"{reasons[0]}; a list is [a,b], and several runs are started by -m."
    return f"the configuration is not valid: {': '.join(dict.fromkeys(reasons))}; correct the overrides."
