"""A model in use: arrays and shards, packed files and members, filling up, and what does not fit."""

import json
import threading
import time
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import vidfit
from tests.corpus import LABELS, VIDEOS, videos
from vidfit.checksum import write_checksum
from vidfit.errors import DataError, ModelFileError, VidfitError
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.metadata import CHECKSUM
from vidfit.features.example import to_example
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards
from vidfit.features.spec import FeatureSpec, Modality, Video
from vidfit.features.tfrecord import write_records
from vidfit.inference import packed_model
from vidfit.inference.predictor import BATCH_SIZE, Predictor
from vidfit.models.classifier import ClassifierConfig
from vidfit.quantization.member import Member
from vidfit.training.checkpoint import MemberInfo, save_member

FORMS = ("model.onnx", "members/lstm", "members/lstm/quantized.safetensors")


def arrays(count: int = 3) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    found = list(videos(count, seed=2))
    longest = max(video.num_frames for video in found)
    frames = {
        name: np.stack([np.pad(video.frames[name], ((0, longest - video.num_frames), (0, 0))) for video in found])
        for name in found[0].frames
    }
    return frames, np.array([video.num_frames for video in found]), [video.id for video in found]


def test_arrays_and_shards_agree(finished: Path, corpus: Path):
    model = vidfit.load(finished / "model.onnx")
    frames, num_frames, ids = arrays(VIDEOS["eval"])
    from_arrays = dict(zip(ids, model.predict(frames, num_frames), strict=True))
    from_shards = dict(model.predict_shards(corpus / "eval"))
    assert set(from_arrays) == set(from_shards)
    for id, probabilities in from_shards.items():
        np.testing.assert_allclose(probabilities, from_arrays[id], atol=1e-6)
    assert model.vocabulary == LABELS


def test_several_patterns(finished: Path, corpus: Path):
    model = vidfit.load(finished / "model.onnx")
    patterns = [str(corpus / "eval" / "eval0*"), corpus / "validation" / "validation1.tfrecord"]
    assert len(list(model.predict_shards(patterns))) == VIDEOS["eval"] // 2 + VIDEOS["validation"] // 2


def test_without_lengths_every_slot_is_a_frame(finished: Path):
    model = vidfit.load(finished / "model.onnx")
    frames, _, _ = arrays()
    longest = frames["rgb"].shape[1]
    np.testing.assert_array_equal(model.predict(frames), model.predict(frames, np.full(3, longest)))


@pytest.mark.parametrize("form", FORMS)
def test_no_videos(finished: Path, form: str):
    frames, num_frames, _ = arrays()
    none = {name: array[:0] for name, array in frames.items()}
    for lengths in (None, num_frames[:0]):
        found = vidfit.load(finished / form).predict(none, lengths)
        assert found.shape == (0, len(LABELS))
        assert found.dtype == np.float32


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["transposed", "backwards", "read-only"])
def test_arrays_of_any_layout(finished: Path, form: str, layout: str):
    model = vidfit.load(finished / form)
    frames, num_frames, _ = arrays()
    changed = {name: array.copy() for name, array in frames.items()}
    for name, array in changed.items():
        if layout == "transposed":
            changed[name] = np.asfortranarray(array)
        elif layout == "backwards":
            changed[name] = array[:, ::-1].copy()[:, ::-1]
        else:
            array.flags.writeable = False
    np.testing.assert_array_equal(model.predict(changed, num_frames), model.predict(frames, num_frames))


def test_arrays_are_run_in_slices(finished: Path):
    """Memory must not grow with the number of videos."""
    whole = vidfit.load(finished / "model.onnx")
    seen = []

    def run(frames: Any, num_frames: np.ndarray) -> np.ndarray:
        seen.append(len(num_frames))
        return whole._run(frames, num_frames)

    sliced = Predictor(whole.spec, whole.vocabulary, run)
    frames, num_frames, _ = arrays(2 * BATCH_SIZE + 1)
    np.testing.assert_allclose(sliced.predict(frames, num_frames), whole._run(frames, num_frames), atol=1e-6)
    assert seen == [BATCH_SIZE, BATCH_SIZE, 1]


Alone = Callable[[str], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def alone(finished: Path, corpus: Path) -> Alone:
    """The answers of a model to each video by itself, by id."""

    @cache
    def answers(form: str) -> dict[str, np.ndarray]:
        model = vidfit.load(finished / form, threads=1)
        single = Batches(expand_shards([corpus / "eval"]), model.spec, None, batch_size=1)
        return {video.ids[0]: model._run(*model._inputs(video))[0] for video in single}

    return answers


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("batch_size", "threads", "parallel_batches"),
    [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 2), (32, 1, 1), (32, 2, 1), (32, 2, 0), (32, 3, 5)],
)
def test_results_depend_on_neither_batch_size_nor_threads_nor_batches_at_once(
    finished: Path, corpus: Path, alone: Alone, form: str, batch_size: int, threads: int, parallel_batches: int
):
    """Each video alone is the truth; shards are read in their order, the other batch in a random one."""
    shards, expected = expand_shards([corpus / "eval"]), alone(form)
    assert len(expected) == VIDEOS["eval"]
    model = vidfit.load(finished / form, threads=threads, batch_size=batch_size, parallel_batches=parallel_batches)
    rows = list(model.predict_shards(shards))
    assert [id for id, _ in rows] == list(expected)
    (shuffled,) = Batches(shards, model.spec, None, VIDEOS["eval"], shuffle_buffer=VIDEOS["eval"])
    rows += zip(shuffled.ids, model.predict_batch(shuffled), strict=True)
    frames, num_frames, ids = arrays(VIDEOS["eval"])
    rows += zip(ids, model.predict(frames, num_frames), strict=True)
    for id, probabilities in rows:
        np.testing.assert_allclose(probabilities, expected[id], atol=1e-5, rtol=0)


def test_videos_of_similar_length_run_together(corpus: Path):
    """What runs is a made-up model that says how many frames it was given."""
    seen = []

    def run(frames: Any, num_frames: np.ndarray) -> np.ndarray:
        seen.append(sorted(num_frames))
        assert frames["rgb"].shape[1] == max(num_frames)
        return num_frames[:, None].astype(np.float32)

    spec = FeatureSpec(modalities=(Modality(name="rgb", size=24), Modality(name="audio", size=8)))
    model = Predictor(spec, ("frames",), run, batch_size=5)
    lengths = {video.id: video.num_frames for video in videos(VIDEOS["eval"], seed=2)}
    rows = list(model.predict_shards(corpus / "eval"))
    assert {id: int(frames) for id, (frames,) in rows} == lengths
    assert [id for id, _ in rows] == [
        id for batch in Batches(expand_shards([corpus / "eval"]), spec, None, 1) for id in batch.ids
    ]
    first = sorted(lengths[id] for id, _ in rows[:40])
    assert model.window == 40
    assert seen == [first[start : start + 5] for start in range(0, 40, 5)] + seen[8:]
    assert [len(batch) for batch in seen[8:]] == [5, 3]


@pytest.mark.parametrize("of", ["arrays", "shards"])
def test_batches_are_computed_at_once_and_put_in_order(corpus: Path, of: str):
    """The made-up model answers for the first of three batches once it has answered for the others."""
    size = VIDEOS["eval"] // 3
    frames, num_frames, _ = arrays(VIDEOS["eval"])
    first = (num_frames if of == "arrays" else np.sort(num_frames))[:size]
    others = threading.Semaphore(0)

    def run(frames: Any, num_frames: np.ndarray) -> np.ndarray:
        if np.array_equal(num_frames, first):
            assert all(others.acquire(timeout=60) for _ in range(2))
            time.sleep(0.05)  # until they have been handed over
        else:
            others.release()
        return num_frames[:, None].astype(np.float32)

    spec = FeatureSpec(modalities=(Modality(name="rgb", size=24), Modality(name="audio", size=8)))
    model = Predictor(spec, ("frames",), run, batch_size=size, parallel_batches=3)
    if of == "arrays":
        np.testing.assert_array_equal(model.predict(frames, num_frames)[:, 0], num_frames)
    else:
        lengths = {video.id: video.num_frames for video in videos(VIDEOS["eval"], seed=2)}
        assert {id: int(frames) for id, (frames,) in model.predict_shards(corpus / "eval")} == lengths


def test_what_fails_in_one_of_several_batches_is_raised():
    frames, num_frames, _ = arrays(9)
    num_frames[-1] = 1

    def run(frames: Any, num_frames: np.ndarray) -> np.ndarray:
        if num_frames[-1] == 1:
            raise ModelFileError("no such operator")
        return np.zeros((len(num_frames), 1), np.float32)

    spec = FeatureSpec(modalities=(Modality(name="rgb", size=24), Modality(name="audio", size=8)))
    with pytest.raises(ModelFileError, match="no such operator"):
        Predictor(spec, ("frames",), run, batch_size=3, parallel_batches=3).predict(frames, num_frames)


@pytest.mark.parametrize(
    ("threads", "parallel_batches", "at_once_made", "of_the_session"),
    [(8, 1, 1, 8), (8, 0, 4, 5), (2, 0, 2, 1), (1, 0, 1, 1), (8, 3, 3, 6), (2, 5, 2, 1)],
)
def test_batches_at_once_share_the_threads(
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    parallel_batches: int,
    at_once_made: int,
    of_the_session: int,
):
    """Each batch has a thread of its own, and a session has one less of its own than it is told."""
    sessions: list[int] = []
    session = packed_model._session

    def counted(path: Path, threads: int, expand_weights: bool) -> object:
        sessions.append(threads)
        return session(path, threads, expand_weights)

    monkeypatch.setattr(packed_model, "_session", counted)
    loaded = vidfit.load(finished / "model.onnx", threads=threads, parallel_batches=parallel_batches)
    assert sessions == [of_the_session]
    assert at_once_made + of_the_session - 1 == threads
    assert loaded._parallel_batches == at_once_made


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here")
def test_a_member_runs_on_the_gpu(finished: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch):
    frames, num_frames, _ = arrays()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    on_gpu = vidfit.load(finished / "members" / "vlad")
    found = on_gpu.predict(frames, num_frames)
    assert torch.cuda.max_memory_allocated() > before
    assert len(list(on_gpu.predict_shards(corpus / "eval"))) == VIDEOS["eval"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    np.testing.assert_allclose(found, vidfit.load(finished / "members" / "vlad").predict(frames, num_frames), atol=1e-3)


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("model.onnx", "Model.ONNX"),
        ("model.onnx", "model"),
        ("model.onnx", "model.safetensors"),
        ("members/lstm/best.safetensors", "lstm"),
        ("members/lstm/quantized.safetensors", "lstm.onnx"),
    ],
)
def test_the_content_says_what_a_file_is(finished: Path, tmp_path: Path, form: str, name: str):
    copy = tmp_path / name
    copy.write_bytes((finished / form).read_bytes())
    frames, num_frames, _ = arrays()
    expected = vidfit.load(finished / form).predict(frames, num_frames)
    np.testing.assert_array_equal(vidfit.load(copy).predict(frames, num_frames), expected)


def test_video_level_shards(tmp_path: Path):
    """Packed file and member on shards of one float32 frame a video, against PyTorch."""
    sizes = {"mean_rgb": 24, "mean_audio": 8}
    random, labels = np.random.default_rng(0), np.array([0])
    found = [
        Video(
            str(number),
            {name: random.normal(size=(1, size)).astype(np.float32) for name, size in sizes.items()},
            labels,
        )
        for number in range(BATCH_SIZE + 3)
    ]
    write_records(tmp_path / "some.tfrecord", map(to_example, found))
    info = MemberInfo(
        name="video level",
        classifier=ClassifierConfig.model_validate(
            {"encoder": {"hidden": 12}, "family": {"type": "mean"}, "head": {"type": "moe", "experts": 2}}
        ),
        spec=FeatureSpec(modalities=tuple(Modality(name=n, size=size, dtype="float32") for n, size in sizes.items())),
        vocabulary=LABELS,
        step=1,
        gap_validation=0.5,
    )
    torch.manual_seed(0)
    module = info.build().eval()
    write_graph(tmp_path / "model.onnx", [PackedMember(Member(info, dict(module.state_dict())), 1.0)], 1_000_000)
    save_member(tmp_path / "member.safetensors", info, module.state_dict())
    frames = {name: np.stack([video.frames[name] for video in found]) for name in sizes}
    with torch.inference_mode():
        expected = module({name: torch.from_numpy(array) for name, array in frames.items()}).numpy()
    for name in ("model.onnx", "member.safetensors"):
        model = vidfit.load(tmp_path / name)
        rows = dict(model.predict_shards(tmp_path / "some.tfrecord"))
        assert list(rows) == [video.id for video in found]
        np.testing.assert_allclose(np.stack(list(rows.values())), expected, atol=1e-5, rtol=0)
        np.testing.assert_allclose(model.predict(frames), expected, atol=1e-5, rtol=0)
        for value in (np.nan, np.inf):
            bad = {**frames, "mean_rgb": frames["mean_rgb"].copy()}
            bad["mean_rgb"][1, 0, 3] = value
            with pytest.raises(DataError, match="modality mean_rgb: has values that are not finite"):
                model.predict(bad)


@pytest.mark.parametrize("form", FORMS)
def test_filling_up_shows_the_model_real_frames_and_then_draws_of_the_id(finished: Path, corpus: Path, form: str):
    """Against full arrays made here: 12 frames, and 4 frames, which cuts videos of up to 9."""
    whole = vidfit.load(finished / form)
    found = list(videos(VIDEOS["eval"], seed=2))
    for slots in (12, 4):
        filled = {name: [] for name in found[0].frames}
        for video in found:
            draws = np.random.default_rng(zlib.crc32(video.id.encode())).random(slots, np.float32)
            index = (draws * np.float32(video.num_frames)).astype(int)
            real = min(slots, video.num_frames)
            index[:real] = np.arange(real)
            for name, array in video.frames.items():
                filled[name].append(array[index])
        expected = whole.predict({name: np.stack(arrays) for name, arrays in filled.items()})
        rows = dict(vidfit.load(finished / form, fill_up=slots).predict_shards(corpus / "eval"))
        assert len(rows) == len(found)
        np.testing.assert_allclose(np.stack([rows[video.id] for video in found]), expected, atol=1e-6)


@pytest.mark.parametrize("form", FORMS[:2])
def test_filling_up_does_not_depend_on_the_batch(finished: Path, corpus: Path, form: str):
    model = vidfit.load(finished / form, fill_up=10)
    shards = expand_shards([corpus / "eval"])

    def rows(**options: Any) -> dict[str, np.ndarray]:
        batches = Batches(shards, model.spec, None, **options)
        return {id: row for batch in batches for id, row in zip(batch.ids, model.predict_batch(batch), strict=True)}

    large, small = rows(batch_size=BATCH_SIZE), rows(batch_size=7, shuffle_buffer=20)
    assert set(large) == set(small)
    for id, probabilities in large.items():
        np.testing.assert_allclose(small[id], probabilities, atol=1e-6)


def test_filling_up_leaves_a_largest_activation_as_it_is(corpus: Path, tmp_path: Path):
    """Where a family takes the maximum over frames, repeating some changes nothing; in the mean, it does."""
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=24), Modality(name="audio", size=8)))
    families: dict[str, dict[str, Any]] = {
        "max": {"type": "dbof", "pooling": "max", "clusters": 16, "hidden": 8},
        "mean": {"type": "mean"},
    }
    differences = {}
    for name, family in families.items():
        config = ClassifierConfig.model_validate({"family": family, "head": {"type": "logistic"}})
        info = MemberInfo(name=name, classifier=config, spec=spec, vocabulary=LABELS, step=1, gap_validation=0.5)
        torch.manual_seed(0)
        state = info.build().state_dict()
        for weights in state.values():
            if weights.ndim > 1:
                weights.normal_()
        path = tmp_path / f"{name}.safetensors"
        save_member(path, info, state)
        masked, filled = (
            np.stack([row for _, row in vidfit.load(path, fill_up=slots).predict_shards(corpus / "eval")])
            for slots in (0, 12)
        )
        assert masked.std(axis=0).max() > 0.1
        differences[name] = np.abs(masked - filled).max()
    assert differences["max"] <= 1e-6
    assert differences["mean"] > 1e-2


def test_filling_up_needs_ids_and_a_number_of_frames(finished: Path):
    frames, num_frames, _ = arrays()
    with pytest.raises(DataError, match="arrays have no video ids, which fill_up needs"):
        vidfit.load(finished / "model.onnx", fill_up=300).predict(frames, num_frames)
    with pytest.raises(VidfitError, match="fill_up -1: give a number of frames"):
        vidfit.load(finished / "model.onnx", fill_up=-1)


def test_a_batch_has_videos(finished: Path):
    with pytest.raises(VidfitError, match="batch_size 0: give a number of videos"):
        vidfit.load(finished / "model.onnx", batch_size=0)
    with pytest.raises(VidfitError, match="parallel_batches -1: give a number of batches"):
        vidfit.load(finished / "model.onnx", parallel_batches=-1)


@pytest.fixture(scope="module")
def packed(finished: Path) -> Predictor:
    return vidfit.load(finished / "model.onnx")


def test_a_member_and_its_quantized_form_predict(finished: Path):
    frames, num_frames, _ = arrays()
    member = vidfit.load(finished / "members" / "lstm").predict(frames, num_frames)
    quantized = vidfit.load(finished / "members" / "lstm" / "quantized.safetensors").predict(frames, num_frames)
    assert member.shape == (3, len(LABELS))
    assert 0 < np.abs(member - quantized).max() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frames: frames.pop("audio"), r"reads the modalities \['audio', 'rgb'\]"),
        (
            lambda frames: frames.update(rgb=frames["rgb"][:, :, :5]),
            r"modality rgb: the model reads uint8 \[B, T, 24\]",
        ),
        (lambda frames: frames.update(audio=frames["audio"].astype(float)), "modality audio: .*float64"),
        (lambda frames: frames.update(audio=frames["audio"][:, 1:]), "same B and T"),
        (lambda frames: frames.update(audio=frames["audio"][0]), r"modality audio: .*this is uint8 \[\d+, 8\]"),
        (lambda frames: frames.update(rgb=frames["rgb"][0, 0]), r"modality rgb: .*this is uint8 \[24\]"),
        (lambda frames: frames.update(rgb=np.uint8(1)), "modality rgb: .*this is uint8"),
        (lambda frames: frames.update(rgb=frames["rgb"].tolist()), "modality rgb: .*this is list"),
        (lambda frames: frames.update(audio=torch.from_numpy(frames["audio"])), "modality audio: .*this is Tensor"),
    ],
)
def test_arrays_that_do_not_fit(packed: Predictor, change, message: str):
    frames, num_frames, _ = arrays()
    change(frames)
    with pytest.raises(DataError, match=message):
        packed.predict(frames, num_frames)


@pytest.mark.parametrize(
    "num_frames",
    [[0, 1, 1], [1, 1, 99], [1, 1], [[1, 1, 1]], 1, [1.0, 1.9, 1.0], [True, True, True], ["1", "1", "1"], [1, 1, None]],
)
def test_lengths_that_do_not_fit(packed: Predictor, num_frames: Any):
    with pytest.raises(DataError, match="give 3 integers from 1 to"):
        packed.predict(arrays()[0], np.array(num_frames))


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_file_cut_short(finished: Path, tmp_path: Path, share: float):
    whole = (finished / "model.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelFileError, match=r"cut\.onnx: ") as caught:
        vidfit.load(path)
    assert "\n" not in str(caught.value)
    assert "cut short" in str(caught.value)
    assert "not a vidfit file" not in str(caught.value)


def test_a_member_cut_short(finished: Path, tmp_path: Path):
    whole = (finished / "members" / "mean" / "best.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[:-9])
    with pytest.raises(ModelFileError, match=r"cut\.safetensors: not a readable member"):
        vidfit.load(path)


@pytest.mark.parametrize("shards", ["some.tfrecord", Path("some"), ["a", "b"]])
def test_shards_are_not_taken_for_arrays(packed: Predictor, shards: Any):
    with pytest.raises(DataError, match="for shards, call predict_shards"):
        packed.predict(shards)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"nothing\.onnx: No such file"):
        vidfit.load(tmp_path / "nothing.onnx")
    with pytest.raises(ModelFileError, match="nothing: No such file"):
        vidfit.load(tmp_path / "nothing")


def test_another_onnx_file(tmp_path: Path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "other", [value], [out])
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "other.onnx")
    with pytest.raises(ModelFileError, match=r"other\.onnx: not a vidfit file: it has no vidfit\.\* metadata"):
        vidfit.load(tmp_path / "other.onnx")


def edited(source: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """With a checksum that is right."""
    model = onnx.load(source)
    change(model)
    target.write_bytes(model.SerializeToString())
    if any(entry.key == "vidfit.crc32c" and len(entry.value) == 8 for entry in model.metadata_props):
        write_checksum(target, CHECKSUM)
    return target


@pytest.mark.parametrize("place", [0, 0.3, 0.99])
def test_a_byte_that_was_changed(finished: Path, tmp_path: Path, place: float):
    content = bytearray((finished / "model.onnx").read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"bad\.onnx: was altered, damaged or cut short .*vidfit\.crc32c"):
        vidfit.load(tmp_path / "bad.onnx")


def set_label(model: onnx.ModelProto) -> None:
    entries = {entry.key: entry.value for entry in model.metadata_props}
    entries["vidfit.vocabulary"] = entries["vidfit.vocabulary"].replace("guitar", "violin")
    onnx.helper.set_model_props(model, entries)


def scale_a_weight(model: onnx.ModelProto) -> None:
    weight = next(it for it in model.graph.initializer if it.data_type == onnx.TensorProto.FLOAT)
    weight.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(weight), weight.name))


@pytest.mark.parametrize("change", [set_label, scale_a_weight])
def test_a_model_that_was_changed_and_still_runs(finished: Path, tmp_path: Path, change):
    """The graph is sound, so nothing but the checksum tells."""
    path = edited(finished / "model.onnx", tmp_path / "edited.onnx", change)
    vidfit.load(path)
    model = onnx.load(finished / "model.onnx")
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"edited\.onnx: was altered"):
        vidfit.load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vidfit.format", None, "vidfit.format: Field required"),
        ("vidfit.format", "0", "vidfit.format: Input should be '1'"),
        ("vidfit.spec", None, "vidfit.spec: Field required"),
        ("vidfit.spec", "{}", "vidfit.spec.modalities: Field required"),
        ("vidfit.spec", "{", "vidfit.spec: Invalid JSON"),
        ("vidfit.spec", '{"modalities": [{"name": "rgb", "size": 24}]}', "its inputs are not those that vidfit.spec"),
        ("vidfit.vocabulary", None, "vidfit.vocabulary: Field required"),
        ("vidfit.vocabulary", "[", "vidfit.vocabulary: Invalid JSON"),
        ("vidfit.vocabulary", "{}", "vidfit.vocabulary: "),
        ("vidfit.vocabulary", '["rain"]', "its output is not as long as vidfit.vocabulary"),
        ("vidfit.thresholds", "AYD/", "vidfit.thresholds: it holds 3 thresholds for 5 labels"),
        ("vidfit.thresholds", "no", "vidfit.thresholds: "),
        ("vidfit.members", None, "vidfit.members: Field required"),
        ("vidfit.crc32c", None, "vidfit.crc32c: Field required"),
        ("vidfit.crc32c", "", "vidfit.crc32c: String should match pattern"),
    ],
)
def test_a_packed_file_with_edited_metadata(finished: Path, tmp_path: Path, key: str, value: str | None, message: str):
    def change(model: onnx.ModelProto) -> None:
        entries = {entry.key: entry.value for entry in model.metadata_props} | {key: value}
        onnx.helper.set_model_props(model, {name: text for name, text in entries.items() if text is not None})

    path = edited(finished / "model.onnx", tmp_path / "edited.onnx", change)
    with pytest.raises(ModelFileError) as caught:
        vidfit.load(path)
    assert str(caught.value).startswith(f"{path}: not a readable packed file ({message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "modality",
    [{"name": "sound", "size": 8}, {"name": "audio", "size": 9}, {"name": "audio", "size": 8, "dtype": "float32"}],
)
def test_a_packed_file_whose_inputs_differ_from_its_spec(finished: Path, tmp_path: Path, modality: dict[str, Any]):
    def change(model: onnx.ModelProto) -> None:
        entries = {entry.key: entry.value for entry in model.metadata_props}
        rgb = {"name": "rgb", "size": 24, "dtype": modality.get("dtype", "uint8")}
        entries["vidfit.spec"] = json.dumps({"modalities": [rgb, modality]})
        onnx.helper.set_model_props(model, entries)

    with pytest.raises(ModelFileError, match=r"edited\.onnx: .*its inputs are not those that vidfit\.spec names"):
        vidfit.load(edited(finished / "model.onnx", tmp_path / "edited.onnx", change))
