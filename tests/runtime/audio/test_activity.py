"""Speech is found where somebody speaks, as silero's own code finds it, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.runtime import InputError
from seq2edge.runtime.audio import SpeechOnly, VadOptions, detect_speech, open_audio
from seq2edge.runtime.audio.activity import FRAME, intervals_of
from tests.real_weights import JFK

#: silero's own defaults, which are finer than faster-whisper's.
FINE = {"min_speech_duration_ms": 250, "min_silence_duration_ms": 100, "speech_pad_ms": 30}


def intervals(pattern: str, **options: Any) -> list[tuple[int, int]]:
    """Of frames that are speech (#), less certain (+) or silence (.), in frames."""
    values = {"#": 0.9, "+": 0.4, ".": 0.1}
    options = {"min_silence_duration_ms": 96, "speech_pad_ms": 0, **options}
    found = intervals_of(
        (values[sign] for sign in pattern), len(pattern) * FRAME, VadOptions(**options)
    )
    return [(start // FRAME, end // FRAME) for start, end in found]


@pytest.mark.parametrize(
    ("pattern", "options", "expected"),
    [
        ("..........", {}, []),
        ("..####....", {}, [(2, 6)]),
        ("..####", {}, [(2, 6)]),
        ("..##..##....", {}, [(2, 8)]),  # the silence is too short
        ("..##....##....", {}, [(2, 4), (8, 10)]),
        ("..##++++##....", {}, [(2, 10)]),  # not below the lower threshold
        ("..++++....", {}, []),
        ("..++++....", {"threshold": 0.3}, [(2, 6)]),
        ("..##++++##....", {"neg_threshold": 0.45}, [(2, 4), (8, 10)]),
        ("..#....####....", {"min_speech_duration_ms": 33}, [(7, 11)]),
        ("...###....###....", {"speech_pad_ms": 32}, [(2, 7), (9, 14)]),
        ("...###....###..", {"speech_pad_ms": 320}, [(0, 8), (8, 15)]),  # they share the room
        ("#" * 20, {"max_speech_duration_s": 0.32}, [(0, 10), (11, 20)]),
        (
            "###.####....#######",
            {"max_speech_duration_s": 0.48, "min_silence_duration_ms": 2000},
            [(0, 8), (12, 19)],  # cut in its longest pause
        ),
    ],
)
def test_the_rule(pattern: str, options: dict[str, Any], expected: Any) -> None:
    assert intervals(pattern, **options) == expected


def test_the_rule_is_silero_s() -> None:
    pytest.importorskip("torch")
    own = pytest.importorskip("silero_vad.utils_vad")
    rng = np.random.default_rng(0)
    for _ in range(300):
        count = int(rng.integers(1, 400))
        steps = rng.standard_normal(count) * rng.choice([0.05, 0.2, 0.5])
        probabilities = np.clip(0.5 + np.cumsum(steps), 0, 1).tolist()
        samples = count * FRAME - int(rng.integers(FRAME))
        options = {
            "threshold": float(rng.choice([0.3, 0.5, 0.8])),
            "min_speech_duration_ms": int(rng.choice([0, 250])),
            "min_silence_duration_ms": int(rng.choice([0, 100, 2000])),
            "speech_pad_ms": int(rng.choice([0, 30, 400])),
            "max_speech_duration_s": float(rng.choice([1, 3, np.inf])),
        }
        expected = own.get_speech_timestamps_from_probs(
            probabilities, audio_length_samples=samples, **options
        )
        found = intervals_of(iter(probabilities), samples, VadOptions(**options))
        assert found == [(each["start"], each["end"]) for each in expected]


def test_silero_hears_what_its_package_hears() -> None:
    torch = pytest.importorskip("torch")
    own = pytest.importorskip("silero_vad")
    with open_audio(JFK) as audio:
        samples = torch.tensor(audio.read(0, audio.num_samples))
        found = detect_speech(audio, VadOptions(**FINE), detector="silero")
    expected = own.get_speech_timestamps(samples, own.load_silero_vad(onnx=True), **FINE)
    assert found == [(each["start"], each["end"]) for each in expected]
    assert len(found) > 1


def test_silero_needs_no_torch() -> None:
    pytest.importorskip("silero_vad")
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from seq2edge.runtime.audio import detect_speech, open_audio\n"
        "print(detect_speech(open_audio(np.zeros(16000)), detector='silero'))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_silero_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seq2edge.runtime.audio.silero._MODEL", "no such file")
    with pytest.raises(ImportError, match=r"pip install --no-deps 'silero-vad>=6.2'"):
        detect_speech(open_audio(np.zeros(16000)), detector="silero")
    assert detect_speech(open_audio(np.zeros(16000)), detector="auto") == []


def noise(seconds: float, decibels: float) -> NDArray[np.float32]:
    generator = np.random.default_rng(0)
    samples = generator.standard_normal(round(seconds * 16000)) * 10 ** (decibels / 20)
    return samples.astype(np.float32)


@pytest.mark.parametrize("detector", ["energy", "silero"])
@pytest.mark.parametrize("kind", ["silence", "hiss", "loud hiss", "hum", "a click"])
def test_nobody_speaks(kind: str, detector: str, tone: Callable[..., Any]) -> None:
    if detector == "silero":
        pytest.importorskip("silero_vad")
    sound = {
        "silence": np.zeros(160_000, np.float32),
        "hiss": noise(10, -60),
        "loud hiss": noise(10, -35),
        "hum": tone(50, 10, amplitude=0.1),
        "a click": noise(10, -70),
    }[kind]
    sound[80_000] += 0.5 if kind == "a click" else 0
    options = VadOptions(min_speech_duration_ms=100)
    assert detect_speech(open_audio(sound), options, detector=detector) == []


@pytest.mark.parametrize("background", [-np.inf, -60.0, -45.0])
def test_the_energy_gate_hears_speech_over_its_background(background: float) -> None:
    with open_audio(JFK) as audio:
        speech = audio.read(0, audio.num_samples)
    sound = np.concatenate([np.zeros(80_000), speech, np.zeros(80_000)]).astype(np.float32)
    sound += noise(len(sound) / 16000, background)
    options = VadOptions(speech_pad_ms=0)
    found = detect_speech(open_audio(sound), options, detector="energy")
    assert len(found) == 1
    (start, end) = found[0]
    assert 80_000 - 8000 < start < 80_000 + 16_000
    assert 80_000 + 160_000 < end < 80_000 + len(speech) + 8000


def test_a_recording_without_its_silence() -> None:
    samples = np.arange(1000, dtype=np.float32) / 1000
    only = SpeechOnly(open_audio(samples), [(100, 200), (300, 350), (900, 1000)])
    expected = np.concatenate([samples[100:200], samples[300:350], samples[900:]])
    assert only.num_samples == 250
    np.testing.assert_array_equal(only.read(0, 250), expected)
    np.testing.assert_array_equal(only.read(90, 160), expected[90:160])
    np.testing.assert_array_equal(only.read(200, 999), expected[200:])
    assert [only.original(place) for place in (0, 99, 100, 149, 150, 249)] == [
        *(100, 199, 300, 349, 900, 999)
    ]
    # Between two intervals something ends in the first and starts in the second.
    assert [only.original(place, is_end=True) for place in (100, 150, 250)] == [200, 350, 1000]
    assert SpeechOnly(open_audio(samples), []).num_samples == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2}, "threshold must be a probability"),
        ({"threshold": "high"}, "threshold must be a number of at least 0, not 'high'"),
        ({"speech_pad_ms": -1}, "speech_pad_ms must be a number of at least 0, not -1"),
        ({"max_speech_duration_s": 0.5}, "longer than speech_pad_ms on both sides"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VadOptions(**options)


def test_an_unknown_detector() -> None:
    with pytest.raises(InputError, match="one of auto, silero, energy, not 'webrtc'"):
        detect_speech(open_audio(np.zeros(100)), detector="webrtc")
