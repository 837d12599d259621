"""What a server allows, and the packages that it needs."""

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from vidfit.errors import VidfitError


@dataclass(frozen=True)
class Settings:
    """How a server runs.

    Attributes:
        host, port: where it listens. Port 0 takes a free one.
        token: what clients must send as `Authorization: Bearer TOKEN`. Empty: nothing.
        workers: processes that label videos. 0 is one per core.
        queue: videos that may be received or wait, besides those that the workers label.
        video_bytes: size of the largest video.
        video_seconds: duration of the longest video.
        timeout: seconds that an upload may take, and then its labelling.
        idle_timeout: seconds without a byte after which an upload is given up.
        bundle: the folder of onnxruntime-web, for a page at `/` that runs the default model. None: no such page.

    Raises:
        VidfitError: other machines could reach it and there is no token, or a number is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    workers: int = 0
    queue: int = 16
    video_bytes: int = 500_000_000
    video_seconds: float = 3600.0
    timeout: float = 300.0
    idle_timeout: float = 15.0
    bundle: Path | None = None

    def __post_init__(self) -> None:
        if not self.token and not _is_loopback(self.host):
            raise VidfitError(f"--host {self.host}: other machines can reach it; give a --token too")
        if not self.token.isascii() or self.token.split() != [self.token] * bool(self.token):
            raise VidfitError("--token: give printable ASCII without spaces")
        if not (self.video_seconds > 0 and self.timeout > 0):
            raise VidfitError("--max-seconds and --timeout: give seconds above 0")

    @property
    def processes(self) -> int:
        """Processes that label videos."""
        return self.workers or os.cpu_count() or 1


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_packages() -> None:
    """Raises VidfitError if a package of the extra `serve` is missing."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise VidfitError(f"a server needs {error.name}; install it with: pip install 'vidfit[serve]'") from error
