"""A packed file for browsers: an ONNX file with fast operators only in onnxruntime-web.

One thread of WebAssembly then takes three to five times as long as a native one. `MatMulNBits` alone would make it
twenty times or more: it has no fast kernel there. `benchmarks/wasm.py` measures both.
"""

from pathlib import Path

from vidfit.checksum import write_checksum
from vidfit.export.byte_products import use_byte_products
from vidfit.export.metadata import CHECKSUM
from vidfit.export.packed_file import read_packed_file
from vidfit.files import replacing


def write_web_model(source: Path, path: Path) -> None:
    """Write a packed file for onnxruntime-web. It is a packed file too, and as large.

    Arguments:
        source: the packed `.onnx` file.
        path: the file to write. It appears when complete.

    Raises:
        ModelFileError: `source` is not a packed file.
        OutputError: `path` cannot be written.
    """
    model, _ = read_packed_file(source)
    use_byte_products(model)
    with replacing(path) as partial:
        partial.write_bytes(model.SerializeToString())
        write_checksum(partial, CHECKSUM)
