"""The `vidfit` command: signals, torchrun's ranks, and every error as one line."""

import os
import re
import signal
import sys
from typing import NoReturn

from vidfit.cli.app import app
from vidfit.cli.terminal import show_log
from vidfit.errors import VidfitError, reason


def main() -> None:
    """Entry point of the `vidfit` command."""
    show_log()
    # As a Ctrl-C does it, and not at once: what is half done is cleaned up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if "WORLD_SIZE" in os.environ:  # torchrun's
            from vidfit import distributed

            distributed.lead(app)
        else:
            app()
    except VidfitError as error:
        _stop(2, str(error))
    except OSError as error:
        _stop(1, f"{error.filename}: {error.strerror}" if error.filename else reason(error))
    except (MemoryError, RuntimeError) as error:
        # PyTorch and ONNX Runtime have exceptions of their own for it, and only their words in common.
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        _stop(1, f"out of memory; take smaller batches or a smaller model ({reason(error)})")
    except SystemExit as stop:
        if stop.code in (130, 143):  # the first is what typer makes of Ctrl-C
            _stop(stop.code, "stopped; run, train, predict and demo go on from here when called again")
        raise


def _stop(code: int, message: str) -> NoReturn:
    print(f"vidfit: {message}", file=sys.stderr)
    sys.exit(code)
