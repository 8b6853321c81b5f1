"""Clients of a Triton server: the generate endpoints over HTTP, streams over gRPC."""

from __future__ import annotations

import json
import queue
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

_SECONDS = 60


def post(address: str, body: dict[str, Any]) -> tuple[int, str]:
    """The status and the text of an answer."""
    request = urllib.request.Request(address, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
        return json.load(answer)


def events(text: str) -> list[dict[str, Any]]:
    """The objects of server-sent events."""
    return [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]


class Stream:
    """A gRPC stream to a model. As a context manager it is closed, its requests cancelled."""

    def __init__(self, address: str, model: str) -> None:
        grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
        self._grpc = grpc
        self._model = model
        self._client = grpc.InferenceServerClient(address)
        self._answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def ask(
        self, inputs: dict[str, str | bytes | bool], parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Send a request and give its responses as they come.

        Raises:
            RuntimeError: the server's error.
        """
        tensors = []
        for name, value in inputs.items():
            kind, dtype = ("BOOL", bool) if isinstance(value, bool) else ("BYTES", np.object_)
            tensor = self._grpc.InferInput(name, [1, 1], kind)
            tensor.set_data_from_numpy(np.array([[value]], dtype))
            tensors.append(tensor)
        self._client.async_stream_infer(
            self._model, tensors, parameters=parameters, enable_empty_final_response=True
        )
        return self._responses()

    def _responses(self) -> Iterator[dict[str, Any]]:
        while True:
            result, error = self._answers.get(timeout=_SECONDS)
            if error is not None:
                raise RuntimeError(str(error))
            found = result.get_response()
            yield {output.name: _plain(result.as_numpy(output.name)) for output in found.outputs}
            if found.parameters["triton_final_response"].bool_param:
                return


def _plain(array: np.ndarray[Any, Any]) -> Any:
    (value,) = array.reshape(-1)
    return value.decode() if isinstance(value, bytes) else value
