"""Server-sent events: a response whose parts are sent as soon as they are there."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from ..errors import ApiError, as_api_error, error_body
from ..jobs import Job
from ..service import Served, Service, disconnected

#: From a piece, or the result at the end, to the events that tell of it.
Tell = Callable[[str, Any], Iterable[dict[str, Any]]]


async def event_response(
    request: Request, service: Service, served: Served, job: Job[Any], tell: Tell
) -> StreamingResponse:
    """Submit a job and send what it gives. What fails before the first piece is a plain error.

    Raises:
        ApiError, Seq2EdgeError: before anything was sent.
    """
    service.submit(served, job)
    pieces = job.pieces()
    begun = asyncio.ensure_future(anext(pieces))
    gone = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({begun, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            served.metrics.cancelled.inc()
            raise ApiError(499, "the client has gone")
        first = begun.result()
    except BaseException:
        begun.cancel()
        service.left(served, job)
        raise
    finally:
        gone.cancel()
    served.metrics.first_piece_seconds.observe(time.monotonic() - job.created)
    events = _events(request, service, served, job, first, pieces, tell)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(
    request: Request,
    service: Service,
    served: Served,
    job: Job[Any],
    first: tuple[str, Any],
    pieces: AsyncIterator[tuple[str, Any]],
    tell: Tell,
) -> AsyncIterator[str]:
    try:
        for event in tell(*first):
            yield _event(event)
        if first[0] != "end":
            async for kind, value in pieces:
                for event in tell(kind, value):
                    yield _event(event)
    except Exception as error:
        found = as_api_error(error)
        yield f"event: error\n{_event(error_body(request.url.path, found))}"
    finally:
        if not job.ended:
            served.metrics.cancelled.inc()
        service.left(served, job)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
