"""`vidfit export --to web-model`: the file it writes, and what onnxruntime-web makes of it under Node.

`npm install --no-save onnxruntime-web` in the checkout enables the last test.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import Call
from tests.export.members import RGB, arrays, loaded_graph, member, run, torch_average
from vidfit.errors import ModelFileError
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.web_model import write_web_model
from vidfit.inference.packed_model import PackedModel
from vidfit.quantization.uniform import QuantScheme

ROOT = Path(__file__).parents[2]
BITS = (2, 4, 6)


@pytest.fixture(scope="module")
def members() -> list[PackedMember]:
    """Long descriptors in every width of n-bits weights, and one of 8 bits."""
    narrow = [member("wide", RGB, QuantScheme(bits=bits, granularity="channel")) for bits in BITS]
    return [PackedMember(it, 1.0) for it in (*narrow, member("netvlad", RGB))]


@pytest.fixture(scope="module")
def packed(members: list[PackedMember], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model.onnx"
    write_graph(path, members, 10**9)
    return path


@pytest.fixture(scope="module")
def web(packed: Path) -> Path:
    write_web_model(packed, packed.with_name("web.onnx"))
    return packed.with_name("web.onnx")


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_it_has_no_nbits_products_and_is_as_large(packed: Path, web: Path):
    assert "MatMulNBits" in operators(packed)
    assert "MatMulNBits" not in operators(web)
    assert web.stat().st_size < packed.stat().st_size + 6000
    kinds = {it.data_type for it in loaded_graph(web).initializer if int(np.prod(it.dims)) > 20_000}
    assert kinds == {onnx.TensorProto.INT8}
    PackedModel(web, 1)  # checks signature and checksum


def test_it_gives_what_the_members_give(web: Path, members: list[PackedMember]):
    inputs = arrays(5, 7, spec=RGB)
    np.testing.assert_allclose(run(web, inputs), torch_average(members, inputs), atol=2e-4, rtol=0)


def test_the_command_writes_it(packed: Path, web: Path, tmp_path: Path, vidfit: Call):
    written = tmp_path / "web.onnx"
    code, out, err = vidfit("export", packed, written, "--to", "web-model")
    assert (code, err) == (0, "")
    assert out.startswith(f"{written}: ")
    assert written.read_bytes() == web.read_bytes()


def test_a_damaged_file_is_not_made_a_sound_one(packed: Path, tmp_path: Path):
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match="was changed or cut short"):
        write_web_model(tmp_path / "bad.onnx", tmp_path / "web.onnx")
    assert not (tmp_path / "web.onnx").exists()


def test_onnxruntime_web_gives_what_onnxruntime_gives(web: Path):
    if shutil.which("node") is None or not (ROOT / "node_modules" / "onnxruntime-web").exists():
        pytest.skip("needs Node and onnxruntime-web: npm install --no-save onnxruntime-web")
    script, videos, frames = ROOT / "benchmarks" / "wasm.mjs", 3, 5
    done = subprocess.run(
        ["node", script, str(videos), str(frames), "0.1", web], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (found,) = json.loads(done.stdout)
    place = np.arange(videos * frames * 24)
    rgb = (place * 151 + (place >> 8)).astype(np.uint8).reshape(videos, frames, 24)
    inputs: dict[str, np.ndarray] = {"rgb": rgb, "num_frames": np.full(videos, frames)}
    np.testing.assert_allclose(np.reshape(found["probabilities"], (videos, -1)), run(web, inputs), atol=1e-4)
