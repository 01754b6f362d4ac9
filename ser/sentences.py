"""What Hydra, Lightning and the operating system say about bad input, told in one sentence.

Their own messages span several lines, name internals or come with a traceback. What is not bad input gets no sentence.
"""

import errno
import functools
import re
from typing import Any, TypeGuard

import hydra.utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ser.config import known_keys, nearest
from ser.errors import SerError

_DISK = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EIO}
# Libraries whose own error classes say that they were used wrongly, by the module that defines them.
_USAGE_ERRORS = ("lightning.fabric.utilities.exceptions", "wandb.errors")


def sentence(error: BaseException) -> str | None:
    """What the user is to read, or None where the error is a defect of the program and needs its traceback."""
    cause: BaseException | None = error
    while cause is not None:  # Hydra and others wrap what a constructor raises
        if isinstance(cause, SerError):
            return str(cause)
        cause = cause.__cause__
    if does_not_compose(error):
        return composition_sentence(error)
    # The run's log file is opened before everything else, and logging wraps what the disk says to that.
    told = error.__cause__ if str(error).startswith("Unable to configure handler") else error
    if isinstance(told, OSError):
        return _disk_sentence(told)
    if type(error).__name__ == "OutOfMemoryError":
        return f"the device's memory is full ({_first(error)}); lower batches.batch_size or set batches.max_frames."
    if type(error).__module__.startswith(_USAGE_ERRORS) or str(error).startswith("Early stopping conditioned"):
        return f"{_plain(str(error))}; correct the trainer or logger settings."
    return None


def _disk_sentence(error: OSError) -> str | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "the disk is full, expected room for the run's files and for temporary ones; free space and run the same "
            "command again, with resume=true where it had trained."
        )
    if error.errno in _DISK and error.filename:
        return (
            f"{error.filename} could not be read or written ({error.strerror}), expected a writable folder; choose "
            "another by paths.outputs=, or correct its permissions."
        )
    return None


def does_not_compose(error: BaseException) -> TypeGuard[Exception]:
    """Whether the error is Hydra's answer to words that make no configuration."""
    # normalization=-1: a group is given a number, which Hydra tells by a plain ValueError
    number = isinstance(error, ValueError) and str(error).startswith("Config group override must be")
    return number or isinstance(error, HydraException | OmegaConfBaseException)


def composition_sentence(error: Exception) -> str:
    """What is wrong with the words of a command line that do not make a configuration."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = [name for name in error.options if name != option]
        return f"{group}={option} was given, but the group {group} has no such option; {nearest(option, options)}"
    if isinstance(error, OverrideParseException):
        reason = error.message.splitlines()[1] if "\n" in error.message else error.message
        return f"the word {error.override!r} was given, expected key=value ({reason}); quote what the shell may touch."
    if unknown := re.search(r"Could not override '([^']+)'", text):
        key = unknown[1]
        parent = key.rpartition(".")[0]
        known = known_keys(f"{parent}." if parent else "")
        if key in known:
            group = key.partition(".")[0]
            return f"{key} was given, but the chosen {group} has none; leave it out or choose another {group}."
        return f"the key {key!r} was given, but the configuration has no such key; {nearest(key, known)}"
    return f"the configuration is not valid: {_plain(text)}; correct the command line."


def instantiate(node: DictConfig, *arguments: Any, **keywords: Any) -> Any:
    """Hydra's ``instantiate``, except that settings its target does not take are bad input and not a defect.

    Where the result is a partial, the same holds when it is called.

    Raises:
        SerError: naming the settings and the target's reason.
    """
    where = str(node._get_full_key(None)) if isinstance(node, DictConfig) else ""
    made = _build(where, hydra.utils.instantiate, node, *arguments, **keywords)
    return functools.partial(_build, where, made) if isinstance(made, functools.partial) else made


def _build(where: str, target: Any, *arguments: Any, **keywords: Any) -> Any:
    try:
        return target(*arguments, **keywords)
    except (TypeError, ValueError, InstantiationException) as error:
        told = error
        while told is not None and not isinstance(told, SerError):
            told = told.__cause__  # type: ignore[assignment]
        if told is not None:
            raise told from error
        given = " ".join(_given(where.partition(".")[0])) or f"the group {where}"
        raise SerError(f"{given} was given, but {_reason(error)}; correct {where}.") from error


def _given(group: str) -> list[str]:
    """The words of the command line that concern a group."""
    if not HydraConfig.initialized():
        return []
    words = HydraConfig.get().overrides.task
    return [word for word in words if re.match(rf"[+~]*{re.escape(group)}[.=@]", word)]


def _reason(error: BaseException) -> str:
    """A constructor's complaint without Hydra's wrapping."""
    wrapped = re.search(r"Error in call to target '(?:\w+\.)*(\w+)':\s*\w+\((['\"])(.*)\2\)", str(error), re.DOTALL)
    if wrapped:
        return f"{wrapped[1]} says: {_plain(wrapped[3])}"
    return _plain(str(error).partition(", set env var")[0])


def _plain(text: str) -> str:
    """One line without Hydra's bookkeeping and without the full stop."""
    return " ".join(re.sub(r"\n\s*(full_key|object_type|reference_type):?.*", "", text).split()).rstrip(". ")


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(". ")
