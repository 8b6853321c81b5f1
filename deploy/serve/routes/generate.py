"""``/v1/generate``: our own API of texts, with all options of generation by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from seq2edge.deploy.json_options import NAMES, generation_options
from seq2edge.deploy.token_limit import TooManyTokensError, limit_new_tokens
from seq2edge.runtime import Generation, GenerationConfig, Seq2SeqModel

from ..bodies import json_object, refuse_unknown
from ..errors import ApiError
from ..jobs import TextJob
from ..service import Service
from ..settings import Limits
from .events import event_response

_OWN_FIELDS = {"model", "text", "stream"}


def routes() -> list[BaseRoute]:
    return [Route("/v1/generate", generate, methods=["POST"])]


async def generate(request: Request) -> Response:
    """Texts to results."""
    service: Service = request.app.state.service
    body = await json_object(request)
    refuse_unknown(body, _OWN_FIELDS | NAMES)
    served, model = service.find(body.pop("model", None), Seq2SeqModel)
    stream = body.pop("stream", False)
    if not isinstance(stream, bool):
        raise ApiError(400, f"stream must be true or false, not {stream!r}", param="stream")
    texts = texts_of(body.pop("text", None), "text", service.limits)
    config = bounded_config(model, body, service.limits)
    job = TextJob(texts, config, stream=stream, timeout=service.limits.timeout)
    if not stream:
        results = await service.wait(request, served, job)
        return JSONResponse(_document(served.name, job, results))
    if len(texts) > 1 or config.num_return_sequences > 1:
        raise ApiError(400, "a stream has one text and one result", param="stream")

    def tell(kind: str, value: Any) -> Iterable[dict[str, Any]]:
        if kind == "piece":
            return [{"text": value}]
        [[found]] = value
        return [{"text": "", **_ending(found), "usage": _usage(job, value)}]

    return await event_response(request, service, served, job, tell)


def texts_of(value: Any, name: str, limits: Limits) -> list[str]:
    """The texts of a request: one, or a list of them.

    Raises:
        ApiError: anything else, or more or longer ones than there may be.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise ApiError(400, f"{name} must be a text or a list of texts", param=name)
    if len(texts) > limits.max_texts:
        raise ApiError(
            413, f"{name} has {len(texts)} texts, and may have {limits.max_texts}", param=name
        )
    for number, text in enumerate(texts, start=1):
        if len(text) > limits.max_characters:
            raise ApiError(
                413,
                f"text {number} has {len(text)} characters, and may have {limits.max_characters}",
                param=name,
            )
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can spell
            raise ApiError(400, f"text {number} is no Unicode text", param=name) from None
    return texts


def bounded_config(
    model: Seq2SeqModel, options: Mapping[str, Any], limits: Limits
) -> GenerationConfig:
    """The options of a call, none of which asks for more than there may be.

    Raises:
        InputError: an option that does not exist or is not read.
        ApiError: one that asks for too much.
    """
    choices = options.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, str) and len(choice) > limits.max_characters:
            raise ApiError(
                413,
                f"a choice has {len(choice)} characters, and may have {limits.max_characters}",
                param="choices",
            )
    config = generation_options(model.generation_config, options)
    for name in ("num_beams", "num_return_sequences"):
        value = getattr(config, name)
        if isinstance(value, int) and value > limits.max_beams:
            raise ApiError(
                400, f"{name}={value} is more than the {limits.max_beams} allowed here", param=name
            )
    try:
        return limit_new_tokens(config, options, model.manifest, limits.max_new_tokens)
    except TooManyTokensError as error:
        raise ApiError(400, str(error), param=error.option) from None


def _document(name: str, job: TextJob, results: list[list[Generation]]) -> dict[str, Any]:
    return {
        "model": name,
        "results": [
            {"source": source, "text": found.text, **_ending(found)}
            for source, several in enumerate(results)
            for found in several
        ],
        "usage": _usage(job, results),
    }


def _ending(found: Generation) -> dict[str, Any]:
    ending: dict[str, Any] = {
        "finish_reason": found.finish_reason,
        "new_tokens": len(found.token_ids),
    }
    return ending if found.score is None else {**ending, "score": found.score}


def _usage(job: TextJob, results: list[list[Generation]]) -> dict[str, int]:
    return {
        "source_tokens": sum(item.source_tokens for item in job.items),
        "new_tokens": sum(len(found.token_ids) for several in results for found in several),
    }
