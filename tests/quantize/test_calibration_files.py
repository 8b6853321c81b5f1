"""A calibration is kept in a file, which is whole or refused."""

from __future__ import annotations

import errno
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from seq2edge.quantize import (
    CalibrationFiles,
    Options,
    QuantizationError,
    Request,
    quantize_bundle,
    quantize_mixed_precision,
)
from seq2edge.quantize.calibration import (
    Calibration,
    load,
    load_or_calibrate,
    save,
    store,
)
from seq2edge.runtime import Bundle, OutputError, Seq2EdgeError
from seq2edge.runtime.bundle.atomic_write import check_file

from .conftest import BundleOf, CalibrationOf, calibrated

SOURCES = [[5, 6, 7, 8, 1], [9, 4, 1], [3, 30, 300, 33, 3, 1]]


def no_work(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the model was run before the error was found")


def same(one: Calibration, other: Calibration) -> bool:
    assert (one.origin, one.largest) == (other.origin, other.largest)
    assert list(one.inputs) == list(other.inputs)
    for key, kept in one.inputs.items():
        for name, value in vars(kept).items():
            found = getattr(other.inputs[key], name)
            np.testing.assert_array_equal(found, value)
            assert getattr(found, "dtype", None) == getattr(value, "dtype", None)
    return True


@pytest.fixture(scope="module")
def saved(calibration_of: CalibrationOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calibration of the T5 in a file. Read only."""
    path = tmp_path_factory.mktemp("saved") / "t5.calib"
    save(calibration_of("t5"), path)
    return path


def test_what_is_saved_comes_back(
    saved: Path, calibration_of: CalibrationOf, short_of: BundleOf, tmp_path: Path
) -> None:
    assert same(load(saved), calibration_of("t5"))
    assert [file.name for file in saved.parent.iterdir()] == ["t5.calib"]
    found = load_or_calibrate(saved, Bundle.open(short_of("t5")), set(), moments=True)
    assert same(found, calibration_of("t5"))
    without = calibrated(short_of("t5"), SOURCES)
    save(without, tmp_path / "small")
    assert same(load(tmp_path / "small"), without)
    save(load(saved), tmp_path / "small")  # over what is there
    assert same(load(tmp_path / "small"), calibration_of("t5"))


def test_a_saved_calibration_quantizes_as_its_text_does(short_of: BundleOf, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in SOURCES))
    kept, made = tmp_path / "kept", []
    for number, files in enumerate((CalibrationFiles(text, kept), CalibrationFiles(kept))):
        out = tmp_path / f"out{number}"
        made.append(quantize_bundle(short_of("t5"), out, "int8-qdq", calibration=files).manifest)
    assert made[0] == made[1]
    assert made[0].quantization["calibration"] == asdict(load(kept).origin)
    assert made[0].quantization["calibration"]["texts"] == 3


def test_a_file_that_is_not_whole_is_refused(saved: Path, tmp_path: Path) -> None:
    whole, broken = saved.read_bytes(), tmp_path / "broken"
    for data in (b"", whole[:2], whole[:1000], whole[: len(whole) // 2], whole[:-1], whole[1:]):
        broken.write_bytes(data)
        with pytest.raises(QuantizationError, match="broken is not a whole calibration file"):
            load(broken)
    for record in ({}, [], {"format": 1}, {"format": 1, "inputs": [["a"]]}):
        encoded = np.frombuffer(json.dumps(record).encode(), np.uint8)
        np.savez(broken.with_suffix(".npz"), record=encoded)
        with pytest.raises(QuantizationError, match="not a whole calibration file"):
            load(broken.with_suffix(".npz"))
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(QuantizationError, match="not a whole calibration file"):
        load(tmp_path / "array.npy")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(QuantizationError, match="cannot read"):
            load(path)


def test_an_encrypted_member_is_refused(saved: Path, tmp_path: Path) -> None:
    """Found by mutated calibrations: RuntimeError of zipfile."""
    data = bytearray(saved.read_bytes())
    start = data.index(b"PK\x01\x02")
    while start >= 0:  # the flags of each member in the directory
        data[start + 8] |= 1
        start = data.find(b"PK\x01\x02", start + 4)
    (tmp_path / "bad.npz").write_bytes(data)
    with pytest.raises(QuantizationError, match="encrypted"):
        load(tmp_path / "bad.npz")


def test_a_file_with_damaged_bytes_is_refused(saved: Path, tmp_path: Path) -> None:
    whole, broken = saved.read_bytes(), tmp_path / "broken"
    for place in range(60, len(whole) - 60, len(whole) // 40):
        broken.write_bytes(whole[:place] + bytes(20) + whole[place + 20 :])
        with pytest.raises(QuantizationError, match="broken is not a whole calibration file"):
            load(broken)


@pytest.mark.parametrize("header", [b"{'descr: '|u1', ", b"{\0", b"{'descr': ('", b"(" * 90_000])
def test_an_array_whose_header_is_no_python_is_refused(
    saved: Path, tmp_path: Path, header: bytes
) -> None:
    """numpy's own reading of it ends in other errors than ValueError."""
    broken = tmp_path / "broken.npz"
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(broken, "w") as archive:
        for name in whole.namelist():
            data = whole.read(name)
            if name == "record.npy":
                length = len(header).to_bytes(4, "little")
                data = b"\x93NUMPY\x02\x00" + length + header + data
            archive.writestr(name, data)
    with pytest.raises(QuantizationError, match="not a whole calibration file"):
        load(broken)


def test_a_newer_format_is_refused(saved: Path, tmp_path: Path) -> None:
    with np.load(saved) as arrays:
        kept = dict(arrays)
    record = json.loads(kept["record"].tobytes())
    kept["record"] = np.frombuffer(json.dumps({**record, "format": 2}).encode(), np.uint8)
    np.savez(tmp_path / "newer.npz", **kept)
    with pytest.raises(QuantizationError, match=r"not .* of this version \(format 2\)"):
        load(tmp_path / "newer.npz")


def test_a_calibration_that_does_not_fit_is_refused(
    saved: Path, short_of: BundleOf, tmp_path: Path
) -> None:
    out, gptq = tmp_path / "out", Options(algorithm="gptq")
    with pytest.raises(QuantizationError, match=r"t5\.calib was calibrated on another bundle"):
        quantize_bundle(short_of("umt5"), out, "int8-qdq", calibration=CalibrationFiles(saved))
    small = tmp_path / "small"
    save(calibrated(short_of("t5"), SOURCES), small)
    files = CalibrationFiles(small)
    with pytest.raises(QuantizationError, match="small holds no second moments, which gptq needs"):
        quantize_bundle(short_of("t5"), out, "int4", options=gptq, calibration=files)
    for scheme, options in (("int8-qdq", Options()), ("int4", gptq)):
        with pytest.raises(QuantizationError, match="needs to see the model at work"):
            quantize_bundle(short_of("t5"), out, scheme, options=options)
    assert not out.exists()


def test_an_object_of_another_bundle_is_refused(
    short_of: BundleOf, calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    other = calibration_of("bart")
    with pytest.raises(QuantizationError, match="another bundle"):
        quantize_bundle(
            short_of("bart-odd"), tmp_path / "out", "fp16", target="cuda", calibration=other
        )


# Where it is saved


def refused_before_work(
    save_to: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, *, text: Path | None = None
) -> str:
    text = text or bundle.parent / "text.jsonl"
    if not text.exists():
        text.write_text('{"input_ids": [5, 6, 1]}\n')
    monkeypatch.setattr(store, "capture_activations", no_work)
    out = bundle.parent / "refused"  # a path that can be written
    with pytest.raises(Seq2EdgeError) as raised:
        quantize_bundle(bundle, out, "int8-qdq", calibration=CalibrationFiles(text, save_to))
    assert not out.exists()
    return str(raised.value)


def test_a_path_that_cannot_be_written_is_refused_before_the_work(
    short_of: BundleOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path, reason in (
        (tmp_path, "is not a regular file"),
        (tmp_path / "none" / "kept", "none is not a folder"),
        (Path(__file__) / "kept", f"{Path(__file__).name} is not a folder"),
    ):
        message = refused_before_work(path, short_of("t5"), monkeypatch)
        assert str(path) in message
        assert reason in message


def test_a_name_that_is_too_long_is_refused_before_the_work(
    short_of: BundleOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused_before_work(tmp_path / ("n" * 300), short_of("t5"), monkeypatch)


def test_saving_under_a_name_that_is_too_long(
    calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="too long"):
        save(calibration_of("t5"), tmp_path / ("n" * 300))


def test_the_text_is_never_replaced_by_what_it_calibrated(
    short_of: BundleOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"input_ids": [5, 6, 1]}\n')
    refused_before_work(text, short_of("t5"), monkeypatch, text=text)


@pytest.mark.parametrize("place", ["save in the source", "save in the output", "text in it"])
def test_nothing_is_lost_with_the_folder_that_is_replaced(
    place: str, short_of: BundleOf, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    bundle, out = copy_of(short_of("t5")), tmp_path / "out"
    quantize_bundle(bundle, out, "int8")
    text = (out if place == "text in it" else tmp_path) / "text.jsonl"
    text.write_text('{"input_ids": [5, 6, 1]}\n')
    kept = {
        "save in the source": bundle / "weights.bin",
        "save in the output": out / "kept",
        "text in it": tmp_path / "kept",
    }[place]
    files = CalibrationFiles(text, kept)
    with pytest.raises(QuantizationError):
        quantize_bundle(bundle, out, "int8-qdq", calibration=files, overwrite=True)
    Bundle.open(bundle).verify()
    assert text.exists()


def test_nothing_is_left_half_written(
    saved: Path, calibration_of: CalibrationOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    path.write_bytes(saved.read_bytes())

    def full(file: Any, **_: Any) -> NoReturn:
        file.write(b"PK and a little more")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match=r"cannot write .*kept: no space left"):
        save(calibration_of("t5"), path)
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert same(load(path), calibration_of("t5"))
    check_file(path, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_budget_looks_at_the_paths_before_it_calibrates(
    overwrite: bool, short_of: BundleOf, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    bundle, text = copy_of(short_of("t5")), tmp_path / "text.jsonl"
    text.write_text('{"input_ids": [5, 6, 1]}\n')
    before = (bundle / "weights.bin").read_bytes()
    request = Request(
        bundle,
        tmp_path / "out",
        "int8-qdq",
        calibration=CalibrationFiles(text, bundle / "weights.bin"),
        overwrite=overwrite,
    )
    with pytest.raises(QuantizationError, match="lie in one another"):
        quantize_mixed_precision(request, 1.0, lambda _bundle: pytest.fail("measured"))
    assert (bundle / "weights.bin").read_bytes() == before


@pytest.mark.parametrize("scheme", ["int8", "fp16", "int4"])
def test_text_that_nothing_looks_at_is_refused(
    scheme: str, short_of: BundleOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"input_ids": [5, 6, 1]}\n')
    monkeypatch.setattr(store, "capture_activations", no_work)
    with pytest.raises(QuantizationError, match=f"{scheme} for cpu does not look at a calibration"):
        quantize_bundle(
            short_of("t5"),
            tmp_path / "out",
            scheme,
            calibration=CalibrationFiles(text),
            check=False,
        )
    with pytest.raises(QuantizationError, match="has none to save"):
        quantize_bundle(
            short_of("t5"),
            tmp_path / "out",
            scheme,
            calibration=CalibrationFiles(text, tmp_path / "saved"),
        )


def test_a_link_is_not_replaced(
    short_of: BundleOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    message = refused_before_work(tmp_path / "link", short_of("t5"), monkeypatch)
    assert "not a regular file" in message
    assert (tmp_path / "link").is_symlink()
