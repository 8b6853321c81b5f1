"""A model that hears: every backend gives the CPU's numbers, on a fake GPU if it needs one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from seq2edge.export import export_checkpoint
from seq2edge.runtime import BackendError, Bundle
from seq2edge.runtime.backends import SlotBackend, Step, load_backend
from seq2edge.runtime.backends.limits import Limits
from seq2edge.runtime.backends.onnxruntime import OrtBackend
from seq2edge.runtime.backends.onnxruntime.device import OrtDeviceBackend
from seq2edge.runtime.backends.tensorrt.cuda import Cuda
from seq2edge.runtime.backends.tensorrt.execution.engine import TensorRTBackend
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.options import TranscriptionOptions
from seq2edge.runtime.text.tokenizer import load_tokenizer

from ...whisper_models import make_whisper, speaking_bundle
from .onnxruntime.recording import cpu_target
from .tensorrt.execution.fake_cuda import FakeCuda
from .tensorrt.execution.fake_tensorrt import FakeTensorRT, write_engines

Backends = tuple[OrtBackend, SlotBackend]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("whisper")
    make_whisper("tiny", folder / "checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(folder / "checkpoint", folder / "bundle", validate=False)
    return Bundle.open(folder / "bundle")


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One that writes words, and has a tokenizer."""
    return speaking_bundle("tiny", tmp_path_factory.mktemp("speaking"))


def tensorrt_backend(
    bundle: Bundle, folder: Path, limits: Limits, cuda: FakeCuda
) -> TensorRTBackend:
    """Engines of those limits on a fake GPU."""
    trt = FakeTensorRT(cuda, bundle, limits, in_place=True)
    engines = write_engines(bundle, folder / "engines", limits, in_place=True)
    return TensorRTBackend(bundle, folder / "engines", engines, trt.library(), Cuda(cuda))


@pytest.fixture
def tensorrt(bundle: Bundle, tmp_path: Path) -> Iterator[TensorRTBackend]:
    limits = Limits.of(bundle.manifest.dimensions, max_batch=2, speech=True)
    cuda = FakeCuda(1 << 30)
    backend = tensorrt_backend(bundle, tmp_path, limits, cuda)
    yield backend
    backend.close()
    assert cuda.allocations == 0


@pytest.fixture(params=["tensorrt", "device", "device without graphs"])
def backends(bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[Backends]:
    """The CPU's backend, and the one under test."""
    if request.param == "tensorrt":
        other = request.getfixturevalue("tensorrt")
    else:
        other = OrtDeviceBackend(bundle, cpu_target(captures=request.param == "device"))
    cpu = load_backend(bundle, num_threads=1)
    assert isinstance(cpu, OrtBackend)
    yield cpu, other
    other.close()
    cpu.close()


OPTIONS: dict[str, TranscriptionOptions] = {
    "beams and words": TranscriptionOptions(language="en", beam_size=3, word_timestamps=True),
    "language": TranscriptionOptions(beam_size=1),
    "samples": TranscriptionOptions(language="en", temperature=(0.4,), best_of=3, seed=1),
    "two windows at once": TranscriptionOptions(language="en", batch_size=2),
    "translation": TranscriptionOptions(language="de", task="translate", without_timestamps=True),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_recording_is_transcribed_as_on_the_cpu(
    options: TranscriptionOptions, speaking: Bundle, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """With slots for all beams; what engines of fewer are asked for beyond them is refused."""
    limits = Limits.of(
        speaking.manifest.dimensions, max_batch=2, max_target_length=320, speech=True
    )
    others: list[SlotBackend] = [
        tensorrt_backend(speaking, tmp_path, limits, FakeCuda(1 << 30)),
        OrtDeviceBackend(speaking, cpu_target()),
    ]
    tokenizer = load_tokenizer(speaking)
    assert tokenizer is not None
    noise = 0.1 * np.random.default_rng(0).standard_normal(40 * 16000).astype(np.float32)
    found = []
    for backend in (load_backend(speaking, num_threads=1), *others):
        request.addfinalizer(backend.close)
        transcription = SpeechModel(speaking, backend, tokenizer).transcribe(noise, options)
        words = [round(word.start, 2) for word in transcription.words]
        found.append((transcription.text, transcription.language, words))
    assert len(found[0][0]) > 20
    assert found[1] == found[0] and found[2] == found[0]


def features(frames: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 80, frames)).astype(np.float32)


@pytest.mark.parametrize("samples", [16000, 480000])
def test_features_are_those_of_the_cpu(backends: Backends, samples: int) -> None:
    audio = np.random.default_rng(1).standard_normal((1, samples)).astype(np.float32)
    cpu, other = (backend.run_graph("features", {"audio": audio}) for backend in backends)
    assert other.keys() == cpu.keys() == {"input_features", "log_mel"}
    for name, array in cpu.items():
        assert array.shape == (1, 80, samples // 160)
        np.testing.assert_allclose(other[name], array, atol=1e-5)


@pytest.mark.parametrize("frames", [100, 3000])
def test_windows_are_encoded_and_decoded(backends: Backends, frames: int) -> None:
    steps = []
    for backend in backends:
        encoded = backend.encode({"input_features": features(frames)})
        cache = backend.new_cache(encoded, 64)
        step = Step.allocate(2, 3, cache.max_cache_len, vocab_size=1591)
        step.input_ids[:] = [[81, 82, 85], [81, 83, 84]]
        step.position_ids[:] = np.arange(3)
        step.attention_mask[..., :3] = np.tri(3, dtype=np.bool_)
        cache.forward(step)
        steps.append(step.logits)
        assert encoded.numpy("cross_key.0").shape == (2, 4, frames // 2, 8)
    np.testing.assert_allclose(steps[1], steps[0], atol=1e-4)


def test_attention_to_the_sound_is_that_of_the_cpu(backends: Backends) -> None:
    tokens = np.array([[81, 82, 85, 89, 5, 6, 7]] * 2)
    found = []
    for backend in backends:
        encoded = backend.encode({"input_features": features(200)})
        found.append(backend.run_graph("alignment", {"input_ids": tokens}, encoded))
    cpu, other = found
    assert other["alignment_weights"].shape == (2, 3, 7, 100)
    for name, array in cpu.items():
        np.testing.assert_allclose(other[name], array, atol=1e-5)


def test_a_graph_without_an_input_is_refused(backends: Backends) -> None:
    for backend in backends:
        with pytest.raises(BackendError, match=r"needs the input cross_key\.0"):
            backend.run_graph("alignment", {"input_ids": np.array([[81]])})
        with pytest.raises(BackendError, match=r"no (engine of a )?graph 'logsumexp'"):
            backend.run_graph("logsumexp", {})
        backend.close()
        with pytest.raises(BackendError, match="closed"):
            backend.run_graph("features", {"audio": np.zeros((1, 16000), np.float32)})


def test_an_engine_takes_no_more_than_it_was_built_for(tensorrt: TensorRTBackend) -> None:
    with pytest.raises(BackendError, match="outside its profile"):
        tensorrt.encode({"input_features": features(100, batch=3)})
