"""seq2edge transcribe: recordings in, text, subtitles and JSON out."""

from __future__ import annotations

import io
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.export import export_checkpoint
from seq2edge.runtime.speech.formats import FORMATS, document, render, timestamp
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.transcription import Transcription
from tests import whisper_models as whisper
from tests.runtime.audio.conftest import wav_bytes

Call = Callable[..., Any]
#: What makes short work of a model of random weights.
QUICK = ("--language", "en", "--beam-size", 1, "--temperature", 0, "--max-new-tokens", 24)
QUICK_OPTIONS: dict[str, Any] = {
    "language": "en",
    "beam_size": 1,
    "temperature": 0.0,
    "max_new_tokens": 24,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    whisper.make_whisper("tiny", folder / "checkpoint", speaks=True)
    whisper.write_tokenizer(folder / "checkpoint")
    export_checkpoint(folder / "checkpoint", folder / "bundle", validate=False)
    return folder / "bundle"


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[SpeechModel]:
    with SpeechModel.load(bundle) as loaded:
        yield loaded


def sound(seconds: float, seed: int = 0) -> NDArray[np.int16]:
    time = np.arange(round(seconds * 16000)) / 16000
    noise = np.random.default_rng(seed).standard_normal(len(time))
    tones = np.sin(2 * np.pi * 300 * time) * np.sin(2 * np.pi * (1 + seed) * time)
    return (8000 * tones + 200 * noise).astype(np.int16)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("recordings")
    paths = [folder / "first.wav", folder / "second.wav"]
    for seed, path in enumerate(paths):
        path.write_bytes(wav_bytes(sound(2 + seed, seed)))
    return paths


@pytest.fixture(scope="module")
def expected(model: SpeechModel, recordings: list[Path]) -> list[Transcription]:
    found = [model.transcribe(path, **QUICK_OPTIONS) for path in recordings]
    assert all(each.text for each in found)
    return found


@pytest.mark.parametrize("form", ["txt", "srt", "vtt", "tsv"])
def test_what_is_printed_is_the_file(
    form: str, call: Call, bundle: Path, recordings: list[Path], expected: list[Transcription]
) -> None:
    done = call("transcribe", bundle, recordings[0], "--format", form, *QUICK)
    assert (done.code, done.err) == (0, "")
    assert done.out == render(expected[0], form)


@pytest.mark.parametrize("flags", [("--json",), ("--format", "json")])
def test_json_has_a_line_for_each_recording(
    flags: tuple[str, ...],
    call: Call,
    bundle: Path,
    recordings: list[Path],
    expected: list[Transcription],
) -> None:
    done = call("transcribe", bundle, *recordings, *flags, *QUICK)
    assert done.code == 0
    found = [json.loads(line) for line in done.out.splitlines()]
    assert found == [
        {"audio": str(path), **json.loads(json.dumps(document(each)))}
        for path, each in zip(recordings, expected, strict=True)
    ]


def test_several_recordings_are_named(
    call: Call, bundle: Path, recordings: list[Path], expected: list[Transcription]
) -> None:
    done = call("transcribe", bundle, *QUICK, *recordings)
    texts = [render(each, "txt") for each in expected]
    names = [f"==> {path} <==\n" for path in recordings]
    assert done.out == names[0] + texts[0] + names[1] + texts[1]


def test_files_of_all_formats(
    call: Call,
    bundle: Path,
    recordings: list[Path],
    expected: list[Transcription],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "new" / "folder"
    arguments = ("transcribe", bundle, *recordings, "--output-dir", folder, "--format", "all")
    done = call(*arguments, *QUICK)
    assert done.code == 0
    # What is printed shows how far it is.
    assert done.out == "".join(
        f"[{timestamp(each.start)} --> {timestamp(each.end)}] {each.text.strip()}\n"
        for transcription in expected
        for each in transcription.segments
    )
    wanted = {
        f"{path.stem}.{form}": render(each, form)
        for path, each in zip(recordings, expected, strict=True)
        for form in FORMATS
    }
    assert {path.name: path.read_text() for path in folder.iterdir()} == wanted
    again = call(*arguments, *QUICK)
    assert (again.code, again.out) == (2, "")
    assert "first.txt already exists" in again.err
    (folder / "first.txt").write_text("other")
    assert call(*arguments, "--force", *QUICK).code == 0
    assert (folder / "first.txt").read_text() == wanted["first.txt"]


def test_a_bad_recording_does_not_stop_the_others(
    call: Call,
    bundle: Path,
    recordings: list[Path],
    expected: list[Transcription],
    tmp_path: Path,
) -> None:
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    silent = tmp_path / "nan.wav"
    silent.write_bytes(wav_bytes(np.full(100, np.nan, np.float32)))
    done = call("transcribe", bundle, text, recordings[0], silent, recordings[1], "--json", *QUICK)
    assert done.code == 2
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == [
        each.text for each in expected
    ]
    assert done.err.count("\n") == 1
    assert "2 of 4 recordings could not be transcribed" in done.err
    assert f"{text} is a text file" in done.err
    assert f"{silent} holds a sample that is no sound" in done.err


def test_one_bad_recording(refused: Call, bundle: Path) -> None:
    assert refused("transcribe", bundle, "missing.wav") == (
        "cannot read missing.wav: No such file or directory"
    )


@pytest.mark.parametrize("kind", ["a file", "samples"])
def test_standard_input(
    kind: str,
    call: Call,
    bundle: Path,
    expected: list[Transcription],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = sound(2)
    data = wav_bytes(samples) if kind == "a file" else samples.tobytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    flags = () if kind == "a file" else ("--encoding", "s16le")
    done = call("transcribe", bundle, "-", *flags, *QUICK)
    assert (done.code, done.out) == (0, render(expected[0], "txt"))


def test_the_detected_language_is_said(
    call: Call, bundle: Path, recordings: list[Path], model: SpeechModel
) -> None:
    found = model.detect_language(recordings[0])
    done = call("transcribe", bundle, recordings[0], *QUICK[2:])
    assert done.err == (
        f"seq2edge: {recordings[0]}: language {found.language}"
        f" (probability {found.probability:.2f})\n"
    )


def test_options_are_the_model_s(
    call: Call, bundle: Path, recordings: list[Path], model: SpeechModel
) -> None:
    flags = (
        *("--language", "de", "--task", "translate", "--beam-size", 2, "--temperature", "0,0.5"),
        *("--initial-prompt", "a b", "--suppress-tokens=-1,5", "--no-condition-on-previous-text"),
        *("--clip-timestamps", "0.5,1.5", "--max-new-tokens", 16, "--seed", 3),
        *("--compression-ratio-threshold", 9, "--log-prob-threshold=-99"),
    )
    wanted = model.transcribe(
        recordings[0],
        language="de",
        task="translate",
        beam_size=2,
        temperature=(0, 0.5),
        initial_prompt="a b",
        suppress_tokens=(-1, 5),
        condition_on_previous_text=False,
        clip_timestamps=(0.5, 1.5),
        max_new_tokens=16,
        seed=3,
        compression_ratio_threshold=9,
        log_prob_threshold=-99,
    )
    done = call("transcribe", bundle, recordings[0], "--json", *flags)
    found = json.loads(done.out)
    assert found["segments"] == json.loads(json.dumps(document(wanted)["segments"]))


def test_a_draft_changes_no_text(
    call: Call, bundle: Path, recordings: list[Path], expected: list[Transcription]
) -> None:
    quick = ("--language", "en", "--temperature", 0, "--max-new-tokens", 24)  # no --beam-size
    guessing = ("--draft", bundle, "--num-assistant-tokens", 3)
    done = call("transcribe", bundle, recordings[0], *guessing, *quick)
    assert (done.code, done.out) == (0, render(expected[0], "txt"))


def test_voice_activity(call: Call, bundle: Path, model: SpeechModel, tmp_path: Path) -> None:
    path = tmp_path / "pauses.wav"
    silence = np.zeros(32000, np.int16)
    path.write_bytes(wav_bytes(np.concatenate([silence, sound(2), silence])))
    flags = ("--vad", "--vad-detector", "energy", "--vad-parameters", "speech_pad_ms=100")
    done = call("transcribe", bundle, path, "--json", *flags, *QUICK)
    wanted = model.transcribe(
        path,
        vad=True,
        vad_detector="energy",
        vad_parameters={"speech_pad_ms": 100},
        **QUICK_OPTIONS,
    )
    assert json.loads(done.out)["segments"] == json.loads(json.dumps(document(wanted)["segments"]))
    assert all(segment.start >= 1.8 for segment in wanted.segments)


def test_one_of_some_commands(call: Call, bundle: Path, recordings: list[Path]) -> None:
    choices = ("--choice", "on", "--choice", "off", "--without-timestamps")
    done = call("transcribe", bundle, recordings[0], *choices, *QUICK)
    assert done.out in ("on\n", "off\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("a.wav", "--language", "xx"), "knows no language 'xx'"),
        (("a.wav", "--draft", "small.bundle", "--beam-size", 2), "give --beam-size 1"),
        (("a.wav", "--num-assistant-tokens", 2), "is for --draft"),
        (("a.wav", "--beam-size", 2, "--clip-timestamps", "3,2"), "seconds that ascend"),
        (("a.wav", "--suppress-tokens", "x"), "token ids separated by commas"),
        (("a.wav", "b.wav", "--format", "srt"), "give --output-dir"),
        (("a.wav", "--format", "all"), "give --output-dir"),
        (("a.wav", "--force"), "only --output-dir writes any"),
        (("a.wav", "--vad", "--vad-parameters", "loudness=2"), "loudness"),
        (("-", "-"), "read once"),
        (("a.wav", "--live"), "--live reads standard input"),
        (("a.wav", "--sampling-rate", 8000), "files say theirs"),
        (("-", "--live", "--output-dir", "o"), "writes no files"),
        (("-", "--sampling-rate", 8000), "need --encoding"),
        (("x/a.wav", "y/a.mp3", "--output-dir", "o"), "would both be written to o/a.txt"),
        (("a.wav", "--output-dir", "/proc/new"), "not writable"),
    ],
)
def test_what_cannot_be_done(
    flags: tuple[object, ...], message: str, refused: Call, bundle: Path
) -> None:
    assert message in refused("transcribe", bundle, *flags)


def test_a_bundle_that_reads_text(refused: Call, byte_bundle: Path) -> None:
    assert "reads text, not speech" in refused("transcribe", byte_bundle, "a.wav")


def test_a_killed_run_leaves_no_half_file(
    cli: Call, bundle: Path, recordings: list[Path], tmp_path: Path
) -> None:
    full = cli(
        *("transcribe", bundle, recordings[0], "--output-dir", tmp_path, "--json", *QUICK),
        stdout=open("/dev/full", "wb"),  # noqa: SIM115, PTH123
    )
    assert full.returncode == 2
    assert b"Traceback" not in full.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["first.txt"]


@pytest.mark.parametrize("form", ["txt", "srt", "json"])
def test_live(form: str, call: Call, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = sound(3)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(samples.tobytes())))
    done = call("transcribe", bundle, "-", "--live", "--format", form, *QUICK)
    assert done.code == 0
    assert "3.0 s of audio; text was final" in done.err
    if form == "json":
        updates = [json.loads(line) for line in done.out.splitlines()]
        assert set(updates[0]) == {"text", "pending", "seconds", "delay"}
        assert updates[-1]["seconds"] == 3
        assert "".join(update["text"] for update in updates).strip()
    elif form == "txt":
        assert done.out.strip()
        assert done.out.endswith("\n")
    else:
        assert done.out.startswith("1\n00:00:0")


def test_live_audio_that_breaks_off(
    call: Call, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.array([0.1] * 40000 + [np.nan], "<f4").tobytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    done = call("transcribe", bundle, "-", "--live", "--encoding", "f32le", *QUICK)
    assert done.code == 2
    assert "standard input holds a sample that is no sound (nan, at 2.50 s)" in done.err


def test_ctrl_c_ends_live_audio(
    bundle: Path, program: list[str], environment: dict[str, str]
) -> None:
    """What was said until then is transcribed to its end."""
    arguments = ["transcribe", str(bundle), "-", "--live", "--json", *map(str, QUICK)]
    with subprocess.Popen(
        [*program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # A shell starts background jobs with SIGINT ignored, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(sound(3).tobytes())
        process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        errors = process.stderr.read().decode()
        assert process.wait() == 0, errors
    assert errors.startswith("seq2edge: 3.0 s of audio")
    updates = [json.loads(line) for line in (first + rest).splitlines()]
    assert updates[-1]["seconds"] == 3
    assert updates[-1]["pending"] == ""
