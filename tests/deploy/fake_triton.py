"""What Triton does for a Python model, as the README of its python_backend documents it.

It holds a model to the rules that a real server enforces: outputs of the configured types and
shapes, one sender a request, nothing after the final flag, and a final flag for each request.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

_FINAL = 1
#: Of config.pbtxt: batch and dims, as numpy types of what a Python model hands over.
_OUTPUTS = {
    **dict.fromkeys(("text_output", "finish_reason", "segments", "language"), np.object_),
    "score": np.float32,
}


class TritonError(Exception):
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE = range(5)
    UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(5, 8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        super().__init__(message)
        self.code = code


class Tensor:
    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        assert isinstance(array, np.ndarray)
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self._array


class InferenceResponse:
    def __init__(
        self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None
    ) -> None:
        assert error is None or isinstance(error, TritonError)
        self.error = error
        self.values: dict[str, Any] = {}
        for tensor in [] if error else output_tensors or []:
            array = tensor.as_numpy()
            assert array.dtype == _OUTPUTS[tensor.name()], tensor.name()
            assert array.shape == (1, 1), tensor.name()
            value = array[0, 0]
            if array.dtype == np.object_:
                assert isinstance(value, bytes)
                value = value.decode()
            self.values[tensor.name()] = value


class Request:
    """A client's request; ``responses`` is what the client has got."""

    def __init__(self, log: list[Request], inputs: dict[str, np.ndarray[Any, Any]]) -> None:
        self._log = log
        self.inputs = inputs
        self.responses: list[InferenceResponse] = []
        self.finished = False
        self.cancel_after: int | None = None
        self.given: dict[str, Any] = {}

    def parameters(self) -> str:
        """JSON of what came beside the inputs, as Triton gives it."""
        return json.dumps(self.given)

    def request_id(self) -> str:
        return str(self.given.get("id", ""))

    def get_response_sender(self) -> Request:
        return self

    def is_cancelled(self) -> bool:
        return self.cancel_after is not None and len(self.responses) >= self.cancel_after

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        assert not self.finished, "a response after the final one"
        assert flags in (0, _FINAL)
        if response is not None:
            self.responses.append(response)
            self._log.append(self)
        self.finished = flags == _FINAL

    @property
    def text(self) -> str:
        return "".join(response.values["text_output"] for response in self.responses)

    @property
    def error(self) -> TritonError | None:
        """The error of a request that has nothing else."""
        (response,) = self.responses
        return response.error

    @property
    def last(self) -> dict[str, Any]:
        return self.responses[-1].values


class FakeTriton:
    """The module that a model imports, and requests to give it.

    ``log`` has the request of every response, in the order in which they were sent.
    """

    def __init__(self) -> None:
        self.log: list[Request] = []
        self.module: Any = ModuleType("triton_python_backend_utils")
        self.module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = _FINAL
        self.module.TritonError = TritonError
        self.module.Tensor = Tensor
        self.module.InferenceResponse = InferenceResponse
        self.module.get_input_tensor_by_name = _input

    @staticmethod
    def arguments(folder: Path, **parameters: str) -> dict[str, str]:
        """What ``initialize`` is given."""
        values = {key: {"string_value": value} for key, value in parameters.items()}
        return {
            "model_config": json.dumps({"parameters": values}),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_repository": str(folder),
            "model_version": "1",
            "model_name": folder.name,
        }

    def request(self, text: str | bytes, *, stream: bool = False, **options: Any) -> Request:
        inputs = {"text_input": _strings(text)}
        if stream:
            inputs["stream"] = np.array([[True]])
        if options:
            inputs["sampling_parameters"] = _strings(json.dumps(options))
        return Request(self.log, inputs)

    @staticmethod
    def execute(model: Any, requests: list[Request]) -> None:
        """Hand requests over; a decoupled model returns nothing and ends each of them."""
        assert model.execute(requests) is None
        assert all(request.finished for request in requests)


def _input(request: Request, name: str) -> Tensor | None:
    array = request.inputs.get(name)
    return None if array is None else Tensor(name, array)


def _strings(*texts: str | bytes) -> np.ndarray[Any, Any]:
    """[1, n], as Triton gives strings to a Python model."""
    return np.array([[t.encode() if isinstance(t, str) else t for t in texts]], np.object_)
