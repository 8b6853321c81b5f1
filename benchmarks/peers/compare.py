"""seq2edge against optimum-onnx and CTranslate2 on this machine, in turns.

    python benchmarks/peers/compare.py --threads 2

All contenders run one checkpoint (T5-small's geometry, random weights). Each is a process with
an interpreter of its own (_driver.py); CTranslate2 first finds its best settings.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from seq2edge.benchmarks.peers._driver import Contender, PeerError, Result, Spread, alternate
    from seq2edge.benchmarks.peers._environments import REQUIREMENTS, prepare
    from seq2edge.benchmarks.peers._models import (
        CONTENDERS,
        PEER_VARIABLES,
        VOCAB_SIZE,
        make_models,
        size,
    )
    from seq2edge.benchmarks.peers._report import Entry, Report, Setting, Workload, print_report
    from seq2edge.benchmarks.peers._worker import Task
else:
    from _driver import Contender, PeerError, Result, Spread, alternate
    from _environments import REQUIREMENTS, prepare
    from _models import CONTENDERS, PEER_VARIABLES, VOCAB_SIZE, make_models, size
    from _report import Entry, Report, Setting, Workload, print_report
    from _worker import Task

_FOLDER = Path(__file__).resolve().parent
#: build/ is ignored by git and removed by `make clean`.
_ENVIRONMENTS = _FOLDER.parents[1] / "build" / "peers"
_WARMUP_ROUNDS = 3


def compare(workload: Workload, names: Sequence[str], environments: Path) -> Report:
    """Make the models in a temporary folder, find CTranslate2's settings, and time all.

    Args:
        workload: what they do.
        names: who takes part, from CONTENDERS.
        environments: folder of the peers' environments, which are made where missing.

    Raises:
        PeerError: an environment or a model cannot be made, or a contender failed.
    """
    from seq2edge.benchmarks.machine import cpu_model  # _check_interpreter comes first

    names = [name for name in CONTENDERS if name in names]
    pythons = {
        "optimum": prepare(environments / "torch", REQUIREMENTS["torch"]),
        "seq2edge": Path(sys.executable),
    }
    if any(name.startswith("ctranslate2:") for name in names):
        pythons["ctranslate2"] = prepare(environments / "ctranslate2", REQUIREMENTS["ctranslate2"])
    with tempfile.TemporaryDirectory(prefix="seq2edge-peers-") as temporary:
        models = make_models(names, Path(temporary), pythons["optimum"], _say)

        def start(name: str, setting: Setting) -> Contender:
            library = name.partition(":")[0]
            return _contender(name, pythons[library], models[name], workload, setting)

        tried = {name: _search(name, workload, start) for name in names}
        best = {name: min(tried[name], key=lambda s: tried[name][s].p50) for name in names}
        results = alternate(
            {name: start(name, best[name]) for name in names},
            rounds=workload.rounds,
            warmup=_WARMUP_ROUNDS,
            progress=_progress("timing"),
        )
        sizes = {name: size(models[name]) for name in names}
    _check_lengths(results, workload.new_tokens)
    reference = next((name for name in names if name.endswith(":float32")), names[0])
    return Report(
        workload=workload,
        contenders={
            name: Entry(
                milliseconds=Spread.of(result.milliseconds),
                rounds=result.milliseconds,
                setting=best[name],
                tried={str(s): spread for s, spread in tried[name].items() if len(tried[name]) > 1},
                same_tokens=_common_start(result.tokens, results[reference].tokens),
                distinct_tokens=len(set(result.tokens)),
                disk_bytes=sizes[name],
                loaded_bytes=result.loaded_bytes,
                versions=result.versions,
            )
            for name, result in results.items()
        },
        ratios=_ratios({name: result.milliseconds for name, result in results.items()}),
        reference=reference,
        cpu=cpu_model(),
    )


def _contender(
    name: str, python: Path, model: Path, workload: Workload, setting: Setting
) -> Contender:
    library, precision = name.split(":")
    # Seeded; none of T5's special tokens, which are the first three.
    source = np.random.default_rng(0).integers(3, VOCAB_SIZE, workload.source_length)
    task = Task(
        model=str(model),
        precision=precision,
        source=tuple(source.tolist()),
        new_tokens=workload.new_tokens,
        num_beams=workload.num_beams,
        threads=setting.threads,
    )
    variables = dict(PEER_VARIABLES) if library != "seq2edge" else {}
    if setting.wait_policy is not None:
        variables["OMP_WAIT_POLICY"] = setting.wait_policy
    worker = _FOLDER / f"_{library}_worker.py"
    return Contender((str(python), str(worker), json.dumps(asdict(task))), variables)


def _search(
    name: str, workload: Workload, start: Callable[[str, Setting], Contender]
) -> dict[Setting, Spread]:
    """Times of the settings that a contender may take; one setting is not timed."""
    if not name.startswith("ctranslate2:"):
        return {Setting(workload.threads): Spread(0.0, 0.0, 0.0)}
    # Each is a process of its own, because the variable is read when OpenMP starts.
    settings = {
        str(setting): setting
        for threads in sorted({1, workload.threads})
        for policy in ("passive", "active")
        for setting in [Setting(threads, policy)]
    }
    results = alternate(
        {label: start(name, setting) for label, setting in settings.items()},
        rounds=workload.search_rounds,
        warmup=_WARMUP_ROUNDS,
        progress=_progress(f"settings of {name}"),
    )
    return {settings[label]: Spread.of(found.milliseconds) for label, found in results.items()}


def _check_lengths(results: dict[str, Result], new_tokens: int) -> None:
    for name, result in results.items():
        if len(result.tokens) != new_tokens:
            raise PeerError(
                f"{name} generated {len(result.tokens)} tokens instead of {new_tokens};"
                " the times cannot be compared"
            )


def _common_start(a: Sequence[int], b: Sequence[int]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))


def _ratios(times: dict[str, list[float]]) -> dict[str, Spread]:
    """seq2edge's over each peer's, and of seq2edge's own precisions over those before."""
    names = list(times)
    return {
        f"{name} / {other}": Spread.of(np.divide(times[name], times[other]).tolist())
        for place, name in enumerate(names)
        if name.startswith("seq2edge:")
        for other in names[:place]
    }


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


def _progress(title: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{title}: round {done} of {total}", end=end, file=sys.stderr, flush=True)

    return show


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for option, default, text in (
        ("--threads", 2, "threads within an operator; CTranslate2 may do better with 1"),
        ("--source-length", 64, "source tokens"),
        ("--new-tokens", 64, "generated tokens (no end token)"),
        ("--num-beams", 1, "beams; 1 is greedy decoding"),
        ("--rounds", 15, "timed rounds; each contender generates once a round"),
        ("--search-rounds", 5, "rounds for CTranslate2's settings"),
    ):
        parser.add_argument(
            option, type=_positive, default=default, metavar="N", help=f"{text} ({default})"
        )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=CONTENDERS,
        metavar="NAME",
        help=f"who takes part, of {', '.join(CONTENDERS)} (all)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--environments",
        type=Path,
        default=_ENVIRONMENTS,
        metavar="DIR",
        help="folder of the peers' virtual environments (build/peers)",
    )
    return parser.parse_args(arguments)


def _check_interpreter() -> None:
    """Say at once what would otherwise fail after minutes."""
    if sys.version_info < (3, 11):
        raise PeerError("this comparison needs Python 3.11 or newer, as onnxruntime 1.32 does")
    # onnx_ir stands for the extra: what the export would miss first.
    for name in ("seq2edge", "onnx_ir", "onnxruntime"):
        if find_spec(name) is None:
            raise PeerError(
                f"{name} is not installed: pip install -e '.[cpu,export]' in the repository"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the float32 models disagree, 2 no comparison was made."""
    options = _arguments(arguments)
    workload = Workload(
        source_length=options.source_length,
        new_tokens=options.new_tokens,
        num_beams=options.num_beams,
        threads=options.threads,
        rounds=options.rounds,
        search_rounds=options.search_rounds,
    )
    try:
        _check_interpreter()
        report = compare(workload, options.contenders, options.environments.absolute())
    except (PeerError, OSError) as error:
        print(f"compare.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("compare.py: interrupted", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print_report(report)
    return 0 if report.agrees else 1


if __name__ == "__main__":
    sys.exit(main())
