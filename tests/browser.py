"""A page as a real browser shows it: headless Chromium, asked through its DevTools protocol.

Chromium reads requests from file descriptor 3 and writes answers and events to 4, each a JSON text that ends in a zero
byte, so the standard library is enough.

Source: https://chromedevtools.github.io/devtools-protocol/, and `--remote-debugging-pipe` of Chromium.
"""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

_TEXT = "document.body.innerText"


def chromium() -> str:
    """The browser's command; skips the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return found


class Page:
    """A page of the browser."""

    def __init__(self, requests: IO[bytes], answers: IO[bytes]) -> None:
        self._requests, self._answers = requests, answers
        self._number = 0
        self._session: dict[str, str] = {}
        self.errors: list[str] = []
        """What the page shown said on the console, or would have: exceptions, failed loads, errors and warnings."""
        self._loaded = False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a request of the protocol; events before it are taken note of."""
        message = self._answer(method, parameters)
        assert "error" not in message, message
        return message["result"]

    def _answer(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters, **self._session}
        self._requests.write(json.dumps(request).encode() + b"\0")
        while (message := self._read()).get("id") != self._number:
            pass
        return message

    def open(self, place: Path | str, width: int, height: int = 800) -> None:
        """Show a file or an address in a window of so many pixels, until it is loaded."""
        # As on a phone, so that the scroll bar takes none of the width.
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self._loaded = False
        self.errors.clear()
        self.ask("Page.navigate", url=place if isinstance(place, str) else place.as_uri())
        while not self._loaded:
            self._read()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; of a promise, what it becomes."""
        # As if the user had clicked: browsers let a page play sound or use the camera only then.
        how = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self.ask("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """The value of an expression once it is true."""
        last = time.monotonic() + seconds
        while not (value := self._settled(expression)):
            assert time.monotonic() < last, f"{expression} never held; the page says {self.evaluate(_TEXT)!r}"
            time.sleep(0.05)
        return value

    def _settled(self, expression: str) -> Any:
        """The value of an expression; None while the page is being replaced by another."""
        asked = {"expression": f"document.body && ({expression})", "returnByValue": True}
        return self._answer("Runtime.evaluate", asked).get("result", {}).get("result", {}).get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard: Tab, Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in an `<input type=file>`."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium ended"
            text += byte
        message = json.loads(text)
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.errors.append(message["params"]["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled":
                self.errors.append(str(message["params"]["args"]))
            case "Log.entryAdded":
                self.errors.append(message["params"]["entry"]["text"])
        return message


@contextmanager
def browser(profile: Path, *options: str) -> Iterator[Page]:
    """A browser with one empty page.

    Arguments:
        profile: an empty folder for what the browser keeps.
        options: of its command line.
    """
    # Neither root nor a container has what the sandbox needs, nor much shared memory; the pages are our own.
    command = [chromium(), "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
    # An empty page to begin with: some builds of Chromium go to a search engine.
    command += [f"--user-data-dir={profile}", *options, "about:blank"]
    # Out of the way of 3 and 4, which two of them become in the child.
    pipes = [*os.pipe(), *os.pipe()]
    requests_out, requests_in, answers_out, answers_in = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipes)
    for end in pipes:
        os.close(end)

    def connect() -> None:
        os.dup2(requests_out, 3)
        os.dup2(answers_in, 4)

    quiet = subprocess.DEVNULL
    with (
        os.fdopen(requests_in, "wb", 0) as requests,
        os.fdopen(answers_out, "rb") as answers,
        subprocess.Popen(command, stdout=quiet, stderr=quiet, preexec_fn=connect, pass_fds=(3, 4)) as process,
    ):
        os.close(requests_out)
        os.close(answers_in)
        try:
            yield Page(requests, answers)
        finally:
            process.terminate()
