"""OpenVINO as a baseline, by ``generate`` of optimum-intel.

Its own default on processors with AVX512-BF16 or AMX computes in bfloat16, which is the precision
``bfloat16`` here; the others are told to compute in float32 (``INFERENCE_PRECISION_HINT``), their
weights being of 32, 8 or 4 bits.
"""

# mypy: allow-untyped-calls, disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.workers.generate import generator
    from seq2edge.benchmarks.workers.worker import Loaded, Task, serve
else:
    from generate import generator
    from worker import Loaded, Task, serve

_PACKAGES = ("optimum-intel", "openvino", "transformers", "torch")


def load(task: Task) -> Loaded:
    import torch
    from optimum.intel import OVModelForSeq2SeqLM

    torch.set_num_threads(task.threads)
    options = {"INFERENCE_PRECISION_HINT": "bf16" if task.precision == "bfloat16" else "f32"}
    if task.precision == "float32":
        options["KV_CACHE_PRECISION"] = "f32"  # its default is 8 bits, and other tokens
    model = OVModelForSeq2SeqLM.from_pretrained(
        task.model,
        device="CPU",
        ov_config={
            **options,
            "INFERENCE_NUM_THREADS": task.threads,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    files = Path(task.model).glob("*.bin")
    return Loaded(
        generator(model, task),
        {name: version(name) for name in _PACKAGES},
        sum(file.stat().st_size for file in files),
    )


if __name__ == "__main__":
    serve(load)
