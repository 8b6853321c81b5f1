"""faster-whisper as a baseline: one window, greedy or with beams, without timestamps."""

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
    from faster_whisper import WhisperModel

    model = WhisperModel(
        task.model, device="cpu", compute_type=task.precision, cpu_threads=task.threads
    )
    recordings = [np.load(file) for file in task.audio]

    def generate(number: int) -> list[int]:
        segments, _ = model.transcribe(
            recordings[number],
            language="en",
            beam_size=task.num_beams,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return list("".join(segment.text for segment in segments).encode())

    files = Path(task.model).iterdir()
    packages = {name: version(name) for name in ("faster-whisper", "ctranslate2")}
    return Loaded(generate, packages, sum(file.stat().st_size for file in files))


if __name__ == "__main__":
    serve(load)
