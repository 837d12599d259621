"""The web page in a real browser, with clips whose labels are known."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import Page, browser
from tests.export.web_pages import DESCRIPTION, Request, Server, parts, runtime_folder, serving, windowed_parts
from vidfit.export.web_page import find_runtime, write_page

pytest.importorskip("av")
from tests.videos.making import BLUE, GREEN, RED, by_second, frames_at, tone, write

HOME = "http://localhost/"
# Chromium asks its maker for updates, whatever it is told.
BROWSERS_OWN = re.compile(r"(http://)?[\w.-]+\.(google|googleapis)\.com[:/]")
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
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pages: `page/`, and `windows/` of a model without frame probabilities."""
    root = tmp_path_factory.mktemp("web")
    runtime = find_runtime(runtime_folder())
    write_page(parts(), DESCRIPTION, root / "page", runtime)
    write_page(windowed_parts(), {**DESCRIPTION, "window": 2}, root / "windows", runtime)
    return root


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
    """A page in a browser, and the server that it came from."""

    def __init__(self, page: Page, server: Server, url: str) -> None:
        self.page, self.server, self.url = page, server, url

    def open(self, place: str = "page/", width: int = 1100) -> None:
        """Show a page until it has its model, or says why not."""
        self.page.open(self.url + place, width)
        self.page.wait(READY)

    def label(self, clip: Path) -> dict[str, list[list[float]]]:
        """Labels of a clip with their intervals as drawn, in tenths of seconds."""
        self.page.evaluate(f"{STATUS} = {PROBLEM} = ''")  # what is left of the clip before
        self.page.choose("#file", clip)
        self.page.wait(DONE)
        rows = self.page.evaluate(ROWS)
        return {label: [[round(time, 1) for time in span] for span in spans] for label, spans in rows}

    def text(self, id: str) -> str:
        """What an element says."""
        return self.page.evaluate(f"document.getElementById({id!r}).textContent")

    def click(self, selector: str) -> None:
        self.page.evaluate(f"document.querySelector({selector!r}).click()")


@contextmanager
def showing(root: Path, profile: Path, url: str, isolated: bool, *more: str) -> Iterator[Shown]:
    with serving(root, isolated) as (server, options), browser(profile, *options, *more) as page:
        yield Shown(page, server, url)


@pytest.fixture(scope="module")
def shown(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """From a server that sends the headers of threads."""
    with showing(root, tmp_path_factory.mktemp("profile"), HOME, True, *FAKE_CAMERA) as shown:
        shown.open()
        yield shown


@pytest.fixture(scope="module")
def plain(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """By http from another machine: browsers give such a page neither a service worker nor the camera."""
    with showing(root, tmp_path_factory.mktemp("profile"), "http://phone.test/", False) as shown:
        yield shown


@pytest.fixture(scope="module")
def first_visit(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """From a server without the headers, which a service worker then adds."""
    with showing(root, tmp_path_factory.mktemp("profile"), HOME, False) as shown:
        shown.open()
        yield shown


COLOURS = {"red": [[0, 2]], "green": [[2, 4]], "blue": [[4, 6]]}
TONE = {"tone": [[3, 6]]}


def test_labels_and_their_times_are_those_of_the_clip(shown: Shown, clips: Path):
    assert shown.label(clips / "both.webm") == COLOURS | TONE
    assert shown.text("problem") == ""
    assert shown.page.evaluate("document.querySelectorAll('tbody tr').length") == 4


def test_a_video_without_sound_says_so(shown: Shown, clips: Path):
    assert shown.label(clips / "silent.webm") == COLOURS
    assert "No sound was found" in shown.text("notes")


def test_sound_without_pictures_is_labelled(shown: Shown, clips: Path):
    assert shown.label(clips / "heard.wav") == TONE
    assert "no picture" in shown.text("notes")


def test_a_broken_file_is_explained(shown: Shown, clips: Path):
    shown.label(clips / "broken.mp4")
    assert "cannot play the file" in shown.text("problem")
    # The page goes on working.
    assert shown.label(clips / "silent.webm") == COLOURS


def test_labelling_can_be_cancelled(shown: Shown, clips: Path):
    shown.page.choose("#file", clips / "both.webm")
    shown.page.wait("!document.getElementById('working').hidden")
    shown.click("#cancel")
    assert shown.text("status") == "Ready."
    assert shown.page.evaluate("document.getElementById('video').hidden")
    # What is under way must not show up afterwards.
    time.sleep(1)
    assert shown.text("status") == "Ready."


def test_a_bar_seeks_by_keyboard_and_by_pointer(shown: Shown, clips: Path):
    shown.label(clips / "both.webm")
    page = shown.page
    page.evaluate("document.querySelector('button[aria-label^=blue]').focus()")
    page.press("Enter")
    page.wait("Math.abs(document.getElementById('player').currentTime - 4) < 0.01")
    page.evaluate("document.querySelector('.track').scrollIntoView({block: 'center'})")
    middle = page.evaluate(
        "(box => ({x: box.x + box.width / 2, y: box.y + box.height / 2}))"
        "(document.querySelector('.track').getBoundingClientRect())"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **middle)
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
    named = [(it.get("role", {}).get("value"), it.get("name", {}).get("value", "")) for it in nodes]
    assert all(name for role, name in named if role in ("button", "heading"))
    assert any("blue, from 0:04 to 0:06" in name for role, name in named if role == "button")
    assert {"status", "alert"} <= {role for role, _ in named}


@pytest.mark.parametrize("width", [320, 1100])
def test_nothing_is_wider_than_the_window(width: int, shown: Shown, clips: Path):
    shown.open(width=width)
    shown.label(clips / "both.webm")
    shown.page.evaluate("document.getElementById('all').open = true")
    assert shown.page.evaluate("document.documentElement.scrollWidth") == width


def test_downloads_are_the_files_that_label_writes(shown: Shown, clips: Path, tmp_path: Path):
    shown.label(clips / "both.webm")
    shown.page.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for name in ("json", "csv", "vtt"):
        shown.click(f"[data-format={name}]")
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
    shown.click("#camera")
    shown.page.wait(f"{STATUS} === 'The camera records.' || {PROBLEM}")
    assert shown.text("problem") == ""
    shown.page.wait("document.getElementById('player').currentTime > 1.5")
    shown.click("#stop")
    shown.page.wait(DONE)
    assert shown.text("problem") == ""
    assert shown.page.evaluate("document.getElementById('player').duration") > 1


def test_a_model_without_frame_probabilities_sees_windows(shown: Shown, clips: Path):
    shown.open("windows/")
    found = shown.label(clips / "silent.webm")
    shown.open()
    # Windows of two seconds: the one of seconds 1 and 2 holds red as well, so red holds in half of second 2's.
    assert found == {"red": [[0, 3]], "green": [[1, 5]], "blue": [[3, 6]]}


def test_nothing_leaves_the_machine(first_visit: Shown, clips: Path, root: Path):
    server, page = first_visit.server, first_visit.page

    def asked() -> list[Request]:
        return [it for it in server.requests if not BROWSERS_OWN.match(it.url)]

    loaded = len(asked())
    assert first_visit.label(clips / "both.webm") == COLOURS | TONE
    first_visit.click("[data-format=json]")
    time.sleep(1)
    # Some time after a visit the browser looks for a newer service worker.
    assert {it.url for it in asked()[loaded:]} <= {f"{HOME}page/service-worker.js"}
    # The browser itself forbids the page to speak to others.
    sent = page.evaluate("fetch('http://elsewhere.test/').then(() => 'sent', () => 'refused')")
    assert sent == "refused"
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    for request in asked():
        assert (request.method, request.body_bytes) == ("GET", 0), request
        assert request.url.removeprefix(HOME) in {"page/", *files}, request


def test_it_works_offline_after_the_first_visit(first_visit: Shown, clips: Path):
    first_visit.server.online = False
    first_visit.open()
    assert first_visit.label(clips / "silent.webm") == COLOURS
    first_visit.server.online = True


@pytest.mark.parametrize("which", ["shown", "first_visit"])
def test_threads_are_used_with_headers_or_a_service_worker(which: str, request: pytest.FixtureRequest):
    shown: Shown = request.getfixturevalue(which)
    assert shown.page.evaluate("crossOriginIsolated")
    cores = shown.page.evaluate("navigator.hardwareConcurrency")
    assert ("threads" in shown.text("about")) == (cores > 1)


def test_without_https_it_is_slower_and_has_no_camera(plain: Shown, clips: Path):
    plain.open()
    assert "one thread, which is slower: the server sends no COOP and COEP headers" in plain.text("about")
    assert plain.label(clips / "silent.webm") == COLOURS
    plain.click("#camera")
    plain.page.wait(PROBLEM)
    assert "works on https pages only" in plain.text("problem")


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("/model.json", "model.json, is missing on the server"),
        ("/model.onnx", "model.onnx is missing on the server"),
        ("/ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.wasm is missing on the server"),
        ("/ort.wasm.min.mjs", "ort.wasm.min.mjs"),
        ("/worker.js", "The model cannot be loaded (its program does not start)"),
    ],
)
def test_a_missing_file_is_named(missing: str, told: str, plain: Shown):
    plain.server.missing = missing
    plain.open()
    plain.server.missing = ""
    assert told in plain.text("problem")


def test_a_damaged_model_is_refused(plain: Shown):
    plain.server.damaged = "/model.onnx"
    plain.open()
    plain.server.damaged = ""
    assert "model.onnx is damaged or of another export" in plain.text("problem")


def test_a_browser_without_webassembly_is_told(plain: Shown):
    script = plain.page.ask("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.WebAssembly")
    plain.open()
    plain.page.ask("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    assert "cannot run WebAssembly" in plain.text("problem")
