"""``seq2edge doctor``: a report of this very machine, and whether a bundle runs on it."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Refuses = Callable[..., str]


@pytest.fixture(scope="module")
def bfloat16_bundle(
    tmp_path_factory: pytest.TempPathFactory, bundle_of: Callable[[str], Path]
) -> Path:
    """A bundle that no CPU runs."""
    from seq2edge.quantize import quantize_bundle

    path = tmp_path_factory.mktemp("doctor") / "bf16"
    quantize_bundle(bundle_of("t5"), path, "bf16", target="cuda")
    return path


def test_report_is_of_this_machine(cli: Cli) -> None:
    import onnxruntime

    done = cli("doctor")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    rows = {line[2:18].strip(): line[18:] for line in text.splitlines() if line.startswith("  ")}
    assert rows["onnxruntime"] == onnxruntime.__version__
    assert rows["cores"].endswith(f"{len(os.sched_getaffinity(0))} for this process")
    assert "onnxruntime" in rows["can run"].split(", ")
    assert "CPUExecutionProvider runs" in text
    # Commands stand alone on their lines, to be pasted.
    commands = [line for line in text.splitlines() if line.startswith("seq2edge ")]
    assert commands[0].startswith("seq2edge quantize model.bundle model.")


def test_commands_that_are_advised_are_commands(cli: Cli) -> None:
    """Their options exist: each fails for want of the bundle, not of an option."""
    text = cli("doctor").stdout.decode()
    for line in text.splitlines():
        if line.startswith("seq2edge "):
            done = cli(*line.split()[1:])
            assert done.returncode == 2
            assert b"no such bundle" in done.stderr, done.stderr


def test_json_is_for_programs(cli: Cli, byte_bundle: Path) -> None:
    done = cli("doctor", "--json", "--bundle", byte_bundle)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["machine"]["python"] == platform.python_version()
    assert "onnxruntime" in report["engines"]
    assert report["bundle"]["fits"] is True
    weights = (byte_bundle / "weights.bin").stat().st_size
    assert report["bundle"]["weight_bytes"] == weights
    engines = {entry["backend"]: entry["runs"] for entry in report["bundle"]["engines"]}
    assert engines["onnxruntime"] is True
    assert report["advice"]["schemes"]


def test_a_bundle_that_fits(cli: Cli, byte_bundle: Path) -> None:
    done = cli("doctor", "--bundle", byte_bundle)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "it can run here" in done.stdout.decode()


def test_it_ends_with_the_next_commands_for_the_bundle(cli: Cli, byte_bundle: Path) -> None:
    """They can be pasted: the first one runs."""
    text = cli("doctor", "--bundle", byte_bundle).stdout.decode()
    run, quantize = (line for line in text.splitlines() if line.startswith("seq2edge "))
    assert run == f"seq2edge run {byte_bundle} 'a text' --threads 1"
    assert (
        "# run this bundle (float32) here, with onnxruntime and --threads 1: a step reads" in text
    )
    done = cli(*shlex.split(run)[1:], "--max-new-tokens", 2)
    assert done.returncode == 0, done.stderr
    assert quantize.startswith(f"seq2edge quantize {byte_bundle} {byte_bundle}.int")
    assert text.splitlines()[-1] == quantize


def test_a_pack_names_its_own_program(cli: Cli, refuses: Refuses, byte_bundle: Path) -> None:
    done = cli("doctor", "--bundle", byte_bundle, "--program", "/opt/my app/run.sh")
    assert "\n'/opt/my app/run.sh' 'a text' --threads 1\n" in done.stdout.decode()
    assert "give both, or neither" in refuses("doctor", "--program", "run.sh")


def test_a_bundle_that_cannot_run_here_is_exit_code_2(cli: Cli, bfloat16_bundle: Path) -> None:
    done = cli("doctor", "--bundle", bfloat16_bundle)
    assert done.returncode == 2
    message = done.stderr.decode()
    assert message.startswith("seq2edge: error: ")
    assert message.count("\n") == 1
    assert "cannot run here: no engine of this machine runs it" in message
    # The report is there all the same, with the reason.
    assert "cannot compute in bfloat16 on a CPU" in done.stdout.decode()


def test_a_folder_that_is_no_bundle(refuses: Refuses, tmp_path: Path) -> None:
    assert "not a seq2edge bundle" in refuses("doctor", "--bundle", tmp_path)


def test_no_engine_is_exit_code_2(
    program: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    """Where neither onnxruntime nor TensorRT can be imported."""
    for name in ("onnxruntime", "tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('libbroken.so is missing')\n")
    paths = filter(None, [str(tmp_path), environment.get("PYTHONPATH")])
    done = subprocess.run(
        [*program, "doctor"],
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no engine runs here" in done.stderr
    assert "onnxruntime cannot be used: libbroken.so is missing" in done.stdout
    assert "tensorrt cannot be used: tensorrt cannot be imported" in done.stdout


def test_help_says_the_exit_codes(cli: Cli) -> None:
    text = " ".join(cli("doctor", "--help").stdout.decode().split())
    assert "Exit code 0: the bundle can run here" in text
