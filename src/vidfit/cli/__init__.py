"""The command line: a thin function for each command. It parses, calls the library and prints.

A user's mistake ends with one line on standard error and exit code 2, never with a traceback.
"""

from vidfit.cli import data, hub, models, packing, runs, serving, videos  # noqa: F401 - they add their commands to the app
from vidfit.cli.app import app
from vidfit.cli.entry import main

__all__ = ["app", "main"]
