"""The web page in a real browser, with clips whose labels are known."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import Page, browser
from tests.export.web_pages import DESCRIPTION, Server, parts, runtime_folder, serving, windowed_parts
from vidfit.export.web_page import find_runtime, write_page

pytest.importorskip("av")
from tests.videos.making import BLUE, GREEN, RED, by_second, frames_at, tone, write

HOME = "http://localhost/"
FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
STATUS = "document.getElementById('status').textContent"
PROBLEM = "document.getElementById('problem').textContent"
READY = f"{STATUS} === 'Ready.' || {PROBLEM}"
DONE = f"{STATUS}.startsWith('Done') || {PROBLEM}"
ROWS = """[...document.querySelectorAll('.bars li')].map(row => [
    row.querySelector('.name').textContent,
    [...row.querySelectorAll('button')].map(bar => [Number(bar.dataset.start), Number(bar.dataset.end)]),
])"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web") / "page"
    write_page(parts(), DESCRIPTION, folder, find_runtime(runtime_folder()))
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red for 2 seconds, green for 2, blue for 2; a tone in the last 3."""
    folder = tmp_path_factory.mktemp("clips")
    show = by_second(RED, RED, GREEN, GREEN, BLUE, BLUE)
    sound = np.concatenate([np.zeros((1, 48000)), np.tile(tone(440, 1), 3)], axis=1).astype(np.float32)
    vp8: dict[str, Any] = {"codec": "libvpx", "sound_codec": "libopus", "sound_rate": 48000}
    at_48000 = np.repeat(sound, 3, axis=1)
    write(folder / "both.webm", show, frames_at(12, 6), at_48000, **vp8)
    write(folder / "silent.webm", show, frames_at(12, 6), codec="libvpx")
    write(folder / "heard.wav", samples=sound, sound_codec="pcm_s16le")
    (folder / "broken.mp4").write_bytes((folder / "both.webm").read_bytes()[100:3000])
    return folder


class Shown:
    """The page in a browser, and the server that it came from."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server

    def open(self, url: str = HOME, width: int = 1100) -> str:
        """The status of the page once it has its model."""
        self.page.open(url, width)
        self.page.wait(READY)
        return self.page.evaluate(STATUS)

    def label(self, clip: Path) -> list[Any]:
        """Labels of a clip with their intervals, as drawn."""
        self.page.choose("#file", clip)
        self.page.wait(f"!({DONE})")
        self.page.wait(DONE)
        return self.page.evaluate(ROWS)


@pytest.fixture(scope="module")
def shown(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """One browser for the tests that leave it as they find it."""
    profile = tmp_path_factory.mktemp("profile")
    with serving(folder, isolated=True) as (server, options), browser(profile, *options, *FAKE_CAMERA) as page:
        shown = Shown(page, server)
        assert shown.open() == "Ready."
        yield shown


COLOURS = [["red", [[0, 2]]], ["green", [[2, 4]]], ["blue", [[4, 6]]]]


def close(found: list[Any], expected: list[Any]) -> bool:
    """Whether labels are equal whatever their order, and their intervals to a tenth of a second."""
    found, expected = ({label: np.array(spans) for label, spans in rows} for rows in (found, expected))
    return found.keys() == expected.keys() and all(
        found[label].shape == spans.shape and np.allclose(found[label], spans, atol=0.1)
        for label, spans in expected.items()
    )


def test_labels_and_their_times_are_those_of_the_clip(shown: Shown, clips: Path):
    assert close(shown.label(clips / "both.webm"), [*COLOURS, ["tone", [[3, 6]]]])
    assert shown.page.evaluate(PROBLEM) == ""
    table = shown.page.evaluate("[...document.querySelectorAll('tbody tr')].map(row => row.textContent)")
    assert len(table) == 4


def test_a_video_without_sound_says_so(shown: Shown, clips: Path):
    assert close(shown.label(clips / "silent.webm"), COLOURS)
    assert "No sound was found" in shown.page.evaluate("document.getElementById('notes').textContent")


def test_sound_without_pictures_is_labelled(shown: Shown, clips: Path):
    assert close(shown.label(clips / "heard.wav"), [["tone", [[3, 6]]]])
    assert "no picture" in shown.page.evaluate("document.getElementById('notes').textContent")


def test_a_broken_file_is_explained(shown: Shown, clips: Path):
    shown.label(clips / "broken.mp4")
    assert "cannot play the file" in shown.page.evaluate(PROBLEM)
    # The page goes on working.
    assert close(shown.label(clips / "silent.webm"), COLOURS)


def test_labelling_can_be_cancelled(shown: Shown, clips: Path):
    shown.page.choose("#file", clips / "both.webm")
    shown.page.wait("!document.getElementById('working').hidden")
    shown.page.evaluate("document.getElementById('cancel').click()")
    assert shown.page.evaluate(STATUS) == "Ready."
    assert shown.page.evaluate("document.getElementById('video').hidden")
    time.sleep(1)
    assert shown.page.evaluate(STATUS) == "Ready."


def test_a_bar_seeks_by_keyboard_and_by_pointer(shown: Shown, clips: Path):
    shown.label(clips / "both.webm")
    page = shown.page
    page.evaluate("document.querySelector('button[aria-label^=\"blue\"]').focus()")
    page.press("Enter")
    page.wait("Math.abs(document.getElementById('player').currentTime - 4) < 0.01")
    place = page.evaluate(
        "(box => [box.x + box.width / 2, box.y + box.height / 2])"
        "(document.querySelector('.track').getBoundingClientRect())"
    )
    page.evaluate("document.querySelector('.track').scrollIntoView({block: 'center'})")
    place = page.evaluate(
        "(box => ({x: box.x + box.width / 2, y: box.y + box.height / 2}))"
        "(document.querySelector('.track').getBoundingClientRect())"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
    page.wait("Math.abs(document.getElementById('player').currentTime - 3) < 0.1")


def test_the_keyboard_reaches_everything(shown: Shown, clips: Path):
    shown.label(clips / "both.webm")
    reached = []
    for _ in range(40):
        shown.page.press("Tab")
        reached.append(shown.page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"file", "camera", "player", "JSON", "CSV", "VTT"} <= set(reached)


def test_a_screen_reader_finds_a_name_for_everything(shown: Shown, clips: Path):
    shown.label(clips / "both.webm")
    nodes = shown.page.ask("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if node.get("role", {}).get("value") in ("button", "status", "alert", "heading", "table", "Video")
    ]
    assert all(name for role, name in named if role in ("button", "heading"))
    assert any("blue, from 0:04 to 0:06" in name for _, name in named)
    assert {"status", "alert"} <= {role for role, _ in named}


@pytest.mark.parametrize("width", [320, 1100])
def test_nothing_is_wider_than_the_window(width: int, folder: Path, clips: Path, tmp_path: Path):
    with serving(folder, isolated=True) as (server, options), browser(tmp_path / "profile", *options) as page:
        shown = Shown(page, server)
        shown.open(width=width)
        shown.label(clips / "both.webm")
        page.evaluate("document.getElementById('all').open = true")
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_downloads_are_the_files_that_label_writes(shown: Shown, clips: Path, tmp_path: Path):
    shown.label(clips / "both.webm")
    shown.page.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for name in ("json", "csv", "vtt"):
        shown.page.evaluate(f"document.querySelector('[data-format={name}]').click()")
        last = time.monotonic() + 20
        while not (tmp_path / f"both.{name}").exists():
            assert time.monotonic() < last
            time.sleep(0.05)
    (video,) = json.loads((tmp_path / "both.json").read_text())
    assert video["path"] == "both.webm"
    assert sorted(label["label"] for label in video["labels"]) == ["blue", "green", "red", "tone"]
    assert (tmp_path / "both.csv").read_text().startswith("path,label,start,end,confidence\nboth.webm,")
    assert (tmp_path / "both.vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nred\n")


def test_the_camera_is_recorded_and_labelled(shown: Shown):
    shown.page.evaluate("document.getElementById('camera').click()")
    shown.page.wait(f"{STATUS} === 'The camera records.' || {PROBLEM}")
    assert shown.page.evaluate(PROBLEM) == ""
    shown.page.wait("document.getElementById('player').currentTime > 1.5")
    shown.page.evaluate("document.getElementById('stop').click()")
    shown.page.wait(DONE)
    assert shown.page.evaluate(PROBLEM) == ""
    assert shown.page.evaluate("document.getElementById('player').src").startswith("blob:")


def test_nothing_leaves_the_machine(folder: Path, clips: Path, tmp_path: Path):
    with serving(folder, isolated=False) as (server, options), browser(tmp_path / "profile", *options) as page:
        shown = Shown(page, server)
        shown.open()
        loaded = len(server.requests)
        assert close(shown.label(clips / "both.webm"), [*COLOURS, ["tone", [[3, 6]]]])
        page.evaluate("document.querySelector('[data-format=json]').click()")
        time.sleep(1)
        after = server.requests[loaded:]
        # The browser itself forbids a page to tell others.
        refused = page.evaluate("fetch('http://elsewhere.test/').then(() => 'sent', () => 'refused')")
    assert refused == "refused"
    assert after == []
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for request in server.requests:
        assert (request.method, request.body_bytes) == ("GET", 0)
        assert request.url.startswith(HOME)
        assert request.url.removeprefix(HOME) in {"", *files}


def test_it_works_offline_after_the_first_visit(folder: Path, clips: Path, tmp_path: Path):
    with serving(folder, isolated=False) as (server, options), browser(tmp_path / "profile", *options) as page:
        shown = Shown(page, server)
        shown.open()
        server.online = False
        assert shown.open() == "Ready."
        assert close(shown.label(clips / "silent.webm"), COLOURS)


@pytest.mark.parametrize("isolated", [False, True])
def test_threads_are_used_with_headers_or_a_service_worker(isolated: bool, folder: Path, tmp_path: Path):
    with serving(folder, isolated) as (server, options), browser(tmp_path / "profile", *options) as page:
        Shown(page, server).open()
        assert page.evaluate("crossOriginIsolated")
        cores = page.evaluate("navigator.hardwareConcurrency")
        told = page.evaluate("document.getElementById('about').textContent")
        assert ("threads" in told) == (cores > 1)


def test_without_https_it_runs_slower_and_has_no_camera(folder: Path, clips: Path, tmp_path: Path):
    with serving(folder, isolated=False) as (server, options), browser(tmp_path / "profile", *options) as page:
        shown = Shown(page, server)
        assert shown.open("http://phone.test/") == "Ready."
        assert "one thread, which is slower: the server sends no COOP" in page.evaluate(
            "document.getElementById('about').textContent"
        )
        assert close(shown.label(clips / "silent.webm"), COLOURS)
        page.evaluate("document.getElementById('camera').click()")
        page.wait(PROBLEM)
        assert "works on https pages only" in page.evaluate(PROBLEM)


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("model.json", "model.json, is missing on the server"),
        ("model.onnx", "model.onnx is missing on the server"),
        ("runtime/ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.wasm is missing"),
        ("runtime/ort.wasm.min.mjs", "The model cannot be loaded"),
        ("worker.js", "The model cannot be loaded (its program does not start)"),
    ],
)
def test_a_missing_file_is_named(missing: str, told: str, tmp_path: Path):
    folder = tmp_path / "page"
    write_page(parts(), DESCRIPTION, folder, find_runtime(runtime_folder()))
    (folder / missing).unlink()
    with serving(folder, isolated=True) as (server, options), browser(tmp_path / "profile", *options) as page:
        Shown(page, server).open()
        assert told in page.evaluate(PROBLEM)


def test_a_damaged_model_is_refused(tmp_path: Path):
    folder = tmp_path / "page"
    write_page(parts(), DESCRIPTION, folder, find_runtime(runtime_folder()))
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"x")
    with serving(folder, isolated=True) as (server, options), browser(tmp_path / "profile", *options) as page:
        Shown(page, server).open()
        assert "The model cannot be loaded" in page.evaluate(PROBLEM)


def test_a_browser_without_webassembly_is_told(folder: Path, tmp_path: Path):
    with serving(folder, isolated=True) as (server, options), browser(tmp_path / "profile", *options) as page:
        page.ask("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.WebAssembly")
        Shown(page, server).open()
        assert "cannot run WebAssembly" in page.evaluate(PROBLEM)


def test_a_model_without_frame_probabilities_sees_windows(clips: Path, tmp_path: Path):
    folder = tmp_path / "page"
    description = {**DESCRIPTION, "window": 2}
    write_page(windowed_parts(), description, folder, find_runtime(runtime_folder()))
    with serving(folder, isolated=True) as (server, options), browser(tmp_path / "profile", *options) as page:
        shown = Shown(page, server)
        shown.open()
        # The window of seconds 1 and 2 holds red as well, so half of the windows of second 2 do.
        assert close(shown.label(clips / "silent.webm"), [["red", [[0, 3]]], ["green", [[1, 5]]], ["blue", [[3, 6]]]])
