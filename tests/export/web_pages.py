"""A tiny model as a web page, clips for it, and a server that sees everything the browser asks for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

LABELS = ("red", "green", "blue", "tone")
SIZE, WINDOW = 16, 15600

DESCRIPTION = {
    "name": "colours",
    "rate": 1.0,
    "picture_time": 0.5,
    "picture_size": SIZE,
    "sound_window": WINDOW,
    "modalities": {"rgb": 3, "audio": 1},
    "window": 5,
    "hop": 1,
    "vocabulary": LABELS,
    "thresholds": [0.5] * 4,
}


def parts() -> dict[str, bytes]:
    """A model of known answers: a step is red as far as its mean colour is, and has a tone as far as it is loud."""
    pictures = _part(
        "images",
        (TensorProto.UINT8, ["n", SIZE, SIZE, 3]),
        [_node("Cast", ["images"], "floats", to=TensorProto.FLOAT),
         _node("ReduceMean", ["floats", "area"], "mean", keepdims=0),
         _node("Cast", ["mean"], "rgb", to=TensorProto.UINT8)],
        ("rgb", TensorProto.UINT8, ["n", 3]),
        {"area": np.array([1, 2])},
    )  # fmt: skip
    sounds = _part(
        "windows",
        (TensorProto.FLOAT, ["n", WINDOW]),
        [_node("ReduceL2", ["windows", "time"], "loud", keepdims=1),
         _node("Mul", ["loud", "scale"], "scaled"),
         _node("Clip", ["scaled", "least", "most"], "clipped"),
         _node("Cast", ["clipped"], "audio", to=TensorProto.UINT8)],
        ("audio", TensorProto.UINT8, ["n", 1]),
        {"time": np.array([1]), "least": np.float32(0), "most": np.float32(250), "scale": np.float32(4)},
    )  # fmt: skip
    return {"pictures": pictures, "sounds": sounds, "model": _model(frame_probabilities=True)}


def windowed_parts() -> dict[str, bytes]:
    """The same without frame probabilities."""
    return {**parts(), "model": _model(frame_probabilities=False)}


def _model(frame_probabilities: bool) -> bytes:
    nodes = [
        _node("Concat", ["rgb", "audio"], "bytes", axis=2),
        _node("Cast", ["bytes"], "floats", to=TensorProto.FLOAT),
        _node("Sub", ["floats", "middle"], "centred"),
        _node("Mul", ["centred", "steep"], "logits"),
        _node("Sigmoid", ["logits"], "frame_probabilities"),
        _node("ReduceMax", ["frame_probabilities", "time"], "probabilities", keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info("rgb", TensorProto.UINT8, ["videos", "frames", 3]),
        helper.make_tensor_value_info("audio", TensorProto.UINT8, ["videos", "frames", 1]),
        helper.make_tensor_value_info("num_frames", TensorProto.INT64, ["videos"]),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["videos", 4])]
    if frame_probabilities:
        outputs.append(helper.make_tensor_value_info("frame_probabilities", TensorProto.FLOAT, ["videos", "frames", 4]))
    # A sound of silence is 0, one that is absent is 127; a tone is loud only beyond that.
    constants = {"middle": np.full(4, 140, np.float32), "steep": np.float32(0.1), "time": np.array([1])}
    return _bytes(nodes, inputs, outputs, constants)


def _part(name: str, kind: tuple, nodes: list, output: tuple, constants: dict[str, Any]) -> bytes:
    inputs = [helper.make_tensor_value_info(name, *kind)]
    return _bytes(nodes, inputs, [helper.make_tensor_value_info(*output)], constants)


def _bytes(nodes: list, inputs: list, outputs: list, constants: dict[str, Any]) -> bytes:
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "part", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], **attributes)


def runtime_folder() -> Path:
    """The folder of onnxruntime-web; skips the test where there is none."""
    found = Path(__file__).parents[2] / "node_modules" / "onnxruntime-web"
    if not found.is_dir():
        pytest.skip("needs onnxruntime-web: make node_modules")
    return found


class Request(NamedTuple):
    """What a browser asked for."""

    method: str
    url: str
    body_bytes: int


class Server:
    """Serves a folder as every host of the web, for it is the browser's proxy; nothing that it is asked escapes it."""

    def __init__(self, folder: Path, isolated: bool) -> None:
        self.folder, self.isolated = folder, isolated
        self.online = True
        self.missing = self.damaged = ""
        """Ends of the addresses that are not found, or whose content has another byte at its end."""
        self.requests: list[Request] = []


@contextmanager
def serving(folder: Path, isolated: bool) -> Iterator[tuple[Server, list[str]]]:
    """A server in a thread, and the options of a browser that asks it alone.

    Arguments:
        isolated: whether it sends the headers that threads need.
    """
    server = Server(folder, isolated)
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, server, directory=str(folder)))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    # Chromium asks its maker for updates and the like; it does not with these.
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    quiet.append("--disable-features=OptimizationHints,OptimizationGuideModelDownloading,MediaRouter")
    try:
        yield server, [f"--proxy-server=127.0.0.1:{http.server_port}", "--proxy-bypass-list=<-loopback>", *quiet]
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}  # noqa: RUF012

    def __init__(self, server_: Server, *arguments: Any, **options: Any) -> None:
        self._server = server_
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        self._note()
        self.path = urlsplit(self.path).path
        if not self._server.online or self._is(self._server.missing):
            self.send_error(404)
        elif self._is(self._server.damaged):
            content = Path(self.translate_path(self.path)).read_bytes() + b"x"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            super().do_GET()

    def _is(self, end: str) -> bool:
        return bool(end) and self.path.endswith(end)

    def _refuse(self) -> None:
        self._note()
        self.send_error(502)

    do_CONNECT = do_POST = do_PUT = do_HEAD = do_OPTIONS = _refuse

    def _note(self) -> None:
        body_bytes = int(self.headers.get("Content-Length", 0))
        self._server.requests.append(Request(self.command, self.path, body_bytes))

    def end_headers(self) -> None:
        if self._server.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        # The browser's own cache would hide what the service worker does.
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silence."""
