"""Adapters, optimum's folders, compressed recordings; and what our own commands keep or are given:
engines, descriptions of modules, reports, the state of ``make``."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
from pathlib import Path

from .kind import Case, Kind, one
from .mutations import mutate_bytes, mutate_graph, mutate_json_file, replace


def _tensors(file: Path, rnd: random.Random) -> str:
    """Changes the header of a file of safetensors."""
    data = file.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    head, what = mutate_bytes(data[:length], rnd)
    replace(file, head + data[length:])
    return f"{file.name}: {what}"


def _adapter(work: Path, rnd: random.Random) -> tuple[Case, str]:
    from .cases import export

    file = rnd.choice(sorted((work / "adapter").glob("adapter_*")))
    what = mutate_json_file(file, rnd) if file.suffix == ".json" else _tensors(file, rnd)
    return lambda: export(work / "adapter", rnd, base=work / "base"), what


def _optimum(work: Path, rnd: random.Random) -> tuple[Case, str]:
    folder = one(work, rnd)
    file = rnd.choice(sorted(folder.iterdir()))
    if file.suffix == ".json":
        what = mutate_json_file(file, rnd)
    else:
        change = mutate_graph if file.suffix == ".onnx" and rnd.random() < 0.6 else mutate_bytes
        data, what = change(file.read_bytes(), rnd)
        replace(file, data)
    return lambda: import_folder(folder, rnd), f"{folder.name}, {file.name}: {what}"


def import_folder(folder: Path, rnd: random.Random) -> str:
    from seq2edge.export.optimum import import_optimum
    from seq2edge.runtime import Seq2SeqModel

    path = folder
    if rnd.random() < 0.5:
        path = folder.with_name("imported")
        import_optimum(folder, path)
    with Seq2SeqModel.load(path, num_threads=1) as model:
        model.generate_ids([[5, 6, 7]], max_new_tokens=3)
    return "used"


def _engines(work: Path, rnd: random.Random) -> tuple[Case, str]:
    file = work / "engines.json"
    if rnd.random() < 0.9:
        what = mutate_json_file(file, rnd)
    else:
        plan = rnd.choice(sorted(work.glob("*.engine")))
        data, what = mutate_bytes(plan.read_bytes(), rnd)
        replace(plan, data)

    def read() -> str:
        from seq2edge.runtime.backends.tensorrt.engine_store import read_engines, read_plan

        found = read_engines(work)
        for engine in found.engines.values():
            read_plan(work, engine)
        _ = found.key.digest(), found.to_json()
        return "read"

    return read, what


def _container(work: Path, rnd: random.Random) -> tuple[Case, str]:
    file = rnd.choice(sorted(work.iterdir()))
    data, what = mutate_bytes(file.read_bytes(), rnd, within=rnd.choice((40, 200, 1000, None)))
    replace(file, data)

    def read() -> str:
        from seq2edge.runtime.audio.opening import open_audio

        with open_audio(rnd.choice((file, data)), max_seconds=60.0) as audio:
            audio.read(0, min(audio.num_samples, 1 << 14))
            audio.read(audio.num_samples - 100, audio.num_samples)
        return "read"

    return read, f"{file.name}: {what}"


_TOML = ("true", "-1", "0", "1e400", "nan", '""', '"x"', "[]", "{}", "99999999999", "1.5", "[1]")


def _module(work: Path, rnd: random.Random) -> tuple[Case, str]:
    file = work / "model.toml"
    text = file.read_text()
    if rnd.random() < 0.7:
        values = list(re.finditer(r"(?<== ).+", text))
        value = rnd.choice(values)
        bad = rnd.choice((*_TOML, rnd.choice(values).group()))
        what = f"{value.group()[:40]} -> {bad[:40]}"
        text = text[: value.start()] + bad + text[value.end() :]
        data = text.encode()
    else:
        data, what = mutate_bytes(text.encode(), rnd)
    replace(file, data)

    def run() -> str:
        from seq2edge.export import export_state_dict
        from seq2edge.export.modules import export as exporting

        from .cases import Enough, graphs_known

        try:
            with graphs_known(exporting, rnd):
                export_state_dict(work / "model.pt", file, work / "out", validate=False)
        except Enough:
            return "read"
        return "exported"

    return run, what


def _report(work: Path, rnd: random.Random) -> tuple[Case, str]:
    file = one(work, rnd)
    what = mutate_json_file(file, rnd)

    return lambda: show_report(file), f"{file.name}: {what}"


def show_report(file: Path) -> str:
    from seq2edge.benchmarks.report.schema import read_report
    from seq2edge.benchmarks.report.table import csv_table, markdown_table

    report = read_report(file)
    _ = markdown_table(report), csv_table(report), report.to_json()
    return "read"


def _resumed(work: Path, rnd: random.Random) -> tuple[Case, str]:
    """``make`` once, and again over what it kept, of which something is changed."""

    def run() -> str:
        from seq2edge.cli.main import main

        # Its keys hold the paths and times of its input, so it is made where it is used.
        place = work.parents[1] / f"made-{os.getpid()}"
        words = ["make", str(work / "model"), "--for", "cpu", "-o", str(place / "app.tar")]
        words += ["--no-validate", "--texts", str(work / "words.txt"), "--json"]
        words += ["--work", str(place / "state")]
        said, told = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            if not place.exists():
                place.mkdir()
                assert main(words) == 0, told.getvalue()
            kept = sorted((place / "state").glob("*.json"))
            file = rnd.choice(kept)
            before = file.read_bytes()
            mutate_json_file(file, rnd)
            code = main([*words, "--dry-run", *(["--force"] if rnd.random() < 0.5 else [])])
            replace(file, before)
        if code not in (0, 2) or "Traceback" in told.getvalue():
            raise AssertionError(f"{file.name}: exit code {code}: {told.getvalue()[-5000:]}")
        return "planned" if code == 0 else "refused"

    return run, "what make kept"


_EXPORT = ("seq2edge.runtime", "seq2edge.export")
FOLDER_KINDS: dict[str, Kind] = {
    "adapter": Kind("adapters", _adapter, _EXPORT, 5, needs="peft"),
    "optimum": Kind("optimum", _optimum, (*_EXPORT, "seq2edge.export.optimum", "onnx"), 5),
    "engines": Kind(
        *("engines", _engines, ("seq2edge.runtime.backends.tensorrt.engine_store",)),
        needs="tensorrt_rtx",
    ),
    "container": Kind("containers", _container, ("seq2edge.runtime.audio.opening", "av"), 1, "av"),
    "module": Kind("module", _module, (*_EXPORT, "torch"), 2),
    "report": Kind("reports", _report, ("seq2edge.benchmarks.report.table",)),
    "resumed": Kind("make", _resumed, ("seq2edge.cli.make.pipeline", *_EXPORT), 10),
}
