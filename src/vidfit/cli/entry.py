"""The `vidfit` command: signals, torchrun's ranks, and every error as one line."""

import errno
import io
import os
import re
import signal
import sys
from contextlib import suppress
from typing import NoReturn, TextIO

from vidfit import environment
from vidfit.cli.app import app
from vidfit.errors import VidfitError, reason

_STDOUT = "standard output"


def main() -> None:
    """Entry point of the `vidfit` command."""
    environment.set_defaults()
    for stream in (sys.stdout, sys.stderr):
        # What the terminal cannot show, in names and help, is escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    stopped: list[int] = []

    def leave(number: int, frame: object) -> None:
        stopped.append(128 + number)
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        # As a Ctrl-C does it, and not at once: what is half done is cleaned up. What nohup ignores stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)
    try:
        try:
            _run_command()
        except Exception:
            if not stopped:
                raise
            sys.exit(stopped[0])  # a library has made another exception of the exit
        finally:
            _flush(sys.stdout)
    except BrokenPipeError:
        sys.exit(1)  # the reader, such as `head`, has seen enough
    except VidfitError as error:
        _stop(2, str(error))
    except OSError as error:
        # Python does not name what it writes to. Whatever is written to a file has a better error by now (`replacing`).
        name = error.filename or (_STDOUT if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else None)
        _stop(1, f"{name}: {error.strerror}" if name else reason(error))
    except (MemoryError, RuntimeError) as error:
        # PyTorch and ONNX Runtime raise exceptions of their own types. Only the message tells that memory ran out.
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        _stop(1, f"out of memory; take smaller batches or a smaller model ({reason(error)})")
    except SystemExit as stop:
        if stop.code in (129, 130, 143):  # SIGHUP, what typer makes of Ctrl-C, SIGTERM
            _stop(stop.code, "stopped; call the same command again (it resumes where it can)")
        raise


def _run_command() -> None:
    if "WORLD_SIZE" in os.environ:  # torchrun's
        from vidfit import distributed

        distributed.run(app)
    else:
        app()


def _flush(stream: TextIO | None) -> None:
    """Write what is left, here, where an error can still be told.

    Raises:
        OSError: it cannot be written; later attempts, such as Python's at exit, are in vain and silent.
    """
    if stream is None:  # closed by the caller
        return
    try:
        stream.flush()
    except OSError as error:
        # The stream keeps what it could not write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        error.filename = _STDOUT
        raise


def _stop(code: int, message: str) -> NoReturn:
    with suppress(OSError):  # there may be no terminal any more
        print(f"vidfit: {message}", file=sys.stderr, flush=True)
    sys.exit(code)
