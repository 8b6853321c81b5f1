"""ONNX Runtime on the CPU: everything bound once, the cache updated in place.

Inputs and outputs are bound by address to numpy arrays that this module keeps alive, so a
step costs one call into ONNX Runtime and no copy. ``present_*`` is bound to the memory of
``past_*``: ``TensorScatter`` then writes the new slots and leaves the others where they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.held_files import HeldFiles, weight_files
from ...bundle.manifest import GraphInfo
from ...bundle.reader import Bundle
from ...errors import BackendError
from ..base import Capabilities, EncoderInputs, EncoderOutput, Ids, Step
from ..encoder_graph import EncoderGraph
from ..memory_budget import CallMemory, MemoryBudget
from .blocks import copied_into, zeros_in_blocks
from .cache_pool import LARGEST_BYTES, CachePool, PooledCache, weakly
from .encoded import OrtEncoderOutput, bind_array, shape_key
from .encoder import OrtEncoder
from .graphs import OtherGraphs
from .large_pages import LargePages
from .lowered import LoweredInputs, choosing, most_at_once
from .normalizer import normalizer
from .parts import in_rows, in_tokens
from .session import (
    bound_run,
    check_version,
    chosen_threads,
    cpu_graphs,
    give_back_memory,
    import_onnxruntime,
    main_graph,
    open_session,
    run_error,
)
from .together import together
from .two_stage_head import TwoStageHead
from .unpacked import may_be_packed

_TRUE = np.array(True)

#: Source positions of rows that are replaced are a multiple of this: a source that is little
#: longer than those before it finds room.
_POSITIONS = 8

#: By these inputs of its decoder the host knows a lowered graph.
_LOWERED = frozenset({"attention_bias", "seqlens_k"})


class OrtBackend:
    """CPU sessions over one bundle, or over the only one of its two stacks.

    Args:
        bundle: the opened bundle.
        num_threads: threads of an operator; None: one for a small model, else all cores.
        lowered: run the graphs that were made for the CPU where the bundle has them; False: the
            canonical ones.
        max_memory: bytes that a call may take; None: see :class:`.MemoryBudget`.
        open_encoder: opens the encoder graph in another library, given how many threads; None: it
            is a session of ONNX Runtime's too.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        num_threads: int | None = None,
        lowered: bool = True,
        max_memory: int | None = None,
        open_encoder: Callable[[Bundle, GraphInfo, int | None], EncoderGraph] | None = None,
    ) -> None:
        num_threads = chosen_threads(num_threads, bundle)
        ort = import_onnxruntime()
        check_version(ort.__version__, bundle.manifest)
        main = main_graph(bundle)
        graphs = bundle.manifest.graphs
        if lowered:
            graphs = cpu_graphs(bundle.manifest, ort.__version__, encodes=open_encoder is None)
        if any(spec.dtype == "bfloat16" for spec in (*main.inputs, *main.outputs)):
            raise BackendError(
                f"{bundle.directory} computes in bfloat16, which onnxruntime cannot do on a CPU;"
                " quantize the float32 bundle for the CPU instead"
            )
        self.num_threads = num_threads
        self._vocab_size = bundle.manifest.dimensions.vocab_size
        self._graphs, self._closed = graphs, False
        self._logsumexp = None
        self._pool = CachePool()
        budget = MemoryBudget(max_memory)
        self._memory = CallMemory(bundle.manifest, budget, graphs.get("encoder"))
        self._files = HeldFiles(map(bundle.path, weight_files(bundle.manifest)))
        opener = partial(OrtEncoder, ort) if open_encoder is None else open_encoder

        def encoder() -> EncoderGraph | None:
            found = graphs.get("encoder")
            return None if found is None else opener(bundle, found, num_threads)

        def decoder() -> Any:
            found = graphs.get("decoder")
            return None if found is None else open_session(ort, bundle, found, num_threads)

        self._pages = LargePages()
        self._encoder: EncoderGraph | None
        # What is unpacked takes more memory meanwhile than it keeps.
        packed = "encoder" in graphs and may_be_packed(bundle, graphs["encoder"])
        self._encoder, self._decoder = together(encoder, decoder, at_once=not packed)
        if "logsumexp" in graphs:
            # One thread: a pool of its own would compete with the decoder's.
            self._logsumexp = open_session(ort, bundle, graphs["logsumexp"], 1)
        self._others = OtherGraphs(ort, bundle, num_threads)
        self.capabilities = Capabilities(
            computes_logsumexp=self._logsumexp is not None,
            replaces_rows=True,
            encoder="" if self._encoder is None else self._encoder.description,
        )
        give_back_memory()
        self._pages.end_loading()

    def encode(self, inputs: EncoderInputs) -> OrtEncoderOutput:
        """See :class:`seq2edge.runtime.backends.base.Backend`."""
        if self._closed:
            raise BackendError("the model was closed; load it again")
        self._files.check()
        self._pages.begin_call()
        arrays = dict(inputs)
        mask = None
        if "attention_mask" in inputs:
            mask = np.ascontiguousarray(inputs["attention_mask"], np.bool_)[:, None, None, :]
            arrays["encoder_attention_mask"] = mask
        batch_size = len(next(iter(inputs.values())))
        if self._encoder is None:
            return OrtEncoderOutput(batch_size, None, {})
        self._memory.check_encoder(inputs)
        outputs, owner = self._encoder.run(
            {
                spec.name: np.ascontiguousarray(arrays[spec.name], spec.dtype)
                for spec in self._graphs["encoder"].inputs
            }
        )
        return OrtEncoderOutput(batch_size, mask, outputs, owner)

    def new_cache(self, encoded: EncoderOutput, max_cache_len: int) -> OrtSlots:
        """See :class:`seq2edge.runtime.backends.base.RowBackend`."""
        if not isinstance(encoded, OrtEncoderOutput):
            raise TypeError("the sources were encoded by another backend")
        self._files.check()
        self._memory.check_cache(encoded.batch_size, max_cache_len)
        cache = self._pool.take(shape_key(encoded, max_cache_len))
        if isinstance(cache, OrtSlots):
            cache.reset(encoded)
            return cache
        small = encoded.nbytes <= LARGEST_BYTES
        return OrtSlots(
            self._decoder,
            self._logsumexp,
            self._graphs["decoder"],
            # What is kept for other calls has memory of its own.
            encoded.rows(np.arange(encoded.batch_size)) if small else encoded,
            max_cache_len,
            self._vocab_size,
            self._memory,
            self._pool if small else None,
        )

    def run_graph(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]],
        encoded: EncoderOutput | None = None,
    ) -> dict[str, NDArray[Any]]:
        """See :class:`seq2edge.runtime.backends.base.Backend`."""
        self._files.check()
        if encoded is None:
            return self._others.run(name, inputs)
        if not isinstance(encoded, OrtEncoderOutput):
            raise TypeError("the sources were encoded by another backend")
        return self._others.run(name, inputs, encoded.bind_one)

    def close(self) -> None:
        """Let go of the sessions and their memory."""
        self._pages.stop()
        self._others.close()
        self._pool.clear()
        self._encoder = self._decoder = self._logsumexp = None
        self._files.close()
        self._closed = True


class OrtSlots(PooledCache):
    """See :class:`seq2edge.runtime.backends.base.RowSlotCache`."""

    def __init__(
        self,
        session: Any,
        logsumexp: Any,
        info: GraphInfo,
        source: OrtEncoderOutput,
        max_cache_len: int,
        vocab_size: int,
        memory: CallMemory,
        pool: CachePool | None = None,
    ) -> None:
        super().__init__(pool)
        self._memory = memory
        self._session = session
        self._logsumexp = logsumexp
        self._source = source
        self._inputs = info.input_names()
        self._head = TwoStageHead(info, vocab_size)
        self.scores_last_tokens = "first_scored" in self._inputs
        self._vocab_size = vocab_size
        shapes = {}
        for spec in info.inputs:
            if spec.name.startswith(("past_key.", "past_value.")):
                heads, head_dim = int(spec.shape[1]), int(spec.shape[3])
                shape = (source.batch_size, heads, max_cache_len, head_dim)
                shapes[spec.name] = shape, np.dtype(spec.dtype)
        # Zeroed, not empty: a masked slot's weight is 0, and 0 x NaN is NaN.
        self._cache: dict[str, NDArray[Any]] = dict(zeros_in_blocks(shapes))
        self._number_slots(max_cache_len)

    @property
    def shape_key(self) -> Hashable:
        return shape_key(self._source, self.max_cache_len)

    def _count_bytes(self) -> int:
        steps = sum(step.nbytes(self._vocab_size) for step in self._steps)
        return self._source.nbytes + steps + sum(array.nbytes for array in self._cache.values())

    def reset(self, encoded: OrtEncoderOutput) -> None:
        """Begin anew with other sources of the same shapes."""
        self._source.replace(encoded)
        for array in self._cache.values():
            array.fill(0)
        self.cache_position_ids[:] = np.arange(self.max_cache_len)

    @property
    def source_positions(self) -> int:
        return self._source.length

    def place(self, row: int, encoded: EncoderOutput, index: int = 0) -> None:
        if not isinstance(encoded, OrtEncoderOutput):
            raise TypeError("the sources were encoded by another backend")
        self._source.write(row, encoded.part(index))
        self.cache_position_ids[row] = np.arange(self.max_cache_len)

    def move(self, source: int, target: int) -> None:
        for array in (*self._cache.values(), self.cache_position_ids):
            array[target] = array[source]
        self._source.write(target, self._source.part(source))

    def rows(self, first: int, count: int) -> OrtSlots:
        some = slice(first, first + count)
        part = copy.copy(self)
        part._runs, part._advances, part._pool = {}, {}, None
        part._source = self._source.part(first, count)
        part._cache = {name: array[some] for name, array in self._cache.items()}
        part.cache_position_ids = self.cache_position_ids[some]
        return part

    def resize(
        self, *, rows: int | None = None, slots: int | None = None, positions: int | None = None
    ) -> None:
        before, length = self.cache_position_ids, self._source.length
        rows, slots = rows or len(before), slots or self.max_cache_len
        self._memory.check_cache(rows, slots)
        self.forget_steps()
        shapes = {
            name: ((rows, old.shape[1], slots, old.shape[3]), old.dtype)
            for name, old in self._cache.items()
        }
        for name, new in zeros_in_blocks(shapes):
            self._cache[name] = copied_into(new, self._cache[name])
        if rows != len(before) or positions is not None:
            length = length if positions is None else -(-positions // _POSITIONS) * _POSITIONS
            self._source = self._source.resized(rows, length)
        self._number_slots(slots)
        kept = tuple(slice(min(sizes)) for sizes in zip(before.shape, (rows, slots), strict=True))
        self.cache_position_ids[kept] = before[kept]

    def _grow(self, max_cache_len: int) -> None:
        self.resize(slots=max_cache_len)

    def compact(self, slots: Ids) -> None:
        for row, chosen in enumerate(slots):
            self.pack(row, chosen, 0)

    def pack(self, row: int, slots: Ids, start: int) -> None:
        end = start + len(slots)
        for array in self._cache.values():
            array[row, :, start:end] = array[row][:, slots]
        self.cache_position_ids[row, start:end] = self.cache_position_ids[row, slots]

    def _select_batch(self, rows: Ids) -> None:
        self._source = self._source.rows(rows)
        self._cache = {name: array[rows] for name, array in self._cache.items()}
        self.cache_position_ids = self.cache_position_ids[rows]

    def _bind(self, step: Step) -> Callable[[], None]:
        batch, queries = step.input_ids.shape
        if self._source.quantized and queries > 1:
            if batch == 1:
                this = weakly(self)
                return in_tokens(step, self._source.shortest, lambda one: this._bind_whole(one))
            if queries > most_at_once(self._inputs):
                return in_rows(step, [self.rows(row, 1)._bind for row in range(batch)])
        return self._bind_whole(step)

    def _bind_whole(self, step: Step) -> Callable[[], None]:
        lowered = LoweredInputs(step, self._source) if self._inputs >= _LOWERED else None
        binding = self._session.io_binding()
        self._bind_inputs(binding, step, lowered)
        # What is bound by address is held by this cache and its steps until they are forgotten.
        run = bound_run(self._session, binding)
        if lowered is not None:
            return self._run_lowered(run, binding, step, lowered)
        bind_array(binding.bind_output, "next_token_ids", step.next_token_ids)
        if step.logits is None:
            return run
        bind_array(binding.bind_output, "logits", step.logits)
        normalize = normalizer(self._logsumexp, step, step.logits)
        if normalize is None:
            return run

        def run_both() -> None:
            run()
            normalize()

        return run_both

    def _bind_inputs(self, binding: Any, step: Step, lowered: LoweredInputs | None) -> None:
        """Bind what the graph reads, and the cache that it writes."""
        rows, mask = len(step.input_ids), self._source.mask
        inputs = {
            "input_ids": step.input_ids,
            "position_ids": step.position_ids,
            "cache_position_ids": self.cache_position_ids[:rows],
            "attention_mask": step.attention_mask,
            "write_indices": step.write_indices,
            "encoder_attention_mask": None if mask is None else mask[:rows],
            "full_logits": _TRUE,
        }
        if lowered is not None:
            inputs.update(lowered.arrays)
        for name, array in inputs.items():
            if name in self._inputs and array is not None:
                bind_array(binding.bind_input, name, array)
        self._source.bind(binding, rows)
        for name, whole in self._cache.items():
            array = whole[:rows]
            bind_array(binding.bind_input, name, array)
            bind_array(binding.bind_output, name.replace("past_", "present_", 1), array)

    def _run_lowered(
        self, run: Callable[[], None], binding: Any, step: Step, inputs: LoweredInputs
    ) -> Callable[[], None]:
        """A function that runs the step of a lowered graph, which leaves the choice to the host."""
        logits = step.logits
        if logits is None:
            logits = np.empty((*step.next_token_ids.shape, self._vocab_size), np.float32)
        bind_array(binding.bind_output, "logits", logits)
        this = weakly(self)

        def bind_head() -> Callable[[], None]:
            other = this._session.io_binding()
            this._bind_inputs(other, step, inputs)
            return this._head.bind(this._session, other, step)

        proposes = self._head.is_there and step.input_ids.size == 1
        normalize = normalizer(self._logsumexp, step, logits)
        choose = choosing(step, logits, run, normalize, bind_head if proposes else None)
        advance = inputs.following(step, choose)
        if advance is not None:
            self._advances[step] = advance

        def run_anew() -> None:
            inputs.update(step)
            choose()

        return run_anew

    def _explained(self, error: Exception) -> Exception:
        return run_error("decoder", error)

    def _number_slots(self, count: int) -> None:
        batch = self._source.batch_size
        self.cache_position_ids = np.tile(np.arange(count, dtype=np.int64), (batch, 1))
