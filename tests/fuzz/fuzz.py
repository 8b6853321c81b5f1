"""Mutated bundles, graphs, tokenizers and checkpoints, each used in a process of its own.

``python tests/fuzz/fuzz.py KIND --bundle BUNDLE --checkpoint FOLDER --cases N --seed S`` makes N
cases, which are the same for the same seed, and prints each that ends otherwise than in a result or
in an error of ours: another exception, a signal, more than 5 s of processor time or 1 GB of memory.
``--case K`` makes only that one and shows where it ends. Exit code 1: something was found.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seq2edge.runtime import Seq2SeqModel
from seq2edge.runtime.errors import Seq2EdgeError

SECONDS, WALL_SECONDS, MEMORY = 5.0, 60.0, 1 << 30
MANIFEST = "seq2edge.json"
#: What a value is replaced by.
BAD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 255, 65536, 2**31 - 1, 2**31, 2**53, 2**63, 2**64),
    *(10**30, 10**400, 0.0, 1.5, -1.5, 1e308, float("nan"), float("inf"), "", "a", "0", "batch"),
    *("../../etc/passwd", "/etc/passwd", "..", "encoder.onnx", "weights.bin\0", "x" * 5000, "int4"),
    *("float16", "float64", "object", [], [[]], [0], [-1], [1] * 50, [2**40] * 3, {}, {"a": 1}),
    *([None], [{"a": []}], "never", "byte", "tokenizers", "start", "forced_bos", "concat", "slots"),
]
Case = Callable[[], str]


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of all values within a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from paths(item, (*path, place))


def mutate_json(value: Any, rnd: random.Random) -> tuple[Any, str]:
    """A copy with one to three changes, and what they are."""
    value, done = copy.deepcopy(value), []
    for _ in range(rnd.choice((1, 1, 1, 2, 3))):
        found = list(paths(value))
        if not found:
            break
        *folders, last = path = rnd.choice(found)
        parent = value
        for name in folders:
            parent = parent[name]
        what = rnd.random()
        if what < 0.7:
            parent[last] = copy.deepcopy(rnd.choice(BAD))
        elif what < 0.8:
            del parent[last]
        elif isinstance(parent, dict):
            parent[str(rnd.choice(BAD))[:50]] = parent[last]
        else:
            parent.insert(0, copy.deepcopy(rnd.choice(BAD)))
        done.append(f"{'.'.join(map(str, path))}")
    return value, ", ".join(done)


def mutate_bytes(data: bytes, rnd: random.Random) -> tuple[bytes, str]:
    """Bytes changed, removed, doubled or put in."""
    changed = bytearray(data)
    for _ in range(rnd.choice((1, 1, 2, 8))):
        place, size = rnd.randrange(len(changed) + 1), rnd.choice((1, 1, 2, 4, 16, 200))
        part = slice(place, place + size)
        kind = rnd.randrange(4)
        if kind == 0:
            changed[part] = rnd.randbytes(len(changed[part]))
        elif kind == 1:
            del changed[part]
        elif kind == 2:
            changed[place:place] = changed[part]
        else:
            changed[place:place] = rnd.choice((b"\xff" * 10, b"\x00" * size, rnd.randbytes(size)))
        if not changed:
            break
    return bytes(changed), "bytes"


def use(bundle: Path) -> str:
    """What a user does with a bundle."""
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        text = model.generate(["gateway", "hello"], max_new_tokens=6)[0].text
        "".join(model.stream("hello", max_new_tokens=4))
        model.generate("hello", num_beams=3, max_new_tokens=4)
        _ = model.manifest.cache_bytes_per_slot, model.manifest.parameters, repr(model)
    return "the same" if text == "G EY T W EY" else "another text"


def put(bundle: Path, name: str, data: bytes) -> None:
    """A file of the bundle, with its size in the manifest."""
    (bundle / name).write_bytes(data)
    raw = json.loads((bundle / MANIFEST).read_text())
    raw["files"][name]["size"] = len(data)
    (bundle / MANIFEST).write_text(json.dumps(raw))


def manifest_case(work: Path, rnd: random.Random) -> tuple[Case, str]:
    raw, what = mutate_json(json.loads((work / "bundle" / MANIFEST).read_text()), rnd)
    (work / "bundle" / MANIFEST).write_text(json.dumps(raw))
    return lambda: use(work / "bundle"), what


def graph_case(work: Path, rnd: random.Random) -> tuple[Case, str]:
    name = rnd.choice(("encoder.onnx", "decoder.onnx", "logsumexp.onnx"))
    data, what = mutate_bytes((work / "bundle" / name).read_bytes(), rnd)
    put(work / "bundle", name, data)
    return lambda: use(work / "bundle"), f"{name}: {what}"


def tokenizer_case(work: Path, rnd: random.Random) -> tuple[Case, str]:
    file = work / "bundle" / "tokenizer.json"
    if rnd.random() < 0.2:
        data, what = mutate_bytes(file.read_bytes(), rnd)
    else:
        value, what = mutate_json(json.loads(file.read_text()), rnd)
        data = json.dumps(value).encode()
    put(work / "bundle", file.name, data)
    return lambda: use(work / "bundle"), what


def checkpoint_case(work: Path, rnd: random.Random) -> tuple[Case, str]:
    folder = work / "checkpoint"
    names = sorted(path.name for path in folder.glob("*.json"))
    name = rnd.choice([*names, "model.safetensors"])
    file = folder / name
    data = file.read_bytes()
    if name == "model.safetensors":
        length = 8 + int.from_bytes(data[:8], "little")
        head, what = mutate_bytes(data[:length], rnd)
        file.write_bytes(head + data[length:])
    else:
        value, what = mutate_json(json.loads(data), rnd)
        file.write_text(json.dumps(value))

    def export() -> str:
        from seq2edge.export import export_checkpoint

        export_checkpoint(folder, work / "out", validate=False)
        return use(work / "out")

    return export, f"{name}: {what}"


KINDS = {
    "manifest": manifest_case,
    "graph": graph_case,
    "tokenizer": tokenizer_case,
    "checkpoint": checkpoint_case,
}


def make_case(kind: str, seed: str, source: Path, work: Path) -> tuple[Case, str]:
    """A case in a folder of its own: what to run, and what was changed."""
    for name in ("bundle", "checkpoint", "out"):
        shutil.rmtree(work / name, ignore_errors=True)
    needed = "checkpoint" if kind == "checkpoint" else "bundle"
    shutil.copytree(source / needed, work / needed)
    return KINDS[kind](work, random.Random(seed))


def run_isolated(case: Case) -> tuple[str, str]:
    """How a case ends in a child: a word for counting, and details."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(case, writer)
    os.close(writer)
    said, end = b"", time.monotonic() + WALL_SECONDS
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            break
        said += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, status, used = os.wait4(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "FOUND", f"signal {number}" if number != signal.SIGKILL else "it hangs"
    kind, _, details = said.decode(errors="replace").partition("\n")
    if kind != "FOUND" and used.ru_utime + used.ru_stime > SECONDS:
        return "FOUND", f"{used.ru_utime + used.ru_stime:.1f} s of processor time"
    return kind or "FOUND", details


def _run(case: Case, writer: int) -> None:
    """In the child; does not return."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # panics of Rust code write there
    warnings.simplefilter("ignore")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEMORY, size + 2 * MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        result = f"{case()}\n"
    except (Seq2EdgeError, OSError) as error:
        result = f"refused\n{error}"
        if len(str(error)) > 20_000:
            result = f"FOUND\nan error of {len(str(error))} letters"
    except BaseException:
        result = f"FOUND\n{traceback.format_exc()}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > MEMORY:
        result = f"FOUND\n{grown >> 20} MB of memory; {result}"
    os.write(writer, result.encode(errors="replace")[:60_000])
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--case", type=int)
    options = parser.parse_args()
    if options.kind == "checkpoint":
        import seq2edge.export  # noqa: F401  once, and not in each child
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        source, work = Path(folder) / "source", Path(folder) / "work"
        shutil.copytree(options.bundle, source / "bundle")
        shutil.copytree(options.checkpoint, source / "checkpoint")
        numbers = range(options.cases) if options.case is None else [options.case]
        for number in numbers:
            case, what = make_case(
                options.kind, f"{options.seed}-{options.kind}-{number}", source, work
            )
            kind, details = run_isolated(case)
            counts[kind] += 1
            if kind == "FOUND" or options.case is not None:
                print(
                    f"{options.kind} seed {options.seed} case {number} ({what}): {kind} {details}"
                )
    print(f"{options.kind}: {sum(counts.values())} cases: {dict(counts)}")
    return int(counts["FOUND"] > 0)


if __name__ == "__main__":
    sys.exit(main())
