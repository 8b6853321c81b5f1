"""seq2edge against optimum-onnx, CTranslate2 and PyTorch on this machine, in turns.

    python benchmarks/peers/compare.py --threads 2
    python benchmarks/peers/compare.py --gpu --sources 8 --roofline --go-on

All baselines run one checkpoint (T5-small's geometry with random weights, or --checkpoint). Each
is a process with an interpreter of its own (_driver.py); CTranslate2 first finds its best
settings. How baselines are named: _names.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from seq2edge.benchmarks.peers._comparison import Interpreters, PeerComparison
    from seq2edge.benchmarks.peers._driver import PeerError, Spread
    from seq2edge.benchmarks.peers._gpu import missing_gpu
    from seq2edge.benchmarks.peers._models import make_checkpoint, random_sources, size
    from seq2edge.benchmarks.peers._names import CPU_BASELINES, GPU_BASELINES, Name, in_turns
    from seq2edge.benchmarks.peers._report import (
        Agreement,
        Entry,
        Report,
        Workload,
        print_report,
    )
else:
    from _comparison import Interpreters, PeerComparison
    from _driver import PeerError, Spread
    from _gpu import missing_gpu
    from _models import make_checkpoint, random_sources, size
    from _names import CPU_BASELINES, GPU_BASELINES, Name, in_turns
    from _report import Agreement, Entry, Report, Workload, print_report

#: build/ is ignored by git and removed by `make clean`.
_ENVIRONMENTS = Path(__file__).resolve().parents[2] / "build" / "peers"


@dataclass(frozen=True)
class Comparison:
    """The options of a comparison.

    Attributes:
        names: who takes part, in turns.
        workload: what they do.
        environments: folder of the peers' environments, which are made where missing.
        torch: an interpreter with torch and transformers in place of such an environment.
        checkpoint: what all run; None: T5-small's geometry with random weights.
        roofline: whether seq2edge's steps are timed beside the bandwidth afterwards.
        go_on: whether the others go on without one that cannot be made or started.
    """

    names: list[Name]
    workload: Workload
    environments: Path
    torch: Path | None
    checkpoint: Path | None
    roofline: bool
    go_on: bool


def compare(request: Comparison) -> Report:
    """Make the models in a temporary folder, find CTranslate2's settings, and time all.

    Raises:
        PeerError: there is no GPU for one, an environment or a model cannot be made, or a
            baseline failed.
    """
    from seq2edge.deploy.doctor import cpu_model  # _check_interpreter comes first

    _check_gpu(request.names)
    if request.checkpoint is not None:
        random_sources(request.checkpoint, 1, 1)  # at once, and not after the environments
    interpreters = Interpreters.prepare(request.names, request.environments, request.torch)
    with tempfile.TemporaryDirectory(prefix="seq2edge-peers-") as temporary:
        folder = Path(temporary)
        checkpoint = request.checkpoint
        if checkpoint is None:
            checkpoint = folder / "checkpoint"
            make_checkpoint(interpreters.models, checkpoint)
        comparison = PeerComparison(
            request.names, request.workload, checkpoint, interpreters, request.go_on
        )
        comparison.make_models(folder)
        tried = comparison.settings()
        best = {name: min(spreads, key=lambda s: spreads[s].p50) for name, spreads in tried.items()}
        results = comparison.results(best)
        rooflines = comparison.rooflines() if request.roofline else {}
        sizes = {name: size(comparison.models[name]) for name in results}
    exact = {name.text for name in request.names if name.exact}
    reference = next((name for name in results if name in exact), next(iter(results)))
    made_up = "T5-small geometry, random weights"
    return Report(
        workload=request.workload,
        model=made_up if request.checkpoint is None else str(request.checkpoint),
        baselines={
            name: Entry(
                milliseconds=Spread.of(result.milliseconds),
                rounds=result.milliseconds,
                setting=best[name],
                tried={str(s): spread for s, spread in tried[name].items() if len(tried[name]) > 1},
                tokens=result.tokens,
                agreement=Agreement.of(result.tokens, results[reference].tokens),
                exact=name in exact,
                disk_bytes=sizes[name],
                loaded_bytes=result.loaded_bytes,
                versions=result.versions,
                notes=result.notes,
            )
            for name, result in results.items()
        },
        left_out=comparison.left_out,
        ratios=_ratios({name: result.milliseconds for name, result in results.items()}),
        rooflines=rooflines,
        reference=reference,
        cpu=cpu_model(),
    )


def _ratios(times: dict[str, list[float]]) -> dict[str, Spread]:
    """seq2edge's over each peer's, and of seq2edge's own baselines over those before."""
    names = list(times)
    return {
        f"{name} / {other}": Spread.of(np.divide(times[name], times[other]).tolist())
        for index, name in enumerate(names)
        if name.startswith("seq2edge:")
        for other in names[:index]
    }


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for option, default, text in (
        ("--threads", 2, "threads within an operator; CTranslate2 may do better with 1"),
        ("--sources", 1, "sources that are generated from in a round, one after the other"),
        ("--source-length", 64, "tokens of a source"),
        ("--new-tokens", 64, "generated tokens (no end token)"),
        ("--num-beams", 1, "beams; 1 is greedy decoding"),
        ("--rounds", 15, "timed rounds; baselines take turns in each"),
        ("--search-rounds", 5, "rounds for CTranslate2's settings"),
    ):
        parser.add_argument(
            option, type=_positive, default=default, metavar="N", help=f"{text} ({default})"
        )
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--baselines",
        nargs="+",
        type=Name.parse,
        default=[Name.parse(name) for name in CPU_BASELINES],
        metavar="NAME",
        help="who takes part: library:precision[:mode][@device], such as seq2edge:fp16:tensorrt or"
        f" transformers:float16:compile@cuda ({', '.join(CPU_BASELINES)})",
    )
    who.add_argument(
        "--gpu",
        dest="baselines",
        action="store_const",
        const=[Name.parse(name) for name in GPU_BASELINES],
        help=f"those for a GPU: {', '.join(GPU_BASELINES)}",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="a Hugging Face folder to run instead"
    )
    parser.add_argument(
        "--roofline",
        action="store_true",
        help="afterwards, seq2edge's steps beside the bandwidth of the memory that they read",
    )
    parser.add_argument(
        "--go-on",
        action="store_true",
        help="go on without baselines that cannot be made or started, and name them",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with all tokens")
    parser.add_argument(
        "--environments",
        type=Path,
        default=_ENVIRONMENTS,
        metavar="DIR",
        help="folder of the peers' virtual environments (build/peers)",
    )
    parser.add_argument(
        "--torch",
        type=Path,
        metavar="PYTHON",
        help="an interpreter with torch and transformers, such as a Jetson's, for the baseline"
        " transformers (one of the environments)",
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


def _check_gpu(names: Sequence[Name]) -> None:
    """The same of a GPU."""
    first = next((name for name in names if name.device == "cuda"), None)
    missing = None if first is None else missing_gpu()
    if first is not None and missing is not None:
        raise PeerError(
            f"{first.text} needs an NVIDIA GPU, and CUDA finds none on this machine: {missing}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 done, but the float32 models disagree or a baseline was left out,
    2 no comparison was made."""
    options = _arguments(arguments)
    request = Comparison(
        names=in_turns(options.baselines),
        workload=Workload(
            sources=options.sources,
            source_length=options.source_length,
            new_tokens=options.new_tokens,
            num_beams=options.num_beams,
            threads=options.threads,
            rounds=options.rounds,
            search_rounds=options.search_rounds,
        ),
        environments=options.environments.absolute(),
        torch=None if options.torch is None else options.torch.absolute(),
        checkpoint=None if options.checkpoint is None else options.checkpoint.absolute(),
        roofline=options.roofline,
        go_on=options.go_on,
    )
    try:
        _check_interpreter()
        report = compare(request)
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
    return 0 if report.agrees and not report.left_out else 1


if __name__ == "__main__":
    sys.exit(main())
