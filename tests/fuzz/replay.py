"""Replays ``corpus.json``: what mutated files have found, each as a small change of a seed.

``python tests/fuzz/replay.py`` prints those that do not end as they must. An entry has a ``name``,
the ``seed`` and the ``file`` in it that is changed, by one of

- ``set``: values of JSON by their paths,
- ``insert``: a text at a place, ``splice``: bytes (hexadecimal) over those at a place,
- ``repeat``: a text, so often, in place of the file,
- ``node``: the name of an input or output of the first node of an operator,

the ``use`` that is made of it, and what the error says (``told``; null: there is none).
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seq2edge.runtime.errors import Seq2EdgeError

sys.path.insert(0, str(Path(__file__).parents[2]))  # where this is a script

from tests.fuzz.cases import MANIFEST, export, hear, hear_file, read_lines_of, use
from tests.fuzz.folder_cases import show_report
from tests.fuzz.fuzz import make_seeds_apart, restore
from tests.fuzz.mutations import replace

CORPUS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("corpus.json").read_bytes())
#: What is done with a folder and the file in it that was changed.
USES: dict[str, Callable[[Path, Path], str]] = {
    "bundle": lambda folder, _: use(folder, random.Random(3)),
    "speech": lambda folder, _: hear(folder),
    "checkpoint": lambda folder, _: export(folder, random.Random(0)),
    "recording": lambda _, file: hear_file(file),
    "texts": lambda _, file: read_lines_of(file),
    "adapter": lambda folder, _: export(folder / "adapter", random.Random(0), base=folder / "base"),
    "report": lambda _, file: show_report(file),
}


def replay(entry: dict[str, Any], seeds: Path, work: Path) -> str:
    """How the entry ends: what the error says, or "" for none."""
    top = entry["seed"].partition("/")[0]
    restore(seeds, work, {top})
    folder = work / entry["seed"]
    file = folder / entry["file"]
    data = _changed(file.read_bytes(), entry)
    replace(file, data)
    if file.name != MANIFEST and (folder / MANIFEST).is_file():
        raw = json.loads((folder / MANIFEST).read_bytes())
        raw["files"][file.name]["size"] = len(data)
        replace(folder / MANIFEST, json.dumps(raw).encode())
    try:
        USES[entry["use"]](folder, file)
    except Seq2EdgeError as error:
        return str(error)
    return ""


def _changed(data: bytes, entry: dict[str, Any]) -> bytes:
    if "set" in entry:
        value = json.loads(data)
        for path, new in entry["set"].items():
            *names, last = path.split(".")
            parent = value
            for name in names:
                parent = parent[int(name) if isinstance(parent, list) else name]
            parent[int(last) if isinstance(parent, list) else last] = new
        return json.dumps(value).encode()
    if "insert" in entry:
        place, text = entry["insert"]
        return data[:place] + text.encode() + data[place:]
    if "splice" in entry:
        place, new = entry["splice"][0], bytes.fromhex(entry["splice"][1])
        return data[:place] + new + data[place + len(new) :]
    if "repeat" in entry:
        text, times = entry["repeat"]
        return (text * times).encode()
    return _renamed(data, **entry["node"])


def _renamed(data: bytes, operator: str, **sides: tuple[int, str]) -> bytes:
    import onnx

    model = onnx.ModelProto.FromString(data)
    node = next(node for node in model.graph.node if node.op_type == operator)
    for side, (number, name) in sides.items():
        getattr(node, side)[number] = name
    return model.SerializeToString()


def wrong(seeds: Path) -> list[str]:
    """The entries that do not end as they must, and how they end."""
    found = []
    with tempfile.TemporaryDirectory(dir=seeds.parent) as work:
        for entry in CORPUS:
            told, expected = replay(entry, seeds, Path(work)), entry["told"]
            if (not told) != (expected is None) or (expected or "") not in told:
                found.append(f"{entry['name']}: {told or 'no error'}")
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(sys.argv[1] if len(sys.argv) > 1 else folder) / "seeds"
        make_seeds_apart(seeds, sorted({entry["seed"].partition("/")[0] for entry in CORPUS}))
        found = wrong(seeds)
    print("\n".join(found) or f"{len(CORPUS)} end as they must")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
