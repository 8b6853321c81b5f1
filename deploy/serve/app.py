"""The ASGI application: all routes of a service behind its gate."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from seq2edge.runtime.errors import Seq2EdgeError

from .errors import ApiError, error_response, on_error
from .gate import Gate
from .routes import audio, generate, status, translate
from .service import Service


def build_app(service: Service) -> ASGIApp:
    """The application of a service."""
    routes = [*status.routes(), *generate.routes(), *translate.routes(), *audio.routes()]
    service.paths = frozenset(route.path for route in routes if isinstance(route, Route))
    app = Starlette(
        routes=routes,
        exception_handlers={
            ApiError: on_error,
            Seq2EdgeError: on_error,
            HTTPException: _on_http_error,
            Exception: on_error,
        },
    )
    app.state.service = service
    return Gate(app, service)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: there is no such path, or it has another method."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is no {path}"
    elif error.status_code == 405:
        message = f"{path} takes {(error.headers or {}).get('Allow', 'another method')}"
    return error_response(path, ApiError(error.status_code, message, headers=error.headers))
