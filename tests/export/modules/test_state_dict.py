"""A state dict with a TOML file gives the bundle that the module gives; the command line too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seq2edge.cli.main import main
from seq2edge.export import CheckpointError, export_module, export_state_dict

from ...translators import TOKENS, Shape, make_translator, parts_of, toml_of

SHAPE = Shape("lists", decoder_heads=8, decoder_activation="gelu", head="bias", layers=(1, 1))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    """A state dict and its description."""
    return save(SHAPE, tmp_path)


def save(shape: Shape, folder: Path) -> tuple[Path, Path]:
    torch.save(make_translator(shape).state_dict(), folder / "model.pt")
    (folder / "model.toml").write_text(toml_of(shape))
    return folder / "model.pt", folder / "model.toml"


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        Shape(norm_first=True, activation="gelu", bias=False, layers=(1, 1)),
        Shape("stacks", positions="computed", head="embedding", epsilon=1e-3, layers=(1, 1)),
    ],
    ids=lambda shape: shape.container,
)
def test_the_bundle_is_the_modules(shape: Shape, tmp_path: Path) -> None:
    state, description = save(shape, tmp_path)
    described = export_state_dict(state, description, tmp_path / "described", validate=True)
    assert described.parity is not None
    assert described.parity.decoder.maximum < 2e-4
    model = make_translator(shape)
    from_module = export_module(
        model, tmp_path / "module", parts=parts_of(shape), tokens=TOKENS, forward=model
    )
    assert described.manifest == from_module.manifest  # with the hash of every file


def test_safetensors_give_the_same(saved: tuple[Path, Path], tmp_path: Path) -> None:
    state, description = saved
    save_file(make_translator(SHAPE).state_dict(), tmp_path / "model.safetensors")
    ours = export_state_dict(tmp_path / "model.safetensors", description, tmp_path / "one")
    theirs = export_state_dict(state, description, tmp_path / "two")
    assert ours.manifest == theirs.manifest


def test_the_command_line_exports(
    saved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, description = saved
    command = ["export", str(state), str(tmp_path / "bundle"), "--module", str(description)]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["family"] == "torch"
    assert report["parity"]["decoder"]["maximum"] < 2e-4
    assert main(command) == 2
    assert "already exists" in capsys.readouterr().err


def test_a_tokenizer_goes_with_the_bundle(
    saved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["<pad>", "<s>", "</s>", "one", "two", "three"]
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    state, description = saved
    bundle = str(tmp_path / "bundle")
    command = ["export", str(state), bundle, "--module", str(description)]
    assert main([*command, "--tokenizer", str(tmp_path / "tokenizer.json")]) == 0
    capsys.readouterr()
    assert main(["run", bundle, "one two three", "--max-new-tokens", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_a_tokenizer_needs_a_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(tmp_path), str(tmp_path / "out"), "--tokenizer", "tokenizer.json"]
    assert main(command) == 2
    assert "--tokenizer needs --module" in capsys.readouterr().err


Change = Callable[[str], str]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("nhead", "heads", 1), "unknown keys: layers.heads; known: nhead"),
        (lambda t: "depth = 3\n" + t, "unknown keys: depth; known: layout, encoder, decoder"),
        (lambda t: t.replace("norm_first = false\n", ""), "layers.norm_first is missing"),
        (lambda t: t.replace("nhead = 4", "nhead = '4'"), "layers.nhead must be an integer"),
        (lambda t: t.replace("nhead = 4", "nhead = 5"), "d_model 64 is not a multiple of the enc"),
        (lambda t: t.replace("'relu'", "'mish'"), "'mish' is not supported; known activations"),
        (lambda t: t.replace("'sinusoidal'", "'rotary'"), "'rotary'; known kinds: none, sin"),
        (lambda t: t.replace("'encoder'", "'enc'"), "no layers of the encoder"),
        (lambda t: t.replace("'generator'", "'out'"), "missing tensor out.weight"),
        (lambda t: t.replace("eos = [2]", "eos = [390]"), r"\[390\] lie outside the target"),
        (lambda t: t.replace("eos = [2]", "eos = []"), "no end token"),
        (lambda t: t.replace("'sqrt(d_model)'", "'sqrt'"), "the embedding scale is 'sqrt'"),
        (lambda t: t.replace("'positions.table'", "'pe'"), "missing tensor pe"),
        (lambda t: t + "[", "cannot read .*model.toml"),
    ],
)
def test_a_wrong_description_is_told(
    change: Change, message: str, saved: tuple[Path, Path], tmp_path: Path
) -> None:
    state, description = saved
    before = description.read_text()
    description.write_text(change(before))
    assert description.read_text() != before
    with pytest.raises(CheckpointError, match=message) as caught:
        export_state_dict(state, description, tmp_path / "out" / "bundle")
    assert "\n" not in str(caught.value).strip() or "cannot read" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_all_tensors_that_do_not_fit_are_listed(saved: tuple[Path, Path], tmp_path: Path) -> None:
    state, description = saved
    tensors = torch.load(state)
    del tensors["encoder.0.norm1.bias"]
    tensors["classifier.weight"] = torch.zeros(2, 2)
    tensors["decoder.0.linear2.weight"] = torch.zeros(64, 95)
    torch.save(tensors, state)
    with pytest.raises(CheckpointError) as caught:
        export_state_dict(state, description, tmp_path / "bundle")
    head, _, rest = str(caught.value).partition(" does not fit its description: ")
    assert head == str(state)
    assert sorted(rest.split("; ")) == [
        "missing tensor encoder.0.norm1.bias",
        "tensor decoder.0.linear2.weight has shape [64, 95], expected [64, 96]",
        "unused tensor classifier.weight",
    ]
    # What is named as ignored is no error.
    del tensors["decoder.0.linear2.weight"]
    restored = {**make_translator(SHAPE).state_dict(), "classifier.weight": torch.zeros(2, 2)}
    torch.save(restored, state)
    description.write_text("ignored = ['classifier[.].*']\n" + description.read_text())
    export_state_dict(state, description, tmp_path / "bundle")


@pytest.mark.parametrize("kind", ["truncated", "whole model", "optimizer", "missing", "folder"])
def test_a_file_that_is_no_state_dict_is_told(
    kind: str, saved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, description = saved
    if kind == "truncated":
        state.write_bytes(state.read_bytes()[:-5000])
    elif kind == "whole model":
        torch.save(make_translator(SHAPE), state)
    elif kind == "optimizer":
        torch.save(torch.optim.Adam(make_translator(SHAPE).parameters()).state_dict(), state)
    elif kind == "missing":
        state.unlink()
    else:
        state = tmp_path
    out = tmp_path / "bundle"
    assert main(["export", str(state), str(out), "--module", str(description)]) == 2
    error = capsys.readouterr().err
    expected = {
        "truncated": "cannot be read safely",
        "whole model": "cannot be read safely",
        "optimizer": "save the state dict itself",
        "missing": "does not exist",
        "folder": "is a folder",
    }
    assert str(state) in error
    assert expected[kind] in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.module.", "net.model._orig_mod."])
def test_names_of_a_wrapped_model_are_read_as_its_own(
    wrapper: str, saved: tuple[Path, Path], tmp_path: Path
) -> None:
    state, description = saved
    plain = export_state_dict(state, description, tmp_path / "plain").manifest
    tensors = {wrapper + name: tensor for name, tensor in torch.load(state).items()}
    torch.save({"epoch": 3, "model_state_dict": tensors}, state)
    wrapped = export_state_dict(state, description, tmp_path / "wrapped").manifest
    assert wrapped.files["weights.bin"] == plain.files["weights.bin"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_with_nan_is_named(value: float, saved: tuple[Path, Path], tmp_path: Path) -> None:
    state, description = saved
    tensors = torch.load(state)
    tensors["decoder.0.linear1.weight"][2, 5] = value
    torch.save(tensors, state)
    with pytest.raises(CheckpointError, match=r"decoder\.0\.linear1\.weight.*\[2, 5\]"):
        export_state_dict(state, description, tmp_path / "bundle", validate=False)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("kind", ["compiled", "parallel", "both"])
def test_a_wrapped_module_is_read_as_what_it_wraps(kind: str, tmp_path: Path) -> None:
    model = make_translator(SHAPE)
    options = {"parts": parts_of(SHAPE), "tokens": TOKENS, "validate": False}
    plain = export_module(model, tmp_path / "plain", **options).manifest
    wrapped: torch.nn.Module = model
    if kind != "compiled":
        wrapped = torch.nn.DataParallel(wrapped)
    if kind != "parallel":
        wrapped = torch.compile(wrapped)
    found = export_module(wrapped, tmp_path / "wrapped", **options).manifest
    assert found.files["weights.bin"] == plain.files["weights.bin"]
