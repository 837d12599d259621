"""Run a server until it is told to stop."""

import asyncio
import logging
import math
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn

from vidfit.errors import VidfitError
from vidfit.export.web_page import write_web_page
from vidfit.inference.timeline import TimelineOptions
from vidfit.serving.app import Server, make_app
from vidfit.serving.models import open_models
from vidfit.serving.settings import Settings
from vidfit.serving.watch import JsonLines

log = logging.getLogger(__name__)


def serve(models: Sequence[str], settings: Settings) -> None:
    """Answer requests until SIGTERM or Ctrl-C. Requests that have begun are finished first.

    Arguments:
        models: `MODEL` or `NAME=MODEL`, packed files or addresses `hf://owner/name`; the first is the default.
        settings: where it listens, and what it allows.

    Raises:
        ModelFileError, DataError: a model or its extractor cannot be opened, or a page is wanted and the default model
            does not carry its extractor.
        VidfitError: the address cannot be used, or `settings.bundle` is not onnxruntime-web.
    """
    _log_as_json()
    with _listening(settings) as listener:
        server = Server(open_models(models), settings)
        with _page(server) as page:
            asyncio.run(_answer(server, listener, page))


@contextmanager
def _page(server: Server) -> Iterator[Path | None]:
    """The folder of a page with the default model, within the block."""
    if server.settings.bundle is None:
        yield None
        return
    with TemporaryDirectory(prefix="vidfit-page-") as folder:
        page = Path(folder) / "page"
        write_web_page(server.model(None).path, page, server.settings.bundle, *TimelineOptions().seconds)
        yield page


async def _answer(server: Server, listener: socket.socket, page: Path | None) -> None:
    config = uvicorn.Config(
        make_app(server, page),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(server.settings.timeout),
    )
    async with server.running():
        host, port = listener.getsockname()[:2]
        told = {"host": host, "port": port, "models": list(server.models), "processes": server.processes}
        log.info("ready", extra={"told": told})
        # uvicorn has handlers of its own. When it has stopped, it raises the signal once more, for those before.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        await uvicorn.Server(config).serve([listener])
    log.info("stopped")


def _listening(settings: Settings) -> socket.socket:
    """Bound before the models are opened, so that an address in use is known at once."""
    try:
        family, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise VidfitError(
            f"--host {settings.host} --port {settings.port}: cannot be used ({error.strerror}); give another"
        ) from error


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    own = logging.getLogger("vidfit")
    own.handlers, own.propagate = [handler], False
    own.setLevel(logging.INFO)
    logging.basicConfig(handlers=[handler])
    # It warns of forms that are not well formed; their clients are told.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
