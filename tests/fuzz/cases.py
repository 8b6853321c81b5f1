"""The kinds of cases: what of a seed is changed, and what a user then does with it."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .folder_cases import FOLDER_KINDS
from .kind import Case, Kind, one
from .mutations import (
    mutate_bytes,
    mutate_external,
    mutate_graph,
    mutate_json,
    mutate_json_file,
    replace,
)
from .service_cases import SERVICE_KINDS

MANIFEST = "seq2edge.json"


def use(bundle: Path, rnd: random.Random) -> str:
    """What a user does with a bundle: of several things one, and now and then all."""
    from seq2edge.runtime import Seq2SeqModel

    what = rnd.randrange(4)
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        if what in (0, 3):
            model.generate(["gateway", "hello"], max_new_tokens=6)
        if what in (1, 3):
            "".join(model.stream("hello", max_new_tokens=4))
        if what in (2, 3):
            model.generate("hello", num_beams=3, max_new_tokens=4)
        _ = model.manifest.cache_bytes_per_slot, model.manifest.parameters, repr(model)
    return "used"


def hear(bundle: Path) -> str:
    from seq2edge.runtime.speech.model import SpeechModel

    sound = np.sin(np.arange(8000) / 9).astype(np.float32)
    with SpeechModel.load(bundle, num_threads=1) as model:
        model.transcribe(sound, beam_size=2, temperature=0.0, max_new_tokens=8, language="en")
        model.transcribe(sound, beam_size=1, word_timestamps=True, max_new_tokens=8)
    return "heard"


class Enough(BaseException):
    """All of a checkpoint is read."""


#: How many more checkpoints are read, but not made graphs of and written, than those that are.
_READ = 7
_GRAPHS: dict[Any, Any] = {}


@contextlib.contextmanager
def graphs_known(module: Any, rnd: random.Random) -> Iterator[None]:
    """Within it, an export of ``module`` is whole now and then; else graphs are made once of equal
    models, and it ends with :class:`Enough` where a bundle would be written."""
    build, write = module.build_graphs, module.write_bundle

    def known(spec: Any) -> Any:
        if spec not in _GRAPHS:
            _GRAPHS[spec] = build(spec)
        return _GRAPHS[spec]

    def enough(*_: Any) -> Any:
        raise Enough

    if rnd.randrange(_READ + 1):
        module.build_graphs, module.write_bundle = known, enough
    try:
        yield
    finally:
        module.build_graphs, module.write_bundle = build, write


def export(folder: Path, rnd: random.Random, **options: Any) -> str:
    """What a user does with a checkpoint."""
    from seq2edge.export import export_checkpoint, pipeline
    from seq2edge.runtime import Bundle

    out = folder.with_name("out")
    try:
        with graphs_known(pipeline, rnd):
            export_checkpoint(folder, out, validate=False, **options)
    except Enough:
        return "read"
    Bundle.open(out)
    return "exported"


def _put(bundle: Path, name: str, data: bytes) -> None:
    """A file of the bundle, with its size in the manifest."""
    replace(bundle / name, data)
    raw = json.loads((bundle / MANIFEST).read_text())
    raw["files"][name]["size"] = len(data)
    replace(bundle / MANIFEST, json.dumps(raw).encode())


def _manifest(top: Path, rnd: random.Random) -> tuple[Case, str]:
    work = one(top, rnd)
    what = mutate_json_file(work / MANIFEST, rnd)
    return lambda: use(work, rnd), f"{work.name}: {what}"


def _graphs(bundle: Path) -> list[Path]:
    return sorted(bundle.glob("*.onnx"))


def _graph(top: Path, rnd: random.Random) -> tuple[Case, str]:
    work = one(top, rnd)
    file = rnd.choice(_graphs(work))
    data, what = mutate_bytes(file.read_bytes(), rnd)
    _put(work, file.name, data)
    return lambda: use(work, rnd), f"{work.name}, {file.name}: {what}"


def _nodes(top: Path, rnd: random.Random) -> tuple[Case, str]:
    work = one(top, rnd)
    import onnx

    file = rnd.choice(_graphs(work))
    data, what = mutate_graph(file.read_bytes(), rnd)
    _put(work, file.name, data)
    if rnd.random() < 0.7:  # a manifest that says the same, so that it is not refused for that
        raw = json.loads((work / MANIFEST).read_text())
        nodes = onnx.ModelProto.FromString(data).graph.node
        names = (f"{node.domain}.{node.op_type}".removeprefix(".") for node in nodes)
        raw["graphs"][file.stem]["operators"] = Counter(names)
        replace(work / MANIFEST, json.dumps(raw).encode())
    return lambda: use(work, rnd), f"{work.name}, {file.name}: {what}"


def _external(top: Path, rnd: random.Random) -> tuple[Case, str]:
    work = one(top, rnd)
    if rnd.random() < 0.2:
        weights = (work / "weights.bin").read_bytes()
        data = weights[: rnd.randrange(len(weights))] + rnd.randbytes(rnd.choice((0, 1, 100)))
        if rnd.random() < 0.5:
            _put(work, "weights.bin", data)
        else:
            replace(work / "weights.bin", data)
        return lambda: use(work, rnd), f"{work.name}, weights.bin of {len(data)} bytes"
    file = rnd.choice([path for path in _graphs(work) if path.name != "logsumexp.onnx"])
    data, what = mutate_external(file.read_bytes(), rnd)
    _put(work, file.name, data)
    return lambda: use(work, rnd), f"{work.name}, {file.name}: {what}"


def _tokenizer(top: Path, rnd: random.Random) -> tuple[Case, str]:
    work = one(top, rnd)
    file = work / "tokenizer.json"
    what = mutate_json_file(file, rnd)
    _put(work, file.name, file.read_bytes())
    return lambda: use(work, rnd), f"{work.name}: {what}"


def _checkpoint(work: Path, rnd: random.Random) -> tuple[Case, str]:
    return lambda: export(work, rnd), _changed_checkpoint(work, rnd)


def _changed_checkpoint(folder: Path, rnd: random.Random) -> str:
    file = rnd.choice([*sorted(folder.glob("*.json")), folder / "model.safetensors"])
    if file.suffix == ".json":
        return mutate_json_file(file, rnd)
    data = file.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    head, what = mutate_bytes(data[:length], rnd)
    replace(file, head + data[length:])
    return f"{file.name}: {what}"


def _config(work: Path, rnd: random.Random) -> tuple[Case, str]:
    folder = one(work, rnd)
    what = _changed_checkpoint(folder, rnd)
    return lambda: export(folder, rnd), f"{folder.name}: {what}"


def _ctranslate2(work: Path, rnd: random.Random) -> tuple[Case, str]:
    top = one(work, rnd)
    files = sorted(path for path in top.rglob("*") if path.is_file())
    file = rnd.choice(files)
    if file.suffix == ".json":
        what = mutate_json_file(file, rnd)
    else:
        # The names and shapes of model.bin stand between its tensors; most that matters is early.
        within = rnd.choice((60, 2000, None))
        data, what = mutate_bytes(file.read_bytes(), rnd, within)
        replace(file, data)
    return lambda: export(top, rnd), f"{top.name}, {file.name}: {what}"


def _archive(work: Path, rnd: random.Random) -> tuple[Case, str]:
    file = work / "pytorch_model.bin"
    data = file.read_bytes()
    if rnd.random() < 0.5:  # the pickle is the first member, the directory is at the end
        data, what = mutate_bytes(data, rnd, within=4000)
    else:
        tail = len(data) - rnd.choice((30, 600, 4000))
        end, what = mutate_bytes(data[tail:], rnd)
        data = data[:tail] + end
    replace(file, data)
    return lambda: export(work, rnd), what


def _speech(work: Path, rnd: random.Random) -> tuple[Case, str]:
    what = mutate_json_file(work / MANIFEST, rnd)
    return lambda: hear(work), what


def _audio(work: Path, rnd: random.Random) -> tuple[Case, str]:
    file = rnd.choice(sorted(work.iterdir()))
    within = rnd.choice((12, 44, 80, None))
    data, what = mutate_bytes(file.read_bytes(), rnd, within)
    if rnd.random() < 0.95:  # still a WAV file; others are PyAV's
        data = b"RIFF" + data[4:8] + b"WAVE" + data[12:]
    replace(file, data)

    return lambda: hear_file(file), f"{file.name}: {what}"


def hear_file(file: Path) -> str:
    """Opens a recording by its name and by its bytes, and reads its beginning and end."""
    from seq2edge.runtime.audio.opening import open_audio

    for source in (file, file.read_bytes()):
        with open_audio(source) as audio:
            audio.read(0, min(audio.num_samples, 1 << 14))
            audio.read(audio.num_samples - 100, audio.num_samples)
    return "read"


def _texts(work: Path, rnd: random.Random) -> tuple[Case, str]:
    file = one(work, rnd)
    data, what = file.read_bytes(), ""
    if file.suffix == ".jsonl" and rnd.random() < 0.5:
        lines = data.splitlines(keepends=True)
        number = rnd.randrange(len(lines))
        value, what = mutate_json(b"[%s]" % lines[number].strip(), rnd)
        lines[number] = json.dumps(value).encode()[1:-1] + b"\n"
        data = b"".join(lines)
    else:
        data, what = mutate_bytes(data, rnd)
    replace(file, data)

    return lambda: read_lines_of(file), f"{file.name}: {what}"


def read_lines_of(file: Path) -> str:
    """Reads a file of texts or of examples, as its name says."""
    from seq2edge.benchmarks.quality.data import read_examples
    from seq2edge.quantize.calibration.texts import read_texts
    from seq2edge.runtime.text.lines import read_lines

    if file.suffix == ".txt":
        with file.open("rb") as stream:
            list(read_lines(stream, file.name))
    elif file.name == "data.jsonl":
        read_examples(file)
    read_texts(file)
    return "read"


def _calibration(work: Path, rnd: random.Random) -> tuple[Case, str]:
    import io
    import zipfile

    file = work / "calibration.npz"
    data = file.read_bytes()
    if rnd.random() < 0.3:
        data, what = mutate_bytes(data, rnd)
    else:  # a whole archive of a damaged member
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = rnd.choice(sorted(members))
        members[name], what = mutate_bytes(members[name], rnd, within=rnd.choice((128, None)))
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for each, content in members.items():
                archive.writestr(each, content)
        data, what = made.getvalue(), f"{name}: {what}"
    replace(file, data)

    return lambda: read_calibration(file), what


def read_calibration(file: Path) -> str:
    from seq2edge.quantize.calibration.store import load

    load(file)
    return "read"


_EXPORT = ("seq2edge.runtime", "seq2edge.export")
KINDS: dict[str, Kind] = {
    "manifest": Kind("bundles", _manifest),
    "graph": Kind("bundles", _graph),
    "nodes": Kind("bundles", _nodes, ("seq2edge.runtime", "onnx")),
    "external": Kind("bundles", _external, ("seq2edge.runtime", "onnx")),
    "tokenizer": Kind("bundles", _tokenizer),
    "speech": Kind("speech", _speech, ("seq2edge.runtime.speech.model",), 5),
    "checkpoint": Kind("checkpoint", _checkpoint, _EXPORT, 10),
    "config": Kind("families", _config, _EXPORT, 5),
    "ctranslate2": Kind("converted", _ctranslate2, _EXPORT, 5),
    "archive": Kind("saved", _archive, (*_EXPORT, "torch"), 5),
    "audio": Kind("audio", _audio, ("seq2edge.runtime.audio.opening",)),
    "texts": Kind(
        "texts", _texts, ("seq2edge.benchmarks.quality.data", "seq2edge.quantize.calibration.texts")
    ),
    "calibration": Kind("calibration", _calibration, ("seq2edge.quantize.calibration.store",)),
    **FOLDER_KINDS,
    **SERVICE_KINDS,
}
