"""Tokens on an NVIDIA GPU beside the CPU's, by every backend that is installed: make test-gpu.

    python tests/gpu/check.py OUTPUT.json

Needs no network and a few minutes. Exit codes: 0 all backends that ran gave the CPU's tokens, 1 one
did not or failed, 2 there is no GPU. A backend whose library is missing is named and is no failure.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seq2edge.benchmarks.peers.gpu import missing_gpu
from seq2edge.benchmarks.report.machine import machine_info, revision
from seq2edge.cli.main import main as seq2edge
from seq2edge.deploy.doctor import Machine, examine
from seq2edge.runtime import Seq2SeqModel
from seq2edge.runtime.errors import MissingDependencyError, Seq2EdgeError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "g2p"
WORDS = 100
#: Backend, device, and the bundle's target and scheme; float32 must give the same tokens.
CASES = (
    ("onnxruntime", "cuda", "cuda", "float32"),
    ("onnxruntime", "cuda", "cuda", "fp16"),
    ("onnxruntime", "cuda", "cuda", "bf16"),
    ("onnxruntime", "cuda", "cuda", "int8"),
    ("onnxruntime", "cuda", "cuda", "int4"),
    ("onnxruntime-tensorrt", "cuda", "tensorrt", "fp16"),
    ("tensorrt", None, "tensorrt", "fp16"),
    ("tensorrt", None, "tensorrt", "int4"),
    ("tensorrt-rtx", None, "tensorrt", "fp16"),
    ("tensorrt-rtx", None, "tensorrt", "int4"),
)


def lacking_libraries(machine: Machine) -> Iterator[tuple[str, str]]:
    """Backends that are not installed whole, and what they lack."""
    for name, provider in (
        ("onnxruntime", "CUDAExecutionProvider"),
        ("onnxruntime-tensorrt", "TensorrtExecutionProvider"),
    ):
        found = {one.name: one for one in machine.onnxruntime.providers}.get(provider)
        if found is None:
            yield name, f"the installed onnxruntime has no {provider}"
        elif not found.runs and found.problem and "cannot open shared object" in found.problem:
            yield name, found.problem
    for one in machine.tensorrt:
        if one.version is None and one.problem is None:
            yield one.backend, f"{one.backend} is not installed"


def check(folder: Path, machine: Machine) -> Iterator[dict[str, Any]]:
    words = (EXAMPLE / "words.txt").read_text().split()[:WORDS]
    lacking = dict(lacking_libraries(machine))
    float32 = folder / "float32"
    run("export", EXAMPLE / "model", float32, "--no-validate")
    bundles = {("cuda", "float32"): float32}
    for backend, device, target, scheme in CASES:
        about = {"backend": backend, "device": device, "target": target, "scheme": scheme}
        if backend in lacking:
            yield {**about, "status": "not installed", "reason": lacking[backend]}
            continue
        start = time.monotonic()
        try:
            if (target, scheme) not in bundles:
                bundle = folder / f"{target}.{scheme}"
                options = ("--scheme", scheme, "--target", target, "--no-check")
                run("quantize", float32, bundle, *options)
                bundles[target, scheme] = bundle
            bundle = bundles[target, scheme]
            if device is None:
                limits = ("--max-batch", 8, "--max-target-length", 128)
                run("build", bundle, "--backend", backend, *limits)
            # ONNX Runtime has no bfloat16 on the CPU.
            same_bundle = float32 if scheme == "bf16" else bundle
            expected = tokens(same_bundle, words, "onnxruntime", "cpu")
            found = tokens(bundle, words, backend, device)
        except MissingDependencyError as error:
            yield {**about, "status": "not installed", "reason": str(error)}
            continue
        except Seq2EdgeError as error:
            yield {**about, "status": "failed", "reason": str(error)}
            continue
        same = sum(a == b for a, b in zip(found, expected, strict=True))
        # Fewer bits round differently on a GPU: nine in ten words is what float16 has to reach.
        enough = len(words) if scheme == "float32" else 0.9 * len(words)
        yield {
            **about,
            "status": "passed" if same >= enough else "wrong",
            "same": same,
            "of": len(words),
            "seconds": time.monotonic() - start,
        }


def tokens(bundle: Path, words: list[str], backend: str, device: str | None) -> list[list[int]]:
    with Seq2SeqModel.load(bundle, backend=backend, device=device, strict=True) as model:
        return [
            found.token_ids
            for start in range(0, len(words), 8)
            for found in model.generate(words[start : start + 8])
        ]


def run(*words: object) -> None:
    if seq2edge([str(word) for word in words]) != 0:
        raise Seq2EdgeError(f"seq2edge {' '.join(map(str, words))} failed: see above")


def main() -> int:
    missing = missing_gpu()
    if missing is not None:
        print(f"no NVIDIA GPU on this machine: {missing}", file=sys.stderr)
        return 2
    machine = examine()
    with tempfile.TemporaryDirectory(prefix="seq2edge-gpu-") as folder:
        results = []
        for result in check(Path(folder), machine):
            print(json.dumps(result), flush=True)
            results.append(result)
    document = {
        "machine": asdict(machine_info()),
        "cuda": asdict(machine.cuda),
        "onnxruntime": machine.onnxruntime.version,
        "tensorrt": {one.backend: one.version for one in machine.tensorrt},
        "revision": revision(),
        "results": results,
    }
    output = Path(sys.argv[1])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(result["status"] in ("failed", "wrong") for result in results))


if __name__ == "__main__":
    sys.exit(main())
