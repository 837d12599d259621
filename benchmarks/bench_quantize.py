"""How long 8-bit quantisation of a large matrix takes, beside a plain copy of it in the same run."""

import time
from collections.abc import Callable

import torch
from table import options, publish

from vidfit.quantization.uniform import INT8, quantize


def seconds(work: Callable[[], object], runs: int = 3) -> float:
    """The fastest of some runs."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--millions", type=float, default=300, help="elements of the matrix")
    arguments = parser.parse_args()
    matrix = torch.randn(int(arguments.millions * 1e6))
    quantized = quantize(matrix, INT8)
    copy = seconds(matrix.clone)
    rows = [
        {"what": name, "seconds": taken, "ratio to a copy": taken / copy}
        for name, taken in (
            ("copy", copy),
            ("quantise", seconds(lambda: quantize(matrix, INT8))),
            ("dequantise", seconds(quantized.dequantize)),
        )
    ]
    publish(f"{arguments.millions:g} M float32 elements, {torch.get_num_threads()} threads", rows, arguments.json)


if __name__ == "__main__":
    main()
