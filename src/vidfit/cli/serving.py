"""The command that answers over HTTP: serve."""

from pathlib import Path
from typing import Annotated

import typer

from vidfit.cli.app import app
from vidfit.errors import BudgetError, VidfitError


@app.command()
def serve(
    models: Annotated[
        list[str],
        typer.Argument(help="Packed .onnx files or hf://owner/name, or NAME=MODEL. The first is the default."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen at. One that others can reach needs a --token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at. 0 takes a free one.")] = 8000,
    token: Annotated[
        str, typer.Option(envvar="VIDFIT_TOKEN", help="Clients must send `Authorization: Bearer TOKEN`.")
    ] = "",
    workers: Annotated[int, typer.Option(min=0, help="Processes that label videos. 0 means one per core.")] = 0,
    queue: Annotated[
        int, typer.Option(min=0, help="Videos that may wait. Further clients are told to come again.")
    ] = 16,
    max_video: Annotated[str, typer.Option(help="Size of the largest video: 500MB, 2GB, ...")] = "500MB",
    max_seconds: Annotated[float, typer.Option(help="Duration of the longest video, in seconds.")] = 3600,
    timeout: Annotated[float, typer.Option(help="Seconds that an upload may take, and then its labelling.")] = 300,
    bundle: Annotated[
        Path | None,
        typer.Option(help="The folder of onnxruntime-web. Shows the page of `export --to web` at /."),
    ] = None,
) -> None:
    """Answer over HTTP: labels of videos, and probabilities of features.

    POST a video to /v1/label, features to /v1/predict, or use a KServe v2 client. Ctrl-C or SIGTERM finishes what has
    begun, then stops. Needs `pip install 'vidfit[serve,videos]'`; without `videos` it takes features only.
    """
    from vidfit.serving.settings import Settings, check_packages
    from vidfit.sizes import parse_size

    try:
        video_bytes = parse_size(max_video)
    except BudgetError as error:
        raise VidfitError(str(error).replace("budget", "--max-video", 1)) from error
    settings = Settings(host, port, token, workers, queue, video_bytes, max_seconds, timeout, bundle=bundle)
    check_packages()
    from vidfit.serving.serve import serve

    serve(models, settings)
