"""What tests ask of a run folder."""

from pathlib import Path


def times(folder: Path) -> dict[str, int]:
    """When each file of weights was written, by its name in the folder."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for pattern in ("*.safetensors", "*.onnx")
        for path in folder.rglob(pattern)
    }
