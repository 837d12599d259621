"""YouTube-8M's own models, from the files that MediaPipe's feature extraction reads: a frozen graph and a PCA each.

    pictures  Inception of 2015-12-05 up to `pool_3`, 2,048 values, then mean and projection: 1,024
    sounds    VGGish up to `fc2` before its activation, 128 values, then mean and projection: 128

TensorFlow and tf2onnx make an ONNX file of each, once. It is kept if it gives the values that TensorFlow gives. That
needs `pip install 'vidfit[youtube8m]'`; reading videos afterwards does not.

Traded away: MediaPipe lets TensorFlow scale pictures to 299 pixels, bilinear and without smoothing. Here FFmpeg scales
them, as for every backbone.

Source: `mediapipe/graphs/youtube8m/feature_extraction.pbtxt` in MediaPipe.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from vidfit.errors import DataError, VidfitError, reason
from vidfit.videos.backbone import YOUTUBE8M, Backbone
from vidfit.videos.conversion import gives

_OPSET: Final = 17


@dataclass(frozen=True)
class _Network:
    """A frozen graph, and which part of it counts.

    Attributes:
        graph, mean, projection: names of files.
        begin, end: names of nodes; the first is replaced by the input.
        shape: of what `begin` gives, without the batch.
        sizes: values at `end`, and after the projection.
        description: fields of the backbone.
    """

    graph: str
    mean: str
    projection: str
    begin: str
    end: str
    shape: tuple[int, ...]
    sizes: tuple[int, int]
    description: dict[str, Any]

    @property
    def files(self) -> tuple[str, str, str]:
        return self.graph, self.mean, self.projection


_NETWORKS: Final = {
    "rgb": _Network(
        "classify_image_graph_def.pb",
        "inception3_mean_matrix_data.pb",
        "inception3_projection_matrix_data.pb",
        "Mul",  # after scaling to 299 pixels and (pixel - 128) / 128
        "pool_3",
        (299, 299, 3),
        (2048, 1024),
        {"size": 299, "mean": (128.0,), "deviation": (128.0,)},
    ),
    "audio": _Network(
        "vggish_new.pb",
        "vggish_mean_matrix_data.pb",
        "vggish_projection_matrix_data.pb",
        "vggish/input_features",
        "vggish/fc2/BiasAdd",
        (96, 64),
        (128, 128),
        {"window": 15600, "log_offset": 0.01},
    ),
}


def find_youtube8m_model(modality: Literal["rgb", "audio"], folder: Path) -> Backbone:
    """The description of YouTube-8M's model for pictures or sounds.

    Arguments:
        folder: where its three files are.

    Raises:
        DataError: a file is missing.
    """
    network = _NETWORKS[modality]
    return Backbone(
        name=f"{YOUTUBE8M}-{modality}",
        modality=modality,
        sha256=_digest(network, folder),
        embedding_size=network.sizes[1],
        output="embeddings",
        whitened=True,
        **network.description,
    )


def build_youtube8m_graph(backbone: Backbone, folder: Path) -> bytes:
    """The ONNX graph of a model, with its PCA: `[B, 299, 299, 3]` or `[B, 1, 96, 64]` to `embeddings`, `[B, K]`.

    Raises:
        DataError: a file is missing, or another than that of the checksum, or has other content than it should.
        VidfitError: TensorFlow or tf2onnx is not installed.
    """
    network = _NETWORKS[backbone.modality]
    if _digest(network, folder) != backbone.sha256:
        raise DataError(f"{folder}: holds other files than the features were made with; restore {_said(network.files)}")
    mean = _matrix(folder / network.mean, (network.sizes[0], 1))
    projection = _matrix(folder / network.projection, (network.sizes[1], network.sizes[0]))
    tensorflow = _tensorflow()
    path = folder / network.graph
    inputs = np.random.default_rng(0).uniform(-1, 1, (3, *network.shape)).astype(np.float32)
    try:
        model, values = _converted(*tensorflow, path.read_bytes(), network, inputs)
        content = _with_pca(model, network, mean, projection).SerializeToString()
        expected = (values - mean[:, 0]) @ projection.T
        same = gives(content, inputs if backbone.modality == "rgb" else inputs[:, None], expected)
    except Exception as error:  # those of TensorFlow, tf2onnx and ONNX Runtime share no other base class
        raise DataError(f"{path}: cannot become an ONNX file ({reason(error)}); download it again") from error
    if not same:
        raise DataError(f"{path}: its ONNX file gives other values than TensorFlow; download it again")
    return content


def _said(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _digest(network: _Network, folder: Path) -> str:
    """SHA-256 of the three files, one after the other."""
    if missing := tuple(name for name in network.files if not (folder / name).is_file()):
        raise DataError(
            f"{folder}: {_said(missing)} missing; "
            "docs/guide/image-and-sound-models.md says where to download YouTube-8M's models"
        )
    digest = hashlib.sha256()
    for name in network.files:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@cache
def _matrix_type() -> Any:
    """MediaPipe's MatrixData, `mediapipe/framework/formats/matrix_data.proto`."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="vidfit/matrix_data.proto", package="vidfit", syntax="proto2")
    message = file.message_type.add(name="MatrixData")
    for number, name in ((1, "rows"), (2, "cols"), (4, "layout")):
        message.field.add(name=name, number=number, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    message.field.add(name="packed_data", number=3, type=field.TYPE_FLOAT, label=field.LABEL_REPEATED)
    return message_factory.GetMessages([file])["vidfit.MatrixData"]


def _matrix(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """float32 `shape`, from a MatrixData file: by columns, or by rows where its layout is 1."""
    try:
        message = _matrix_type().FromString(path.read_bytes())
    except DecodeError as error:
        raise DataError(f"{path}: is no matrix of MediaPipe; download it again") from error
    values = np.array(message.packed_data, np.float32)
    if (message.rows, message.cols) != shape or len(values) != shape[0] * shape[1]:
        raise DataError(f"{path}: has {message.rows} x {message.cols} values, not {shape[0]} x {shape[1]}; replace it")
    return values.reshape(shape, order="C" if message.layout == 1 else "F")


def _tensorflow() -> tuple[Any, Any, Any]:
    try:
        import tensorflow as tf  # type: ignore[reportMissingModuleSource]
        import tf2onnx  # type: ignore[reportMissingImports]
        from tensorflow.python.tools.optimize_for_inference_lib import fold_batch_norms  # type: ignore
    except ImportError as error:
        raise VidfitError(
            f"YouTube-8M's models need TensorFlow once ({reason(error)}); install it with: "
            "pip install 'vidfit[youtube8m]'"
        ) from error
    return tf, tf2onnx, fold_batch_norms


def _converted(
    tf: Any, tf2onnx: Any, fold_batch_norms: Any, content: bytes, network: _Network, inputs: np.ndarray
) -> tuple[onnx.ModelProto, np.ndarray]:
    """The graph from `begin`, now an input for any batch, to `end`; and what TensorFlow makes of some inputs there."""
    whole = tf.compat.v1.GraphDef.FromString(content)
    begin = next(node for node in whole.node if node.name == network.begin)
    begin.Clear()
    begin.name, begin.op = network.begin, "Placeholder"
    begin.attr["dtype"].type = tf.float32.as_datatype_enum
    begin.attr["shape"].shape.CopyFrom(tf.TensorShape([None, *network.shape]).as_proto())
    graph = tf.compat.v1.graph_util.extract_sub_graph(whole, [network.end])
    given, wanted = f"{network.begin}:0", f"{network.end}:0"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph, name="")
        values = session.run(wanted, {given: inputs}).reshape(len(inputs), -1)
    # tf2onnx does not know Inception's batch norms, an operator of 2015; folded into convolutions, they are gone.
    folded = fold_batch_norms(graph)
    model = tf2onnx.convert.from_graph_def(folded, input_names=[given], output_names=[wanted], opset=_OPSET)[0]
    return model, values


def _with_pca(model: onnx.ModelProto, network: _Network, mean: np.ndarray, projection: np.ndarray) -> onnx.ModelProto:
    """`embeddings = (values - mean) @ projection.T`; sounds come in as `[B, 1, 96, 64]`."""
    graph, end = model.graph, model.graph.output[0].name
    given = graph.input[0].name
    values = {
        "pca/flat": np.array([-1, network.sizes[0]]),
        "pca/mean": mean[:, 0],
        "pca/projection": np.ascontiguousarray(projection.T),
        "pca/shape": np.array([-1, *network.shape]),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    shape = ["B", *network.shape] if len(network.shape) == 3 else ["B", 1, *network.shape]
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, shape))
    graph.output.append(helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["B", network.sizes[1]]))
    graph.node.insert(0, helper.make_node("Reshape", ["input", "pca/shape"], [given]))
    graph.node.extend(
        [
            helper.make_node("Reshape", [end, "pca/flat"], ["pca/values"]),
            helper.make_node("Sub", ["pca/values", "pca/mean"], ["pca/centred"]),
            helper.make_node("MatMul", ["pca/centred", "pca/projection"], ["embeddings"]),
        ]
    )
    return model
