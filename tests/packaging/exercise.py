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
    checkpoint: Path, folder: Path, runs_opset_24: bool, expected: dict[str, Any]
) -> dict[str, Callable[[], str]]:
    """Export, downgrade and quantize, and run what came of it."""
    exported, old, small = (folder / name for name in ("a.bundle", "old.bundle", "int8.bundle"))

    def run(bundle: Path) -> str:
        return equal(command("run", bundle, *WORDS).splitlines(), expected["greedy"])

    steps: dict[str, Callable[[], str]] = {
        "export": lambda: command("export", checkpoint, exported, "--no-validate") and "written",
        "downgrade": lambda: command("downgrade", exported, old) and run(old),
    }
    if runs_opset_24:
        steps["run"] = lambda: run(exported)
        steps["quantize"] = lambda: (
            command("quantize", exported, small, "--scheme", "int8") and run(small)
        )
    else:
        steps["quantize"] = lambda: (
            command("quantize", old, small, "--scheme", "int8", "--no-check") and run(small)
        )
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
    major, minor = (int(part) for part in found["onnxruntime"].split(".")[:2])
    said: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        if profile == "device":
            steps = device(source, expected)
        else:
            steps = workstation(source, Path(temporary), (major, minor) >= (1, 25), expected)
        for name, step in steps.items():
            try:
                said[name] = step()
            except Exception as error:
                said[name] = f"FAILED: {type(error).__name__}: {error}"
    print(json.dumps({"versions": found, "steps": said}))
    return any(text.startswith("FAILED") for text in said.values())


if __name__ == "__main__":
    sys.exit(main())
