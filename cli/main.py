"""Entry point: arguments, errors in one line, exit codes.

Exit codes: 0 done; 1 a bug in seq2edge (with a traceback); 2 the command could not do what
was asked, for a reason it states, and left nothing half written; 3 it was measured, and there is
something to see: two reports differ, or tokens are wrong.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn, TextIO

from . import (
    bench,
    bench_diff,
    build,
    compare,
    doctor,
    downgrade,
    encode,
    export,
    importing,
    inspect,
    make,
    pack,
    peers,
    quantize,
    run,
    serve,
    transcribe,
    triton,
)
from . import eval as evaluate

_COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "make": (make, "build what a device installs from a checkpoint"),
    "export": (export, "export a checkpoint, or a module of your own, to a bundle"),
    "import": (importing, "make a bundle of what optimum-cli exported"),
    "quantize": (quantize, "write a quantized bundle"),
    "downgrade": (downgrade, "write a bundle for TensorRT 10.3, ONNX Runtime 1.23"),
    "build": (build, "build a bundle's TensorRT engines"),
    "pack": (pack, "pack a bundle with all that a device needs"),
    "triton": (triton, "write a bundle as a model of NVIDIA Triton"),
    "run": (run, "generate text with a bundle"),
    "transcribe": (transcribe, "transcribe speech with a bundle"),
    "serve": (serve, "answer requests over HTTP with bundles"),
    "encode": (encode, "print embeddings of texts with an encoder-only bundle"),
    "inspect": (inspect, "show what a bundle contains, and verify it"),
    "doctor": (doctor, "show what this machine can run, and recommend a setup"),
    "bench": (bench, "measure a bundle's latency on this machine"),
    "peers": (peers, "time seq2edge beside other libraries"),
    "bench-diff": (bench_diff, "say whether two reports differ"),
    "eval": (evaluate, "score a bundle's outputs against references"),
    "compare": (compare, "compare bundles with a reference: size, quality, speed"),
}


#: What must clean up as Ctrl-C does: a service manager's, a lost terminal's, and Ctrl-\\.
_ENDINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


#: Commands whose start somebody waits for: the cores are for loading the model.
_FROM_COLD = (run.run, transcribe.run, encode.run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = parse(arguments)
    warnings.showwarning = _show_warning
    for number in _ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _terminate)
    command: Callable[[argparse.Namespace], int] = options.command
    if command in _FROM_COLD:
        # numpy's threads (OpenBLAS) spin for 26 ms once they are there. 2^4 cycles:
        os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    try:
        code = command(options)
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()  # within the try: a full disk or a closed pipe may show only now
        return code
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was left half written")
    except BrokenPipeError:
        # The reader of our output has gone (head, less): not an error worth a message.
        _drop_broken_output()
        return 0
    except Exception as error:
        if not _is_expected(error):
            raise
        _drop_broken_output()
        return _fail(str(error))
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust code, and no Exception
            raise
        return _fail(f"a library that reads tokenizers or tensors failed: {error}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; texts and files may also follow options, where argparse does not look.

    ``bench diff`` is ``bench-diff``, unless there is a bundle of that name.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:2] == ["bench", "diff"] and not Path("diff").is_dir():
        words[:2] = ["bench-diff"]
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    several = "audio" if hasattr(options, "audio") else "text"
    if rest and (not hasattr(options, several) or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        setattr(options, several, [*getattr(options, several), *rest])
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seq2edge",
        description="Encoder-decoder transformers on edge devices: export, quantize, run, measure.",
    )
    parser.add_argument("-V", "--version", action=_Version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in _COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=module.__doc__)
        module.add_arguments(sub)
        sub.set_defaults(command=module.run, parse=parse)
    return parser


class _Version(argparse.Action):
    """Prints the installed version; looks it up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from seq2edge.runtime.bundle.version import package_version

        print(f"seq2edge {package_version()}")
        parser.exit()


def _is_expected(error: Exception) -> bool:
    from seq2edge.runtime.errors import Seq2EdgeError

    return isinstance(error, (Seq2EdgeError, OSError))


def _fail(message: str) -> int:
    _say(f"error: {' '.join(message.split())}")
    return 2


def _say(message: str) -> None:
    """To standard error; nowhere if that was closed or is full: results only go to stdout."""
    if sys.stderr is None:
        return
    try:
        print(f"seq2edge: {message}", file=sys.stderr, flush=True)
    except OSError:
        _to_nowhere(sys.stderr)


def _drop_broken_output() -> None:
    """If stdout cannot be written, keep the interpreter from failing once more at its exit."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        _to_nowhere(sys.stdout)


def _to_nowhere(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _say(f"warning: {message}")


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
