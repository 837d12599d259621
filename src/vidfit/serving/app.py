"""The routes of a server.

Work is done in threads (features) and processes (videos), so that the server goes on answering.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from vidfit.errors import DataError, ModelFileError
from vidfit.export.description import thresholds_of
from vidfit.serving import kserve
from vidfit.serving.bodies import read_body, received_video
from vidfit.serving.documents import ERRORS, FEATURES, TENSORS, VIDEO
from vidfit.serving.features import predict
from vidfit.serving.labelling import Labellers
from vidfit.serving.models import ServedModel
from vidfit.serving.page import add_overview, add_page
from vidfit.serving.settings import Settings
from vidfit.serving.slots import Slots
from vidfit.serving.watch import Metrics, Watch

# A body of features. Each of the requests at once may hold one in memory.
_FEATURE_BYTES: Final = 32_000_000
_FEATURE_REQUESTS: Final = 64

Result = TypeVar("Result")


class Server:
    """What the routes share.

    Arguments:
        models: by name, the default first.
        settings: limits.
    """

    def __init__(self, models: Mapping[str, ServedModel], settings: Settings) -> None:
        self.models, self.settings = models, settings
        self.metrics = Metrics()
        files = {name: (model.path, model.info.crc32c) for name, model in models.items() if model.labels_videos}
        self.processes = settings.processes if files else 0
        self.labellers = Labellers(files, self.processes, settings.video_seconds, settings.timeout)
        self.videos = Slots(self.processes + settings.queue)
        self.features = Slots(_FEATURE_REQUESTS)
        self.metrics.videos.set_function(lambda: self.videos.taken)
        self.metrics.replaced.set_function(lambda: self.labellers.replaced)

    def model(self, name: str | None) -> ServedModel:
        """The model of a name, or the first.

        Raises:
            HTTPException: 404 if there is none.
        """
        model = self.models.get(next(iter(self.models)) if name is None else name)
        if model is None:
            raise HTTPException(404, f"there is no such model; this server has {', '.join(self.models)}")
        return model

    async def on_features(self, request: Request, answer: Callable[[bytes], Result]) -> Result:
        """What a function gives for a request's body."""
        with self.features.one():
            body = await read_body(request, _FEATURE_BYTES, self.settings)
            return await asyncio.to_thread(answer, body)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within the block there are processes and a folder for videos.

        Raises:
            ModelFileError, DataError: a model's extractor or its backbones cannot be opened.
        """
        with TemporaryDirectory(prefix="vidfit-serve-") as folder:
            self.folder = Path(folder)
            try:
                await self.labellers.start()
                yield
            finally:
                self.labellers.stop()


def make_app(server: Server, page: Path | None = None) -> ASGIApp:
    """The application. It answers while the server is `running`.

    Arguments:
        page: a folder that `vidfit export --to web` wrote, to show at `/`.
    """
    # Its pages of documentation load scripts from elsewhere; the description itself is at /openapi.json.
    app = FastAPI(
        title="vidfit",
        version=version("vidfit"),
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
        # A redirect would name the address that a proxy asked, not the client's.
        redirect_slashes=False,
        # Only said here: `Watch` asks for the token.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if server.settings.token else [],
    )
    _add_errors(app)
    _add_own(app, server)
    _add_kserve(app, server)
    if page:
        add_page(app, page)
    else:
        add_overview(app, server.models.values())
    return Watch(app, server.settings.token, server.metrics)


def _add_errors(app: FastAPI) -> None:
    """Each error is one line: `{"error": "..."}`."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(DataError)
    async def wrong(request: Request, error: DataError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422 if request.url.path == "/v1/label" else 400)

    @app.exception_handler(ModelFileError)
    async def unavailable(request: Request, error: ModelFileError) -> JSONResponse:
        return JSONResponse({"error": "the model is not available; ask who runs the server"}, 503)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the server failed; its log says why"}, 500)


def _refuse_unknown_query(request: Request) -> None:
    for name in request.query_params:
        if name != "model":
            raise HTTPException(400, f"?{name}: is unknown; the address takes only ?model=NAME")


def _add_own(app: FastAPI, server: Server) -> None:
    @app.post("/v1/label", openapi_extra=VIDEO, dependencies=[Depends(_refuse_unknown_query)])
    async def label(request: Request, model: str | None = None) -> dict[str, Any]:
        """What is in a video, and when."""
        served = server.model(model)
        if not served.labels_videos:
            raise HTTPException(404, f"{served.name}: takes features only; send them to /v1/predict")
        with server.videos.one():
            async with received_video(request, server.folder, server.settings) as video:
                found = await server.labellers.label(served.name, video)
        server.metrics.video_seconds.inc(found["duration"])
        return {"model": served.name, **found}

    @app.post("/v1/predict", openapi_extra=FEATURES, dependencies=[Depends(_refuse_unknown_query)])
    async def predict_features(request: Request, model: str | None = None) -> dict[str, Any]:
        """The most probable labels of some videos, from their features."""
        served = server.model(model)
        return await server.on_features(request, lambda body: predict(served, body))

    @app.get("/v1/models")
    async def models() -> list[dict[str, Any]]:
        """The models, the default first."""
        return [
            {
                "name": it.name,
                "labels_videos": it.labels_videos,
                "vocabulary": it.info.vocabulary,
                "thresholds": thresholds_of(it.info),
            }
            for it in server.models.values()
        ]

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters and times, for Prometheus."""
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_kserve(app: FastAPI, server: Server) -> None:
    @app.get("/v2")
    async def server_metadata() -> dict[str, Any]:
        """Name, version and extensions of the server."""
        return kserve.server_metadata()

    @app.get("/v2/health/live")
    @app.get("/v2/health/ready")
    async def health() -> Response:
        """200: the server answers. It listens once all models are loaded."""
        return Response()

    @app.get("/v2/models/{name}/versions/1", include_in_schema=False)
    @app.get("/v2/models/{name}")
    async def model_metadata(name: str) -> dict[str, Any]:
        """Inputs and outputs of a model."""
        return kserve.model_metadata(server.model(name))

    @app.get("/v2/models/{name}/versions/1/ready", include_in_schema=False)
    @app.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> Response:
        """200: there is such a model."""
        server.model(name)
        return Response()

    @app.post("/v2/models/{name}/versions/1/infer", include_in_schema=False)
    @app.post("/v2/models/{name}/infer", openapi_extra=TENSORS)
    async def infer(request: Request, name: str) -> Response:
        """Probabilities of some videos, from their features."""
        model, length = server.model(name), request.headers.get(kserve.HEADER_LENGTH)
        answer = await server.on_features(request, lambda body: kserve.infer(model, body, length))
        if answer.json_length is None:
            return Response(answer.body, media_type="application/json")
        headers = {kserve.HEADER_LENGTH: str(answer.json_length)}
        return Response(answer.body, headers=headers, media_type="application/octet-stream")
