"""What a browser shows at `/`."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest

import vidfit as library
from tests.browser import browser
from tests.conftest import Call
from tests.export.web_pages import runtime_folder
from tests.serving.conftest import TOKEN, Running, running
from tests.videos.making import BLUE, RED, by_second, frames_at, tone, write
from vidfit.serving.app import Server, make_app
from vidfit.serving.settings import Settings

STATUS = "document.getElementById('status').textContent"
PROBLEM = "document.getElementById('problem').textContent"
NAMES = "[...document.querySelectorAll('.bars li .name')].map(it => it.textContent)"


def test_without_a_page_the_models_and_addresses_are_listed(server: Running):
    answer = server.client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "<li>videos</li>" in answer.text
    assert "<li>plain (features only)</li>" in answer.text
    documented = server.client.get("/openapi.json").json()["paths"]
    assert set(re.findall(r"<code>[A-Z]+ (\S+)</code>", answer.text)) == set(documented)
    assert re.findall(r'href="(?!data:)(.*?)"', answer.text) == ["openapi.json"]


def answers(page: Path, *addresses: str, method: str = "GET") -> list[httpx.Response]:
    """Of a server without models."""
    transport = httpx.ASGITransport(make_app(Server({}, Settings()), page))

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return [await client.request(method, address) for address in addresses]

    return asyncio.run(ask())


def test_a_page_has_its_files_and_no_others(tmp_path: Path):
    page = tmp_path / "page"
    (page / "runtime").mkdir(parents=True)
    for name in ("index.html", "page.js", "runtime/ort.mjs", "model.onnx"):
        (page / name).write_text(name)
    (tmp_path / "secret.txt").write_text("secret")
    root, script, module, model = answers(page, "/", "/page.js", "/runtime/ort.mjs", "/model.onnx")
    assert [it.text for it in (root, script, module, model)] == [
        "index.html",
        "page.js",
        "runtime/ort.mjs",
        "model.onnx",
    ]
    for it in (script, module):
        assert re.match("(text|application)/javascript", it.headers["content-type"])
    assert root.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert root.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    outside = (
        "/runtime",
        "/none.js",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        f"/{tmp_path}/secret.txt",
        "/v1/models/",
    )
    assert {it.status_code for it in answers(page, *outside)} <= {307, 404}
    assert "secret" not in "".join(it.text for it in answers(page, *outside))
    (other,) = answers(page, "/v3", method="POST")
    assert (other.status_code, list(other.json())) == (404, ["error"])


def test_the_page_labels_a_clip_as_python_does(tmp_path: Path, one_file_model: Path):
    vp8 = {"codec": "libvpx", "sound_codec": "libopus", "sound_rate": 48000}
    clip = write(tmp_path / "clip.webm", by_second(RED, RED, BLUE, BLUE), frames_at(12, 4), tone(440, 4, 48000), **vp8)
    (video,) = library.label(one_file_model, clip)
    bundle = ("--bundle", runtime_folder(), "--workers", 1)
    with running(tmp_path, one_file_model, *bundle) as server, browser(tmp_path / "profile") as page:
        # The browser asks for the password once, and gives it with every request after.
        page.open(server.url.replace("://", f"://any:{TOKEN}@") + "/v2", 800)
        page.open(server.url + "/", 800)
        page.wait(f"{STATUS} === 'Ready.' || {PROBLEM}")
        page.choose("#file", clip)
        page.wait(f"{STATUS}.startsWith('Done') || {PROBLEM}")
        assert page.evaluate(PROBLEM) == ""
        assert page.evaluate("crossOriginIsolated")
        assert set(page.evaluate(NAMES)) == {it.label for it in video.labels if it.segments}


def test_a_page_that_cannot_be_made_is_one_line(vidfit: Call, videos_model: Path, one_file_model: Path, tmp_path: Path):
    cases = {
        one_file_model: f"vidfit: --bundle {tmp_path}: holds no ort.wasm.min.mjs; run `npm install onnxruntime-web`",
        videos_model: f"vidfit: {videos_model}: does not carry its extractor; pack it with --with-extractor",
    }
    for model, line in cases.items():
        code, _, err = vidfit("serve", model, "--port", "0", "--bundle", tmp_path)
        warning, last = err.splitlines()
        assert (code, "has no thresholds" in warning) == (2, True)
        assert last.startswith(line)


@pytest.mark.parametrize("given", ["Basic !", "Basic", "Basic c2VjcmV0", "basic OnNlY3JldA==", "Bearer"])
def test_a_wrong_password_is_refused(server: Running, given: str):
    answer = httpx.get(server.url + "/", headers={"Authorization": given})
    assert answer.status_code == 401
    assert "Basic" in answer.headers["WWW-Authenticate"]
