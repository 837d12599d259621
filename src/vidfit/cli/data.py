"""Commands for shards: inspect, cache, synth."""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from vidfit.cli.app import Overwrite, SkipCorrupt, app
from vidfit.cli.terminal import progress_bar
from vidfit.errors import VidfitError

log = logging.getLogger(__name__)


@app.command()
def inspect(
    shards: Annotated[
        list[str], typer.Argument(help="TFRecord files, folders of them, caches or (quoted) globs; or one packed file.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    skip_corrupt: SkipCorrupt = False,
) -> None:
    """Show what is in some shards (records, modalities and their sizes, lengths, labels) or in a packed file."""
    from vidfit.export.description import inspect_packed
    from vidfit.features.inspect import inspect_shards
    from vidfit.features.shards import expand_shards

    if len(shards) == 1 and (path := Path(shards[0])).suffix == ".onnx" and path.is_file():
        _print_mapping(inspect_packed(path), as_json)
        return
    _print_mapping(inspect_shards(expand_shards(shards, log.warning), skip_corrupt), as_json)


@app.command()
def cache(
    shards: Annotated[list[str], typer.Argument(help="TFRecord files, folders of them or (quoted) globs.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the cache. Created if missing; else added to.")
    ],
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
) -> None:
    """Copy shards into memory-mapped files, so that training reads them faster and in any order.

    Takes as much room as the shards. Give the folder wherever shards are expected. One Arrow file for each shard. A
    second call resumes, and compares what is there with the shards.
    """
    from vidfit.features.cache_writer import write_cache
    from vidfit.features.shards import expand_shards, infer_id_key, infer_spec
    from vidfit.features.skipped import NOTHING
    from vidfit.progress import counter, log_skipped
    from vidfit.sizes import format_size

    paths = expand_shards(shards, log.warning)
    spec = infer_spec(paths, skip_corrupt)
    with progress_bar() as on_progress:
        on_count = counter(on_progress, "caching", "shards")
        index, added = write_cache(paths, output, infer_id_key(paths), spec, skip_corrupt, overwrite, on_count)
    entries = index.shards.values()
    log_skipped("caching", sum((entry.left_out for entry in entries), NOTHING))
    videos, size = sum(entry.records for entry in entries), sum(entry.bytes for entry in entries)
    print(f"{output}: {added} of {len(paths)} shards cached now; in all {videos:,} videos, {format_size(size)}")


@app.command()
def synth(
    directory: Annotated[Path, typer.Argument(help="Folder for the corpus; must not exist, or be empty.")],
    numbers: Annotated[
        list[str] | None,
        typer.Option("--set", help="One of the corpus's numbers: train_videos=500. May be repeated."),
    ] = None,
) -> None:
    """Generate a corpus in YouTube-8M's frame-level format: train/, validation/, eval/ and vocabulary.csv.

    A label shows as a pair of words in parts of a video. The same numbers give the same bytes. A wrong --set lists all
    numbers.
    """
    from vidfit.features.synthetic import CorpusConfig, write_corpus
    from vidfit.progress import counter

    given = {name: value for name, _, value in (number.partition("=") for number in numbers or ())}
    for name in given.keys() - CorpusConfig.model_fields.keys():
        raise VidfitError(f"--set {name}: there is no such number; there are {', '.join(CorpusConfig.model_fields)}")
    try:
        config = CorpusConfig.model_validate(given)
    except ValidationError as error:
        where = "".join(f"--set {name}: " for name in error.errors()[0]["loc"])
        raise VidfitError(where + error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    with progress_bar() as on_progress:
        write_corpus(directory, config, counter(on_progress, "generating", "videos"))
    print(f"{directory}: {config.train_videos + config.validation_videos + config.eval_videos:,} videos")


def _print_mapping(mapping: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(mapping, indent=2))
        return
    for key, value in mapping.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {part}" for name, part in value.items())
        print(f"{key:<12} {value}")
