"""seq2edge as a baseline, in the interpreter of whoever compares."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.workers.worker import Loaded, Task, serve
    from seq2edge.runtime import Bundle
else:
    from worker import Loaded, Task, serve


def load(task: Task) -> Loaded:
    from seq2edge.benchmarks.fixed_length import engine_version, fixed_length, without_end
    from seq2edge.runtime import Bundle
    from seq2edge.runtime.backends import load_backend
    from seq2edge.runtime.bundle.version import package_version
    from seq2edge.runtime.generation import Generator
    from seq2edge.runtime.text.sources import TextSource

    if task.audio:
        return _hearing(task)
    bundle = Bundle.open(task.model)
    name = task.mode or "onnxruntime"
    # Parts that run on the CPU in place of the GPU are a warning, which goes into the report.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend = load_backend(bundle, backend=name, device=task.device, num_threads=task.threads)
    generator = Generator(backend, without_end(bundle.manifest), None)
    config = fixed_length(task.new_tokens, task.num_beams)
    calls = [generator.prepare(config, [TextSource.of(list(row))]) for row in task.sources]

    def generate(number: int) -> list[int]:
        return list(generator.run(calls[number])[0][0].token_ids)

    gpu, loaded_bytes = _facts(bundle, name)
    library = "onnxruntime" if name.startswith("onnxruntime") else name
    return Loaded(
        generate,
        {"seq2edge": package_version(), library: engine_version(name), **gpu},
        loaded_bytes,
        # Its tokens are on the host, and no work is left, when generate returns.
        notes=tuple(str(w.message) for w in caught if issubclass(w.category, UserWarning)),
    )


def _hearing(task: Task) -> Loaded:
    """Whisper on one window, as ``seq2edge transcribe`` does it."""
    import numpy as np

    from seq2edge.benchmarks.fixed_length import engine_version
    from seq2edge.runtime.bundle.version import package_version
    from seq2edge.runtime.speech.model import SpeechModel
    from seq2edge.runtime.speech.prompt import speech_info

    model = SpeechModel.load(task.model, num_threads=task.threads)
    recordings = [np.load(file) for file in task.audio]
    language = "en" if "en" in speech_info(model.manifest).languages else None

    def generate(number: int) -> list[int]:
        found = model.transcribe(
            recordings[number],
            language=language,
            beam_size=task.num_beams,
            temperature=0.0,
            max_new_tokens=task.new_tokens,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return list(found.text.encode())

    versions = {"seq2edge": package_version(), "onnxruntime": engine_version("onnxruntime")}
    loaded = sum(file.size for file in model.manifest.files.values())
    return Loaded(generate, versions, loaded)


def _facts(bundle: Bundle, backend: str) -> tuple[dict[str, str], int]:
    """The GPU of an engine that was built for one, and bytes of the files that were opened."""
    if backend.startswith("onnxruntime"):
        return {}, sum(file.size for file in bundle.manifest.files.values())
    from seq2edge.runtime.backends.tensorrt.cuda import load_cuda
    from seq2edge.runtime.backends.tensorrt.engine_cache import find_engines
    from seq2edge.runtime.backends.tensorrt.library import load_library

    gpu = load_cuda().gpu()
    _, engines = find_engines(bundle, load_library(backend), gpu)
    return {"GPU": gpu.name}, sum(file.size for file in engines.engines.values())


if __name__ == "__main__":
    serve(load)
