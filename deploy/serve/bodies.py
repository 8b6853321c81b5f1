"""Bodies of requests: JSON and forms, with an error that names what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from seq2edge.runtime.bundle.checks.json_text import parse_json
from seq2edge.runtime.errors import BundleError

from .errors import ApiError

#: Bytes of a field of a form that is no file, and fields of a form.
_LONGEST_FIELD, _MOST_FIELDS = 1 << 20, 100
#: Values of a request, those within others included: each costs a hundred times its bytes to check.
_MOST_VALUES = 20_000


async def json_object(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        ApiError: another kind of content, not UTF-8, no JSON, no object, a field that is given
            twice, or too many values.
    """
    kind = _content_type(request)
    if kind not in ("application/json", ""):
        raise ApiError(415, f"the body must be application/json, not {kind}")
    data = await request.body()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start}") from None
    try:
        value = parse_json(data, "the body")
    except BundleError as error:
        raise ApiError(400, str(error)) from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object")
    check_count(value, "the body")
    return value


async def form_fields(request: Request) -> list[tuple[str, str | UploadFile]]:
    """The fields of a form, in their order; files must be closed by the caller.

    Raises:
        ApiError: another kind of content, or a form that is broken or not UTF-8.
    """
    kind = _content_type(request)
    if kind == "multipart/form-data":
        return await _multipart(request)
    if kind != "application/x-www-form-urlencoded":
        raise ApiError(415, f"the body must be a form, not {kind or 'without a content type'}")
    try:
        text = (await request.body()).decode("ascii")
        pairs: list[tuple[str, str | UploadFile]] = list(
            parse_qsl(text, True, errors="strict", max_num_fields=_MOST_FIELDS)
        )
    except UnicodeDecodeError:
        raise ApiError(400, "the form is not UTF-8") from None
    except ValueError as error:
        raise ApiError(400, f"the form cannot be read: {error}") from None
    return pairs


async def object_or_form(request: Request) -> dict[str, Any]:
    """The fields of a JSON object or of a form without files, by name; one given twice is a list.

    Raises:
        ApiError: as of both.
    """
    if _content_type(request) in ("application/json", ""):
        return await json_object(request)
    found: dict[str, Any] = {}
    for name, value in await form_fields(request):
        if isinstance(value, UploadFile):
            await value.close()
            raise ApiError(400, f"{name} must be a text, not a file", param=name)
        if name in found:
            before = found[name]
            found[name] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            found[name] = value
    return found


def check_count(value: Any, name: str) -> None:
    """Refuse what holds so many values that looking at them would hold up others.

    Raises:
        ApiError: how many there may be.
    """
    left, count = [value], 0
    while left:
        inner = left.pop()
        if isinstance(inner, (dict, list)):
            count += len(inner)
            left.extend(inner.values() if isinstance(inner, dict) else inner)
            if count > _MOST_VALUES:
                raise ApiError(413, f"{name} holds more than {_MOST_VALUES} values")


def refuse_unknown(fields: Mapping[str, Any], known: Mapping[str, str] | set[str]) -> None:
    """Refuse fields that nothing reads.

    Raises:
        ApiError: the first one, and those that there are.
    """
    for name in fields:
        if name not in known:
            raise ApiError(
                400, f"unknown field {name!r}; there are: {', '.join(sorted(known))}", param=name
            )


class _StrictParser(MultiPartParser):
    """Starlette's parser takes a text that is not UTF-8 for Latin-1."""

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            try:
                part.data.decode()
            except UnicodeDecodeError:
                raise MultiPartException(f"{part.field_name} is not UTF-8") from None
        super().on_part_end()


async def _multipart(request: Request) -> list[tuple[str, str | UploadFile]]:
    parser = _StrictParser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=_MOST_FIELDS,
        max_part_size=_LONGEST_FIELD,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"the form cannot be read: {error.message}") from None
    except KeyError:  # no boundary
        raise ApiError(400, "the form cannot be read: it has no boundary") from None
    return list(form.multi_items())


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
