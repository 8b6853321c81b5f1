"""``/health``, ``/ready``, ``/metrics`` and ``/v1/models``: what the service says of itself."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from seq2edge.runtime import SpeechModel

from ..errors import ApiError
from ..service import Served, Service


def routes() -> list[BaseRoute]:
    return [
        Route("/health", health, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name}", model, methods=["GET"]),
    ]


async def health(request: Request) -> Response:
    """Whether the process does what it should; if not, start another one."""
    service: Service = request.app.state.service
    alive = all(served.worker.alive for served in service.models.values())
    return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)


async def ready(request: Request) -> Response:
    """Whether requests may be sent here."""
    problem = request.app.state.service.problem
    if problem is not None:
        return JSONResponse({"status": "not ready", "reason": problem}, 503)
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """For Prometheus."""
    registry = request.app.state.service.metrics.registry
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def models(request: Request) -> Response:
    """The bundles that are served."""
    service: Service = request.app.state.service
    return JSONResponse(
        {"object": "list", "data": [_document(served) for served in service.models.values()]}
    )


async def model(request: Request) -> Response:
    """One of them."""
    service: Service = request.app.state.service
    name = request.path_params["name"]
    if name not in service.models:
        raise ApiError(404, f"no model {name!r}; there are: {', '.join(service.models)}")
    return JSONResponse(_document(service.models[name]))


def _document(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "seq2edge",
        "family": served.manifest.family,
        "task": "transcribe" if isinstance(served.model, SpeechModel) else "generate",
    }
