"""seq2edge against optimum-onnx on this machine: one checkpoint, greedy decoding in turns.

    python benchmarks/peers/optimum.py --threads 2

optimum-onnx needs an older transformers than seq2edge's own checks, so it gets a virtual
environment of its own, made once. There, _optimum_worker.py runs both models in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

_WORKER = Path(__file__).resolve().parent / "_optimum_worker.py"
#: build/ is ignored by git and removed by `make clean`.
_ENVIRONMENT = _WORKER.parents[2] / "build" / "peers" / "optimum"
#: optimum-onnx 0.1.0 takes transformers below 4.58; the rest as in constraints.txt.
_REQUIREMENTS = (
    "optimum-onnx==0.1.0",
    "optimum==2.1.0",
    "transformers==4.57.6",
    "torch==2.13.0",
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "numpy==2.4.6",
)
#: In the environment's folder, once it is complete: what it was made of. Empty until then.
_STAMP = "seq2edge-peer.txt"


class PeerError(Exception):
    """The comparison cannot be made; the message says why, in one line."""


@dataclass(frozen=True)
class Spread:
    """Percentiles over the rounds."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        p10, p50, p90 = np.percentile(values, [10, 50, 90])
        return cls(float(p10), float(p50), float(p90))


@dataclass(frozen=True)
class Workload:
    """What both models do; lengths in tokens. Batch size 1."""

    source_length: int
    new_tokens: int
    threads: int
    rounds: int
    num_beams: int = 1


@dataclass(frozen=True)
class Report:
    """The comparison.

    Attributes:
        milliseconds: of a whole generation, encoder included, by contender.
        ratio: seq2edge's time over optimum's, of each round's pair.
        bytes: on disk; ``optimum loaded`` is the part of optimum's folder that it opens.
        distinct_tokens: different ones among those generated: what ``identical_tokens`` proves.
    """

    workload: Workload
    milliseconds: dict[str, Spread]
    ratio: Spread
    identical_tokens: bool
    distinct_tokens: int
    bytes: dict[str, int]
    versions: dict[str, str]
    cpu: str


def compare(workload: Workload, environment: Path) -> Report:
    """Make the checkpoint and both exports in a temporary folder, and time them.

    Raises:
        PeerError: the environment cannot be made, or an export or the timing failed.
    """
    python = prepare_environment(environment)
    with tempfile.TemporaryDirectory(prefix="seq2edge-optimum-") as name:
        folder = Path(name)
        checkpoint, onnx, bundle = folder / "checkpoint", folder / "optimum", folder / "bundle"
        worker = _Worker(python, folder / "packages")
        _say("exporting with optimum and seq2edge")
        worker.run("export", checkpoint, onnx)
        producer = _export_bundle(checkpoint, bundle)
        _say(f"timing {workload.rounds} rounds")
        result = folder / "result.json"
        worker.run("measure", onnx, bundle, json.dumps(asdict(workload)), result)
        measured = json.loads(result.read_text())
        sizes = {
            "checkpoint": _size(checkpoint),
            "optimum": _size(onnx),
            "optimum loaded": measured["optimum_loaded_bytes"],
            "seq2edge": _size(bundle),
        }
    times, tokens = measured["milliseconds"], measured["tokens"]
    return Report(
        workload=workload,
        milliseconds={name: Spread.of(values) for name, values in times.items()},
        ratio=Spread.of(np.divide(times["seq2edge"], times["optimum"]).tolist()),
        identical_tokens=tokens["seq2edge"] == tokens["optimum"],
        distinct_tokens=len(set(tokens["optimum"])),
        bytes=sizes,
        versions={"seq2edge": producer.removeprefix("seq2edge "), **measured["versions"]},
        cpu=_cpu_model(),
    )


def prepare_environment(folder: Path) -> Path:
    """The interpreter of the peer's environment, which is made if it is not there yet.

    Raises:
        PeerError: ``folder`` is something else, or the packages cannot be installed.
    """
    python, stamp = folder / "bin" / "python", folder / _STAMP
    wanted = "\n".join([f"python {platform.python_version()}", *_REQUIREMENTS, ""])
    if stamp.is_file():
        if stamp.read_text() == wanted and python.exists():
            return python
        shutil.rmtree(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PeerError(f"{folder} was not made by this script; name a new folder")
    _say(f"making optimum's environment in {folder} (once, minutes)")
    folder.mkdir(parents=True, exist_ok=True)
    stamp.touch()
    try:
        _call([sys.executable, "-m", "venv", folder], "cannot make a virtual environment")
        _call(
            [python, "-m", "pip", "install", "--quiet", *_REQUIREMENTS],
            "cannot install optimum-onnx (is the package index within reach?)",
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    stamp.write_text(wanted)
    return python


class _Worker:
    """Runs _optimum_worker.py with the peer's interpreter and the caller's own seq2edge.

    A link to the runtime that was imported here stands in for an installed package: what is
    measured is never an old copy, however seq2edge was installed.
    """

    def __init__(self, python: Path, packages: Path) -> None:
        import seq2edge.runtime

        (packages / "seq2edge").mkdir(parents=True)
        runtime = Path(seq2edge.runtime.__path__[0]).resolve()
        (packages / "seq2edge" / "runtime").symlink_to(runtime, target_is_directory=True)
        self._python = python
        self._variables = {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"}

    def run(self, *arguments: object) -> None:
        # -P: the folder of the worker has an optimum.py (this file).
        _call(
            [self._python, "-P", _WORKER, *arguments],
            f"{_WORKER.name} {arguments[0]} failed",
            self._variables,
        )


def _export_bundle(checkpoint: Path, bundle: Path) -> str:
    """Export with seq2edge, in the caller's interpreter; returns what the manifest says made it.

    By the command line, because benchmarks/ may not import export/ (docs/design.md).
    """
    from seq2edge.runtime import Bundle

    command = [sys.executable, "-P", "-m", "seq2edge.cli.main", "export", checkpoint, bundle]
    _call([*command, "--no-validate"], "seq2edge cannot export the checkpoint")
    return Bundle.open(bundle).manifest.producer


def _call(
    command: Sequence[object], failure: str, variables: Mapping[str, str] | None = None
) -> None:
    """Run a command quietly; its last error line goes into the exception."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines
        reason = errors[-1] if errors else f"exit status {done.returncode}"
        raise PeerError(f"{failure}: {reason}")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _cpu_model() -> str:
    """The processor's name; Arm kernels name the board instead, if anything."""
    names = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        key, _, value = line.partition(":")
        names[key.strip()] = value.strip()
    return names.get("model name") or names.get("Model") or platform.machine()


def _print(report: Report) -> None:
    work, versions = report.workload, report.versions
    print(
        f"T5-small geometry, random weights, float32; batch 1, source {work.source_length},"
        f" {work.new_tokens} new tokens, beams {work.num_beams}, {work.threads} threads,"
        f" {work.rounds} rounds"
    )
    print(f"{'ms':28}{'p10':>10}{'p50':>10}{'p90':>10}")
    for name, package in (("optimum", "optimum-onnx"), ("seq2edge", "seq2edge")):
        times = report.milliseconds[name]
        title = f"{package} {versions[package]}"
        print(f"{title:28}{times.p10:10.1f}{times.p50:10.1f}{times.p90:10.1f}")
    ratio = report.ratio
    print(f"{'seq2edge / optimum':28}{ratio.p10:10.3f}{ratio.p50:10.3f}{ratio.p90:10.3f}")
    same = "identical" if report.identical_tokens else "DIFFERENT"
    print(f"tokens: {same} ({report.distinct_tokens} of {work.new_tokens} distinct)")
    sizes = (f"{name} {count / 1e6:.1f} MB" for name, count in report.bytes.items())
    print(f"size: {', '.join(sizes)}")
    others = (f"{k} {v}" for k, v in versions.items() if k not in ("optimum-onnx", "seq2edge"))
    print(f"{report.cpu}; {', '.join(others)}")


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for option, default, text in (
        ("--threads", 2, "threads within an operator, for both"),
        ("--source-length", 64, "source tokens"),
        ("--new-tokens", 64, "generated tokens (the end token is ignored)"),
        ("--num-beams", 1, "beams; 1 is greedy decoding"),
        ("--rounds", 15, "timed rounds; a round runs each model once"),
    ):
        parser.add_argument(
            option, type=_positive, default=default, metavar="N", help=f"{text} ({default})"
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--environment",
        type=Path,
        default=_ENVIRONMENT,
        metavar="DIR",
        help="folder of optimum's virtual environment (build/peers/optimum)",
    )
    return parser.parse_args(arguments)


def _check_interpreter() -> None:
    """Say at once what would otherwise fail after minutes."""
    if sys.version_info < (3, 11):
        raise PeerError("this comparison needs Python 3.11 or newer, as onnxruntime 1.32 does")
    # onnx_ir stands for the extra: what the export would miss first.
    missing = [name for name in ("seq2edge", "onnx_ir") if find_spec(name) is None]
    if missing:
        raise PeerError(
            f"{missing[0]} is not installed: pip install -e '.[export]' in the repository"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the models disagree, 2 no comparison was made."""
    options = _arguments(arguments)
    workload = Workload(
        source_length=options.source_length,
        new_tokens=options.new_tokens,
        threads=options.threads,
        rounds=options.rounds,
        num_beams=options.num_beams,
    )
    try:
        _check_interpreter()
        report = compare(workload, options.environment.absolute())
    except (PeerError, OSError) as error:
        print(f"optimum.py: error: {error}", file=sys.stderr)
        return 2
    if options.json:
        document: dict[str, Any] = asdict(report)
        print(json.dumps(document, indent=2))
    else:
        _print(report)
    return 0 if report.identical_tokens else 1


if __name__ == "__main__":
    sys.exit(main())
