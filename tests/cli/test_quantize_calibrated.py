"""``seq2edge quantize --calibration``: the user's text, kept for later or not usable."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import Bundle

Call = Callable[..., Any]
Refused = Callable[..., str]
Refuses = Callable[..., str]

STATIC = ("--scheme", "int8-qdq")
GPTQ = ("--scheme", "int4", "--algorithm", "gptq")
HALF = ("--scheme", "fp16", "--target", "cuda")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("a text\n\nanother one\nthe last\n")
    return path


@pytest.fixture
def saved(call: Call, byte_bundle: Path, texts: Path, tmp_path: Path) -> Path:
    """The calibration that int8-qdq makes of ``texts``; no bundle beside it."""
    path, out = tmp_path / "saved.npz", tmp_path / "made"
    flags = ("--calibration", texts, "--save-calibration", path)
    done = call("quantize", byte_bundle, out, *STATIC, *flags)
    assert done.code == 0, done.err
    shutil.rmtree(out)
    return path


def hashes(bundle: Path) -> dict[str, str]:
    """SHA-256 of the graphs and of the weights, from their bytes."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in bundle.iterdir()
        if file.suffix in (".onnx", ".bin")
    }


def edit(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file and what the manifest says of it."""
    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "seq2edge.json").read_text())
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "seq2edge.json").write_text(json.dumps(manifest))


def set_weights(bundle: Path, layer: str, *values: float) -> None:
    """Replace the first weights of a layer."""
    tensor = Bundle.open(bundle).manifest.weights[f"{layer}.weight"]
    data = bytearray((bundle / "weights.bin").read_bytes())
    data[tensor.offset : tensor.offset + 4 * len(values)] = np.float32(values).tobytes()
    edit(bundle, "weights.bin", bytes(data))


@pytest.mark.parametrize(
    "scheme",
    [
        (*STATIC, "--smoothquant", "0.5"),
        (*STATIC, "--method", "entropy"),
        (*STATIC, "--target", "tensorrt"),
        GPTQ,
        HALF,
    ],
    ids=lambda scheme: " ".join(scheme[1:4]),
)
def test_a_saved_calibration_gives_the_same_bundle_as_its_text(
    scheme: tuple[str, ...], call: Call, byte_bundle: Path, texts: Path, tmp_path: Path
) -> None:
    first, again, file = tmp_path / "first", tmp_path / "again", tmp_path / "saved"
    made = call(
        "quantize", byte_bundle, first, *scheme, "--calibration", texts,
        "--save-calibration", file, "--json",
    )  # fmt: skip
    assert made.code == 0, made.err
    texts.unlink()  # the saved file must be enough
    reused = call("quantize", byte_bundle, again, *scheme, "--calibration", file, "--json")
    assert reused.code == 0, reused.err
    assert hashes(first) == hashes(again)
    assert len(hashes(first)) >= 3
    one, two = (json.loads(done.out) for done in (made, reused))
    assert one["calibration"] == two["calibration"]
    assert one["calibration"]["texts"] == 3


def test_json_says_what_became_of_every_layer(
    call: Call, byte_bundle: Path, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = ("--calibration", texts, "--method", "minmax", "--exclude", "lm_head", "--json")
    done = call("quantize", byte_bundle, out, *STATIC, *flags)
    assert done.code == 0, done.err
    assert done.err == ""  # progress is for terminals
    report = json.loads(done.out)
    assert (report["bundle"], report["scheme"], report["target"]) == (str(out), "int8-qdq", "cpu")
    assert report["options"] == {"method": "minmax"}
    assert report["exclude"] == ["lm_head"]
    assert report["layers"]["lm_head"] == "float32"
    assert report["layers"]["encoder.layers.0.ffn.up"] == (
        "int8 weights per channel, static int8 inputs (minmax)"
    )
    assert sum(report["summary"].values()) == len(report["layers"])
    assert report["calibration"]["tokens"] > 0
    recorded = Bundle.open(out).manifest.quantization
    assert {name: report[name] for name in recorded} == recorded
    assert call("run", out, "a text", "--max-new-tokens", 5).code == 0


def test_what_stays_in_float32_is_said_and_why(
    call: Call, byte_bundle: Path, texts: Path, tmp_path: Path
) -> None:
    guessed = call("quantize", byte_bundle, tmp_path / "guessed", *HALF).out
    assert "values in float32: the residual stream, in case float16 overflows" in guessed
    assert "--calibration finds out" in guessed
    flags = ("--calibration", texts)
    seen = call("quantize", byte_bundle, tmp_path / "seen", *HALF, *flags).out
    assert "0 values in float32: too large for float16 over 3 texts" in seen


def test_calibration_that_is_needed_is_asked_for(
    refused: Refused, byte_bundle: Path, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for scheme, needing in ((STATIC, "int8-qdq for cpu"), (GPTQ, "gptq")):
        message = refused("quantize", byte_bundle, out, *scheme)
        assert message.startswith(f"{needing} needs to see the model at work")
        assert "--calibration" in message
    message = refused("quantize", byte_bundle, out, *HALF, "--save-calibration", tmp_path / "c")
    assert message == "--save-calibration needs --calibration"
    into = ("--calibration", texts, "--save-calibration", tmp_path)
    message = refused("quantize", byte_bundle, out, *STATIC, *into)
    assert message.startswith(f"{tmp_path} is not a regular file")


def test_text_that_cannot_calibrate_is_one_line(
    refused: Refused, byte_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file.txt"

    def message(data: bytes, path: Path = file) -> str:
        path.write_bytes(data)
        flags = ("--calibration", path, "--save-calibration", tmp_path / "saved")
        return refused("quantize", byte_bundle, tmp_path / "out", *STATIC, *flags)

    assert message(b"") == f"the calibration text {file} is empty: it needs a text per line"
    assert message(b" \n\t\n").startswith(f"the calibration text {file} is empty")
    assert message(b"caf\xe9\n").startswith(f"calibration text: {file}, line 1 is not UTF-8")
    lines = tmp_path / "file.jsonl"
    assert message(b'{"source": "x"}\n{"text": "y"}\n', lines).startswith(f"{lines}, line 2: ")
    assert "must lie in 0..383" in message(b'{"input_ids": [384]}\n', lines)
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        found = refused(
            "quantize", byte_bundle, tmp_path / "out", *STATIC, "--calibration", path
        )  # fmt: skip
        assert found.startswith(f"cannot read {path}: {reason}")


def test_text_that_the_model_cannot_take_is_one_line(
    refused: Refused, word_bundle: Path, tmp_path: Path
) -> None:
    file, bundle = tmp_path / "file.txt", tmp_path / "bundle"
    file.write_text(f"a\n{'a ' * 81}\n")
    flags = ("--calibration", file)
    message = refused("quantize", word_bundle, tmp_path / "out", *STATIC, *flags)
    assert message.startswith("text 2 has 81 tokens and the model takes at most 80")

    # A tokenizer that drops all but letters leaves nothing of some texts.
    shutil.copytree(word_bundle, bundle)
    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"Regex": "[^a-z ]"}, "content": ""}
    edit(bundle, "tokenizer.json", json.dumps(tokenizer).encode())
    file.write_text("a a\n!!!\n")
    message = refused("quantize", bundle, tmp_path / "out", *STATIC, *flags)
    assert message == "text 2 has no token that the tokenizer knows"


def test_a_bundle_without_a_tokenizer_takes_token_ids(
    call: Call, refused: Refused, bundle_of: Callable[[str], Path], texts: Path, tmp_path: Path
) -> None:
    out, ids = tmp_path / "out", tmp_path / "ids.jsonl"
    message = refused("quantize", bundle_of("bart"), out, *STATIC, "--calibration", texts)
    assert "has no tokenizer" in message
    ids.write_text('{"input_ids": [5, 3, 8]}\n{"input_ids": [9]}\n')
    done = call("quantize", bundle_of("bart"), out, *STATIC, "--calibration", ids, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["calibration"]["texts"] == 2


def test_a_saved_calibration_that_does_not_fit_is_one_line(
    refused: Refused, byte_bundle: Path, word_bundle: Path, saved: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.npz"
    cut.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    for bundle, scheme, file, problem in (
        (byte_bundle, STATIC, cut, "is not a whole calibration file"),
        (word_bundle, STATIC, saved, "was calibrated on another bundle"),
        (byte_bundle, GPTQ, saved, "holds no second moments, which gptq needs"),
    ):
        flags = ("--calibration", file)
        message = refused("quantize", bundle, tmp_path / "out", *scheme, *flags)
        assert message.startswith(f"{file} {problem}")


def test_a_bundle_that_cannot_be_quantized_is_one_line(
    call: Call, refused: Refused, byte_bundle: Path, texts: Path, tmp_path: Path
) -> None:
    once, out, flags = tmp_path / "once", tmp_path / "out", ("--calibration", texts)
    assert call("quantize", byte_bundle, once, "--scheme", "fp16").code == 0
    message = refused("quantize", once, out, *STATIC, *flags)
    assert message == f"{once} is quantized already (fp16); start from the float32 bundle"

    layer = "decoder.layers.0.ffn.up"
    bundle = tmp_path / "bundle"
    shutil.copytree(byte_bundle, bundle)
    set_weights(bundle, layer, float("nan"))
    for scheme in (STATIC, HALF, ("--scheme", "int4")):
        message = refused("quantize", bundle, out, *scheme, *flags)
        assert message == f"weights that are not finite numbers in {layer}.weight"


def test_an_existing_bundle_is_kept_unless_forced(
    call: Call, refused: Refused, byte_bundle: Path, saved: Path, tmp_path: Path
) -> None:
    out, flags = tmp_path / "out", ("--calibration", saved)
    assert call("quantize", byte_bundle, out, "--scheme", "int8").code == 0
    message = refused("quantize", byte_bundle, out, *STATIC, *flags)
    assert message == f"{out} already exists; choose another name or pass --force"
    assert call("quantize", byte_bundle, out, *STATIC, *flags, "--force").code == 0
    assert Bundle.open(out).manifest.quantization["scheme"] == "int8-qdq"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "saved.npz", "texts.txt"}


def test_a_full_disk_leaves_nothing(
    refuses: Refuses, byte_bundle: Path, saved: Path, tmp_path: Path
) -> None:
    def full() -> None:
        # Python ignores SIGXFSZ, so that a write fails with EFBIG.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    command = ("quantize", byte_bundle, tmp_path / "out", *STATIC, "--calibration", saved)
    message = refuses(*command, parent=tmp_path, preexec_fn=full)
    assert message.startswith(f"cannot write {tmp_path / 'out'}: File too large")
    copy = tmp_path / "copy.npz"
    message = refuses(*command, "--save-calibration", copy, parent=tmp_path, preexec_fn=full)
    assert message.startswith(f"cannot write {copy}: File too large")


def test_text_may_come_from_a_pipe(call: Call, byte_bundle: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a text\nanother\n")
    os.close(writing)
    flags = ("--calibration", f"/dev/fd/{reading}", "--json")
    done = call("quantize", byte_bundle, tmp_path / "out", *STATIC, *flags)
    os.close(reading)
    assert done.code == 0, done.err
    assert json.loads(done.out)["calibration"]["texts"] == 2


def test_a_file_is_not_replaced_by_a_calibration(
    refused: Refused, byte_bundle: Path, texts: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    message = refused(
        "quantize", byte_bundle, tmp_path / "out", *STATIC, "--calibration", texts,
        "--save-calibration", notes
    )  # fmt: skip
    assert message.startswith(str(notes))
    assert "--force" in message


def test_bundle_and_calibration_are_not_one_path(
    refused: Refused, byte_bundle: Path, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = ("--calibration", texts, "--save-calibration", out)
    refused("quantize", byte_bundle, out, *STATIC, *flags)


def test_the_source_is_not_replaced(refused: Refused, byte_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(byte_bundle, bundle)
    refused("quantize", bundle, bundle, "--scheme", "int8", "--force")


def test_a_damaged_graph_is_one_line(refused: Refused, byte_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(byte_bundle, bundle)
    graph = (bundle / "decoder.onnx").read_bytes()
    (bundle / "decoder.onnx").write_bytes(graph[:100] + b"\xff" * 300 + graph[400:])
    message = refused("quantize", bundle, tmp_path / "out", "--scheme", "int8")
    assert "decoder.onnx" in message


def test_a_model_that_overflows_is_one_line(
    refused: Refused, byte_bundle: Path, texts: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(byte_bundle, bundle)
    set_weights(bundle, "encoder.layers.0.ffn.up", *[3e38, -3e38] * 48)
    message = refused("quantize", bundle, tmp_path / "out", *STATIC, "--calibration", texts)
    assert "finite" in message
