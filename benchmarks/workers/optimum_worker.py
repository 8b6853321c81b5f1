"""optimum-onnx as a baseline: its merged decoder, as ``optimum-cli export onnx`` writes it."""

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

_PACKAGES = ("optimum-onnx", "optimum", "transformers", "torch", "onnxruntime", "numpy")


def load(task: Task) -> Loaded:
    import torch
    from onnxruntime import SessionOptions
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    torch.set_num_threads(task.threads)
    options = SessionOptions()
    options.intra_op_num_threads = task.threads
    model = ORTModelForSeq2SeqLM.from_pretrained(
        task.model, use_cache=True, use_merged=True, session_options=options
    )
    files = [Path(session.path) for session in (model.encoder, model.decoder)]
    return Loaded(
        generator(model, task),
        {name: version(name) for name in _PACKAGES},
        sum(file.stat().st_size for file in files),
    )


if __name__ == "__main__":
    serve(load)
