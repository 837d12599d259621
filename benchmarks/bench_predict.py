"""Videos a second and peak memory of predicting over shards: read ahead and by length, against one after another.

Every row is a process of its own over the same generated shards, videos of 30 to 300 frames of 1,024 + 128 bytes, and
the same packed file: a NetVLAD of random weights, whose speed does not depend on them. `vidfit predict` writes the best
classes as well. Rows take turns, and each tells its fastest round. Twice the shards should not take more memory.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from table import options, publish

MAKE = """
import sys
from pathlib import Path
import numpy as np, torch
from vidfit import Video, write_shard
from vidfit.quantization.member import Member
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.classifier import ClassifierConfig
from vidfit.export.graph import PackedMember, write_graph
from vidfit.training.checkpoint import MemberInfo

folder, shards, videos, clusters, hidden = Path(sys.argv[1]), *map(int, sys.argv[2:])
random, sizes = np.random.default_rng(0), {"rgb": 1024, "audio": 128}
for shard in range(2 * shards):
    lengths = random.integers(30, 301, videos)
    write_shard(
        folder / f"{shard:03}.tfrecord",
        (
            Video(f"{shard}-{number}", {
                name: random.integers(0, 256, (length, size), np.uint8) for name, size in sizes.items()
            }, np.array([0]))
            for number, length in enumerate(lengths)
        ),
    )
info = MemberInfo(
    name="netvlad",
    classifier=ClassifierConfig.model_validate({
        "family": {"type": "netvlad", "clusters": clusters, "hidden": hidden}, "head": {"type": "moe", "experts": 2}
    }),
    spec=FeatureSpec(modalities=tuple(Modality(name=name, size=size) for name, size in sizes.items())),
    vocabulary=tuple(f"label {number}" for number in range(3862)), step=1, gap_validation=0.5,
)
torch.manual_seed(0)
member = Member(info, dict(info.build().state_dict())).quantized()
write_graph(folder / "model.onnx", [PackedMember(member, 1.0)], 2**31 - 1)
"""

RUN = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
import vidfit
from vidfit.features.loader import Batches
from vidfit.inference.resume import predict_shards

how, batch_size, output, model, *shards = sys.argv[1:]
shards = list(map(Path, shards))
predictor = vidfit.load(model, batch_size=int(batch_size))
loaded, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
if how == "one after another":
    for batch in Batches(shards, predictor.spec, None, int(batch_size)):
        predictor.predict_batch(batch)
elif how == "by length":
    for batch in Batches(shards, predictor.spec, None, predictor.window):
        predictor.predict_batch(batch)
elif how == "by length, read ahead":
    for batch in read_ahead(predictor.batches(shards)):
        predictor.predict_batch(batch)
else:
    predict_shards(Path(output), shards, predictor, [])
seconds, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "loaded": loaded * 1024 / 1e6, "peak": peak * 1024 / 1e6}))
"""
HOW = ("one after another", "by length", "by length, read ahead", "vidfit predict")


def main() -> None:
    parser = options((__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, default=4, help="of the smaller set")
    parser.add_argument("--videos", type=int, default=256, help="a shard")
    parser.add_argument("--clusters", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cases = [(how, times) for times in (1, 2) for how in HOW if times == 1 or how == HOW[-1]]
    best: dict[tuple[str, int], dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        sizes = (arguments.shards, arguments.videos, arguments.clusters, arguments.hidden)
        subprocess.run([sys.executable, "-c", MAKE, name, *map(str, sizes)], check=True)
        shards = sorted(Path(name).glob("*.tfrecord"))
        for number in range(arguments.rounds):
            for how, times in cases:
                output, model = Path(name) / f"{number}-{times}.csv", Path(name) / "model.onnx"
                command = [how, str(arguments.batch_size), output, model, *shards[: times * arguments.shards]]
                done = subprocess.run([sys.executable, "-c", RUN, *command], check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                known = best.setdefault((how, times), found)
                best[how, times] = {key: min(known[key], found[key]) for key in found}
    rows = [
        {
            "how": how,
            "videos": times * arguments.shards * arguments.videos,
            "videos/s": times * arguments.shards * arguments.videos / found["seconds"],
            "loaded, MB": round(found["loaded"]),
            "peak, MB": round(found["peak"]),
        }
        for (how, times), found in best.items()
    ]
    publish(f"predicting over shards, batch size {arguments.batch_size}", rows, arguments.json)


if __name__ == "__main__":
    main()
