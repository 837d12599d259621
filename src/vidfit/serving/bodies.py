"""What clients send, within limits of size and time: a body in memory, or a video in a temporary file.

Nothing that a client names becomes a name of a file.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from vidfit.serving.settings import Settings
from vidfit.sizes import format_size

# Written to disk at once; a thread does it.
_BLOCK: Final = 1 << 20
# The part of a form that holds the video.
_PART: Final = b"video"

Result = TypeVar("Result")


async def read_body(request: Request, most: int, settings: Settings) -> bytes:
    """A whole body.

    Raises:
        HTTPException: 408, 413, 415 or 499: it comes too slowly, is too large, is compressed, or the client has gone.
    """
    return b"".join([chunk async for chunk in _chunks(request, most, settings)])


@asynccontextmanager
async def received_video(request: Request, folder: Path, settings: Settings) -> AsyncIterator[Path]:
    """Receive a video to a file that exists within the block. The body is the video, or a form with a part `video`.

    Raises:
        HTTPException: as `read_body`, and 400: the form is not well formed, there is no video in it, or more than
            that.
    """
    form = _Form(request.headers.get("content-type", ""))
    with NamedTemporaryFile(dir=folder) as file:
        waiting, size = bytearray(), 0
        async for chunk in _chunks(request, settings.video_bytes, settings):
            waiting += form.video_in(chunk)
            if len(waiting) >= _BLOCK:
                size += await asyncio.to_thread(file.write, bytes(waiting))
                waiting.clear()
        form.finish()
        size += await asyncio.to_thread(file.write, bytes(waiting))
        await asyncio.to_thread(file.flush)
        if not size:
            raise HTTPException(400, "video: is empty; send the file's content")
        yield Path(file.name)


async def _chunks(request: Request, most: int, settings: Settings) -> AsyncIterator[bytes]:
    too_large = HTTPException(413, f"the body is larger than {format_size(most)}; send a smaller one")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "the body is compressed; send it as it is, without Content-Encoding")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:20]) > most:
        raise too_large
    size, end = 0, time.monotonic() + settings.timeout
    stream = request.stream()
    while True:
        chunk = await _in_time(lambda: anext(stream, None), min(settings.idle_timeout, end - time.monotonic()))
        if chunk is None:
            return
        size += len(chunk)
        if size > most:
            raise too_large
        yield chunk


async def _in_time(wait: Callable[[], Awaitable[Result]], seconds: float) -> Result:
    try:
        return await asyncio.wait_for(wait(), max(seconds, 0))
    except TimeoutError:
        raise HTTPException(408, "the body comes too slowly; try again", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(499, "the client has gone") from None


class _Form:
    """Finds the video in a body of the given content type."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        self._parser: MultipartParser | None = None
        if kind != b"multipart/form-data":
            return
        self._name, self._header, self._value = b"", bytearray(), bytearray()
        self._found = bytearray()
        self._videos = 0
        self._ended = False
        try:
            self._parser = MultipartParser(
                options.get(b"boundary", b""),
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._start_data,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error
        if not options.get(b"boundary"):
            raise HTTPException(400, "the form has no boundary in its Content-Type")

    def video_in(self, chunk: bytes) -> bytes:
        """The bytes of the video in the next chunk of the body."""
        if self._parser is None:
            return chunk
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(error) from error
        found = bytes(self._found)
        self._found.clear()
        return found

    def finish(self) -> None:
        """Raises HTTPException if the form is cut short or has not one video."""
        if self._parser is None:
            return
        if not self._ended:
            raise HTTPException(400, "the form is cut short; send all of it")
        if self._videos != 1:
            raise HTTPException(400, f"the form has {self._videos} parts named video; send one")

    def _begin(self) -> None:
        self._name = b""

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._name = parse_options_header(bytes(self._value))[1].get(b"name", b"")
        self._header.clear()
        self._value.clear()

    def _start_data(self) -> None:
        if self._name != _PART:
            name = self._name[:40].decode("utf-8", "replace")
            raise HTTPException(
                400, f"the form's part {name!r} is unknown; send video alone, and ?model=NAME if needed"
            )
        self._videos += 1

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._found += data[start:end]

    def _end(self) -> None:
        self._ended = True


def _malformed(error: Exception) -> HTTPException:
    return HTTPException(400, f"the form is not well formed ({error})")
