"""What a browser shows at `/`: the page of `vidfit export --to web`, or a list of what the server answers."""

import inspect
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.routing import APIRoute

from vidfit.serving.models import ServedModel

# Browsers ask for these before they allow threads.
_ISOLATED: Final = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


def add_page(app: FastAPI, folder: Path) -> None:
    """Add the files of a page. Each has a route of its own, so a client's path never becomes a file's name."""
    for path in folder.rglob("*"):
        if path.is_file():
            _add_file(app, "/" + path.relative_to(folder).as_posix(), path)
    _add_file(app, "/", folder / "index.html")


def _add_file(app: FastAPI, address: str, path: Path) -> None:
    async def send(request: Request) -> Response:
        return FileResponse(path, headers=_ISOLATED)

    app.add_route(address, send, include_in_schema=False)


def add_overview(app: FastAPI, models: Iterable[ServedModel]) -> None:
    """Add a list of the models and of the routes that `app` has so far."""
    rows = [f"<li>{escape(it.name)}{'' if it.labels_videos else ' (features only)'}</li>" for it in models]
    routes = [_row(route) for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema]
    page = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>vidfit</title><link rel="icon" href="data:,"></head>
<body>
<h1>vidfit</h1>
<h2>Models</h2>
<ul>{"".join(rows)}</ul>
<h2>Addresses</h2>
<ul>{"".join(routes)}</ul>
<p><a href="openapi.json">openapi.json</a> describes them all.</p>
</body>
</html>
"""

    @app.get("/", include_in_schema=False)
    async def overview() -> HTMLResponse:
        return HTMLResponse(page)


def _row(route: APIRoute) -> str:
    told = (inspect.getdoc(route.endpoint) or "").partition("\n")[0]
    return f"<li><code>{' '.join(route.methods or ())} {escape(route.path)}</code>: {escape(told)}</li>"
