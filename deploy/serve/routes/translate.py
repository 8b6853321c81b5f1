"""LibreTranslate's API, for bundles that translate: ``/translate``, ``/languages``.

Source: LibreTranslate's OpenAPI description. Languages are called as the bundle calls them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from seq2edge.runtime import Generation, Seq2SeqModel
from seq2edge.runtime.bundle.tokenizer_info import NO_SOURCE

from ..bodies import object_or_form, refuse_unknown
from ..errors import ApiError
from ..gate import no_key
from ..jobs import TextJob
from ..keys import bearer
from ..service import Served, Service
from .generate import bounded_config, texts_of

_FIELDS = {"q", "source", "target", "format", "alternatives", "api_key"}


def routes() -> list[BaseRoute]:
    return [
        Route("/translate", translate, methods=["POST"]),
        Route("/languages", languages, methods=["GET"]),
        Route("/detect", detect, methods=["POST"]),
        Route("/frontend/settings", frontend_settings, methods=["GET"]),
    ]


@dataclass(frozen=True)
class Translator:
    """A bundle and what it translates.

    Attributes:
        sources, targets: codes of languages, and the option's value that each stands for; None:
            the bundle has one that is not named to it.
    """

    served: Served
    model: Seq2SeqModel
    sources: dict[str, str | None]
    targets: dict[str, str | None]

    def options(self, source: str, target: str) -> dict[str, str]:
        """What makes the bundle translate so."""
        values = {"source_lang": self.sources[source], "target_lang": self.targets[target]}
        return {name: value for name, value in values.items() if value is not None}


def translators(service: Service) -> list[Translator]:
    """The bundles that translate between named languages."""
    found = []
    for served in service.models.values():
        pair = service.settings.pairs.get(served.name)
        languages = served.manifest.tokenizer.languages
        if not isinstance(served.model, Seq2SeqModel) or (pair is None and languages is None):
            continue
        sources: dict[str, str | None] = {} if pair is None else {pair.source: None}
        targets: dict[str, str | None] = {}
        if pair is not None and pair.target is not None:
            targets = {pair.target: None}
        elif languages is not None:
            targets = {code: code for code in languages.codes}
        if pair is None and languages is not None and languages.source != NO_SOURCE:
            sources = {code: code for code in languages.codes}
        if sources and targets:
            found.append(Translator(served, served.model, sources, targets))
    return found


async def translate(request: Request) -> Response:
    """A text, or several, in another language."""
    service: Service = request.app.state.service
    body = await object_or_form(request)
    key = bearer(request.headers.get("authorization")) or body.pop("api_key", None)
    if not service.keys.admits(key if isinstance(key, str) else None):
        raise no_key()
    refuse_unknown(body, _FIELDS)
    texts = texts_of(body.get("q"), "q", service.limits)
    if body.get("format", "text") != "text":
        raise ApiError(400, "format must be text: this service does not keep mark-up")
    count = 1 + _alternatives(body.get("alternatives", 0))
    translator, source, target = _choose(service, body)
    options: dict[str, Any] = translator.options(source, target)
    if count > 1:
        beams = max(count, translator.model.generation_config.num_beams)
        options |= {"num_beams": beams, "num_return_sequences": count}
    config = bounded_config(translator.model, options, service.limits)
    job = TextJob(texts, config, stream=False, timeout=service.limits.timeout)
    results = await service.wait(request, translator.served, job)
    return JSONResponse(_document(results, many=not isinstance(body["q"], str), count=count))


async def languages(request: Request) -> Response:
    """The languages that can be translated, and into which."""
    targets: dict[str, set[str]] = {}
    every: set[str] = set()
    for translator in translators(request.app.state.service):
        for source in translator.sources:
            targets.setdefault(source, set()).update(set(translator.targets) - {source})
        every |= {*translator.sources, *translator.targets}
    return JSONResponse(
        [
            {"code": code, "name": code, "targets": sorted(targets.get(code, ()))}
            for code in sorted(every)
        ]
    )


async def detect(_request: Request) -> Response:
    """There is no model for it."""
    raise ApiError(501, "this service does not detect languages: name the source of a text")


async def frontend_settings(request: Request) -> Response:
    """What LibreTranslate's web pages ask first."""
    service: Service = request.app.state.service
    found = translators(service)
    first = found[0] if found else None
    source = next(iter(first.sources), "") if first else ""
    target = next((code for code in first.targets if code != source), "") if first else ""
    return JSONResponse(
        {
            "apiKeys": bool(service.keys),
            "keyRequired": bool(service.keys),
            "charLimit": service.limits.max_characters,
            "frontendTimeout": 500,
            "suggestions": False,
            "supportedFilesFormat": [],
            "filesTranslation": False,
            "language": {
                "source": {"code": source, "name": source},
                "target": {"code": target, "name": target},
            },
        }
    )


def _alternatives(value: Any) -> int:
    if isinstance(value, str) and value.isdigit():  # of a form
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ApiError(400, f"alternatives must be an integer of at least 0, not {value!r}")
    return value


def _choose(service: Service, body: dict[str, Any]) -> tuple[Translator, str, str]:
    source, target = body.get("source"), body.get("target")
    for name, value in (("source", source), ("target", target)):
        if not isinstance(value, str) or not value:
            raise ApiError(400, f"{name} must be the code of a language", param=name)
    assert isinstance(source, str) and isinstance(target, str)
    if source == "auto":
        raise ApiError(400, "this service does not detect languages: name the source")
    found = translators(service)
    for translator in found:
        if source in translator.sources and target in translator.targets:
            return translator, source, target
    if not found:
        raise ApiError(404, "no bundle that is served translates between named languages")
    raise ApiError(400, f"no bundle translates from {source!r} to {target!r}; see /languages")


def _document(results: list[list[Generation]], *, many: bool, count: int) -> dict[str, Any]:
    texts = [[found.text or "" for found in several] for several in results]
    best = [several[0] if several else "" for several in texts]
    others = [several[1:] for several in texts]
    document: dict[str, Any] = {"translatedText": best if many else best[0]}
    if count > 1:
        document["alternatives"] = others if many else others[0]
    return document
