"""What a user prints at a prompt is one short line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seq2edge.benchmarks.bench import bench
from seq2edge.benchmarks.quality.compare import compare
from seq2edge.benchmarks.quality.data import read_examples
from seq2edge.benchmarks.quality.metrics import load_metric
from seq2edge.benchmarks.workload import Workload
from seq2edge.deploy import plan, write_pack
from seq2edge.export import export_checkpoint
from seq2edge.quantize import (
    Request,
    downgrade_opset,
    quantize_bundle,
    quantize_mixed_precision,
)
from seq2edge.runtime import Bundle, Generation, Seq2SeqModel

EXAMPLE = Path(__file__).parents[1] / "examples" / "g2p"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that a session with the demo model gives."""
    folder = tmp_path_factory.mktemp("repr")
    g2p, int8 = folder / "g2p.bundle", folder / "int8.bundle"
    found: dict[str, Any] = {
        "export": export_checkpoint(EXAMPLE / "model", g2p, validate=False),
        "quantize": quantize_bundle(g2p, int8, "int8"),
        "downgrade": downgrade_opset(g2p, folder / "downgraded.bundle"),
        "mixed": quantize_mixed_precision(
            Request(g2p, folder / "mixed.bundle", "int8"), 1.0, lambda _: 0
        ),
        "bundle": Bundle.open(int8),
        "pack": write_pack(Bundle.open(int8), plan(Bundle.open(int8), "cpu"), folder / "app.tar"),
        "latency": bench([int8], [Workload(runs=1, warmup=1, new_tokens=2, source_length=4)]),
        "compare": compare(
            [g2p, int8], read_examples(EXAMPLE / "test.jsonl", 3), load_metric("per")
        ),
    }
    found["manifest"] = found["bundle"].manifest
    with Seq2SeqModel.load(int8) as model:
        found["model"] = model
        found["generation"] = model.generate("keyboard")[0]
    found["long"] = Generation("a text\n" * 1000, list(range(5000)), -1.23456789, "length")
    return found


NAMES = "export quantize downgrade mixed bundle pack latency compare manifest model generation long"


@pytest.mark.parametrize("name", NAMES.split())
def test_it_is_one_short_line(name: str, shown: dict[str, Any]) -> None:
    text = repr(shown[name])
    assert "\n" not in text
    assert len(text.replace(str(shown["bundle"].directory.parent), "")) < 160, text
    assert type(shown[name]).__name__ in text


def test_it_says_what_matters(shown: dict[str, Any]) -> None:
    assert repr(shown["generation"]) == "Generation('K IY B AO R D', 7 tokens, eos)"
    assert repr(shown["long"]).endswith("5000 tokens, score=-1.235, length)")
    assert "int8 for cpu" in repr(shown["quantize"])
    assert "t5, 2.1 M parameters" in repr(shown["model"])
