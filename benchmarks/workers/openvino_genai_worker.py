"""OpenVINO GenAI as a baseline: its Whisper pipeline on one window, without timestamps."""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq2edge.benchmarks.workers.worker import Loaded, Task, serve
else:
    from worker import Loaded, Task, serve


def load(task: Task) -> Loaded:
    import numpy as np
    import openvino_genai

    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": task.threads}
    if task.precision == "float32":
        options["INFERENCE_PRECISION_HINT"] = "f32"
    pipeline = openvino_genai.WhisperPipeline(task.model, "CPU", **options)
    recordings = [np.load(file) for file in task.audio]
    spoken = {"language": "<|en|>"} if pipeline.get_generation_config().is_multilingual else {}

    def generate(number: int) -> list[int]:
        found = pipeline.generate(
            recordings[number],
            max_new_tokens=task.new_tokens,
            num_beams=task.num_beams,
            return_timestamps=False,
            **spoken,
        )
        return list(str(found).encode())

    files = Path(task.model).glob("*.bin")
    packages = {name: version(name) for name in ("openvino-genai", "openvino")}
    return Loaded(generate, packages, sum(file.stat().st_size for file in files))


if __name__ == "__main__":
    serve(load)
