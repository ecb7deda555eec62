"""The web application: routes, errors, layers around them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException as StarletteError
from starlette.formparsers import MultiPartParser
from starlette.types import ASGIApp

from osnet import __version__
from osnet.errors import OsnetError
from osnet.service import api, api_admin, api_footage, pages, pages_admin, pages_login
from osnet.service.core import LOOPBACK, Service
from osnet.service.middleware import Guard, Idempotency, Metrics
from osnet.service.queries import clean_label
from osnet.service.times import show_clock, show_day, show_moment
from osnet.service.web import answer_error, render

THREADS = 16
"""So many requests are in work at once; more wait. With many more, threads mostly wait for each other."""


def make_app(service: Service) -> ASGIApp:
    """The application around a service, with all layers."""
    options = service.options

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        service.start()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(service.stop)

    # Uploads stay in memory: a temporary file on the disk would outlive an erasure.
    MultiPartParser.spool_max_size = options.max_upload_bytes + 1
    app = FastAPI(
        title="osnet",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        description="Who was that, where, when. Errors are problem+json (RFC 9457).",
        responses={
            code: {"description": text, "content": {"application/problem+json": {"schema": _PROBLEM}}}
            for code, text in _ERRORS.items()
        },
    )
    app.state.service, app.state.metrics = service, Metrics()
    app.state.templates = Environment(
        loader=PackageLoader("osnet.service"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"moment": show_moment, "clock": show_clock, "day": show_day, "last_part": clean_label}
    app.state.templates.filters |= filters
    for kind in (OsnetError, OSError, RequestValidationError, StarletteError, Exception):
        app.add_exception_handler(kind, answer_error)
    app.include_router(api.router)
    app.include_router(api_footage.router)
    app.include_router(api_admin.router)
    app.include_router(api_admin.open_router)
    app.include_router(pages_login.router)
    app.include_router(pages.router)
    app.include_router(pages_admin.router)

    @app.get("/docs/errors", include_in_schema=False)
    def errors_page(request: Request) -> HTMLResponse:
        return render(request, "errors.html", title="Errors")

    app.mount("/static", StaticFiles(packages=[("osnet.service", "static")]), name="static")
    hosts = frozenset({*LOOPBACK, options.host, *options.public_name} - {"0.0.0.0", "::"})  # noqa: S104
    inner: Any = Idempotency(app, service.database, service.clock)  # type: ignore[arg-type]
    return Guard(inner, hosts, options.max_upload_bytes, options.tls, app.state.metrics)  # type: ignore[return-value]


_PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
    },
    "example": {"type": "/docs/errors#missing", "title": "there is no search 'x'", "status": 404, "code": "missing"},
}
_ERRORS: dict[int | str, str] = {
    400: "The request cannot be read",
    401: "Not logged in",
    403: "Not allowed",
    404: "There is no such thing, or not for you",
    409: "The first request with this Idempotency-Key is still in work",
    413: "Too large",
    422: "A value cannot be used",
    503: "Busy, or an archive or the state is not there",
    507: "The disk is full",
}
