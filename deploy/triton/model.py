"""A seq2edge bundle as a Python model of NVIDIA's Triton Inference Server.

``seq2edge triton`` puts a copy of this file beside the bundle, as ``model.py``. It follows the
README of Triton's python_backend, for decoupled models: one response sender per request, and the
final flag on the last response, errors and cancelled requests included. Triton 23.10 or newer.

Requests that are not streamed and have the same options are generated as one batch; streams
take turns, a piece each. No request's error reaches another or ends the model.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# A module that exists only within Triton.
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from seq2edge.deploy.json_options import NAMES, generation_options
from seq2edge.deploy.token_limit import MAX_NEW_TOKENS, limit_new_tokens
from seq2edge.deploy.triton.numpy_support import check_numpy
from seq2edge.deploy.triton.requests import (
    TritonRequest,
    decoded,
    text_tensor,
    with_errors_sent,
)
from seq2edge.runtime import (
    Generation,
    GenerationConfig,
    InputError,
    Seq2SeqModel,
    TextStream,
)

#: Options that are no texts: a parameter that is a string holds them as JSON.
_NO_TEXTS = NAMES - {"early_stopping", "source_lang", "target_lang", "regex"}


class TritonPythonModel:
    """The model that Triton calls; one instance is one process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle beside this file. A failure is the model's state ``UNAVAILABLE``."""
        check_numpy()
        parameters = json.loads(args["model_config"])["parameters"]
        strings = {key: value["string_value"] for key, value in parameters.items()}
        self._max_new_tokens = int(strings.get("max_new_tokens", MAX_NEW_TOKENS))
        self._model = Seq2SeqModel.load(
            Path(__file__).with_name("bundle"),
            backend=strings.get("backend", "onnxruntime"),
            device=strings.get("device"),
        )

    def execute(self, requests: list[Any]) -> None:
        """Answer all requests, each through its own sender."""
        batches: list[tuple[GenerationConfig, list[_Request]]] = []
        streams: deque[tuple[_Request, TextStream]] = deque()
        for request in map(_Request.of, requests):
            with_errors_sent(request, self._sort, request, batches, streams)
        for config, members in batches:
            self._answer(members, config)
        while streams:
            request, stream = streams.popleft()
            if with_errors_sent(request, _send_piece, request, stream):
                streams.append((request, stream))

    def finalize(self) -> None:
        """Free the engine."""
        self._model.close()

    def _sort(
        self,
        request: _Request,
        batches: list[tuple[GenerationConfig, list[_Request]]],
        streams: deque[tuple[_Request, TextStream]],
    ) -> None:
        """Start a stream, or join a batch of equal options."""
        request.read()
        config = generation_options(self._model.generation_config, request.parameters)
        config = limit_new_tokens(
            config, request.parameters, self._model.manifest, self._max_new_tokens
        )
        if config.num_return_sequences != 1:
            raise InputError("a request has one result: num_return_sequences must be 1")
        if request.stream:
            streams.append((request, self._model.stream(request.text, config)))
            return
        self._model.tokenize([request.text])  # a wrong text fails alone, not with its batch
        for batch_config, members in batches:
            if batch_config == config:
                members.append(request)
                return
        batches.append((config, [request]))

    def _answer(self, requests: list[_Request], config: GenerationConfig) -> None:
        """One response each. The batch ends early only if all who wait for it have gone."""
        waiting = [request for request in requests if not request.end_if_cancelled()]
        if not waiting:
            return
        try:
            generations = self._model.generate(
                [request.text for request in waiting],
                config,
                cancelled=lambda: all(request.cancelled for request in waiting),
            )
        except Exception as error:  # whatever it is, each of them gets its final response
            for request in waiting:
                request.fail(error)
            return
        results = {result.source: result for result in generations}
        for index, request in enumerate(waiting):
            if index not in results:
                request.fail(InputError("the constraint allows no text for this source"))
            elif not request.end_if_cancelled():
                result = results[index]
                with_errors_sent(request, request.finish, result, result.text or "")


def _send_piece(request: _Request, stream: TextStream) -> bool:
    """Send the next piece; False at the end, which is a response of its own."""
    if request.end_if_cancelled():
        stream.close()
        return False
    piece = next(stream, None)
    if piece is not None:
        request.send([text_tensor("text_output", piece)])
        return True
    if stream.result is None:
        raise RuntimeError("the stream ended without a result")
    request.finish(stream.result, "")
    return False


@dataclass
class _Request(TritonRequest):
    """A request for a text."""

    text: str = ""
    stream: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Any) -> _Request:
        return cls(request, request.get_response_sender())

    def read(self) -> None:
        """Take the inputs from Triton's tensors.

        Raises:
            InputError: several texts, one that is not UTF-8, or options that are no JSON.
        """
        self.text = decoded("text_input", self.value("text_input"))
        self.stream = bool(self.value("stream", False))
        self.parameters = self.options(_NO_TEXTS)

    def finish(self, result: Generation, text: str) -> None:
        """The final response: what is left of the text, and how it ended."""
        tensors = [
            text_tensor("text_output", text),
            text_tensor("finish_reason", result.finish_reason or ""),
        ]
        if result.score is not None:
            tensors.append(pb_utils.Tensor("score", np.array([[result.score]], np.float32)))
        self.send(tensors, final=True)
