"""A running server, as clients see it."""

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st

import vidfit as library
from tests.conftest import Call
from tests.export.members import arrays
from tests.lives import children
from tests.serving.conftest import TOKEN, Running, running
from tests.videos.making import RED, by_second, frames_at, write
from vidfit.inference.label_files import to_object


def form(*parts: tuple[str, bytes], boundary: str = "edge") -> bytes:
    """A form with parts of some names."""
    heads = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() for name, _ in parts]
    bodies = [head + content + b"\r\n" for head, (_, content) in zip(heads, parts, strict=True)]
    return b"".join(bodies) + f"--{boundary}--\r\n".encode()


FORM = {"Content-Type": "multipart/form-data; boundary=edge"}


def expected(model: Path, clip: Path, name: str = "videos") -> dict:
    (video,) = library.label(model, clip)
    found = to_object(video)
    del found["path"]
    return {"model": name, **found}


def lists(frames: dict[str, np.ndarray], video: int, length: int) -> dict[str, list]:
    return {name: array[video, :length].tolist() for name, array in frames.items()}


def test_a_video_has_the_labels_that_the_library_gives(server: Running, videos_model: Path, clip: Path):
    told = expected(videos_model, clip)
    assert told["labels"]
    by_form = server.client.post("/v1/label", files={"video": ("../../evil.mp4", clip.read_bytes(), "text/evil")})
    as_body = server.client.post("/v1/label?model=videos", content=clip.read_bytes())
    for answer in (by_form, as_body):
        assert answer.status_code == 200, answer.text
        assert answer.json() == told


def test_a_one_file_model_labels_videos(server: Running, one_file_model: Path, clip: Path):
    told = expected(one_file_model, clip, "one-file")
    assert told["labels"]
    answer = server.client.post("/v1/label?model=one-file", content=clip.read_bytes())
    assert (answer.status_code, answer.json()) == (200, told)


def test_a_one_file_model_takes_features_too(server: Running, one_file_model: Path):
    frames = {name: np.full((1, 4, 3), 9, np.uint8) for name in ("rgb", "audio")}
    row = library.load(one_file_model).predict(frames)[0]
    videos = [{name: array[0].tolist() for name, array in frames.items()}]
    answer = server.client.post("/v1/predict?model=one-file", json={"videos": videos, "top_k": 1})
    assert answer.json()["videos"][0]["labels"][0]["probability"] == pytest.approx(row.max(), abs=1e-5)
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        found = client.infer("one-file", triton_inputs(frames, True), headers={"Authorization": f"Bearer {TOKEN}"})
    np.testing.assert_allclose(np.asarray(found.as_numpy("probabilities")), [row], atol=1e-6)


def test_features_have_the_probabilities_of_the_library(server: Running, features_model: Path):
    model = library.load(features_model)
    inputs = arrays(3, 5)
    lengths = inputs.pop("num_frames")
    videos = [lists(inputs, video, length) for video, length in enumerate(lengths)]
    answer = server.client.post("/v1/predict?model=plain", json={"videos": videos, "top_k": 2})
    assert answer.status_code == 200, answer.text
    for row, video in zip(model.predict(inputs, lengths), answer.json()["videos"], strict=True):
        best = np.argsort(-row)[:2]
        assert [it["label"] for it in video["labels"]] == [model.vocabulary[index] for index in best]
        assert [it["probability"] for it in video["labels"]] == pytest.approx(row[best], abs=1e-5)


def triton_inputs(frames: dict[str, np.ndarray], binary: bool) -> list[triton.InferInput]:
    types = {"uint8": "UINT8", "int64": "INT64"}
    found = []
    for name, array in frames.items():
        found.append(triton.InferInput(name, list(array.shape), types[str(array.dtype)]))
        found[-1].set_data_from_numpy(array, binary_data=binary)
    return found


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_own_client_gets_right_answers(server: Running, features_model: Path, binary: bool):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    model = library.load(features_model)
    inputs = arrays(2, 4)
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("plain", headers=headers)
        assert client.get_server_metadata(headers=headers)["name"] == "vidfit"
        metadata = client.get_model_metadata("plain", headers=headers)
        assert [it["name"] for it in metadata["inputs"]] == list(inputs)
        assert [it["name"] for it in metadata["outputs"]] == ["probabilities", "frame_probabilities"]
        wanted = [triton.InferRequestedOutput(it["name"], binary_data=binary) for it in metadata["outputs"]]
        for outputs in (wanted, None):
            found = client.infer("plain", triton_inputs(inputs, binary), outputs=outputs, headers=headers)
            frames = {name: array for name, array in inputs.items() if name != "num_frames"}
            for name, compute in (("probabilities", model.predict), ("frame_probabilities", model.predict_frames)):
                np.testing.assert_allclose(
                    np.asarray(found.as_numpy(name)), compute(frames, inputs["num_frames"]), atol=1e-6
                )


def test_a_client_may_name_the_version(server: Running):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    frames = {name: np.full((1, 4, 3), 9, np.uint8) for name in ("rgb", "audio")}
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.get_model_metadata("one-file", "1", headers=headers)["versions"] == ["1"]
        assert client.is_model_ready("one-file", "1", headers=headers)
        assert not client.is_model_ready("one-file", "2", headers=headers)
        found = client.infer("one-file", triton_inputs(frames, False), model_version="1", headers=headers)
    assert found.get_response()["model_version"] == "1"


@pytest.mark.parametrize("parameter", ["classification", "shared_memory_region"])
def test_what_the_server_cannot_do_is_no_answer(server: Running, parameter: str):
    inputs = [{"name": name, "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 3]} for name in ("rgb", "audio")]
    outputs: list[dict[str, Any]] = [{"name": "probabilities"}]
    asked = {"inputs": inputs, "outputs": outputs}
    assert server.client.post("/v2/models/one-file/infer", json=asked).status_code == 200
    (outputs if parameter == "classification" else inputs)[0]["parameters"] = {parameter: 1}
    answer = server.client.post("/v2/models/one-file/infer", json=asked)
    assert answer.status_code == 400
    assert f"the parameter '{parameter}' is unknown" in answer.json()["error"]


def test_a_tensor_without_frames_is_told_so(server: Running):
    for shape in ([1, 0, 3], [0, 4, 3]):
        inputs = [{"name": name, "datatype": "UINT8", "shape": shape, "data": []} for name in ("rgb", "audio")]
        answer = server.client.post("/v2/models/one-file/infer", json={"inputs": inputs})
        line = f"rgb: its shape {shape} has no values; give at least one video of one frame"
        assert (answer.status_code, answer.json()) == (400, {"error": line})


def test_models_are_listed_with_labels_and_thresholds(server: Running):
    for model in server.client.get("/v1/models").json():
        assert len(model["thresholds"]) == len(model["vocabulary"])
        assert all(0 < threshold < 1 for threshold in model["thresholds"])


@pytest.mark.parametrize("path", ["/", "/v1/models", "/metrics", "/v2/health/ready", "/v2/models/plain/ready"])
def test_head_is_get_without_a_body(server: Running, path: str):
    got, head = server.client.get(path), server.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content)) or path == "/metrics"


def test_a_query_that_means_nothing_is_refused(server: Running, clip: Path):
    for path in ("/v1/label?modle=plain", "/v1/label?threshold=0.1", "/v1/predict?top_k=3"):
        answer = server.client.post(path, content=clip.read_bytes())
        assert answer.status_code == 400
        assert answer.json()["error"].endswith(": is unknown; the address takes only ?model=NAME")


def test_the_description_says_that_a_token_is_needed(server: Running):
    found = server.client.get("/openapi.json").json()
    assert found["components"]["securitySchemes"] == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
    assert found["paths"]["/v1/label"]["post"]["security"] == [{"HTTPBearer": []}]


def test_only_health_needs_no_token(server: Running):
    for path in ("/v2", "/v1/models", "/metrics", "/openapi.json", "/", "/v2/models/plain/ready"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            assert httpx.get(server.url + path, headers=headers).status_code == 401, path
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert httpx.get(server.url + path).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "line"),
    [
        (b"", {}, 400, "video: is empty"),
        (b"nothing", {}, 422, "video: is no video that can be opened"),
        (b"#EXTM3U\n#EXTINF:9,\n/etc/passwd\n", {}, 422, "video: is"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", {}, 422, "video: is"),
        (form(("video", b"nothing")), FORM, 422, "video: is no video that can be opened"),
        (form(), FORM, 400, "the form has 0 parts named video; send one"),
        (form(("video", b"a"), ("model", b"plain")), FORM, 400, "the form's part 'model' is unknown; send video alone"),
        (form(("video", b"a"), ("video", b"b")), FORM, 400, "the form has 2 parts named video; send one"),
        (form(("video", b"nothing"))[:-6], FORM, 400, "the form is cut short; send all of it"),
        (b"nothing", FORM, 400, "the form is not well formed"),
        (b"nothing", {"Content-Type": "multipart/form-data"}, 400, "the form has no boundary"),
        (b"nothing", {"Content-Type": "multipart/form-data; boundary=" + 300 * "x"}, 400, "the form is not well"),
        (b"nothing", {"Content-Encoding": "gzip"}, 415, "the body is compressed"),
        (bytes(1_000_001), {}, 413, "the body is larger than 1.0 MB; send a smaller one"),
    ],
)
def test_a_bad_upload_is_one_line(server: Running, body: bytes, headers: dict[str, str], status: int, line: str):
    answer = server.client.post("/v1/label", content=body, headers=headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert line in error
    assert "\n" not in error
    assert str(server.temporary) not in error


def test_a_large_body_without_a_length_is_refused(server: Running):
    answer = server.client.post("/v1/label", content=(bytes(100_000) for _ in range(30)))
    assert answer.status_code == 413


def test_a_long_video_is_refused(server: Running, tmp_path: Path):
    long = write(tmp_path / "long.mp4", by_second(RED), frames_at(1, 30))
    answer = server.client.post("/v1/label", content=long.read_bytes())
    assert (answer.status_code, answer.json()) == (422, {"error": "video: is longer than 10 s; cut it"})


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/label?model=plain", 404), ("/v1/label?model=none", 404), ("/v2/models/none/infer", 404), ("/v3", 404)],
)
def test_an_unknown_model_or_path_is_one_line(server: Running, path: str, status: int):
    answer = server.client.post(path, content=b"x")
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def labelling_process(server: Running) -> int:
    """The child that labels; the other is Python's, which counts semaphores."""
    (found,) = [it for it in children(server.process.pid) if b"spawn_main" in Path(f"/proc/{it}/cmdline").read_bytes()]
    return found


def test_a_killed_process_loses_no_video(server: Running, videos_model: Path, clip: Path):
    before = labelling_process(server)
    os.kill(before, signal.SIGKILL)
    answer = server.client.post("/v1/label", content=clip.read_bytes())
    assert answer.json() == expected(videos_model, clip)
    assert labelling_process(server) != before
    assert "vidfit_workers_replaced 1.0" in server.client.get("/metrics").text


def begun(server: Running, path: str, length: int, body: bytes) -> socket.socket:
    """A connection that has sent part of a body."""
    connection = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), 60)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_a_full_queue_sends_clients_away_for_a_while(server: Running, clip: Path):
    content = clip.read_bytes()
    held = [begun(server, "/v1/label", len(content), content[:100]) for _ in range(4)]
    while "vidfit_videos_held 4.0" not in server.client.get("/metrics").text:
        time.sleep(0.05)
    answer = server.client.post("/v1/label", content=content)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    for connection in held:
        connection.sendall(content[100:])
    assert [connection.recv(15) for connection in held] == 4 * [b"HTTP/1.1 200 OK"]
    for connection in held:
        connection.close()


def test_a_client_that_leaves_frees_its_place(server: Running):
    begun(server, "/v1/label", 1000, b"abc").close()
    while "vidfit_videos_held 0.0" not in server.client.get("/metrics").text:
        time.sleep(0.05)


def test_the_log_has_a_line_for_each_request(server: Running):
    server.client.get("/v2/models/%0Aplain%22/ready")
    # A request of another test, whose client left, may have its line later.
    while not (found := [line for line in server.lines() if line.get("path") == '/v2/models/\nplain"/ready']):
        time.sleep(0.05)
    (line,) = found
    assert {"time", "level", "message", "method", "path", "status", "ms"} == set(line)
    assert (line["method"], line["status"]) == ("GET", 404)


def test_no_file_of_a_client_is_left(server: Running):
    (folder,) = server.temporary.glob("vidfit-serve-*")
    assert list(folder.iterdir()) == []


NUMBERS = st.one_of(st.integers(-300, 300), st.integers(), st.floats(), st.text(max_size=3), st.none(), st.booleans())
JSON = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner))
VIDEO = st.fixed_dictionaries({}, optional={"rgb": JSON, "audio": JSON})
PREDICT = st.fixed_dictionaries(
    {}, optional={"videos": st.lists(VIDEO, max_size=3) | JSON, "top_k": JSON, "other": JSON}
)
TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from(["rgb", "audio", "num_frames", "x"])},
    optional={
        "datatype": st.sampled_from(["UINT8", "INT64", "FP32", "BYTES"]),
        "shape": st.lists(st.integers(-1, 8), max_size=4) | JSON,
        "data": JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": NUMBERS}) | JSON,
    },
)
INFER = st.fixed_dictionaries(
    {}, optional={"id": JSON, "inputs": st.lists(TENSOR, max_size=4) | JSON, "outputs": JSON, "parameters": JSON}
)


@settings(max_examples=60)
@given(asked=PREDICT | INFER | JSON, path=st.sampled_from(["/v1/predict?model=plain", "/v2/models/plain/infer"]))
def test_any_json_is_answered_or_refused(server: Running, asked: object, path: str):
    answer = server.client.post(path, content=json.dumps(asked))
    assert answer.status_code in (200, 400), answer.text


@settings(max_examples=60)
@given(body=st.binary(max_size=300), length=st.text("0123456789-x", max_size=30) | st.integers(0, 300).map(str))
def test_any_bytes_after_json_are_refused(server: Running, body: bytes, length: str):
    headers = {"Inference-Header-Content-Length": length}
    assert server.client.post("/v2/models/plain/infer", content=body, headers=headers).status_code == 400


PIECES = st.sampled_from(
    [
        b"--edge",
        b"--edge--",
        b"\r\n",
        b"\n",
        b"--",
        b":",
        b'Content-Disposition: form-data; name="video"',
        b"video",
        b"",
    ]
)


@settings(max_examples=60)
@given(pieces=st.lists(PIECES | st.binary(max_size=20), max_size=12))
def test_any_form_is_refused_with_4xx(server: Running, pieces: list[bytes]):
    answer = server.client.post("/v1/label", content=b"".join(pieces), headers=FORM)
    assert answer.status_code in (400, 422), answer.text


def test_a_stopped_server_finishes_what_has_begun(tmp_path: Path, features_model: Path):
    inputs = arrays(1, 4)
    del inputs["num_frames"]
    content = json.dumps({"videos": [lists(inputs, 0, 4)]}).encode()
    with running(tmp_path, features_model) as server:
        connection = begun(server, "/v1/predict", len(content), content[:50])
        # Its answer shows that the server has read the other's head too.
        assert server.client.get("/v2/health/live").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        while server.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), 1).close()
            except OSError:
                break
            time.sleep(0.05)
        connection.sendall(content[50:])
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        connection.close()
        assert server.process.wait(60) == 0
        assert list(server.temporary.glob("vidfit-*")) == []


def test_a_mistake_at_the_start_is_one_line(vidfit: Call, features_model: Path, tmp_path: Path):
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    cases = {
        ("--host", "0.0.0.0"): "--host 0.0.0.0: other machines can reach it; give a --token too",
        ("--port", port): f"--port {port}: cannot be used (Address already in use",
        ("--max-video", "big"): "--max-video 'big': write a number of bytes",
        ("--max-seconds", "-1"): "--max-seconds and --timeout: give seconds above 0",
        ("--token", "a b"): "--token: give printable ASCII without spaces",
        (features_model,): "another model is called features too",
        (tmp_path / "none.onnx",): "none.onnx: No such file",
        (f"a/b={features_model}",): "'a/b' is no name for a model",
    }
    for arguments, line in cases.items():
        code, _, err = vidfit("serve", features_model, *arguments)
        assert code == 2, err
        assert line in err
        assert err.count("\n") == 1, err
    taken.close()
