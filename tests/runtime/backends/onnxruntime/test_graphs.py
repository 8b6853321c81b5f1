"""What CUDA graphs ask for: for one id always the same shapes, types and addresses.

ONNX Runtime does not check it: it would replay the graph with the addresses that it was captured
with. The recorded runs are those of the real engine on the CPU's memory.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.backends.onnxruntime.buffers import DeviceArray
from seq2edge.runtime.backends.onnxruntime.device import OrtDeviceBackend
from seq2edge.runtime.backends.onnxruntime.steps import RUNS_BEFORE_CAPTURE

from .recording import RecordingSession, Run, cpu_target

SOURCE = [200, 13, 77, 150, 22, 1]


@dataclass
class Recorded:
    """A model without end tokens, its engine, and the decoder's runs."""

    model: Seq2SeqModel
    backend: OrtDeviceBackend
    session: RecordingSession

    def runs(self, sources: list[list[int]], **options: Any) -> list[Run]:
        """The decoder's runs of one call."""
        before = len(self.session.runs)
        config = replace(self.model.generation_config, **{"max_new_tokens": 20, **options})
        self.model.generate_ids(np.array(sources), config=config)
        return self.session.runs[before:]


@pytest.fixture
def recorded(bundle_of: Callable[[str], Path]) -> Recorded:
    bundle = Bundle.open(bundle_of("t5-v1.1"))
    backend = OrtDeviceBackend(bundle, cpu_target())
    session = RecordingSession(backend._context.sessions["decoder"])
    backend._context.sessions["decoder"] = session
    # What the probe bound was not recorded.
    backend._sources.clear()
    model = Seq2SeqModel(bundle, backend, None)
    return Recorded(model, backend, session)


def ids(runs: list[Run]) -> list[str]:
    return [run.graph_id for run in runs]


def test_an_id_never_sees_other_shapes_or_addresses(recorded: Recorded) -> None:
    several = [SOURCE, [*SOURCE[:2], 1, 0, 0, 0], [9] * 6]
    for sources in ([SOURCE], several, [[7] * 70], [SOURCE]):
        for options in (
            {"max_new_tokens": 100},
            {"num_beams": 3, "max_new_tokens": 60},
            {"num_beams": 2},
            {"do_sample": True, "seed": 1},
            {"prompt_lookup_num_tokens": 3},
        ):
            recorded.runs(sources, **options)
    bound = defaultdict(set)
    for run in recorded.session.runs:
        bound[run.graph_id].add(run.bound)
    captured = {graph_id: places for graph_id, places in bound.items() if graph_id != "-1"}
    assert len(captured) > 10 and "0" not in captured
    assert all(len(places) == 1 for places in captured.values())
    # Nor is anything captured twice.
    places = [next(iter(found)) for found in captured.values()]
    assert len(set(places)) == len(places)


def test_a_shape_gets_its_id_when_it_was_run_a_few_times_and_keeps_it(recorded: Recorded) -> None:
    first = ids(recorded.runs([SOURCE]))
    assert first[: RUNS_BEFORE_CAPTURE - 1] == ["-1"] * (RUNS_BEFORE_CAPTURE - 1)
    (graph,) = set(first[RUNS_BEFORE_CAPTURE - 1 :])
    assert graph != "-1"
    assert set(ids(recorded.runs([SOURCE]))) == {graph}
    # Sources of up to 64 tokens are padded to the same length.
    assert set(ids(recorded.runs([[5] * 40]))) == {graph}
    assert graph not in ids(recorded.runs([[5] * 65]))
    assert graph not in ids(recorded.runs([SOURCE, SOURCE]))


def test_two_calls_at_once_do_not_share_arrays(recorded: Recorded) -> None:
    sources = [
        recorded.backend.encode(
            {"input_ids": np.array([SOURCE]), "attention_mask": np.ones((1, 6), bool)}
        )
        for _ in range(2)
    ]
    addresses = [
        source.buffers.inputs["encoder_attention_mask"]._value.data_ptr() for source in sources
    ]
    assert addresses[0] != addresses[1]
    decoders = [recorded.backend.new_cache(source, 64) for source in (*sources, sources[0])]
    caches = {decoder._cache.arrays["past_key.0"]._value.data_ptr() for decoder in decoders}
    assert len(caches) == 3


def test_what_the_budget_does_not_hold_is_run_without_a_graph_and_freed(
    recorded: Recorded,
) -> None:
    expected = recorded.model.generate_ids(np.array([SOURCE]), max_new_tokens=20)
    recorded.backend._context.budget.bytes = 0
    recorded.backend._sources.clear()
    runs = recorded.runs([SOURCE])
    assert set(ids(runs)) == {"-1"} and len(runs) == 20
    assert recorded.model.generate_ids(np.array([SOURCE]), max_new_tokens=20) == expected
    source = recorded.backend.encode(
        {"input_ids": np.array([SOURCE]), "attention_mask": np.ones((1, 6), bool)}
    )
    decoder = recorded.backend.new_cache(source, 64)
    gone = [weakref.ref(source.buffers), weakref.ref(decoder._cache)]
    del source, decoder
    assert [reference() for reference in gone] == [None, None]


def test_no_more_graphs_than_the_budget(recorded: Recorded) -> None:
    recorded.backend._context.budget.graphs = 1
    assert set(ids(recorded.runs([SOURCE]))) == {"-1", "2"}  # 1 was the probe's
    assert set(ids(recorded.runs([SOURCE, SOURCE]))) == {"-1"}


def test_a_call_is_not_hurt_by_what_an_earlier_one_left_in_its_arrays(recorded: Recorded) -> None:
    expected = recorded.model.generate_ids(np.array([SOURCE]), max_new_tokens=20)
    source = recorded.backend.encode(
        {"input_ids": np.array([SOURCE]), "attention_mask": np.ones((1, 6), bool)}
    )
    decoder = recorded.backend.new_cache(source, 32)
    for array in decoder._cache.arrays.values():
        array.write(np.full(array.shape, np.nan))
    del source, decoder
    assert recorded.model.generate_ids(np.array([SOURCE]), max_new_tokens=20) == expected


def test_a_source_of_another_engine_is_refused(
    recorded: Recorded, bundle_of: Callable[[str], Path]
) -> None:
    from seq2edge.runtime.backends import load_backend

    bundle = Bundle.open(bundle_of("t5"))
    for other in (load_backend(bundle, num_threads=1), OrtDeviceBackend(bundle, cpu_target())):
        source = other.encode(
            {"input_ids": np.array([SOURCE]), "attention_mask": np.ones((1, 6), bool)}
        )
        with pytest.raises(TypeError, match="another backend"):
            recorded.backend.new_cache(source, 16)


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of float32: exact for values of few bits."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def test_bfloat16_arrays_are_bound_as_what_they_are(tmp_path: Path) -> None:
    import onnxruntime as ort
    from onnx import TensorProto, helper, save

    half, single = TensorProto.BFLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=single),
        helper.make_node("Add", ["wide", "wide"], ["y"]),
        helper.make_node("Cast", ["y"], ["z"], to=half),
    ]
    inputs = [helper.make_tensor_value_info("x", half, ["n", 3])]
    outputs = [
        helper.make_tensor_value_info("y", single, ["n", 3]),
        helper.make_tensor_value_info("z", half, ["n", 3]),
    ]
    graph = helper.make_graph(nodes, "double", inputs, outputs)
    opsets = [helper.make_opsetid("", 21)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "g.onnx")
    session = ort.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    kinds = {"x": "bfloat16", "y": "float32", "z": "bfloat16"}
    arrays = {name: DeviceArray(ort, "cpu", (2, 3), kind) for name, kind in kinds.items()}
    values = np.array([[1.5, -2.0, 0.25], [3.0, 100.0, -0.5]], np.float32)
    arrays["x"].write(bfloat16_bits(values))
    binding = session.io_binding()
    arrays["x"].bind(binding.bind_input, "x")
    for name in ("y", "z"):
        arrays[name].bind(binding.bind_output, name)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(arrays["y"].read(), 2 * values)
    np.testing.assert_array_equal(arrays["z"].read(), bfloat16_bits(2 * values))
    assert arrays["z"].nbytes == 12
