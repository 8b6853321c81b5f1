"""ONNX Runtime on the CPU for graphs with a concatenating KV cache: optimum's, and users' own.

Names are those of optimum's graphs (optimum-onnx 0.1.0): the decoder reads ``past_key_values.X``
and gives ``present.X``, longer by the new tokens. ``past_key_values.*.encoder.*``, for
cross-attention, is made by the prompt's run and stays. Any other input of the decoder has the
name of an output of the encoder.

The cache stays in ONNX Runtime's values: what one step gives is bound as the next one's input,
and only rows that change their place are copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.held_files import HeldFiles, weight_files
from ...bundle.manifest import CONCAT, GraphInfo
from ...bundle.reader import Bundle
from ...errors import BackendError
from ..base import Capabilities, EncoderInputs, EncoderOutput, Ids, Mask
from ..memory_budget import CallMemory, MemoryBudget
from .session import (
    check_version,
    chosen_threads,
    give_back_memory,
    import_onnxruntime,
    open_session,
    run_error,
)

_PAST, _PRESENT, _CROSS = "past_key_values.", "present.", ".encoder."
_IDS, _LOGITS, _BRANCH = "input_ids", "logits", "use_cache_branch"
#: Inputs of the decoder by the outputs of the encoder that they are, where those differ.
_STATES = {"encoder_hidden_states": "last_hidden_state"}
_SOURCE_MASK, _DECODER_MASK = "attention_mask", "encoder_attention_mask"

#: ONNX Runtime's names of the types that such graphs use.
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class OrtConcatBackend:
    """CPU sessions over one bundle, or one folder of optimum's.

    Args:
        bundle: the opened bundle.
        num_threads: threads of an operator; None: one for a small model, else all cores.
        max_memory: bytes that a call may take; None: see :class:`.MemoryBudget`.

    Raises:
        BackendError: onnxruntime is missing or too old, or graphs with other inputs.
    """

    capabilities = Capabilities(kv_cache=CONCAT)

    def __init__(
        self, bundle: Bundle, *, num_threads: int | None = None, max_memory: int | None = None
    ) -> None:
        self.num_threads = chosen_threads(num_threads, bundle)
        ort = import_onnxruntime()
        check_version(ort.__version__, bundle.manifest)
        graphs = bundle.manifest.graphs
        self._value = ort.OrtValue
        self._memory = CallMemory(bundle.manifest, MemoryBudget(max_memory))
        self._files = HeldFiles(map(bundle.path, weight_files(bundle.manifest)))
        # The encoder's idle threads would otherwise spin while the decoder runs.
        stops = {"session.force_spinning_stop": "1"}

        def load(info: GraphInfo, entries: Mapping[str, str]) -> _Graph:
            session = open_session(ort, bundle, info, self.num_threads, entries)
            return _Graph(session, info.file)

        encoder, decoder = load(graphs["encoder"], stops), load(graphs["decoder"], {})
        prompt = load(graphs["prompt"], stops) if "prompt" in graphs else decoder
        _check(encoder, decoder, prompt)
        self._graphs: tuple[_Graph, _Graph, _Graph] | None = (encoder, decoder, prompt)
        give_back_memory()

    def encode(self, inputs: EncoderInputs) -> ConcatEncoderOutput:
        """See :class:`seq2edge.runtime.backends.base.Backend`."""
        encoder, _, _ = self._opened()
        self._files.check()
        self._memory.check_encoder(inputs)
        values = {
            name: self._value.ortvalue_from_numpy(np.ascontiguousarray(array, encoder.dtype(name)))
            for name, array in inputs.items()
            if name in encoder.inputs
        }
        outputs = encoder.run(encoder.bind(values), encoder.outputs, "encoder")
        return ConcatEncoderOutput(np.asarray(inputs[_SOURCE_MASK], np.bool_), outputs)

    def new_cache(self, encoded: EncoderOutput) -> OrtRows:
        """See :class:`seq2edge.runtime.backends.base.ConcatBackend`."""
        if not isinstance(encoded, ConcatEncoderOutput):
            raise TypeError("the sources were encoded by another backend")
        _, decoder, prompt = self._opened()
        return OrtRows(decoder, prompt, encoded, self._value)

    def run_graph(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]],  # noqa: ARG002
        encoded: EncoderOutput | None = None,  # noqa: ARG002
    ) -> dict[str, NDArray[Any]]:
        """See :class:`seq2edge.runtime.backends.base.Backend`; others' graphs are only these."""
        raise BackendError(f"graphs of another maker come without a graph {name!r}")

    def close(self) -> None:
        """Let go of the sessions and their memory."""
        self._graphs = None
        self._files.close()

    def _opened(self) -> tuple[_Graph, _Graph, _Graph]:
        if self._graphs is None:
            raise BackendError("the model was closed; load it again")
        return self._graphs


class _Graph:
    """A session, with what it takes and gives."""

    def __init__(self, session: Any, file: str) -> None:
        self._session = session
        self.file = file
        self.inputs = {spec.name: spec for spec in session.get_inputs()}
        self.outputs = [spec.name for spec in session.get_outputs()]

    def dtype(self, name: str) -> type[np.generic]:
        kind = self.inputs[name].type
        if kind not in _DTYPES:
            raise BackendError(f"{self.file}: {name} is a {kind}, which is not supported")
        return _DTYPES[kind]

    def caches(self) -> list[str]:
        """Names of the inputs that are the cache."""
        return [name for name in self.inputs if name.startswith(_PAST)]

    def bind(self, inputs: Mapping[str, Any]) -> Any:
        """An IOBinding of these values, as far as the graph takes them."""
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if name in self.inputs:
                binding.bind_ortvalue_input(name, value)
        return binding

    def run(self, binding: Any, outputs: list[str], what: str) -> dict[str, Any]:
        """Run; the values of ``outputs``, which ONNX Runtime allocates anew."""
        for name in outputs:
            binding.bind_output(name)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the bindings raise several unrelated classes
            raise run_error(what, error) from None
        return dict(zip(outputs, binding.get_outputs(), strict=True))


def _check(encoder: _Graph, decoder: _Graph, prompt: _Graph) -> None:
    """Refuse graphs with inputs that nobody would fill.

    Raises:
        BackendError: which graph, and which inputs.
    """
    encoder_inputs = {_IDS, _SOURCE_MASK}
    decoder_inputs = {
        *encoder.outputs,
        _IDS,
        _DECODER_MASK,
        *(name for name, output in _STATES.items() if output in encoder.outputs),
    }
    needed = {name.replace(_PAST, _PRESENT, 1) for name in decoder.caches()}
    for graph, supplied in (
        (encoder, encoder_inputs),
        (decoder, decoder_inputs),
        (prompt, decoder_inputs),
    ):
        caches = {*graph.caches(), _BRANCH} if graph is decoder else set()
        unknown = sorted(set(graph.inputs) - supplied - caches)
        if unknown or _IDS not in graph.inputs:
            raise BackendError(
                f"{graph.file} takes {', '.join(unknown or graph.inputs)}, which is not known here:"
                " only models from token ids to token ids, with past_key_values, run"
            )
    own = {name for name in needed if _CROSS not in name}
    if not own or not own <= set(decoder.outputs) or not needed <= set(prompt.outputs):
        raise BackendError(f"{decoder.file} does not give a present.* for each past_key_values.*")
    for name in prompt.caches():
        shape = prompt.inputs[name].shape
        if len(shape) != 4 or not (isinstance(shape[1], int) and isinstance(shape[3], int)):
            raise BackendError(
                f"{prompt.file}: {name} is {shape}; heads and head size must be fixed"
                " [batch, heads, length, head size]"
            )


class ConcatEncoderOutput:
    """Encoder outputs as ONNX Runtime values, with the source mask [B, S]."""

    def __init__(self, mask: Mask, outputs: Mapping[str, Any]) -> None:
        self.mask = mask
        self.outputs = outputs

    @property
    def batch_size(self) -> int:
        return int(self.mask.shape[0])

    def numpy(self, name: str) -> NDArray[Any]:
        """See :class:`seq2edge.runtime.backends.base.EncoderOutput`."""
        array: NDArray[Any] = self.outputs[name].numpy()
        return array


class OrtRows:
    """See :class:`seq2edge.runtime.backends.base.ConcatCache`."""

    def __init__(
        self, decoder: _Graph, prompt: _Graph, source: ConcatEncoderOutput, value: Any
    ) -> None:
        self._decoder, self._prompt = decoder, prompt
        self._value = value  # onnxruntime's OrtValue class, imported only by the engine
        outputs = source.outputs
        #: Inputs that are the same in every step.
        self._fixed: dict[str, Any] = {}
        for graph in (prompt, decoder):
            for name in graph.inputs:
                if _STATES.get(name, name) in outputs:
                    self._fixed[name] = outputs[_STATES.get(name, name)]
                elif name == _DECODER_MASK:
                    mask = np.ascontiguousarray(source.mask, graph.dtype(name))
                    self._fixed[name] = value.ortvalue_from_numpy(mask)
        self._rows = source.batch_size
        #: Inputs that each step gives anew, by name.
        self._cache: dict[str, Any] = {}
        self._outputs: list[str] = []
        self._tokens: NDArray[Any] = np.zeros((0, 1), np.int64)
        self._binding: Any = None

    def forward(self, tokens: Ids) -> NDArray[np.float32]:
        if not self._cache:
            return self._run_prompt(tokens)
        if self._binding is None:
            self._tokens = np.zeros((self._rows, 1), self._decoder.dtype(_IDS))
            self._binding = self._decoder.bind(
                {**self._fixed, _IDS: self._value.ortvalue_from_numpy(self._tokens)}
            )
            self._outputs = [name.replace(_PAST, _PRESENT, 1) for name in self._cache]
        self._tokens[:] = tokens
        for name, value in self._cache.items():
            self._binding.bind_ortvalue_input(name, value)
        outputs = self._decoder.run(self._binding, [_LOGITS, *self._outputs], "decoder")
        for name, output in zip(self._cache, self._outputs, strict=True):
            self._cache[name] = outputs[output]
        return _last_logits(outputs[_LOGITS])

    def index_select(self, rows: Ids) -> None:
        self._rows = len(rows)
        self._fixed = {
            name: value if name == _BRANCH else self._taken(value, rows)
            for name, value in self._fixed.items()
        }
        self._binding = None
        self.reorder(rows)

    def reorder(self, rows: Ids) -> None:
        self._cache = {name: self._taken(value, rows) for name, value in self._cache.items()}

    def _run_prompt(self, tokens: Ids) -> NDArray[np.float32]:
        graph = self._prompt
        ids = np.ascontiguousarray(tokens, graph.dtype(_IDS))
        inputs = {**self._fixed, _IDS: self._value.ortvalue_from_numpy(ids)}
        inputs.update((name, self._empty(name)) for name in graph.caches())
        if _BRANCH in graph.inputs:
            inputs[_BRANCH] = self._value.ortvalue_from_numpy(np.array([False]))
            self._fixed[_BRANCH] = self._value.ortvalue_from_numpy(np.array([True]))
        pasts = {name: name.replace(_PAST, _PRESENT, 1) for name in self._decoder.caches()}
        outputs = graph.run(graph.bind(inputs), [_LOGITS, *pasts.values()], "decoder")
        for name, output in pasts.items():
            kept = self._fixed if _CROSS in name else self._cache
            kept[name] = outputs[output]
        # What only the prompt needed is not to be copied with the rows.
        self._fixed = {n: v for n, v in self._fixed.items() if n in self._decoder.inputs}
        return _last_logits(outputs[_LOGITS])

    def _empty(self, name: str) -> Any:
        """A cache [R, H, 0, Dh]."""
        _, heads, _, head_dim = self._decoder.inputs[name].shape
        shape = [self._rows, heads, 0, head_dim]
        return self._value.ortvalue_from_shape_and_type(shape, self._decoder.dtype(name), "cpu", 0)

    def _taken(self, value: Any, rows: Ids) -> Any:
        return self._value.ortvalue_from_numpy(value.numpy().take(rows, axis=0))


def _last_logits(value: Any) -> NDArray[np.float32]:
    """Logits [R, V] of the last token, from [R, Q, V]."""
    logits: NDArray[Any] = value.numpy()[:, -1]
    return np.ascontiguousarray(logits, np.float32)
