"""What bit widths cost: GAP and KL divergence from float32, for rounding to nearest and for GPTQ.

All big tensors of a member have the same scheme. GPTQ sees inputs from training videos. No score selects anything.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from table import options, publish

from vidfit.evaluation.metrics import Metrics
from vidfit.features.batch import Batch
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards
from vidfit.quantization.calibration import collect
from vidfit.quantization.gptq import LayerInputs
from vidfit.quantization.member import Member, load_member
from vidfit.quantization.sensitivity import divergence
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme
from vidfit.recipe import load_recipe
from vidfit.training.validation import predict

BATCH = 256
SCHEMES = ["8", "6/channel", "5/channel", "4/channel", "4", "3/channel", "2/channel"]


def probabilities(member: Member, batches: list[Batch]) -> np.ndarray:
    classifier = member.classifier()
    return np.concatenate([predict(classifier, batch) for batch in batches])


def gap(predicted: np.ndarray, batches: list[Batch]) -> float:
    metrics, start = Metrics(predicted.shape[1]), 0
    for batch in batches:
        metrics.update(predicted[start : start + len(batch)], batch.labels.numpy(), batch.label_counts.numpy())
        start += len(batch)
    return metrics.result()["gap"]


def bits_a_weight(members: list[Member]) -> float:
    """Average over the quantised tensors, with their scales and offsets."""
    tensors = [value for member in members for value in member.state.values() if isinstance(value, QuantizedTensor)]
    return 8 * sum(tensor.nbytes for tensor in tensors) / sum(tensor.codes.numel() for tensor in tensors)


def partitions(inputs: Mapping[str, LayerInputs]) -> dict[str, Mapping[str, LayerInputs]]:
    """Other ways to split the inputs than by cluster: not at all (small descriptors only), and one by one."""
    whole = {name: replace(own, parts=((1, own.samples.shape[1]),)) for name, own in inputs.items()}
    single = {name: replace(own, parts=((own.samples.shape[1], 1),)) for name, own in inputs.items()}
    return {"all inputs together": whole, "diagonal": single}


def main() -> None:
    parser: argparse.ArgumentParser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path, help="run folder with trained members")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, help="such as 4/channel")
    parser.add_argument("--on", choices=("validation", "eval"), default="validation")
    parser.add_argument("--calibration", type=int, default=1024, help="training videos")
    parser.add_argument(
        "--partitions", action="store_true", help="also split descriptors in other ways than by cluster"
    )
    arguments = parser.parse_args()
    data = load_recipe(arguments.run / "recipe.yaml").data
    members = {folder.name: load_member(folder) for folder in sorted((arguments.run / "members").iterdir())}
    info = next(iter(members.values())).info

    def read(patterns: list[str]) -> Batches:
        return Batches(expand_shards(patterns), info.spec, len(info.vocabulary), BATCH)

    batches = list(read(getattr(data, arguments.on)))
    calibration = list(islice(read(data.train), arguments.calibration // BATCH))
    inputs = {name: collect(member.classifier(), calibration) for name, member in members.items()}
    original = {name: probabilities(member, batches) for name, member in members.items()}
    together = f"all {len(members)}, equal weights"
    original[together] = np.mean([original[name] for name in members], axis=0)
    best = {name: gap(predicted, batches) for name, predicted in original.items()}
    rows: list[dict[str, Any]] = []
    for scheme in track(list(map(QuantScheme.parse, arguments.schemes)), "bit widths"):
        roundings: dict[str, dict[str, Any]] = {"nearest": dict.fromkeys(members), "GPTQ": inputs}
        if arguments.partitions:
            splits = {name: partitions(own) for name, own in inputs.items()}
            roundings |= {split: {name: own[split] for name, own in splits.items()} for split in splits[info.name]}
        for rounding, given in roundings.items():
            quantized = {name: member.quantized(scheme, given[name]) for name, member in members.items()}
            found = {name: probabilities(member, batches) for name, member in quantized.items()}
            found[together] = np.mean([found[name] for name in members], axis=0)
            for name, predicted in found.items():
                rows.append(
                    {
                        "member": name,
                        "scheme": str(scheme),
                        "rounding": rounding,
                        "bits a weight": bits_a_weight([quantized[name]] if name in members else [*quantized.values()]),
                        "GAP lost": best[name] - gap(predicted, batches),
                        "KL": divergence(original[name], predicted),
                    }
                )
    title = ", ".join(f"{name} {value:.4f}" for name, value in best.items())
    publish(f"Lost against float32 on {arguments.on}: GAP {title}", rows, arguments.json)


if __name__ == "__main__":
    main()
