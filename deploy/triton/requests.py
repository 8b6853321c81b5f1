"""What Triton's requests are to a Python model, whatever they ask for.

It follows the README of Triton's python_backend, for decoupled models: one response sender per
request, and the final flag on the last response, errors and cancelled requests included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

# A module that exists only within Triton.
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from seq2edge.runtime import BundleError, InputError
from seq2edge.runtime.bundle.checks.json_text import parse_json

_JSON_OPTIONS = "sampling_parameters"


def with_errors_sent(request: TritonRequest, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; what it raises becomes the final response of ``request``."""
    try:
        return function(*arguments)
    except Exception as error:  # a bug as well: the model must live on for other requests
        request.fail(error)
        return None


@dataclass
class TritonRequest:
    """One of Triton's requests and its sender."""

    source: Any
    sender: Any

    def value(self, name: str, default: Any = None) -> Any:
        """The only value of an input, [1, 1] (batch and ``dims``).

        Raises:
            InputError: there is none, or there are several.
        """
        tensor = pb_utils.get_input_tensor_by_name(self.source, name)
        if tensor is None:
            if default is None:
                raise InputError(f"the request has no {name}")
            return default
        values = tensor.as_numpy().reshape(-1)
        if len(values) != 1:
            raise InputError(f"{name} holds {len(values)} values; send a request for each")
        return values[0]

    def options(self, as_json: Container[str]) -> dict[str, Any]:
        """The options of this request: those of ``sampling_parameters`` and its parameters.

        Parameters of a request (fields beside the inputs in the JSON of the generate endpoints,
        ``parameters`` of gRPC) are numbers, switches and strings, so what is neither comes as a
        string of JSON.

        Args:
            as_json: names of the options that are no texts, so that a string holds their JSON.

        Raises:
            InputError: no JSON, no object, or an option that is given twice.
        """
        options = _json(_JSON_OPTIONS, decoded(_JSON_OPTIONS, self.value(_JSON_OPTIONS, b"{}")))
        if not isinstance(options, dict):
            raise InputError(f"{_JSON_OPTIONS} must be a JSON object")
        for name, value in self._parameters().items():
            if name in options:
                raise InputError(f"{name} is given twice, in {_JSON_OPTIONS} and beside it")
            is_json = isinstance(value, str) and name in as_json
            options[name] = _json(f"{name} (a string of JSON)", value) if is_json else value
        return options

    def _parameters(self) -> dict[str, Any]:
        """Without those that Triton has taken itself: the request's id and what it reserves."""
        given = json.loads(self.source.parameters() or "{}")
        if given.get("id") == self.source.request_id():
            given.pop("id", None)
        return {name: value for name, value in given.items() if not name.startswith("triton_")}

    @property
    def cancelled(self) -> bool:
        return bool(self.sender.is_cancelled())

    def end_if_cancelled(self) -> bool:
        """Whether the client has gone; if so, this was the final response."""
        if self.cancelled:
            self._end(pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED))
            return True
        return False

    def send(self, tensors: Iterable[Any], *, final: bool = False) -> None:
        """Send a response."""
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self.sender.send(pb_utils.InferenceResponse(output_tensors=list(tensors)), flags=flags)

    def fail(self, error: Exception) -> None:
        """The final response: what is wrong."""
        codes = pb_utils.TritonError
        code = codes.INVALID_ARG if isinstance(error, InputError) else codes.INTERNAL
        self._end(pb_utils.TritonError(str(error) or type(error).__name__, code))

    def _end(self, error: Any) -> None:
        response = pb_utils.InferenceResponse(output_tensors=[], error=error)
        self.sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def decoded(name: str, value: Any) -> str:
    """A string of Triton's.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8") from None


def _json(name: str, text: str) -> Any:
    try:
        return parse_json(text.encode(), name)
    except BundleError as error:
        raise InputError(str(error)) from None


def text_tensor(name: str, text: str) -> Any:
    """An output of one string."""
    return pb_utils.Tensor(name, np.array([[text.encode()]], np.object_))
