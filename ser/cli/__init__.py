"""The ``ser`` command."""

import sys
from importlib.util import find_spec

if find_spec("typer") is None:  # python train.py with the python of the system
    sys.exit(
        f"error: {sys.executable} lacks the packages of ser; activate their environment first "
        "(source .venv/bin/activate), or install them (make demo)."
    )

# In the order of the help's panels.
from ser.cli import use, prepare, results  # isort: skip
from ser.cli.app import ScreenHandler, app, main

__all__ = ["ScreenHandler", "app", "main", "prepare", "results", "use"]
