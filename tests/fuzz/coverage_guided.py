"""Inputs that reach new lines of the parsers that are ours, found by atheris (libFuzzer).

``python tests/fuzz/coverage_guided.py TARGET... --seconds N`` mutates the seeds of ``fuzz.py`` for
so long each; ``--corpus`` keeps what reached new lines. It ends with a traceback at the first that
ends otherwise than in a result or an error of ours, and writes that input into ``crash-...``. Linux
and CPython 3.11 to 3.13, for which atheris has wheels.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # where this is a script

#: Seconds and megabytes of one input.
_SLOWEST, _MEMORY = 5, 1024
_LONGEST = 1 << 19
Read = Callable[[bytes, Path], Any]


def _manifest(data: bytes, _: Path) -> Any:
    from seq2edge.runtime import Manifest

    return Manifest.from_bytes(data)


def _json(data: bytes, _: Path) -> Any:
    from seq2edge.runtime.bundle.checks.json_text import parse_json

    return parse_json(data, "it")


def _graph(data: bytes, file: Path) -> Any:
    from seq2edge.runtime.bundle.checks.onnx_wire import DamagedGraphError, read_onnx

    file.write_bytes(data)
    with contextlib.suppress(DamagedGraphError):
        return read_onnx(file)


def _wav(data: bytes, _: Path) -> Any:
    from seq2edge.runtime.audio.wav import WavFile

    sound = WavFile(io.BytesIO(data), "it")
    return sound.read(0, min(sound.num_samples, 1 << 14)), sound.read(
        max(0, sound.num_samples - 100), sound.num_samples
    )


def _safetensors(data: bytes, file: Path) -> Any:
    from seq2edge.export.checkpoint.safetensors_file import SafetensorsFile

    file.write_bytes(data)
    with contextlib.ExitStack() as stack:
        opened = SafetensorsFile(file, stack)
        return [opened.load(name) for name in list(opened.shapes())[:4]]


def _ctranslate2(data: bytes, file: Path) -> Any:
    from seq2edge.export.checkpoint.ctranslate2.model_bin import ModelBin

    file.write_bytes(data)
    model = ModelBin(file)
    weights = [name for name, variable in model.variables.items() if len(variable.shape) > 1]
    return [model.load(name) for name in weights[:4]]


def _tokenizer(data: bytes, _: Path) -> Any:
    from seq2edge.runtime.text.tokenizer_guard import load_tokenizer_json

    return load_tokenizer_json(data)


def _request(data: bytes, _: Path) -> Any:
    from seq2edge.deploy.json_options import generation_options
    from seq2edge.deploy.serve.bodies import check_count
    from seq2edge.deploy.serve.errors import ApiError
    from seq2edge.runtime import GenerationConfig
    from seq2edge.runtime.bundle.checks.json_text import parse_json

    value = parse_json(data, "the body")
    with contextlib.suppress(ApiError):
        check_count(value, "the body")
        if isinstance(value, dict):
            return generation_options(GenerationConfig(), value)


def _calibration(data: bytes, file: Path) -> Any:
    from seq2edge.quantize.calibration.store import load

    file.write_bytes(data)
    return load(file)


@dataclass(frozen=True)
class Target:
    """A parser: how it is called, the seed of ``seeds.py``, and which files of it it reads."""

    read: Read
    seed: str
    files: str


TARGETS = {
    "manifest": Target(_manifest, "bundles", "*/seq2edge.json"),
    "json": Target(_json, "bundles", "*/*.json"),
    "graph": Target(_graph, "bundles", "*/*.onnx"),
    "wav": Target(_wav, "audio", "*.wav"),
    "safetensors": Target(_safetensors, "checkpoint", "*.safetensors"),
    "ctranslate2": Target(_ctranslate2, "converted", "*/model.bin"),
    "tokenizer": Target(_tokenizer, "bundles", "*/tokenizer.json"),
    "request": Target(_request, "bundles", ""),
    "calibration": Target(_calibration, "calibration", "*.npz"),
}


def seed_corpus(target: Target, seeds: Path, corpus: Path) -> None:
    """Put what a target begins with into a folder."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(sorted((seeds / target.seed).glob(target.files or "-"))):
        (corpus / f"seed-{number}").write_bytes(file.read_bytes()[:_LONGEST])
    if target.read is _request:
        import json

        from tests.fuzz.service_cases import OPTIONS

        (corpus / "seed-0").write_text(json.dumps(OPTIONS))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seeds", type=Path, help="folder of seeds; made where they are missing")
    parser.add_argument("--corpus", type=Path, help="what reached new lines is kept here")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        raise SystemExit("atheris is not installed (pip install atheris)")
    for name in options.targets or TARGETS:
        if name not in TARGETS:
            parser.error(f"unknown target {name!r}; there are: {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory() as place:
        for name in options.targets or TARGETS:  # libFuzzer ends its process
            child = os.fork()
            if child == 0:
                print(f"{name}:", flush=True)
                _run(name, options, Path(place))
                os._exit(0)
            if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                raise SystemExit(f"{name}: found, exit code {code}")


def _run(name: str, options: argparse.Namespace, place: Path) -> None:
    target = TARGETS[name]
    fuzz = _instrumented(target, place / "file")
    from tests.fuzz.fuzz import make_seeds_apart

    seeds = options.seeds or place / "seeds"
    make_seeds_apart(seeds, [target.seed])
    corpus = (options.corpus or place) / name
    seed_corpus(target, seeds, corpus)
    fuzz(corpus, options.seconds)


def _instrumented(target: Target, file: Path) -> Callable[[Path, int], None]:
    """What fuzzes; made before anything of ours is imported, which is when it is instrumented."""
    atheris = importlib.import_module("atheris")  # no types, and not on every Python
    with atheris.instrument_imports(include=["seq2edge"]):
        from seq2edge.runtime.errors import Seq2EdgeError

        with contextlib.suppress(Seq2EdgeError):
            target.read(b"", file)  # imports what it needs

    def one(data: bytes) -> None:
        with contextlib.suppress(Seq2EdgeError):
            target.read(data, file)

    def fuzz(corpus: Path, seconds: int) -> None:
        limits = [f"-max_total_time={seconds}", f"-timeout={_SLOWEST}", f"-max_len={_LONGEST}"]
        limits += [f"-rss_limit_mb={_MEMORY + 512}", "-print_final_stats=1", os.fspath(corpus)]
        atheris.Setup([sys.argv[0], *limits], one)
        atheris.Fuzz()

    return fuzz


if __name__ == "__main__":
    main()
