"""onnx-asr as a baseline, on what optimum-onnx exports of Whisper: greedy, without timestamps."""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.workers.worker import Loaded, Task, serve
else:
    from worker import Loaded, Task, serve


def load(task: Task) -> Loaded:
    import numpy as np
    import onnx_asr
    import onnxruntime

    if task.num_beams > 1:
        raise RuntimeError("onnx-asr has no beam search")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    model = onnx_asr.load_model(
        "whisper", task.model, sess_options=options, providers=["CPUExecutionProvider"]
    )
    recordings = [np.load(file) for file in task.audio]

    def generate(number: int) -> list[int]:
        return list(str(model.recognize(recordings[number], language="en")).encode())

    names = ("encoder_model.onnx", "decoder_model_merged.onnx")
    packages = {name: version(name) for name in ("onnx-asr", "onnxruntime")}
    loaded_bytes = sum((Path(task.model) / name).stat().st_size for name in names)
    return Loaded(generate, packages, loaded_bytes)


if __name__ == "__main__":
    serve(load)
