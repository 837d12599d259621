"""Bodies as they come over the network: in pieces, slowly, or not at all."""

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from vidfit.serving.bodies import read_body, received_video
from vidfit.serving.settings import Settings

LIMITS = Settings(idle_timeout=0.2, timeout=2.0, video_bytes=4_000_000)


def request(pieces: Iterable[bytes], content_type: str = "video/mp4", pause: float = 0.0) -> Request:
    """A request whose body comes in pieces; where they end, nothing more comes unless the last one is empty."""
    left = list(pieces)

    async def receive() -> dict:
        await asyncio.sleep(pause if left else 1000)
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": piece != b""}

    return Request({"type": "http", "headers": [(b"content-type", content_type.encode())]}, receive)


def received(incoming: Request) -> bytes:
    async def receive() -> bytes:
        with TemporaryDirectory() as folder:
            async with received_video(incoming, Path(folder), LIMITS) as video:
                found = video.read_bytes()
            assert list(Path(folder).iterdir()) == []
            return found

    return asyncio.run(receive())


def test_a_large_body_arrives_as_it_was_sent():
    pieces = [bytes([number]) * 65536 for number in range(40)]
    assert received(request([*pieces, b""])) == b"".join(pieces)


@settings(max_examples=30)
@given(content=st.binary(min_size=1, max_size=200), cuts=st.lists(st.integers(1, 300), max_size=6))
def test_a_form_may_be_cut_anywhere(content: bytes, cuts: list[int]):
    head = b'--e\r\nA: b\r\ncontent-disposition: form-data; name=video; filename="/etc/x"\r\n\r\n'
    form = head + content + b"\r\n--e--\r\n"
    places = sorted({0, *(cut for cut in cuts if cut < len(form)), len(form)})
    pieces = [form[start:end] for start, end in pairwise(places)]
    if b"\r\n--e" not in content:
        assert received(request([*pieces, b""], "multipart/form-data; boundary=e")) == content


@pytest.mark.parametrize(
    ("pieces", "pause"),
    [([b"abc"], 0.0), (100 * [b"abc"], 0.15)],
    ids=["stops in the middle", "takes too long in all"],
)
def test_a_slow_body_is_given_up(pieces: list[bytes], pause: float):
    with pytest.raises(HTTPException) as refused:
        received(request(pieces, pause=pause))
    assert (refused.value.status_code, refused.value.detail) == (408, "the body comes too slowly; try again")


def test_a_body_in_memory_has_a_limit():
    with pytest.raises(HTTPException) as refused:
        asyncio.run(read_body(request([b"abc", b"abc", b""]), 5, LIMITS))
    assert refused.value.status_code == 413
    assert asyncio.run(read_body(request([b"abc", b"ab", b""]), 5, LIMITS)) == b"abcab"
