"""A named dimension gets a size in the bytes of an ONNX file, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from seq2edge.runtime.backends.tensorrt.builder.onnx_shapes import set_dimension


def test_only_the_named_dimension_changes(bundle_of: Callable[[str], Path]) -> None:
    data = (bundle_of("t5") / "decoder.onnx").read_bytes()
    expected = onnx.load_model_from_string(data)
    graph = expected.graph
    changed = 0
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == "slots":
                dimension.dim_value = 300  # more than one byte of a varint
                changed += 1
    assert changed > 4
    assert onnx.load_model_from_string(set_dimension(data, "slots", 300)) == expected


def test_a_name_that_is_not_there_changes_nothing(bundle_of: Callable[[str], Path]) -> None:
    data = (bundle_of("bart") / "encoder.onnx").read_bytes()
    assert set_dimension(data, "slots", 5) == data


@pytest.mark.parametrize("data", [b"\x3a\x7f", b"\x3a\xff", b"\x0f\x00", b"\x3a"])
def test_bytes_of_something_else_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="ONNX file is"):
        set_dimension(data, "slots", 5)
