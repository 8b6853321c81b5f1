"""--device and --strict: where the model runs, and a clear line where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

Cli = Callable[..., Any]


def test_the_cpu_named_is_the_default(cli: Cli, byte_bundle: Path) -> None:
    plain = cli("run", byte_bundle, "a text", "--max-new-tokens", 8)
    named = cli("run", byte_bundle, "a text", "--max-new-tokens", 8, "--device", "cpu", "--strict")
    assert named.returncode == 0 and named.stdout == plain.stdout and plain.stdout


@pytest.mark.parametrize("command", ["run", "bench", "eval"])
def test_cuda_without_the_package_for_it(
    command: str, cli: Cli, byte_bundle: Path, tmp_path: Path
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime is the one for GPUs")
    data = tmp_path / "data.jsonl"
    data.write_text('{"source": "a", "target": "b"}\n')
    rest = {"run": ("a text",), "bench": (), "eval": ("--data", data, "--metric", "cer")}
    done = cli(command, byte_bundle, *rest[command], "--device", "cuda", "--strict")
    assert done.returncode == 2 and done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert "is the one for CPUs: pip uninstall onnxruntime" in line


def test_what_is_about_the_cpus_memory_is_not_measured_of_a_gpu(
    cli: Cli, byte_bundle: Path
) -> None:
    done = cli("bench", byte_bundle, "--memory", "--device", "cuda")
    assert done.returncode == 2
    assert b"about the CPU's memory: leave out --backend and --device" in done.stderr
