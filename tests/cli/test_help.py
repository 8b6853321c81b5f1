"""Help and version answer at once: nothing heavy is imported for them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

COMMANDS = [
    "make",
    "export",
    "import",
    "quantize",
    "downgrade",
    "build",
    "pack",
    "triton",
    "run",
    "transcribe",
    "serve",
    "encode",
    "inspect",
    "doctor",
    "bench",
    "peers",
    "bench-diff",
    "eval",
    "compare",
]

#: Prints the help of the command in argv, then the names of all loaded modules on stderr.
_HELP = """
import sys
from seq2edge.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _HELP, *command, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: {' '.join(['seq2edge', *command])} ")
    loaded = {name.partition(".")[0] for name in result.stderr.split()}
    assert "argparse" in loaded
    assert not loaded & {
        "numpy",
        "onnxruntime",
        "tokenizers",
        "torch",
        "transformers",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "safetensors",
        "tqdm",
    }


def test_help_lists_every_command(cli: Callable[..., Any]) -> None:
    text = cli("--help").stdout.decode()
    assert [line.split()[0] for line in text.splitlines() if line.startswith("    ")] == COMMANDS


def test_no_command_is_a_usage_error(cli: Callable[..., Any]) -> None:
    result = cli()
    assert result.returncode == 2
    assert b"COMMAND" in result.stderr


def test_version_is_the_installed_one(cli: Callable[..., Any]) -> None:
    try:
        expected = version("seq2edge")
    except PackageNotFoundError:
        expected = "0 (not installed)"
    result = cli("--version")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode() == f"seq2edge {expected}\n"
