"""``make test-wheel``: the wheel as users get it, on each Python, with old and new packages.

Builds the source distribution and the wheel from it, installs the wheel outside the repository with
what its metadata asks for (extras ``cpu``, and ``cpu,export`` on a workstation), and has
exercise.py use it. uv resolves: ``lowest-direct`` takes the oldest release of each package of ours
that has a wheel for that Python, ``highest`` the newest. Exit code 0: all did as expected.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from packaging.requirements import Requirement

from seq2edge.export import export_checkpoint
from seq2edge.quantize import downgrade_opset
from seq2edge.runtime import Seq2SeqModel

sys.path.insert(0, str(Path(__file__).parent))

from distributions import build
from exercise import WORDS

ROOT = Path(__file__).parents[2]
EXERCISE = Path(__file__).with_name("exercise.py")
EXTRAS = {"device": ("cpu",), "workstation": ("cpu", "export")}
RESOLUTIONS = ("lowest-direct", "highest")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Case:
    python: str
    profile: str
    resolution: str

    def __str__(self) -> str:
        return f"Python {self.python}, {self.profile}, {self.resolution}"


class UnavailableError(Exception):
    """There is no such Python here, or a package has no wheel for it."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _, wheel = build(ROOT, folder / "dist")
        bundles = _bundles(folder)
        rows = []
        for case in _cases(options):
            try:
                answer = _run(case, wheel, bundles, folder)
            except UnavailableError as reason:
                answer = {"skipped": str(reason)}
            steps = answer.get("steps", {})
            wrong = {name: text for name, text in steps.items() if text.startswith("FAILED")}
            failed |= bool(wrong)
            rows.append({**case.__dict__, **answer})
            print(f"{case}: {_line(answer, wrong)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=PYTHONS, metavar="VERSION")
    parser.add_argument("--profile", nargs="+", default=list(EXTRAS), choices=list(EXTRAS))
    parser.add_argument("--resolution", nargs="+", default=RESOLUTIONS, choices=RESOLUTIONS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="what each said")
    return parser


def _cases(options: argparse.Namespace) -> list[Case]:
    return [
        Case(python, profile, resolution)
        for python in options.python
        for profile in options.profile
        for resolution in options.resolution
    ]


def _line(answer: dict[str, Any], wrong: dict[str, str]) -> str:
    if "skipped" in answer:
        return f"skipped: {answer['skipped']}"
    found = ", ".join(f"{name} {version}" for name, version in answer["versions"].items())
    return "\n  ".join([found, *(f"{name}: {text}" for name, text in wrong.items())])


def _bundles(folder: Path) -> dict[str, Path]:
    """The demo's bundle, the one for old runtimes, and what both are to say."""
    new, old, expected = folder / "g2p.bundle", folder / "g2p.old.bundle", folder / "expected.json"
    export_checkpoint(ROOT / "examples" / "g2p" / "model", new, validate=False)
    downgrade_opset(new, old)
    with Seq2SeqModel.load(new) as model:
        said = {
            "greedy": [result.text for result in model.generate(list(WORDS))],
            "beams": [result.text for result in model.generate(list(WORDS), num_beams=4)],
        }
    expected.write_text(json.dumps(said), encoding="utf-8")
    checkpoint = shutil.copytree(ROOT / "examples" / "g2p" / "model", folder / "checkpoint")
    return {"new": new, "old": old, "expected": expected, "checkpoint": checkpoint}


def _run(case: Case, wheel: Path, bundles: dict[str, Path], folder: Path) -> dict[str, Any]:
    environment = folder / "environment"
    _uv("venv", "-q", "--clear", "--python", case.python, environment)
    python = environment / "bin" / "python"
    asked = [str(wheel), *_requirements(wheel, EXTRAS[case.profile])]
    _uv(
        "pip",
        "install",
        "-q",
        "--no-build",
        "--resolution",
        case.resolution,
        "--python",
        python,
        *asked,
    )
    source = bundles["checkpoint"]
    if case.profile == "device":
        command = [python, "-c", "import onnxruntime; print(onnxruntime.__version__)"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        newer = tuple(int(part) for part in said.split(".")[:2]) >= (1, 25)
        source = bundles["new" if newer else "old"]
    command = [python, "-I", str(EXERCISE), case.profile, str(source), str(bundles["expected"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        answer = {"versions": {}, "steps": {"start": f"FAILED: {done.stderr.strip()[-400:]}"}}
    return answer


def _requirements(wheel: Path, extras: Sequence[str]) -> list[str]:
    """What the wheel asks for with these extras, as requirements of their own.

    So they are direct ones, of which ``lowest-direct`` takes the oldest.
    """
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    found = []
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            found.append(f"{requirement.name}{requirement.specifier}")
    return found


def _uv(*arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise UnavailableError(" ".join(done.stderr.split())[-300:])


if __name__ == "__main__":
    sys.exit(main())
