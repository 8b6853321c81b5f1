"""On an NVIDIA GPU: the CPU's tokens, with graphs and without. Skipped elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.backends import Backend, Step, load_backend
from seq2edge.runtime.backends.onnxruntime.device import OrtDeviceBackend
from seq2edge.runtime.backends.onnxruntime.providers import (
    CUDA,
    TENSORRT,
    compute_capability,
    cuda_target,
    load_error,
)
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.options import TranscriptionOptions
from tests import whisper_models as whisper

pytestmark = pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers() or not compute_capability(),
    reason="needs an NVIDIA GPU and onnxruntime-gpu",
)

IDS = np.array([[200, 13, 77, 150, 22, 1], [5, 6, 1, 0, 0, 0], [300, 301, 9, 9, 1, 0]])
MASK = IDS != 0
#: Beyond 64 tokens the cache has grown, and another graph is captured.
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 80},
    "beams": {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 80},
    "lookup": {"prompt_lookup_num_tokens": 4, "max_new_tokens": 76},
    "samples": {"do_sample": True, "seed": 7, "num_return_sequences": 3, "max_new_tokens": 60},
}
BundleOf = Callable[[str], Path]


@contextmanager
def model_of(path: Path, **options: Any) -> Iterator[Seq2SeqModel]:
    with Seq2SeqModel.load(path, **options) as model:
        yield model


def tokens(model: Seq2SeqModel, ids: np.ndarray[Any, Any] = IDS, **options: Any) -> list[list[int]]:
    config = replace(model.generation_config, **options)
    return [row.token_ids for row in model.generate_ids(ids, ids != 0, config)]


@pytest.mark.parametrize("shape", ["t5-v1.1", "umt5", "bart", "marian", "pegasus"])
@pytest.mark.parametrize("way", WAYS)
def test_float32_gives_the_cpus_tokens(shape: str, way: str, bundle_of: BundleOf) -> None:
    path = bundle_of(shape)
    with model_of(path) as cpu, model_of(path, device="cuda", strict=True) as gpu:
        for _ in range(2):  # captured in the first call, replayed in the second
            assert tokens(gpu, **WAYS[way]) == tokens(cpu, **WAYS[way])


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("scheme", ["float32", "fp16"])
def test_speech_gives_the_cpus_words(scheme: str, beam_size: int, tmp_path: Path) -> None:
    path = whisper.speaking_bundle("tiny", tmp_path).directory
    if scheme != "float32":
        quantize_bundle(path, tmp_path / scheme, scheme, target="cuda")
        path = tmp_path / scheme
    noise = np.random.default_rng(0).standard_normal(40 * 16000).astype(np.float32)
    options = TranscriptionOptions(
        language="en", beam_size=beam_size, temperature=0.0, word_timestamps=True
    )
    found = {}
    for device in ("cpu", "cuda"):
        with SpeechModel.load(path, device=device) as model:
            runs = [model.transcribe(noise * 0.1, options) for _ in range(2)]
        found[device] = [(run.text, [word.start for word in run.words]) for run in runs]
    if scheme == "float32":
        assert found["cuda"] == found["cpu"]
    else:  # another order of sums in float16, another word of a random model
        text, reference = found["cuda"][0][0], found["cpu"][0][0]
        assert text[:20] == reference[:20] and found["cuda"][0] == found["cuda"][1]


def first_logits(backend: Backend, vocab_size: int) -> np.ndarray[Any, Any]:
    decoder = backend.new_cache(backend.encode({"input_ids": IDS, "attention_mask": MASK}), 16)
    step = Step.allocate(len(IDS), 1, decoder.max_cache_len, vocab_size=vocab_size)
    step.attention_mask[..., 0] = True
    decoder.forward(step)
    assert step.logits is not None
    return step.logits


@pytest.mark.parametrize(
    ("scheme", "tolerance"), [("fp16", 0.02), ("bf16", 0.15), ("int8", 0.3), ("int4", 0.9)]
)
@pytest.mark.parametrize("shape", ["t5-v1.1", "bart"])
def test_fewer_bits_are_near_float32(
    shape: str, scheme: str, tolerance: float, bundle_of: BundleOf, tmp_path: Path
) -> None:
    source = bundle_of(shape)
    quantize_bundle(source, tmp_path / "out", scheme, target="cuda")
    vocab_size = Bundle.open(source).manifest.dimensions.vocab_size
    expected = first_logits(load_backend(Bundle.open(source), num_threads=1), vocab_size)
    backend = load_backend(
        Bundle.open(tmp_path / "out"), device="cuda", strict=True, num_threads=None
    )
    difference = np.abs(first_logits(backend, vocab_size) - expected)
    assert difference.max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("way", WAYS)
def test_graphs_change_no_token(way: str, bundle_of: BundleOf, tmp_path: Path) -> None:
    # As long as sources are padded to where steps are captured: in float16 a sum of more zeros is
    # rounded elsewhere.
    ids = np.random.default_rng(3).integers(3, 380, (3, 64))
    quantize_bundle(bundle_of("t5-v1.1"), tmp_path / "half", "fp16", target="cuda")
    bundle = Bundle.open(tmp_path / "half")
    captured = OrtDeviceBackend(bundle, cuda_target())
    assert captured.graphs_off is None
    plain = OrtDeviceBackend(bundle, replace(cuda_target(), captures=False))
    models = [Seq2SeqModel(bundle, backend, None) for backend in (captured, plain)]
    expected = tokens(models[1], ids, **WAYS[way])
    assert [tokens(models[0], ids, **WAYS[way]) for _ in range(2)] == [expected] * 2


def test_tensorrt_gives_the_cpus_tokens_and_keeps_its_engines(
    bundle_of: BundleOf, tmp_path: Path
) -> None:
    import shutil

    if TENSORRT not in onnxruntime.get_available_providers():
        pytest.skip("needs an onnxruntime-gpu with the TensorRT provider")
    missing = load_error(onnxruntime, TENSORRT)
    if missing:
        pytest.skip(f"needs TensorRT: {missing}")
    path = shutil.copytree(bundle_of("t5-v1.1"), tmp_path / "bundle")
    options = {"backend": "onnxruntime-tensorrt"}
    with model_of(path) as cpu, model_of(path, **options) as gpu:
        assert tokens(gpu, max_new_tokens=40) == tokens(cpu, max_new_tokens=40)
    assert list((tmp_path / "bundle.ort-tensorrt").glob("decoder*.engine"))
