"""``seq2edge make``: a checkpoint to what a device installs, each step once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from seq2edge.deploy import TARGETS
from seq2edge.runtime import Bundle, Seq2SeqModel

from ..pinned import link_pins
from .conftest import Done

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "g2p" / "model"
WORDS = ["keyboard", "february", "humanoid"]

Call = Callable[..., Done]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return path


@pytest.fixture
def make(call: Call, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes a checkpoint without PyTorch, unless told otherwise; gives the report."""

    def run(checkpoint: Path, target: str, output: str = "app.tar", *more: object) -> Any:
        done = call(
            *("make", checkpoint, "--for", target, "-o", tmp_path / output, "--no-validate"),
            *(*more, "--json"),
        )
        assert done.code == 0, done.err
        return json.loads(done.out)

    return run


def steps(report: dict[str, Any]) -> list[str]:
    """Names of the steps, in capitals those that were done now."""
    return [s["step"] if s["reused"] else s["step"].upper() for s in report["steps"]]


@pytest.mark.parametrize("target", [target.name for target in TARGETS])
def test_every_target_gets_a_pack_that_fits_it(
    target: str, make: Callable[..., dict[str, Any]], texts: Path, tmp_path: Path
) -> None:
    report = make(DEMO, target, "app.tar", "--texts", texts)
    old = target == "jetson-orin"  # JetPack 6.2
    downgrade = ["DOWNGRADE"] if old else []
    assert steps(report) == ["EXPORT", "QUANTIZE", *downgrade, "PACK"]
    with tarfile.open(tmp_path / "app.tar") as tar:
        tar.extractall(tmp_path / "there", filter="data")
    there = tmp_path / "there" / "app"
    pack = json.loads((there / "manifest.json").read_bytes())
    done = Bundle.open(there / "bundle").manifest.quantization
    cpu = not (target.startswith("jetson") or target == "gpu")
    assert pack["target"] == target
    assert pack["backend"] == report["backend"]
    assert (done["scheme"], done["target"]) == (("int8", "cpu") if cpu else ("fp16", "tensorrt"))
    assert ("opset_downgrade" in done) == old
    assert done["check"]["prompts"] == "calibration text"
    assert report["scheme"] == done["scheme"]
    decided = {decision["about"]: decision for decision in report["decisions"]}
    assert list(decided) == ["target", "backend", "scheme", "operators"]
    assert all(decision["reason"] for decision in decided.values())
    assert decided["operators"]["choice"] == ("downgraded" if old else "as exported")


def test_a_family_of_its_own_is_compared_with_pytorch_on_the_way(
    byte_checkpoint: Path, call: Call, tmp_path: Path
) -> None:
    done = call("make", byte_checkpoint, "--for", "cpu", "-o", tmp_path / "app.tar.gz")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "target: cpu (x86 without a GPU)"
    assert any(line.startswith("scheme: int8 for cpu (8 bit weights") for line in lines)
    assert any("greedy tokens identical on 10 of 10 inputs" in line for line in lines)
    assert any("next tokens agree with float32 on random prompts" in line for line in lines)
    assert lines[-1].startswith("on the device: tar -xf app.tar.gz && app/install.sh && app/run.sh")
    # Each step is a command that does the same by itself.
    commands = [line[2:].split() for line in lines if line.startswith("$ ")]
    assert [words[1] for words in commands] == ["export", "quantize", "pack"]
    made = (tmp_path / "app.tar.gz").read_bytes()
    (tmp_path / "app.tar.gz").unlink()
    shutil.rmtree(tmp_path / "app.make")
    for words in commands:
        assert call(*words[1:]).code == 0
    assert (tmp_path / "app.tar.gz").read_bytes() == made


def test_a_second_run_repeats_nothing_and_a_change_only_what_depends_on_it(
    make: Callable[..., dict[str, Any]], texts: Path, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(DEMO, tmp_path / "model"))
    first = make(checkpoint, "cpu")
    assert steps(first) == ["EXPORT", "QUANTIZE", "PACK"]
    stamp = (tmp_path / "app.tar").stat().st_mtime_ns
    again = make(checkpoint, "cpu")
    assert steps(again) == ["export", "quantize", "pack"]
    assert [s["report"] for s in again["steps"]] == [s["report"] for s in first["steps"]]
    assert (tmp_path / "app.tar").stat().st_mtime_ns == stamp
    # A report that was garbled since is of a step that is not done.
    (kept,) = (tmp_path / "app.make").glob("pack-*.json")
    garbled = json.loads(kept.read_text())
    garbled["report"].popitem()
    kept.write_text(json.dumps(garbled))
    assert steps(make(checkpoint, "cpu")) == ["export", "quantize", "PACK"]
    assert steps(make(checkpoint, "cpu", "app.tar", "--texts", texts)) == [
        *("export", "QUANTIZE", "PACK"),
    ]
    # The same name, other words.
    texts.write_text("gateway\n")
    assert steps(make(checkpoint, "cpu", "app.tar", "--texts", texts)) == [
        *("export", "QUANTIZE", "PACK"),
    ]
    assert steps(make(checkpoint, "cpu-arm64")) == ["export", "quantize", "PACK"]
    # What was made before is still there.
    assert steps(make(checkpoint, "cpu", "app.tar", "--scheme", "float32")) == ["export", "PACK"]
    # A bundle that lost a file is made again, and an output that was deleted.
    (bundle,) = (tmp_path / "app.make").glob("float32-*.bundle")
    (bundle / "encoder.onnx").unlink()
    (tmp_path / "app.tar").unlink()
    assert steps(make(checkpoint, "cpu")) == ["EXPORT", "quantize", "PACK"]
    os.utime(checkpoint / "model.safetensors")
    assert steps(make(checkpoint, "cpu")) == ["EXPORT", "QUANTIZE", "PACK"]


def test_an_output_of_another_hand_is_not_replaced(
    make: Callable[..., dict[str, Any]], refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "app.tar").write_text("mine")
    words = ("make", DEMO, "--for", "cpu", "--no-validate", "-o")
    assert "app.tar already exists" in refused(*words, tmp_path / "app.tar")
    make(DEMO, "cpu", "app.tar", "--force")
    make(DEMO, "cpu", "app.tar", "--scheme", "float32")  # ours: replaced unasked
    with (tmp_path / "app.tar").open("ab") as file:
        file.write(b"more")
    assert "app.tar already exists" in refused(*words, tmp_path / "app.tar")


def test_a_folder_holds_what_an_archive_unpacks_to(
    make: Callable[..., dict[str, Any]], refused: Callable[..., str], tmp_path: Path
) -> None:
    report = make(DEMO, "cpu", "there/app")
    folder = tmp_path / "there" / "app"
    assert report["on_the_device"] == ["app/install.sh", "app/run.sh TEXT"]
    listed = json.loads((folder / "manifest.json").read_bytes())["files"]
    found = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
    assert found == {*listed, "manifest.json"}
    assert os.access(folder / "install.sh", os.X_OK)
    assert [p.name for p in folder.parent.iterdir()] == ["app", "app.make"]
    # An environment that install.sh made is not thrown away unasked.
    (folder / "venv").mkdir()
    (folder / "venv" / "python").touch()
    assert steps(make(DEMO, "cpu", "there/app")) == ["export", "quantize", "pack"]
    words = ("make", DEMO, "--for", "cpu", "--no-validate", "--scheme", "float32", "-o", folder)
    assert "already exists" in refused(*words)
    (folder / "venv" / "python").unlink()
    (folder / "venv").rmdir()
    assert steps(make(DEMO, "cpu", "there/app", "--scheme", "float32")) == ["export", "PACK"]


#: Weights whose inputs come from a norm.
_READ_NORMS = ("q.weight", "k.weight", "v.weight", "wi_0.weight", "wi_1.weight", "lm_head.weight")


@pytest.fixture(scope="session")
def delicate(tmp_path_factory: pytest.TempPathFactory, byte_checkpoint: Path) -> Path:
    """A checkpoint whose int8 says other things: each block of weights has one huge one."""
    path = tmp_path_factory.mktemp("delicate") / "model"
    shutil.copytree(byte_checkpoint, path)
    file = path / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if "layer_norm" in name:
            tensor[0] = 0  # so the huge weights are of inputs that are always 0
        elif (
            name.endswith(("q.weight", "k.weight", "v.weight", "wi_0.weight", "wi_1.weight"))
            or name == "lm_head.weight"
        ):
            tensor[:, 0] = 3e4
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, file, {"format": "pt"})
    return path


@pytest.mark.filterwarnings("default::seq2edge.quantize.errors.QuantizationWarning")
def test_auto_falls_back_to_a_scheme_that_is_good_enough(
    delicate: Path, make: Callable[..., dict[str, Any]], call: Call, tmp_path: Path
) -> None:
    report = make(delicate, "cpu")
    tried = [s["report"] for s in report["steps"] if s["step"] == "quantize"]
    assert [quantized["scheme"] for quantized in tried] == ["int8", "fp16"]
    assert [quantized["check"]["passed"] for quantized in tried] == [False, True]
    assert report["scheme"] == "fp16"
    assert steps(make(delicate, "cpu")) == ["export", "quantize", "quantize", "pack"]
    # What is asked for by name is kept.
    (tmp_path / "app.make").rename(tmp_path / "before.make")
    words = ("make", delicate, "--for", "cpu", "--no-validate", "--force", "--scheme", "int8")
    done = call(*words, "-o", tmp_path / "app.tar")
    assert done.code == 0
    assert "int8-" in done.err and "computes something else than" in done.err
    assert "and that is more than" in done.out


def test_a_loss_beyond_max_drop_falls_back_as_well(
    make: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"source": w, "target": "K"}) for w in WORDS))
    measured = ("--data", data, "--metric", "per")
    report = make(DEMO, "cpu", "app.tar", *measured, "--max-drop", "-1000")
    assert report["scheme"] == "float32"
    failed = [s["report"]["failed"] for s in report["steps"] if s["step"] == "quantize"]
    assert len(failed) == 2
    assert steps(make(DEMO, "cpu", "app.tar", *measured, "--max-drop", "-1000")) == [
        *("export", "quantize", "quantize", "pack"),
    ]
    report = make(DEMO, "cpu", "app.tar", *measured, "--max-drop", "1000")
    assert steps(report) == ["export", "QUANTIZE", "COMPARE", "PACK"]
    reference, variant = report["steps"][2]["report"]["entries"]
    assert (reference["precision"], variant["precision"]) == ("float32", "int8")


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    call: Call, make: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    words = ("make", DEMO, "--for", "jetson-orin", "-o", tmp_path / "app.tar", "--no-validate")
    done = call(*words, "--dry-run")
    assert done.code == 0, done.err
    assert [line.split()[2] for line in done.out.splitlines() if line.startswith("$ ")] == [
        *("export", "quantize", "downgrade", "pack"),
    ]
    assert not list(tmp_path.iterdir())
    make(DEMO, "jetson-orin", "app.tar")
    done = call(*words, "--dry-run", "--scheme", "int4")
    assert [line.split()[2] for line in done.out.splitlines() if line.startswith("$ ")] == [
        *("quantize", "downgrade", "pack"),
    ]
    report = json.loads(call(*words, "--dry-run", "--json").out)
    assert steps(report) == ["export", "quantize", "downgrade", "pack"]


def test_a_dry_run_asks_no_hub_and_names_a_checkpoint_that_cannot_be(
    call: Call, refused: Callable[..., str], tmp_path: Path
) -> None:
    words = ("--for", "cpu", "-o", tmp_path / "app.tar", "--dry-run", "--no-validate")
    assert call("make", "org/model", *words).code == 0
    for name in (tmp_path / "missing", "a/b/c"):
        assert f"no such checkpoint folder: {name}" in refused("make", name, *words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--for", "toaster"], "unknown target 'toaster'"),
        (["--for", "jetson-orin", "--jetpack", "5"], "has no JetPack 5"),
        (["--for", "cpu", "--backend", "tensorrt"], "cpu has no engine 'tensorrt'"),
        (["--for", "cpu", "--scheme", "int3"], "unknown scheme 'int3' for 'cpu'"),
        (["--for", "gpu", "--scheme", "int8-qdq"], "give it text with --texts"),
        (["--for", "cpu", "--texts", "missing.txt"], "cannot read --texts missing.txt"),
        (["--for", "cpu", "--data", "x.jsonl"], "--data and --metric belong together"),
        (["--for", "cpu", "--max-drop", "1"], "need --data and --metric"),
        (["--for", "cpu", "--wheels", "missing"], "missing"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    options: list[str], message: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    words = ("make", DEMO, "-o", tmp_path / "app.tar", "--no-validate", *options)
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("app.zip", "is an archive of no kind that is written here"),
        ("a b.tar", "becomes the name of a folder and a service"),
        ("missing/app.tar", "is not a folder"),
    ],
)
def test_bad_outputs_are_refused_before_any_work(
    name: str, message: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    assert message in refused("make", DEMO, "--for", "cpu", "-o", tmp_path / name)


def test_no_checkpoint_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    message = refused("make", tmp_path / "none", "--for", "cpu", "-o", tmp_path / "app.tar")
    assert str(tmp_path / "none") in message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_half_written_and_the_next_goes_on(
    number: signal.Signals,
    program: list[str],
    make: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    command = [*program, "make", str(DEMO), "--for", "cpu", "--no-validate"]
    output = tmp_path / "app.tar"
    process = subprocess.Popen(
        [*command, "-o", str(output)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:  # killed while it quantizes
        if line.startswith("$ seq2edge quantize"):
            break
    time.sleep(0.05)
    process.send_signal(number)
    process.communicate()
    assert not output.exists()
    (work,) = [path for path in tmp_path.iterdir() if path.name != "words.txt"]
    for bundle in work.glob("*.bundle"):
        Bundle.open(bundle).verify()
    report = make(DEMO, "cpu")
    assert steps(report)[0] == "export"
    assert not [path for path in work.iterdir() if path.name.endswith((".partial", ".old"))]
    with tarfile.open(output) as tar:
        assert "app/install.sh" in tar.getnames()


def test_two_runs_in_one_folder_do_not_meet(call: Call, tmp_path: Path) -> None:
    from seq2edge.cli.make.workspace import Workspace

    words = ("make", DEMO, "--for", "cpu", "-o", tmp_path / "app.tar", "--no-validate")
    with Workspace(tmp_path / "app.make").locked():
        done = call(*words)
    assert done.code == 2
    assert "another seq2edge make works in" in done.err


def test_make_and_install_are_all_that_it_takes(
    make: Callable[..., dict[str, Any]], texts: Path, tmp_path: Path
) -> None:
    """The pack is unpacked and installs itself; its run.sh says what the bundle says."""
    report = make(DEMO, "cpu", "app.tar.gz", "--texts", texts)
    with tarfile.open(tmp_path / "app.tar.gz") as tar:
        tar.extractall(tmp_path / "device", filter="data")
    folder = tmp_path / "device" / "app"
    pins = (folder / "requirements.txt").read_text().splitlines()
    packages = link_pins(pins, tmp_path / "packages")
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(packages)}
    for name, *words in (("install.sh", "--offline"), ("run.sh", *WORDS)):
        done = subprocess.run(
            [folder / name, *words], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
    bundle = Path(report["steps"][1]["report"]["bundle"])
    with Seq2SeqModel.load(bundle) as model:
        assert done.stdout.splitlines() == [found.text for found in model.generate(WORDS)]
