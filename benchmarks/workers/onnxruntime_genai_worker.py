"""onnxruntime-genai as a baseline: its Whisper, one window, without timestamps."""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import json
import struct
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq2edge.benchmarks.workers.worker import Loaded, Task, serve
else:
    from worker import Loaded, Task, serve

_RATE = 16_000


def load(task: Task) -> Loaded:
    import numpy as np
    import onnxruntime_genai as genai

    config = genai.Config(task.model)
    threads = {"session_options": {"intra_op_num_threads": task.threads}}
    config.overlay(json.dumps({"model": {"encoder": threads, "decoder": threads}}))
    model = genai.Model(config)
    processor = model.create_multimodal_processor()
    recordings = [_wave(np.load(file)) for file in task.audio]
    # As the checkpoint's own decoding begins: English models know no language and no task.
    vocabulary = json.loads((Path(task.model) / "genai_config.json").read_bytes())["model"]
    spoken = "<|en|><|transcribe|>" if vocabulary["vocab_size"] > 51864 else ""
    prompt = f"<|startoftranscript|>{spoken}<|notimestamps|>"
    options: dict[str, Any] = {"max_length": task.new_tokens, "num_beams": task.num_beams}

    def generate(number: int) -> list[int]:
        audios = genai.Audios.open_bytes(recordings[number])
        inputs = processor([prompt], audios=audios)
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, **options)
        generator = genai.Generator(model, parameters)
        generator.set_inputs(inputs)
        while not generator.is_done():
            generator.generate_next_token()
        return list(processor.decode(generator.get_sequence(0)).encode())

    files = Path(task.model).glob("*.onnx*")
    packages = {name: version(name) for name in ("onnxruntime-genai", "onnxruntime")}
    return Loaded(generate, packages, sum(file.stat().st_size for file in files))


def _wave(samples: Any) -> bytes:
    """A WAV file of float32 samples, which is how audio is handed over."""
    data: bytes = samples.tobytes()
    form = struct.pack("<HHIIHH", 3, 1, _RATE, 4 * _RATE, 4, 32)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


if __name__ == "__main__":
    serve(load)
