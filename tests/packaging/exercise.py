"""What an installed seq2edge is asked to do, with nothing but what its environment has.

``python exercise.py PROFILE CHECKPOINT EXPECTED`` runs outside the repository, in the environment
that is examined. It prints a line of JSON: the versions it ran with, and what each step said.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

#: Whose versions a report names.
PACKAGES = (
    "numpy",
    "tokenizers",
    "onnxruntime",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "transformers",
    "safetensors",
)

WORDS = ("gateway", "raspberry", "keyboard")


def command(*arguments: str | Path) -> str:
    """Standard output of the ``seq2edge`` of this environment; a traceback is never an answer."""
    program = Path(sysconfig.get_path("scripts")) / "seq2edge"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0 or "Traceback" in done.stderr:
        raise AssertionError(f"{arguments[0]}: {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def refused(*arguments: str | Path, says: str) -> str:
    """The command ends with exit code 2 and one line that says why."""
    try:
        command(*arguments)
    except AssertionError as error:
        text = str(error)
        if f"{arguments[0]}: 2: seq2edge: error:" in text and says in text and "\n" not in text:
            return "refused, as it should"
        raise
    raise AssertionError("not refused")


def equal(found: Any, expected: Any) -> str:
    if found != expected:
        raise AssertionError(f"{found!r} in place of {expected!r}")
    return "as expected"


def device(bundle: Path, expected: dict[str, Any]) -> dict[str, Callable[[], str]]:
    """Generate, stream and search with a bundle that was made elsewhere."""

    def generate() -> str:
        from seq2edge.runtime import Seq2SeqModel

        with Seq2SeqModel.load(bundle) as model:
            found = [result.text for result in model.generate(list(WORDS))]
            equal([list(model.stream(word))[-1] != "" for word in WORDS], [True] * len(WORDS))
            beams = [result.text for result in model.generate(list(WORDS), num_beams=4)]
        equal(beams, expected["beams"])
        return equal(found, expected["greedy"])

    return {
        "help": lambda: command("--help") and "shown",
        "inspect": lambda: equal(json.loads(command("inspect", bundle, "--json"))["family"], "t5"),
        "generate": generate,
        "run": lambda: equal(command("run", bundle, *WORDS).splitlines(), expected["greedy"]),
        "bench": lambda: command("bench", bundle, "--runs", "1", "--json") and "ran",
    }


def workstation(
    checkpoint: Path, folder: Path, onnxruntime: tuple[int, ...], expected: dict[str, Any]
) -> dict[str, Callable[[], str]]:
    """Export, downgrade and quantize, and run what came of it."""
    runs_opset_24, has_block_kernels = onnxruntime >= (1, 25), onnxruntime >= (1, 22)
    exported, small = folder / "a.bundle", folder / "int8.bundle"

    def run(bundle: Path) -> str:
        return equal(command("run", bundle, *WORDS).splitlines(), expected["greedy"])

    def downgrade(bundle: Path) -> str:
        old = bundle.with_suffix(".old.bundle")
        command("downgrade", bundle, old)
        return run(old)

    def quantize() -> str:
        if not has_block_kernels:
            return refused("quantize", exported, small, "--scheme", "int8", says="1.22 or newer")
        check = () if runs_opset_24 else ("--no-check",)
        command("quantize", exported, small, "--scheme", "int8", *check)
        return run(small) if runs_opset_24 else downgrade(small)

    steps: dict[str, Callable[[], str]] = {
        "export": lambda: command("export", checkpoint, exported, "--no-validate") and "written",
        "downgrade": lambda: downgrade(exported),
        "quantize": quantize,
    }
    if runs_opset_24:
        steps["run"] = lambda: run(exported)
    return steps


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main() -> int:
    profile, source, expected_file = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    expected = json.loads(expected_file.read_text(encoding="utf-8"))
    found = versions()
    onnxruntime = tuple(int(part) for part in found["onnxruntime"].split(".")[:2])
    said: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        if profile == "device":
            steps = device(source, expected)
        else:
            steps = workstation(source, Path(temporary), onnxruntime, expected)
        for name, step in steps.items():
            try:
                said[name] = step()
            except Exception as error:
                said[name] = f"FAILED: {type(error).__name__}: {error}"
    print(json.dumps({"versions": found, "steps": said}))
    return any(text.startswith("FAILED") for text in said.values())


if __name__ == "__main__":
    sys.exit(main())
