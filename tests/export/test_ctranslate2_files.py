"""``model.bin``: its versions, and files that are damaged or mean harm."""

from __future__ import annotations

import json
import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.export import CheckpointError
from seq2edge.export.checkpoint import Checkpoint
from seq2edge.export.checkpoint.ctranslate2.model_bin import ModelBin

from ..ctranslate2_folders import convert_opennmt, write_model_bin

TOKENS = ["<unk>", "<blank>", "<s>", "</s>", *(f"t{number}" for number in range(20))]
HEADER = (6, "TransformerSpec", 7)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, which tests copy."""
    return convert_opennmt(tmp_path_factory.mktemp("model") / "model", TOKENS)


def _copy(model: Path, folder: Path, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "shared_vocabulary.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    (folder / "model.bin").write_bytes(data)
    return folder


def _read(folder: Path) -> dict[str, NDArray[np.float32]]:
    with Checkpoint(folder) as checkpoint:
        return {name: checkpoint.load(name) for name in sorted(checkpoint.names)}


def _refused(folder: Path) -> str:
    """The message, which is one line on the file."""
    with pytest.raises(CheckpointError) as caught:
        _read(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def _contents(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The variables of a file in float32 and integers, and its aliases."""
    read, variables, aliases = ModelBin(file), {}, {}
    first: dict[int, str] = {}
    for name, variable in read.variables.items():
        if variable.start in first:
            aliases[name] = first[variable.start]
            continue
        first[variable.start] = name
        with file.open("rb") as data:
            data.seek(variable.start)
            count = int(np.prod(variable.shape))
            raw = np.frombuffer(data.read(count * variable.dtype.itemsize), variable.dtype)
        variables[name] = raw.reshape(variable.shape)
    return variables, aliases


@pytest.mark.parametrize("version", [3, 4, 5])
def test_older_versions_are_read_alike(version: int, model: Path, tmp_path: Path) -> None:
    """They say in variables what config.json says later, and once what is of both sides."""
    variables, aliases = _contents(model / "model.bin")
    for name in ("num_heads", "pre_norm", "activation"):
        value = variables.pop(f"encoder/{name}")
        del variables[f"decoder/{name}"]
        # Version 3 has no int16 but for weights.
        variables[name] = value.astype(np.int8)
    for name in ("alignment_layer", "alignment_heads"):
        variables[f"decoder/{name}"] = variables[f"decoder/{name}"].astype(np.int8)
    variables["with_target_bos"] = np.int8(1).reshape(())
    variables["unk_token"] = np.frombuffer(b"<unk>", np.int8)
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "shared_vocabulary.txt").write_text("\n".join(TOKENS) + "\n")
    write_model_bin(folder / "model.bin", variables, aliases, (version, "TransformerSpec", 4))
    now = _read(model)
    assert all(np.array_equal(array, now[name]) for name, array in _read(folder).items())
    with Checkpoint(folder) as old, Checkpoint(model) as new:
        assert old.names == new.names
        for key in set(new.config) - {"ctranslate2"}:
            assert old.config[key] == new.config[key], key


def test_the_writer_of_these_tests_writes_what_ctranslate2_does(
    model: Path, tmp_path: Path
) -> None:
    write_model_bin(tmp_path / "model.bin", *_contents(model / "model.bin"), HEADER)
    assert (tmp_path / "model.bin").read_bytes() == (model / "model.bin").read_bytes()


def test_a_file_that_ends_too_soon_is_refused_wherever_it_ends(model: Path, tmp_path: Path) -> None:
    data = (model / "model.bin").read_bytes()
    generator = random.Random(0)
    ends = {*range(8, 120), len(data) - 1, *(generator.randrange(len(data)) for _ in range(200))}
    for end in ends:
        message = _refused(_copy(model, tmp_path / "cut", data[:end]))
        assert "truncated" in message or "damaged" in message
    # So short a file may be anything.
    (tmp_path / "cut" / "model.bin").write_bytes(data[:5])
    _refused(tmp_path / "cut")


def test_bytes_after_the_end_are_refused(model: Path, tmp_path: Path) -> None:
    data = (model / "model.bin").read_bytes()
    assert "3 bytes after its end" in _refused(_copy(model, tmp_path / "long", data + b"abc"))


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes_are_refused_or_read_but_never_a_crash(
    seed: int, model: Path, tmp_path: Path
) -> None:
    data = (model / "model.bin").read_bytes()
    generator = random.Random(seed)
    places = [i for name in (b"encoder/", b"decoder/") for i in _places(data, name)]
    for _ in range(60):
        changed = bytearray(data)
        start = generator.choice([0, *places])
        for _ in range(generator.randint(1, 4)):
            changed[start + generator.randrange(70)] = generator.randrange(256)
        folder = _copy(model, tmp_path / "changed", bytes(changed))
        try:
            _read(folder)
        except CheckpointError as error:
            assert "\n" not in str(error)


def _places(data: bytes, text: bytes) -> list[int]:
    return [i for i in range(len(data)) if data.startswith(text, i)]


def _hostile(model: Path, folder: Path, find: str, change: Callable[[bytes], bytes]) -> str:
    """What is said of a file of which one variable was changed."""
    variables, aliases = _contents(model / "model.bin")
    _copy(model, folder, b"")
    write_model_bin(
        folder / "model.bin",
        variables,
        aliases,
        HEADER,
        edit=lambda name, data: change(data) if name == find else data,
    )
    return _refused(folder)


NORM = "encoder/layer_norm/beta"
#: Before a variable's rank: the length of its name, and the name.
RANK = 2 + len(NORM) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:RANK] + b"\xff" + d[RANK + 1 :], "with 255 axes"),
        (
            lambda d: d[: RANK + 1] + b"\xff\xff\xff\xff" + d[RANK + 5 :],
            f"{NORM} of shape [4294967295] (float32) in 128 bytes",
        ),
        (lambda d: d[: RANK + 5] + b"\x09" + d[RANK + 6 :], f"{NORM} of the unknown type 9"),
        (lambda d: d[: RANK + 6] + b"\xff\xff\xff\xff" + d[RANK + 10 :], "in 4294967295 bytes"),
        (
            # As large as it says, and larger than the file.
            lambda d: d[:RANK] + b"\x02" + b"\0\0\1\0" * 2 + b"\1" + b"\0\0\0\0" + d[RANK + 10 :],
            "of shape [65536, 65536] (int8) in 0 bytes",
        ),
        (
            lambda d: d[:RANK] + b"\x01" + b"\xff\xff\xff\xff\1\xff\xff\xff\xff" + d[RANK + 10 :],
            "is truncated",
        ),
        (lambda d: b"\0\0" + d[2:], "a variable's name of 0 bytes"),
        (lambda d: b"\xff\xff" + d[2:], "a variable's name of 65535 bytes"),
        (lambda d: d[:2] + b"\xff\xfe" + d[4:], "a variable's name that is no text"),
        (lambda d: d + d, f"{NORM} twice"),
    ],
)
def test_what_cannot_be_is_refused(
    change: Callable[[bytes], bytes], message: str, model: Path, tmp_path: Path
) -> None:
    assert message in _hostile(model, tmp_path / "hostile", NORM, change)


def test_counts_are_not_believed(model: Path, tmp_path: Path) -> None:
    data = bytearray((model / "model.bin").read_bytes())
    start = 4 + 2 + len("TransformerSpec") + 1 + 4
    data[start : start + 4] = struct.pack("<I", 2**32 - 1)
    tracemalloc.start()
    message = _refused(_copy(model, tmp_path / "many", bytes(data)))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert "4294967295 variables" in message


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ({"decoder/projection/weight": "nothing"}, "for nothing, which is not there"),
        ({NORM: "decoder/embeddings/weight"}, f"{NORM} twice"),
    ],
)
def test_aliases_must_name_what_is_there_once(
    aliases: dict[str, str], message: str, model: Path, tmp_path: Path
) -> None:
    variables, own = _contents(model / "model.bin")
    folder = _copy(model, tmp_path / "aliases", b"")
    write_model_bin(folder / "model.bin", variables, own | aliases, HEADER)
    assert message in _refused(folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("encoder/num_heads", np.int16(0).reshape(()), "must be a positive whole number, not 0"),
        ("encoder/num_heads", np.int16(-4).reshape(()), "must be a positive whole number, not -4"),
        ("encoder/num_heads", np.zeros(3, np.int16), "has shape [3], not one value"),
        ("encoder/pre_norm", np.int8(0).reshape(()), "norms in different places"),
        ("decoder/alibi", np.int8(1).reshape(()), "decoder/alibi is 1"),
        ("encoder/activation", np.int8(77).reshape(()), "activation is not one of"),
        ("encoder/scale_embeddings", np.float32(3).reshape(()), "scaled by 3"),
        ("decoder/scale_outputs", np.float32(0.5).reshape(()), "decoder/scale_outputs is 0.5"),
        ("encoder/layer_0/ffn/linear_0/weight", np.zeros((4, 4, 4), np.float32), "not 2 axes"),
        ("encoder/layer_1/ffn/linear_0/weight", np.zeros((64, 32), np.int8), "there is no"),
        ("encoder/layer_1/ffn/linear_0/weight", np.zeros((64, 32), np.int32), "is int32"),
        ("encoder/layer_1/ffn/linear_0/weight", np.zeros((64, 31), np.float32), "[64, 31]"),
        ("encoder/layer_0/mystery", np.zeros(3, np.float32), "has encoder/layer_0/mystery"),
    ],
)
def test_models_that_no_family_has_are_refused_by_name(
    name: str,
    array: NDArray[Any],
    message: str,
    model: Path,
    tmp_path: Path,
    refusal: Callable[..., str],
) -> None:
    variables, aliases = _contents(model / "model.bin")
    variables[name] = array
    folder = _copy(model, tmp_path / "other", b"")
    write_model_bin(folder / "model.bin", variables, aliases, HEADER)
    found = refusal(folder)
    assert message in found
    assert "\n" not in found


def test_scales_must_fit_and_not_be_zero(model: Path, tmp_path: Path) -> None:
    name = "encoder/layer_1/ffn/linear_0/weight"
    variables, aliases = _contents(model / "model.bin")
    variables[name] = np.ones((64, 32), np.int8)
    folder = _copy(model, tmp_path / "scales", b"")
    for scale, message in ((np.ones(63), "63 values, and"), (np.zeros(64), "NaN or infinite")):
        variables[f"{name}_scale"] = scale.astype(np.float32)
        write_model_bin(folder / "model.bin", variables, aliases, HEADER)
        assert message in _refused(folder)


def test_a_file_that_shrinks_while_it_is_read_is_refused(model: Path, tmp_path: Path) -> None:
    data = (model / "model.bin").read_bytes()
    folder = _copy(model, tmp_path / "shrinking", data)
    with Checkpoint(folder) as checkpoint:
        os.truncate(folder / "model.bin", 200)
        with pytest.raises(CheckpointError, match="was changed while it was read"):
            checkpoint.load("model.shared.weight")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "is not valid JSON: it is nested too deeply"),
        ('[{"a": 1, "a": 2}]', "has the key 'a' twice"),
        ('{"a": 1}', "is no list of tokens"),
    ],
)
def test_a_damaged_vocabulary_is_refused(text: str, told: str, model: Path, tmp_path: Path) -> None:
    folder = _copy(model, tmp_path / "bad", (model / "model.bin").read_bytes())
    (folder / "shared_vocabulary.json").write_text(text)
    assert told in _refused(folder)


def test_a_vocabulary_of_lines_keeps_what_is_in_them(model: Path, tmp_path: Path) -> None:
    folder = _copy(model, tmp_path / "lines", (model / "model.bin").read_bytes())
    (folder / "shared_vocabulary.json").unlink()
    tokens = [*TOKENS[:-3], "\u2028", "a b", "\r"]
    (folder / "shared_vocabulary.txt").write_bytes("\n".join(tokens).encode() + b"\n")
    assert len(_read(folder)) > 30
    (folder / "shared_vocabulary.txt").write_bytes(b"\xff\xfe")
    assert "cannot read" in _refused(folder)
    assert json.loads((folder / "config.json").read_text())["unk_token"] == "<unk>"
