"""Hydra's help in the width of the screen."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from textwrap import TextWrapper

from rich import get_console


class _Lines(TextWrapper):
    """Folds a line at spaces, and a value that refers to others before these."""

    wordsep_simple_re = re.compile(r"(\s+|(?<=[,/-])(?=\$\{))")


@contextmanager
def folded_lines() -> Iterator[None]:
    """Print what is printed inside with its long lines folded to the width of the screen, below their beginning."""
    try:
        with redirect_stdout(StringIO()) as shown:
            yield
    finally:  # Hydra ends the process
        for line in shown.getvalue().splitlines():
            indent = " " * (len(line) - len(line.lstrip()) + 2)
            print(_Lines(get_console().width, subsequent_indent=indent, break_on_hyphens=False).fill(line))
