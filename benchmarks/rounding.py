"""What a width costs on validation: GAP, and the KL divergence from float32, by granularity, clipping and rounding.

Every big tensor of a member has the same grid. Moments are those of training videos, scores those of validation videos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from table import options, publish

from vidfit.compression.calibration import collect
from vidfit.compression.compensation import Moments
from vidfit.compression.member import Member, load_member
from vidfit.compression.quantize import Grid, QuantizedTensor
from vidfit.evaluation.metrics import Metrics
from vidfit.features.batches import Batch, Batches
from vidfit.features.shards import expand_shards
from vidfit.recipe import load_recipe

RUNS = ("runs/audioset", "runs/yt8m-video-level")
GRANULARITIES = ("", "/channel", "/128", "/64", "/32")
FORMS = ("", "/clip", "/symmetric", "/symmetric/clip")


def first(shards: Sequence[str], member: Member, videos: int) -> list[Batch]:
    """Batches of the first videos, read once."""
    found, batches = 0, []
    for batch in Batches(expand_shards(shards), member.info.spec, len(member.info.vocabulary), 256):
        batches.append(batch)
        found += len(batch)
        if found >= videos:
            break
    return batches


@torch.inference_mode()
def predict(member: Member, batches: list[Batch]) -> list[torch.Tensor]:
    classifier = member.classifier()
    return [classifier(batch.padded(), batch.num_frames) for batch in batches]


def gap(predictions: list[torch.Tensor], batches: list[Batch], classes: int) -> float:
    metrics = Metrics(classes)
    for probabilities, batch in zip(predictions, batches, strict=True):
        metrics.update(probabilities.numpy(), batch.labels.numpy(), batch.label_counts.numpy())
    return metrics.result()["gap"]


def divergence(predictions: list[torch.Tensor], original: list[torch.Tensor]) -> float:
    """KL divergence of the labels' Bernoulli distributions from the original's, summed over classes, a video."""
    total = videos = 0.0
    for found_BC, true_BC in zip(predictions, original, strict=True):
        q, p = (values.double().clamp(1e-7, 1 - 1e-7) for values in (found_BC, true_BC))
        total += (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum().item()
        videos += len(p)
    return total / videos


def bits_a_weight(member: Member) -> float:
    """Of the quantised tensors, with their scales and offsets."""
    tensors = [tensor for tensor in member.state.values() if isinstance(tensor, QuantizedTensor)]
    return 8 * sum(tensor.nbytes for tensor in tensors) / sum(tensor.codes.numel() for tensor in tensors)


def diagonal(moments: Mapping[str, Moments]) -> dict[str, Moments]:
    """Nothing is compensated; clipping still weighs errors by the inputs."""
    return {name: replace(found, parts=((1, found.inputs.shape[1]),)) for name, found in moments.items()}


def full(moments: Mapping[str, Moments]) -> dict[str, Moments]:
    """Descriptors as one block."""
    return {name: replace(found, parts=((found.inputs.shape[1], 1),)) for name, found in moments.items()}


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("runs", nargs="*", type=Path, default=[Path(run) for run in RUNS if Path(run).exists()])
    parser.add_argument("--widths", nargs="*", type=int, default=[8, 6, 4, 3, 2])
    parser.add_argument("--calibration", type=int, default=2048, help="training videos")
    arguments = parser.parse_args()
    rows = []
    for run in arguments.runs:
        data = load_recipe(run / "recipe.yaml").data
        for folder in sorted((run / "members").iterdir()):
            member = load_member(folder)
            if member.info.classifier.family.type == "mean":
                continue
            classes = len(member.info.vocabulary)
            batches = first(data.validation, member, 10**9)
            moments = collect(member.classifier(), first(data.train, member, arguments.calibration))
            original = predict(member, batches)
            best = gap(original, batches, classes)
            descriptor = len(moments.get("family.hidden.weights", Moments(torch.zeros(0), ())).parts) > 1
            roundings = {"nearest": None, "compensated": moments}
            if descriptor:
                roundings |= {"diagonal": diagonal(moments), "full": full(moments)}
            for width in arguments.widths:
                for granularity in GRANULARITIES:
                    for form in FORMS:
                        for rounding, given in roundings.items():
                            quantized = member.quantized(Grid.parse(f"{width}{granularity}{form}"), given)
                            found = predict(quantized, batches)
                            rows.append(
                                {
                                    "member": f"{run.name}/{folder.name}",
                                    "grid": f"{width}{granularity}{form}",
                                    "rounding": rounding,
                                    "bits a weight": bits_a_weight(quantized),
                                    "GAP lost": best - gap(found, batches, classes),
                                    "KL": divergence(found, original),
                                }
                            )
    publish("Lost against float32, on validation", rows, arguments.json)


if __name__ == "__main__":
    main()
