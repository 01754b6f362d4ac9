"""The ``ser`` command."""

# In the order of the help's panels.
from ser.cli import use, prepare, results  # isort: skip
from ser.cli.app import ScreenHandler, app, main

__all__ = ["ScreenHandler", "app", "main", "prepare", "results", "use"]
