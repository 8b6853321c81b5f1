"""seq2edge as a contender, in the interpreter of whoever compares."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.peers._worker import Loaded, Task, serve
else:
    from _worker import Loaded, Task, serve


def load(task: Task) -> Loaded:
    import onnxruntime

    from seq2edge.runtime import Bundle, GenerationConfig
    from seq2edge.runtime.decoding import Decoding
    from seq2edge.runtime.engines import load_engine
    from seq2edge.runtime.inputs import Source
    from seq2edge.runtime.version import package_version

    bundle = Bundle.open(task.model)
    engine = load_engine(bundle, num_threads=task.threads)
    manifest = bundle.manifest
    # No end token, as benchmarks/latency.py has it.
    manifest = replace(manifest, special_tokens=replace(manifest.special_tokens, eos=()))
    decoding = Decoding(engine, manifest, None)
    config = decoding.check(
        GenerationConfig(max_new_tokens=task.new_tokens, num_beams=task.num_beams)
    )
    sources = [Source.of(list(task.source))]

    def generate() -> list[int]:
        return list(decoding.run(sources, config)[0][0].token_ids)

    return Loaded(
        generate,
        {"seq2edge": package_version(), "onnxruntime": onnxruntime.__version__},
        sum(file.size for file in bundle.manifest.files.values()),
    )


if __name__ == "__main__":
    serve(load)
