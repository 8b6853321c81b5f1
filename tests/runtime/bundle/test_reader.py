"""A bundle is trusted only after it was checked, and no name in it leads out of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Bundle, BundleError
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME, WEIGHTS_NAME

Copy = Callable[[Path], Path]
BundleOf = Callable[[str], Path]


def edit_manifest(bundle: Path, change: Callable[[Any], None]) -> None:
    """Let ``change`` edit the manifest's JSON value in place."""
    file = bundle / MANIFEST_NAME
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


def rename_weights(bundle: Path, name: str) -> None:
    """Call the weights ``name`` in the manifest."""

    def change(raw: Any) -> None:
        raw["files"][name] = raw["files"].pop(WEIGHTS_NAME)

    edit_manifest(bundle, change)


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no such bundle: .*absent"):
        Bundle.open(tmp_path / "absent")


def test_file_instead_of_a_directory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("{}")
    with pytest.raises(BundleError, match="file is not a directory"):
        Bundle.open(file)


def test_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a seq2edge bundle: no seq2edge\.json$"):
        Bundle.open(tmp_path)


def test_checkpoint_folder_gets_a_hint_to_export_it(checkpoint_of: Callable[[str], Path]) -> None:
    with pytest.raises(BundleError, match="looks like a checkpoint: run 'seq2edge export'"):
        Bundle.open(checkpoint_of("t5"))


@pytest.mark.parametrize("name", [WEIGHTS_NAME, "encoder.onnx", "decoder.onnx"])
def test_missing_file_is_named(name: str, bundle_of: BundleOf, copy_of: Copy) -> None:
    bundle = copy_of(bundle_of("t5"))
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.open(bundle)


@pytest.mark.parametrize("extra", [-1, 1])
def test_file_of_another_size_is_named(extra: int, bundle_of: BundleOf, copy_of: Copy) -> None:
    bundle = copy_of(bundle_of("t5"))
    file = bundle / WEIGHTS_NAME
    size = file.stat().st_size
    file.write_bytes((file.read_bytes() + b"\0")[: size + extra])
    message = rf"weights\.bin has {size + extra} bytes, the manifest says {size} \(incomplete"
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_tensor_that_ends_outside_the_weights_is_named(bundle_of: BundleOf, copy_of: Copy) -> None:
    bundle = copy_of(bundle_of("t5"))
    size = (bundle / WEIGHTS_NAME).stat().st_size

    def move(raw: Any) -> None:
        tensor = raw["weights"]["embedding.weight"]
        tensor["offset"] = size - tensor["length"] + 1

    edit_manifest(bundle, move)
    with pytest.raises(BundleError, match=r"embedding\.weight ends outside weights\.bin"):
        Bundle.open(bundle)


def test_tensor_whose_length_does_not_fit_its_shape_is_named(
    bundle_of: BundleOf, copy_of: Copy
) -> None:
    bundle = copy_of(bundle_of("t5"))

    def shorten(raw: Any) -> None:
        raw["weights"]["embedding.weight"]["length"] -= 4

    edit_manifest(bundle, shorten)
    with pytest.raises(BundleError, match=r"embedding\.weight: \d+ bytes do not fit its shape"):
        Bundle.open(bundle)


def test_all_problems_are_listed_at_once(bundle_of: BundleOf, copy_of: Copy) -> None:
    bundle = copy_of(bundle_of("t5"))
    (bundle / "encoder.onnx").unlink()
    (bundle / "decoder.onnx").write_bytes(b"short")
    with pytest.raises(BundleError, match=r"encoder\.onnx is missing") as caught:
        Bundle.open(bundle)
    assert "decoder.onnx has 5 bytes" in str(caught.value)


def test_used_file_that_is_not_listed_is_named(bundle_of: BundleOf, copy_of: Copy) -> None:
    bundle = copy_of(bundle_of("t5"))
    edit_manifest(bundle, lambda raw: raw["files"].pop("encoder.onnx"))
    with pytest.raises(BundleError, match=r"'encoder\.onnx' is used but not listed"):
        Bundle.open(bundle)


@pytest.mark.parametrize("kind", ["parent", "nested", "absolute", "backslash", "dots", "empty"])
def test_file_name_that_leads_out_is_refused(kind: str, bundle_of: BundleOf, copy_of: Copy) -> None:
    bundle = copy_of(bundle_of("t5"))
    outside = bundle.parent / "outside.bin"
    outside.write_bytes((bundle / WEIGHTS_NAME).read_bytes())
    (bundle / "sub").mkdir()
    names = {
        "parent": "../outside.bin",
        "nested": "sub/../../outside.bin",
        "absolute": str(outside),
        "backslash": "..\\outside.bin",
        "dots": "..",
        "empty": "",
    }
    rename_weights(bundle, names[kind])
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["weights\0.bin", "w" * 300], ids=["NUL", "too long"])
def test_file_name_that_no_file_can_have_is_refused(
    name: str, bundle_of: BundleOf, copy_of: Copy
) -> None:
    bundle = copy_of(bundle_of("t5"))
    rename_weights(bundle, name)
    with pytest.raises(BundleError):
        Bundle.open(bundle)


@pytest.mark.parametrize("absolute", [True, False])
def test_symbolic_link_that_leads_out_is_refused(
    absolute: bool, bundle_of: BundleOf, copy_of: Copy
) -> None:
    bundle = copy_of(bundle_of("t5"))
    outside = (bundle / WEIGHTS_NAME).rename(bundle.parent / "outside.bin")
    (bundle / WEIGHTS_NAME).symlink_to(outside if absolute else "../outside.bin")
    with pytest.raises(BundleError, match=r"'weights\.bin' leads out of the bundle"):
        Bundle.open(bundle)


def test_symbolic_link_to_itself_is_refused(bundle_of: BundleOf, copy_of: Copy) -> None:
    bundle = copy_of(bundle_of("t5"))
    (bundle / WEIGHTS_NAME).unlink()
    (bundle / WEIGHTS_NAME).symlink_to(WEIGHTS_NAME)
    with pytest.raises(BundleError, match=r"weights\.bin"):
        Bundle.open(bundle)


def test_bundle_behind_a_symbolic_link_opens(bundle_of: BundleOf, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(bundle_of("t5"))
    Bundle.open(link).verify()


def test_path_gives_listed_files_only(bundle_of: BundleOf) -> None:
    bundle = Bundle.open(bundle_of("t5"))
    assert bundle.path(WEIGHTS_NAME) == bundle_of("t5") / WEIGHTS_NAME
    for name in ("other.bin", "../weights.bin"):
        with pytest.raises(BundleError, match=r"is not listed in seq2edge\.json"):
            bundle.path(name)


def test_size_is_that_of_the_files(bundle_of: BundleOf) -> None:
    bundle = bundle_of("t5")
    expected = sum(file.stat().st_size for file in bundle.iterdir() if file.name != MANIFEST_NAME)
    assert Bundle.open(bundle).size == expected


def test_verify_passes_an_untouched_bundle(bundle_of: BundleOf) -> None:
    Bundle.open(bundle_of("t5")).verify()


def test_verify_refuses_a_vocabulary_with_a_token_twice(bundle_of: BundleOf, copy_of: Copy) -> None:
    """The library that reads it takes the last; the hash can be right all the same."""
    bundle = copy_of(bundle_of("t5"))
    file = bundle / "tokenizer.json"
    data = b'{"model": {"type": "WordLevel", "vocab": {"a": 0, "a": 1}, "unk_token": "a"}}'
    file.write_bytes(data)

    def list_it(raw: Any) -> None:
        raw["files"][file.name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    edit_manifest(bundle, list_it)
    with pytest.raises(BundleError, match=r"tokenizer\.json has the key 'a' twice"):
        Bundle.open(bundle).verify()


@pytest.mark.parametrize("name", [WEIGHTS_NAME, "encoder.onnx", "decoder.onnx"])
def test_verify_names_exactly_the_file_with_one_flipped_bit(
    name: str, bundle_of: BundleOf, copy_of: Copy
) -> None:
    bundle = copy_of(bundle_of("t5"))
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"SHA-256 differs\): {name}; copy or export"):
        Bundle.open(bundle).verify()
