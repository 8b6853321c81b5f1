"""whisper.cpp as a baseline, by pywhispercpp: one window, without timestamps."""

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
    from pywhispercpp.model import Model

    file = Path(task.model) / "model.bin"
    search: dict[str, Any] = {"params_sampling_strategy": 0, "greedy": {"best_of": 1}}
    if task.num_beams > 1:
        beams = {"beam_size": task.num_beams, "patience": -1.0}
        search = {"params_sampling_strategy": 1, "beam_search": beams}
    model = Model(
        str(file),
        n_threads=task.threads,
        language="en",
        no_timestamps=True,
        single_segment=True,
        suppress_nst=True,  # as the checkpoint's suppress_tokens
        temperature_inc=0.0,  # nothing is decoded a second time
        print_progress=False,
        **search,
    )
    recordings = [np.load(name) for name in task.audio]

    def generate(number: int) -> list[int]:
        found = model.transcribe(recordings[number])
        return list(" ".join(segment.text for segment in found).encode())

    return Loaded(generate, {"pywhispercpp": version("pywhispercpp")}, file.stat().st_size)


if __name__ == "__main__":
    serve(load)
