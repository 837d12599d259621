"""What every request passes: the token, a log line, and the metrics."""

import hmac
import json
import logging
import time
from base64 import b64decode
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

# A load balancer asks these, and has no token.
_OPEN: Final = {"/v2/health/live", "/v2/health/ready"}
_SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """What `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "vidfit_requests", "Requests that were answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "vidfit_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.video_seconds = Counter("vidfit_video_seconds", "Seconds of video labelled.", registry=self.registry)
        self.videos = Gauge(
            "vidfit_videos_held", "Videos that are received, wait or are labelled.", registry=self.registry
        )
        self.replaced = Gauge(
            "vidfit_workers_replaced", "Processes that died while they labelled.", registry=self.registry
        )


class Watch:
    """Wraps an application.

    Arguments:
        token: what clients must send. Empty: nothing.
    """

    def __init__(self, app: ASGIApp, token: str, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._wanted = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 499
        method = scope["method"]
        if method == "HEAD":
            # Routes answer it as GET. The server sends no body, for it has the request's own scope.
            scope = {**scope, "method": "GET"}

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._may_pass(scope):
                await self._app(scope, receive, watched)
            else:
                refusal = JSONResponse(
                    {"error": "give the server's token: Authorization: Bearer TOKEN"},
                    401,
                    {"WWW-Authenticate": 'Basic realm="vidfit"'},
                )
                await refusal(scope, receive, watched)
        finally:
            self._tell(scope, method, status, time.monotonic() - start)

    def _may_pass(self, scope: Scope) -> bool:
        given = _token(Headers(scope=scope).get("authorization", ""))
        return not self._wanted or scope["path"] in _OPEN or hmac.compare_digest(given, self._wanted)

    def _tell(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        told = {"method": method, "path": scope["path"], "status": status, "ms": round(1000 * seconds, 1)}
        log.info("request", extra={"told": told})


def _token(authorization: str) -> bytes:
    """What a client gives: a program its token, a browser the password that it asked its user for."""
    scheme, _, value = authorization.partition(" ")
    if scheme == "Bearer":
        return value.encode("latin-1")
    try:
        return b64decode(value).partition(b":")[2] if scheme == "Basic" else b""
    except ValueError:
        return b""


class JsonLines(logging.Formatter):
    """Each log record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
