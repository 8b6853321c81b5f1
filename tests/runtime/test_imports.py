"""The runtime needs numpy, tokenizers and the engine: none of what export and training need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from seq2edge.runtime import Seq2SeqModel

_BLOCKED = ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "safetensors", "ml_dtypes")

#: The start of a program that can import none of these.
BLOCKER = f"""
import sys

BLOCKED = {_BLOCKED}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
"""

#: Run with a bundle's path; prints what the bundle generates as JSON.
_GENERATE = f"""{BLOCKER}
import json
from dataclasses import replace
from seq2edge.runtime import Seq2SeqModel

with Seq2SeqModel.load(sys.argv[1]) as model:
    config = replace(model.generation_config, max_new_tokens=20, return_scores=True)
    found = model.generate(["one text", "another"], config)
print(json.dumps([[row.text, row.token_ids, row.finish_reason] for row in found]))
loaded = sorted(name for name in BLOCKED if name in sys.modules)
assert not loaded, loaded
"""


def run(code: str, *arguments: str) -> str:
    """The standard output of ``code`` in an interpreter of its own."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_generates_where_no_training_or_export_package_can_be_imported(byte_bundle: Path) -> None:
    found = json.loads(run(_GENERATE, str(byte_bundle)))
    with Seq2SeqModel.load(byte_bundle) as model:
        expected = model.generate(["one text", "another"], max_new_tokens=20)
    assert found == [[row.text, row.token_ids, row.finish_reason] for row in expected]


def test_importing_the_runtime_loads_no_engine() -> None:
    code = "import sys, seq2edge.runtime; print(*sys.modules, sep='\\n')"
    loaded = {name.partition(".")[0] for name in run(code).split()}
    assert "seq2edge" in loaded
    assert not loaded & {"onnxruntime", "tensorrt", "tensorrt_rtx", *_BLOCKED}


def test_speech_is_imported_when_it_is_asked_for() -> None:
    code = """
import sys
import seq2edge.runtime as runtime
assert "seq2edge.runtime.speech" not in sys.modules
for name in runtime.__all__:
    assert getattr(runtime, name).__name__ == name
assert not hasattr(runtime, "Nothing")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_first_token_does_not_need_is_not_imported(byte_bundle: Path) -> None:
    """asyncio, OpenSSL and unread tokenizers would be a tenth of a small model's cold start."""
    code = """
import sys
from seq2edge.runtime import Seq2SeqModel
with Seq2SeqModel.load(sys.argv[1]) as model:
    model.generate("a", max_new_tokens=1)
print(*sys.modules, sep="\\n")
"""
    unneeded = {"asyncio", "concurrent.futures", "difflib", "hashlib", "shutil", "tokenizers"}
    assert not unneeded & set(run(code, str(byte_bundle)).split())
