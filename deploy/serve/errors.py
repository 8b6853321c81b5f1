"""What a request is refused with: a status and a sentence, in the form of the API that it asked."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from seq2edge.runtime.errors import BackendError, InputError, MissingDependencyError, Seq2EdgeError

#: Paths whose errors are LibreTranslate's: ``{"error": "a sentence"}``.
_FLAT = ("/translate", "/languages", "/detect", "/frontend/")
#: Characters of a message, which may quote what a client sent.
_LONGEST_MESSAGE = 2000
#: By status, what OpenAI's clients find in ``error.type``.
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        param: the field that is wrong; None: no single one.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.headers = dict(headers or {})


class OverloadedError(ApiError):
    """The queue is full.

    Args:
        seconds: after which it is worth to ask again.
    """

    def __init__(self, name: str, seconds: int) -> None:
        message = f"{name} has as many requests waiting as it may; ask again in {seconds} s"
        super().__init__(429, message, headers={"Retry-After": str(seconds)})


def too_late(seconds: float) -> ApiError:
    return ApiError(
        503,
        f"the request took longer than the {seconds:g} s that it may",
        headers={"Retry-After": "1"},
    )


def stopping() -> ApiError:
    return ApiError(
        503, "the service is being stopped", headers={"Retry-After": "5", "Connection": "close"}
    )


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told of an error. Of a bug it hears nothing but that there is one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ClientDisconnect):  # nobody reads it, but it is counted
        return ApiError(499, "the client has gone")
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    if isinstance(error, MissingDependencyError):
        return ApiError(501, str(error))
    if isinstance(error, (BackendError, Seq2EdgeError)):
        return ApiError(500, f"the model failed: {error}")
    return ApiError(500, "the service failed; its log says why")


def sentence(error: ApiError) -> str:
    """What a client reads of an error."""
    return _readable(str(error))


def _readable(text: str) -> str:
    """Of what a client sent itself not too much, and Unicode in any case."""
    if len(text) > _LONGEST_MESSAGE:
        text = text[:_LONGEST_MESSAGE] + " ..."
    return text.encode("utf-8", "replace").decode()


def error_body(path: str, error: ApiError) -> dict[str, object]:
    """The JSON of an error, as clients of that path expect it."""
    if path.startswith(_FLAT):
        return {"error": sentence(error)}
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else None)
    return {
        "error": {
            "message": sentence(error),
            "type": kind or "invalid_request_error",
            "param": None if error.param is None else _readable(error.param),
            "code": None,
        }
    }


def error_response(path: str, error: ApiError) -> Response:
    """The response to a request that is not answered."""
    return JSONResponse(error_body(path, error), error.status, headers=error.headers)


async def on_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of every error that a route raises on purpose."""
    return error_response(request.url.path, as_api_error(error))
