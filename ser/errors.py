"""The one exception a user is meant to read."""

import math


class SerError(Exception):
    """Bad input, told in one sentence: what was given, what was expected, what to do.

    Entry points print the message without a traceback and exit with code 1. Every other exception is a defect of the
    program and keeps its traceback.
    """


def check_number(
    name: str, value: object, low: float, high: float = math.inf, *, above: bool = False, whole: bool = False
) -> None:
    """Refuse a setting that is no number from ``low`` to ``high``; NaN is in no range.

    Args:
        name: the setting as the user writes it, such as ``model.dropout``.
        value: what was given.
        low: least value.
        high: largest value.
        above: ``low`` itself is refused, too.
        whole: only whole numbers are accepted.

    Raises:
        SerError: naming the setting, the value and the range.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and low <= value <= high and not (above and value == low) and not (whole and value != int(value)):  # type: ignore[operator, call-overload]
        return
    kind = "a whole number" if whole else "a number"
    if high == math.inf:
        expected = f"{kind} above {low:g}" if above else f"{kind} of at least {low:g}"
    else:
        expected = f"{kind} above {low:g} and at most {high:g}" if above else f"{kind} from {low:g} to {high:g}"
    raise SerError(f"{name}={value} was given, expected {expected}.")
