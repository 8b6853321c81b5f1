"""``make test-arm64``: the installed runtime on emulated arm64 processors gives x86's tokens.

Bundles are made here, run here and run again under QEMU, by the same script and with the wheels
that a board installs. Exit code 0: all agree (agreement.py says what that means); 1: they do not;
2: it could not be done.

Times are those of an emulator, which says nothing about a board's.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agreement import Comparison, Machine, bounds, compare
from debian import Mirror, UnreachableError
from emulator import (
    INSTRUCTIONS,
    REPOSITORY,
    Emulator,
    EmulatorError,
    count_instructions,
    install_runtime,
    make_emulator,
)
from models import make_bundles

from seq2edge.runtime.errors import Seq2EdgeError

DEVICE = Path(__file__).with_name("device.py")

#: QEMU's name of a processor: what it stands for, and features that its kernels must use.
PROCESSORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cortex-a53": ("Raspberry Pi 3; no dot products, like Pi 4 and Jetson Nano", ()),
    "cortex-a76": ("Raspberry Pi 5; dot products, like Jetson Orin", ("dotprod",)),
    "max,sme=off": ("integer matrix products and SVE, like Jetson Thor", ("dotprod", "i8mm")),
    "max": ("all that QEMU has, SME included", ("sme",)),
}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if platform.machine() != "x86_64":
            raise EmulatorError("arm64 is compared with x86-64; on an arm64 machine: make test")
        emulator = make_emulator(
            options.cache,
            lambda: Mirror(options.mirror.rstrip("/")) if options.mirror else Mirror.of_host(),
        )
    except UnreachableError as error:
        if options.skip_unreachable:
            print(f"skipped, nothing was tested on arm64: no Debian mirror: {error}")
            return 0
        return _failed(error)
    except (Seq2EdgeError, OSError) as error:
        return _failed(error)
    with tempfile.TemporaryDirectory(prefix="arm64-") as folder:
        try:
            return _run(emulator, options.cpu or list(PROCESSORS), Path(folder))
        except (Seq2EdgeError, OSError) as error:
            return _failed(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "build" / "arm64")
    parser.add_argument("--mirror", metavar="URL", help="default: the one in the apt sources")
    parser.add_argument(
        "--cpu", action="append", metavar="NAME", help="as QEMU names it; may be repeated"
    )
    parser.add_argument(
        "--skip-unreachable", action="store_true", help="succeed where no mirror answers"
    )
    return parser


def _failed(error: Exception) -> int:
    print(f"test-arm64: {error}", file=sys.stderr)
    return 2


def _run(emulator: Emulator, processors: list[str], folder: Path) -> int:
    packages, job = folder / "packages", folder / "job.json"
    install_runtime(packages)
    # Once for nothing: Python compiles what it imports for the first time.
    warm = "import onnxruntime, seq2edge.runtime"
    emulator.python("max", ["-c", warm], packages=packages, trace=None)
    job.write_text(json.dumps(make_bundles(folder)))
    here = folder / "x86"
    if subprocess.run([sys.executable, DEVICE, job, here], check=False).returncode:
        raise EmulatorError("the bundles do not run on this machine (the reason is above)")
    x86 = Machine.read(here)
    print(f"QEMU {emulator.version}; the times are the emulator's, not a board's")
    problems = []
    for cpu in processors:
        start = time.perf_counter()
        trace, there = folder / "trace", folder / "arm64"
        emulator.python(cpu, [DEVICE, job, there], packages=packages, trace=trace)
        seconds = time.perf_counter() - start
        machine = Machine.read(there)
        problems += _print_processor(cpu, machine, trace)
        problems += _print_comparisons(cpu, x86, machine)
        print(f"  {seconds:.0f} s in all")
    for problem in problems:
        print(f"FAILED {problem}")
    if not problems:
        print("passed: x86 and arm64 agree")
    return 1 if problems else 0


def _print_processor(cpu: str, machine: Machine, trace: Path) -> list[str]:
    """Show what the processor has and which of it was executed; what should have been."""
    meaning, expected = PROCESSORS.get(cpu, ("", ()))
    print(f"\n{cpu}  ({meaning})" if meaning else f"\n{cpu}")
    print(f"  features: {' '.join(machine.features) or 'none of those for small integers'}")
    counts = count_instructions(trace)
    if counts is None:
        print("  this QEMU has no disassembler: what was executed is not known")
        return []
    executed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    print(f"  in the code that was reached: {executed or 'no dot products, no matrix products'}")
    print(f"  import of numpy, onnxruntime, tokenizers and the runtime: {machine.import_s:.1f} s")
    used = {INSTRUCTIONS[name] for name in counts}
    return [f"{cpu}: nothing of {name} was executed" for name in expected if name not in used]


def _print_comparisons(cpu: str, x86: Machine, machine: Machine) -> list[str]:
    """A line for each bundle, one for each difference; what is not explained."""
    print(
        f"  {'bundle':18}{'greedy':>8}{'beam 4':>8}{'logits':>10}{'scores':>10}{'bound':>10}"
        f"{'load':>9}{'step':>10}"
    )
    problems = []
    for name, bound in bounds(x86.outcomes).items():
        here, there = x86.outcomes[name], machine.outcomes[name]
        found = compare(here, there, bound, exact=name.endswith(".float32"))
        same = [
            f"{_same(found, strategy, len(here.sources))}/{len(here.sources)}"
            for strategy in ("greedy", "beam search")
        ]
        print(
            f"  {name:18}{same[0]:>8}{same[1]:>8}{found.logits:10.1e}{found.scores:10.1e}"
            f"{bound:10.1e}{there.load_s:7.2f} s{1e3 * there.step_s:7.1f} ms"
        )
        for one in found.differences:
            verdict = "a near tie" if one.explained(bound) and not found.exact else "NOT EXPLAINED"
            print(
                f"    source {one.source}, {one.strategy}, token {one.position}: x86 prefers its"
                f" choice by {one.gaps[0]:.2g}, arm64 its own by {one.gaps[1]:.2g}: {verdict}"
            )
        problems += [f"{cpu}, {name}: {problem}" for problem in found.problems()]
    return problems


def _same(found: Comparison, strategy: str, sources: int) -> int:
    return sources - sum(one.strategy == strategy for one in found.differences)


if __name__ == "__main__":
    sys.exit(main())
