"""``eval``, ``compare``, ``quantize --max-drop`` and ``bench`` of a bundle that hears speech."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.quantize import quantize_bundle

from .conftest import Done

Call = Callable[..., Done]
Refused = Callable[..., str]

QUICK = ("--language", "en", "--num-beams", 1, "--max-new-tokens", 8, "--threads", 1)


def test_recordings_are_transcribed_and_scored(
    call: Call, speaking_bundle: Path, recordings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "heard.jsonl"
    words = ("eval", speaking_bundle, "--data", recordings, "--metric", "wer", *QUICK)
    report = json.loads(call(*words, "--limit", 2, "--predictions", out, "--json").out)
    assert (report["metric"], report["examples"]) == ("wer", 2)
    assert report["definition"].endswith("in lower case and without punctuation")
    heard = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["source"] for line in heard] == ["1.wav", "2.wav"]
    plain = json.loads(call(*words, "--limit", 1, "--no-normalize", "--json").out)
    assert plain["definition"] == "word errors per word of the target"


def test_bundles_are_compared_on_recordings(
    call: Call, speaking_bundle: Path, recordings: Path, tmp_path: Path
) -> None:
    int8 = tmp_path / "int8"
    quantize_bundle(speaking_bundle, int8, "int8", check=False)
    words = ("compare", speaking_bundle, int8, "--data", recordings, "--metric", "cer")
    done = call(*words, *QUICK, "--limit", 2, "--speed-texts", 1, "--output", tmp_path / "report")
    assert done.code == 0, done.err
    headline, titles, first, second, _ = done.out.splitlines()
    assert headline.startswith("2 recordings of data.jsonl, cer (lower is better)")
    assert {"encoder", "token", "real"} <= set(titles.split())
    assert first.split()[:2] == ["bundle", "float32"]
    assert second.split()[:2] == ["int8", "int8"]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["entries"][1]["values"]["real_time_factor"] > 0


@pytest.mark.filterwarnings("ignore::seq2edge.quantize.errors.QuantizationWarning")
def test_a_budget_is_measured_on_recordings(
    call: Call, speaking_bundle: Path, recordings: Path, tmp_path: Path
) -> None:
    data = ("--data", recordings, "--metric", "wer", "--limit", 1)
    words = ("quantize", speaking_bundle, tmp_path / "int8", "--scheme", "int8", "--no-check")
    done = call(*words, "--max-drop", 1000, *data, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["mixed_precision"]["metric"] == "wer"


def test_what_cannot_be_measured_is_said_before_anything_runs(
    refused: Refused, speaking_bundle: Path, byte_bundle: Path, recordings: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(
        '{"source": "none.wav", "target": "a"}\n{"source": "data.jsonl", "target": "b"}'
    )
    words = ("--data", data, "--metric", "wer")
    for command in (
        ("eval", speaking_bundle),
        ("compare", speaking_bundle, speaking_bundle),
        ("quantize", speaking_bundle, tmp_path / "x", "--scheme", "int8", "--max-drop", 1),
    ):
        message = refused(*command, *words)
        assert message.startswith(f"{data}, line 1: cannot read {tmp_path / 'none.wav'}: No such")
        assert f"; line 2: {data} is a text file" in message
    words = ("--data", recordings, "--metric", "wer")
    message = refused("eval", speaking_bundle, *words, "--source-lang", "en")
    assert message.startswith("--source-lang: for bundles that read texts, and")
    message = refused("compare", byte_bundle, byte_bundle, *words, "--language", "en")
    assert message.startswith("--language: for bundles that hear speech, and")
    message = refused("eval", speaking_bundle, *words, "--language", "xx")
    assert "'xx'" in message


def test_bench_counts_seconds_of_audio(
    call: Call, refused: Refused, speaking_bundle: Path, byte_bundle: Path, recordings: Path
) -> None:
    few = ("--runs", 1, "--warmup", 1, "--new-tokens", 4, "--threads", 1)
    out = call("bench", speaking_bundle, "--audio-seconds", "0.5", *few).out
    assert "batch 1, source 0.5 s of noise, 4 new tokens" in out
    for name in ("features", "encoder", "first token", "token", "all", "tokens/s", "real time"):
        assert f"\n{name} " in out
    file = recordings.with_name("2.wav")
    report = json.loads(call("bench", speaking_bundle, "--audio", file, *few, "--json").out)
    (entry,) = report["entries"]
    assert (entry["values"]["audio_seconds"], report["settings"]["audio"]) == (30, str(file))
    message = refused("bench", byte_bundle, "--audio-seconds", 1)
    assert message.endswith(
        "--source-length says how long its sources are, not --audio-seconds or --audio"
    )
    message = refused("bench", speaking_bundle, "--audio", file.with_name("none.wav"))
    assert message.startswith(f"cannot read {file.with_name('none.wav')}: No such file")
