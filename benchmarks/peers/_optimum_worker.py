"""The part of optimum.py that runs in the peer's own environment: export, then time.

Started with ``python -P``, because the folder of this file holds an ``optimum.py`` that would
hide the library of that name.
"""

# mypy: allow-untyped-calls, disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What is done to the decoder's random weights, by the end of the tensor's name. With T5's own
#: initialisation every new token repeats the last one, and equal outputs would prove nothing.
#: Sharp attention over near positions makes most of 64 tokens differ. Times do not depend on it.
_GAINS = {".q.weight": 16.0, ".o.weight": 16.0, ".relative_attention_bias.weight": 100.0}
_WARMUP_ROUNDS = 3
_PACKAGES = ("optimum-onnx", "optimum", "transformers", "torch", "onnx", "onnxruntime", "numpy")

Generate = Callable[[], list[int]]


@dataclass(frozen=True)
class Workload:
    """Batch 1; lengths in tokens. ``threads`` is the number within an operator, for both."""

    source_length: int
    new_tokens: int
    threads: int
    rounds: int
    num_beams: int = 1


def export(checkpoint: Path, folder: Path) -> None:
    """Save a T5-small with random weights and export it as ``optimum-cli export onnx`` does."""
    import torch
    from optimum.exporters.onnx import main_export
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    # The values of T5Config() are T5-small's; its decoder starts with the pad token.
    model = T5ForConditionalGeneration(T5Config.from_dict({"decoder_start_token_id": 0}))
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            for ending, gain in _GAINS.items():
                if name.endswith(ending):
                    parameter.mul_(gain)
    model.save_pretrained(checkpoint)
    # The task "-with-past" writes the merged decoder (and the two it was merged from).
    main_export(str(checkpoint), folder, task="text2text-generation-with-past", do_validation=False)


def measure(folder: Path, bundle: Path, workload: Workload) -> dict[str, Any]:
    """Load both models and time them in turns: A B A B ..., so that both meet the same noise."""
    source = random_source(bundle, workload)
    optimum, loaded_bytes = load_optimum(folder, source, workload)
    contenders: dict[str, Generate] = {
        "optimum": optimum,
        "seq2edge": load_seq2edge(bundle, source, workload),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    tokens: dict[str, list[int]] = {}
    for number in range(_WARMUP_ROUNDS + workload.rounds):
        for name, generate in contenders.items():
            start = time.perf_counter()
            tokens[name] = generate()
            if number >= _WARMUP_ROUNDS:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {
        "milliseconds": times,
        "tokens": tokens,
        "optimum_loaded_bytes": loaded_bytes,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def random_source(bundle: Path, workload: Workload) -> NDArray[np.int64]:
    """Seeded random tokens [1, source], none of them special (T5's are the first three)."""
    from seq2edge.runtime import Bundle

    vocab_size = Bundle.open(bundle).manifest.dimensions.vocab_size
    return np.random.default_rng(0).integers(3, vocab_size, (1, workload.source_length))


def load_optimum(
    folder: Path, source: NDArray[np.int64], workload: Workload
) -> tuple[Generate, int]:
    """optimum's model with the merged decoder, and the bytes of the files that it loaded."""
    import torch
    from onnxruntime import SessionOptions
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    torch.set_num_threads(workload.threads)
    options = SessionOptions()
    options.intra_op_num_threads = workload.threads
    model = ORTModelForSeq2SeqLM.from_pretrained(
        folder, use_cache=True, use_merged=True, session_options=options
    )
    # No end token, as for seq2edge. min_new_tokens would make as many tokens, but its logits
    # processor walks the vocabulary at every step: 17 to 19 % more time than an ordinary call.
    model.generation_config.eos_token_id = None
    input_ids = torch.from_numpy(source)
    attention_mask = torch.ones_like(input_ids)

    def generate() -> list[int]:
        output = model.generate(
            input_ids,
            attention_mask=attention_mask,
            num_beams=workload.num_beams,
            do_sample=False,
            max_new_tokens=workload.new_tokens,
        )
        tokens: list[int] = output[0, 1:].tolist()
        return tokens

    sessions = (model.encoder, model.decoder)
    return generate, sum(Path(session.path).stat().st_size for session in sessions)


def load_seq2edge(bundle: Path, source: NDArray[np.int64], workload: Workload) -> Generate:
    """seq2edge's model, told of no end token (see benchmarks/latency.py)."""
    from seq2edge.runtime import Bundle, GenerationConfig
    from seq2edge.runtime.decoding import Decoding
    from seq2edge.runtime.engines import load_engine
    from seq2edge.runtime.inputs import Source

    opened = Bundle.open(bundle)
    engine = load_engine(opened, num_threads=workload.threads)
    manifest = opened.manifest
    manifest = replace(manifest, special_tokens=replace(manifest.special_tokens, eos=()))
    config = GenerationConfig(max_new_tokens=workload.new_tokens, num_beams=workload.num_beams)
    decoding = Decoding(engine, manifest, None)
    sources = [Source.of(row) for row in source.tolist()]

    def generate() -> list[int]:
        return decoding.run(sources, config)[0][0].token_ids

    return generate


def _versions() -> Mapping[str, str]:
    return {name: version(name) for name in _PACKAGES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export")
    exporting.add_argument("checkpoint", type=Path)
    exporting.add_argument("folder", type=Path)
    measuring = commands.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("bundle", type=Path)
    measuring.add_argument("workload", type=json.loads)
    measuring.add_argument("result", type=Path)
    options = parser.parse_args()
    if options.command == "export":
        export(options.checkpoint, options.folder)
        return
    workload = Workload(**options.workload)
    # Into a file: the libraries print on both streams.
    options.result.write_text(json.dumps(measure(options.folder, options.bundle, workload)))


if __name__ == "__main__":
    main()
