"""Every failure is one line and exit code 2, and leaves nothing half written."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refuses = Callable[..., str]


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """The folder that exports write into."""
    path = tmp_path / "parent"
    path.mkdir()
    return path


@pytest.fixture
def broken(byte_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be broken."""
    return Path(shutil.copytree(byte_checkpoint, tmp_path / "broken"))


@pytest.fixture
def copy(byte_bundle: Path, tmp_path: Path) -> Path:
    """A copy of a bundle, to be broken."""
    return Path(shutil.copytree(byte_bundle, tmp_path / "copy"))


def edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_export_of_a_missing_folder(refuses: Refuses, parent: Path) -> None:
    message = refuses("export", parent / "absent", parent / "out", parent=parent)
    assert message == f"no such checkpoint folder: {parent / 'absent'}"


def test_export_of_a_folder_without_config_json(refuses: Refuses, parent: Path) -> None:
    message = refuses("export", parent, parent / "out", parent=parent)
    assert f"{parent} has no config.json" in message


def test_export_of_a_config_that_is_no_json(refuses: Refuses, broken: Path, parent: Path) -> None:
    (broken / "config.json").write_text("{\n  not json\n}")
    message = refuses("export", broken, parent / "out", parent=parent)
    assert f"{broken / 'config.json'} is not valid JSON" in message


def test_export_of_an_unknown_model_type(refuses: Refuses, broken: Path, parent: Path) -> None:
    edit_json(broken / "config.json", model_type="perceiver")
    message = refuses("export", broken, parent / "out", parent=parent)
    assert "model_type 'perceiver' is not supported; known: " in message
    assert {"bart", "mt5", "t5", "umt5"} <= set(message.split("known: ")[1].split(", "))


def test_export_of_a_truncated_safetensors_file(
    refuses: Refuses, broken: Path, parent: Path
) -> None:
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    message = refuses("export", broken, parent / "out", parent=parent)
    assert f"{file} is truncated" in message


def test_export_of_a_tensor_of_the_wrong_shape(
    refuses: Refuses, broken: Path, parent: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(broken / "model.safetensors")
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    shape = list(tensors[name].shape)
    tensors[name] = tensors[name][:-1].copy()
    save_file(tensors, broken / "model.safetensors")
    message = refuses("export", broken, parent / "out", parent=parent)
    assert f"tensor {name} has shape {[shape[0] - 1, shape[1]]}, expected {shape}" in message


def test_export_to_an_existing_output_without_force(
    refuses: Refuses, byte_checkpoint: Path, copy: Path
) -> None:
    message = refuses("export", byte_checkpoint, copy, parent=copy)
    assert message == f"{copy} already exists; choose another name or pass --force"


def test_export_with_force_onto_a_folder_that_is_no_bundle(
    refuses: Refuses, byte_checkpoint: Path, broken: Path
) -> None:
    message = refuses("export", byte_checkpoint, broken, "--force", parent=broken)
    assert "neither empty nor a bundle" in message


def test_message_is_one_line_whatever_is_named_in_it(refuses: Refuses, tmp_path: Path) -> None:
    assert refuses("inspect", tmp_path / "a\nb").endswith("/a b")


@pytest.mark.parametrize("command", ["run", "inspect", "bench"])
def test_bundle_that_is_a_checkpoint(command: str, refuses: Refuses, byte_checkpoint: Path) -> None:
    texts = ["text"] if command == "run" else []
    assert "run 'seq2edge export' on it first" in refuses(command, byte_checkpoint, *texts)


def test_bundle_of_a_newer_format(refuses: Refuses, copy: Path) -> None:
    edit_json(copy / "seq2edge.json", format_version=99)
    message = refuses("run", copy, "text", parent=copy)
    assert "bundle format 99 is newer" in message
    assert "upgrade seq2edge" in message


def test_inspect_verify_with_a_changed_byte(refuses: Refuses, copy: Path) -> None:
    data = bytearray((copy / "weights.bin").read_bytes())
    data[1000] ^= 0xFF
    (copy / "weights.bin").write_bytes(data)
    message = refuses("inspect", copy, "--verify", parent=copy)
    assert "SHA-256 differs): weights.bin;" in message


def test_run_with_a_corrupted_graph(refuses: Refuses, copy: Path) -> None:
    size = (copy / "encoder.onnx").stat().st_size
    (copy / "encoder.onnx").write_bytes(b"\xff" * size)
    assert "encoder.onnx is damaged" in refuses("run", copy, "text")


def test_run_with_an_empty_text(refuses: Refuses, byte_bundle: Path) -> None:
    assert refuses("run", byte_bundle, "text", " ") == "text 2 is empty"


def test_strict_run_with_an_empty_line(refuses: Refuses, byte_bundle: Path) -> None:
    options = {"input": b"one\n\nthree\n"}
    message = refuses("run", byte_bundle, "--strict", "--input", "-", **options)
    assert message == "line 2 is empty; without --strict its answer is a blank line"


def test_run_with_a_text_that_is_too_long(refuses: Refuses, word_bundle: Path) -> None:
    message = refuses("run", word_bundle, "a " * 81)
    assert message.startswith("text 1 has 81 tokens and the model takes at most 80")


def test_run_names_a_bad_text_by_its_place_before_anything_is_printed(
    refuses: Refuses, word_bundle: Path
) -> None:
    texts = [*["a"] * 9, "a " * 81]  # in the second batch of eight
    assert refuses("run", word_bundle, *texts).startswith("text 10 has 81 tokens")


def test_run_without_any_text(refuses: Refuses, byte_bundle: Path) -> None:
    assert refuses("run", byte_bundle) == "give either texts or --input FILE"


def test_run_with_texts_and_an_input_file(refuses: Refuses, byte_bundle: Path) -> None:
    message = refuses("run", byte_bundle, "text", "--input", "file")
    assert message == "give either texts or --input FILE"


def test_run_on_a_bundle_without_a_tokenizer(
    refuses: Refuses, bundle_of: Callable[[str], Path]
) -> None:
    assert "has no tokenizer" in refuses("run", bundle_of("t5"), "text")


def test_run_with_a_missing_input_file(refuses: Refuses, byte_bundle: Path, tmp_path: Path) -> None:
    message = refuses("run", byte_bundle, "--input", tmp_path / "absent")
    assert message == f"cannot read {tmp_path / 'absent'}: No such file or directory"


def test_run_with_an_empty_name_of_an_input_file(refuses: Refuses, byte_bundle: Path) -> None:
    # As in --input "$FILE" with FILE unset.
    assert refuses("run", byte_bundle, "--input", "").startswith("cannot read ")


def test_run_with_an_input_file_that_is_not_utf8(
    refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "latin1"
    file.write_bytes("größe\n".encode("latin-1"))
    message = refuses("run", byte_bundle, "--input", file)
    assert message.startswith(
        f"{file}, line 1 is not UTF-8 text: byte 0xf6 at offset 2 of the line"
    )
    assert "--encoding-errors replace" in message


def test_run_with_a_text_that_is_not_utf8(refuses: Refuses, byte_bundle: Path) -> None:
    assert "UTF-8" in refuses("run", byte_bundle, "größe".encode("latin-1"))


def test_bench_with_more_tokens_than_the_model_takes(refuses: Refuses, word_bundle: Path) -> None:
    assert "--source-length 81" in refuses("bench", word_bundle, "--source-length", 81)
    assert "ask for at most 80" in refuses("bench", word_bundle, "--new-tokens", 81)


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_numbers_that_must_be_positive(
    value: str, cli: Callable[..., Any], byte_bundle: Path
) -> None:
    result = cli("run", byte_bundle, "text", "--max-new-tokens", value)
    assert result.returncode == 2
    assert f"'{value}' is not a positive integer" in result.stderr.decode()
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("streams", "shown"),
    [("<&-", "cannot read -: standard input is closed"), ("2>&-", ""), ("2>/dev/full", "")],
)
def test_a_closed_stream_keeps_the_exit_code(
    streams: str, shown: str, program: list[str], environment: dict[str, str], byte_bundle: Path
) -> None:
    """Fault: a traceback without stdin, the error on stdout or another exit code without stderr."""
    command = [*program, "run", byte_bundle, *(["--input", "-"] if "<" in streams else [" "])]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (f"seq2edge: error: {shown}\n" if shown else "")
