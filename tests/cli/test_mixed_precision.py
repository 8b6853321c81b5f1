"""``seq2edge quantize --max-drop``: no more is lost than allowed, or one line that says why not.

The model is random and its targets are its own outputs: any change to its layers loses much.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Bundle

Call = Callable[..., Any]
Refused = Callable[..., str]
Refuses = Callable[..., str]

#: Leaves two groups: decoder.layers.0 and decoder.layers.1.
EXCLUDE = tuple(
    word for name in ("encoder.*", "embedding", "lm_head") for word in ("--exclude", name)
)
INT8 = ("--scheme", "int8", *EXCLUDE)


@pytest.fixture
def data(call: Call, byte_bundle: Path, tmp_path: Path) -> Path:
    """Four sources with the float32 bundle's own outputs, which are therefore without error."""
    sources = ["a text", "another", "a third one", "last"]
    done = call("run", byte_bundle, *sources, "--json")
    outputs = [json.loads(line)["text"] for line in done.out.splitlines()]
    assert all(text.strip() for text in outputs)
    path = tmp_path / "data.jsonl"
    path.write_text(
        "".join(
            json.dumps({"source": source, "target": target}) + "\n"
            for source, target in zip(sources, outputs, strict=True)
        )
    )
    return path


def budget(data: Path, max_drop: float | str, metric: str = "cer") -> tuple[object, ...]:
    return (f"--max-drop={max_drop}", "--data", data, "--metric", metric)


def measured(call: Call, bundle: Path, data: Path) -> float:
    done = call("eval", bundle, "--data", data, "--metric", "cer", "--json")
    value = json.loads(done.out)["value"]
    assert isinstance(value, float)
    return value


#: A row of a table: its name (and layers), MB, what is lost, and the interval of that.
ROW = re.compile(r"(.*?)\s+\d+\.\d{3}\s+(-?[\d.]+)\s+\[([+-][\d.]+), ([+-][\d.]+)\]$")


def rows(lines: Sequence[str], title: str) -> dict[str, float]:
    """Name and loss of the lines below the one that begins with ``title``."""
    start = next(number for number, line in enumerate(lines) if line.startswith(title)) + 1
    found = {}
    for line in lines[start : lines.index("", start)]:
        row = ROW.match(line)
        assert row is not None, line
        name, loss, low, high = row.groups()
        found[" ".join(name.split())] = float(loss)
        assert float(low) <= float(loss) <= float(high)
    return found


def test_a_budget_that_fits_at_once_spares_nothing(
    call: Call, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = call("quantize", byte_bundle, out, *INT8, *budget(data, 1000000))
    assert done.code == 0, done.err
    assert done.err == ""  # progress is for terminals
    lines = done.out.splitlines()
    assert list(rows(lines, "more exact")) == ["nothing"]
    assert not any(line.startswith("quantized alone") for line in lines)
    found = Bundle.open(out).manifest.quantization["mixed_precision"]
    assert found["max_drop"] == 1000000
    assert found["fallback"] == found["sensitivities"] == []
    assert found["loss"] == pytest.approx(measured(call, out, data))
    assert {path.name for path in tmp_path.iterdir()} == {"data.jsonl", "out"}


def test_groups_are_spared_until_it_fits(
    call: Call, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    # The embedding is one group more, and quantized it changes everything.
    excluded = ("--exclude", "encoder.*", "--exclude", "lm_head")
    command = ("quantize", byte_bundle, first, "--scheme", "int8", *excluded)
    done = call(*command, *budget(data, 8))
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    effects = rows(lines, "quantized alone")
    names = {line.split()[0] for line in lines if line.split()[:1] and line[0] != " "}
    assert {"embedding", "decoder.layers.0", "decoder.layers.1"} <= names
    assert list(effects.values()) == sorted(effects.values(), reverse=True)
    trials = rows(lines, "more exact")
    assert next(iter(trials)) == "nothing"
    assert trials["nothing"] > 8
    assert all(loss > 8 for loss in list(trials.values())[:-1])
    assert list(trials.values())[-1] <= 8

    record = Bundle.open(first).manifest.quantization
    found = record["mixed_precision"]
    assert len(found["fallback"]) == len(trials) - 1
    worst = [effect["group"] for effect in found["sensitivities"]]
    assert found["fallback"] == worst[: len(found["fallback"])]
    assert sorted(worst) == ["decoder.layers.0", "decoder.layers.1", "embedding"]
    for layer, treatment in record["layers"].items():
        if layer.startswith(tuple(found["fallback"])):
            assert treatment == "float32"
    # What was measured is what was written.
    assert found["loss"] == pytest.approx(measured(call, first, data))


def test_programs_read_json(call: Call, byte_bundle: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call("quantize", byte_bundle, out, *INT8, *budget(data, 1000000), "--limit", 2, "--json")
    report = json.loads(done.out)
    assert report["mixed_precision"] == Bundle.open(out).manifest.quantization["mixed_precision"]
    assert report["mixed_precision"]["max_drop"] == 1000000
    assert sum(report["summary"].values()) == len(report["layers"])
    assert done.err == ""


def test_a_saved_calibration_is_used(
    call: Call, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    texts, saved = tmp_path / "texts.txt", tmp_path / "saved"
    texts.write_text("a text\nanother\n")
    flags = ("--scheme", "int8-qdq", "--target", "tensorrt", *EXCLUDE)
    plain = call(
        "quantize", byte_bundle, tmp_path / "plain", *flags, "--calibration", texts,
        "--save-calibration", saved,
    )  # fmt: skip
    assert plain.code == 0, plain.err
    done = call(
        "quantize", byte_bundle, tmp_path / "within", *flags, "--calibration", saved,
        *budget(data, 1000000),
    )  # fmt: skip
    assert done.code == 0, done.err
    weights = [(tmp_path / name / "weights.bin").read_bytes() for name in ("plain", "within")]
    assert weights[0] == weights[1]


def test_a_budget_that_nothing_fits_is_one_line_and_its_table(
    call: Call, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    # Four bits of weights spared are eight, which is no float32.
    command = ("quantize", byte_bundle, tmp_path / "out", "--scheme", "int4", *EXCLUDE)
    done = call(*command, *budget(data, -1))
    assert done.code == 2
    assert "groups of layers more exact the loss is still " in done.err
    assert "more than -1" in done.err
    assert done.err.count("\n") == 1
    lines = done.out.splitlines()
    assert len(rows(lines, "quantized alone")) == 2
    assert len(rows(lines, "more exact")) == 3
    done = call(*command, *budget(data, -1), "--json")
    report = json.loads(done.out)
    assert f"seq2edge: error: {report['error']}\n" == done.err
    assert [len(trial["fallback"]) for trial in report["trials"]] == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"data.jsonl"}


def test_a_bound_that_the_data_cannot_resolve_is_named(
    call: Call, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    """Four examples tell nothing about hundredths of a point."""
    lost = call(
        "quantize", byte_bundle, tmp_path / "first", *INT8, *budget(data, 1000000), "--json"
    )
    measured = json.loads(lost.out)["mixed_precision"]
    assert measured["resolved"] is True
    low, high = measured["interval"]
    assert low <= measured["loss"] <= high
    assert low < high
    assert measured["trials"][-1]["bytes"] == json.loads(lost.out)["bytes"]
    # Just enough for the loss, and less than the width of its interval.
    bound = measured["loss"] + 1e-6
    assert bound < high - low
    out = tmp_path / "second"
    done = call("quantize", byte_bundle, out, *INT8, *budget(data, bound))
    assert done.code == 0, done.err
    assert f"the data cannot resolve --max-drop {bound:g}: the loss is" in done.out
    assert "wider than the bound; about" in done.out
    assert Bundle.open(out).manifest.quantization["mixed_precision"]["resolved"] is False


@pytest.mark.parametrize("flags", [(), ("--max-drop", 1, "--data", "DATA", "--metric", "cer")])
def test_an_output_that_cannot_be_written_is_found_before_calibrating(
    flags: tuple[object, ...],
    call: Call,
    byte_bundle: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from seq2edge.quantize.calibration import store

    monkeypatch.setattr(store, "capture_activations", lambda *_: pytest.fail("calibrated"))
    text = tmp_path / "text.txt"
    text.write_text("a text\n")
    flags = tuple(data if flag == "DATA" else flag for flag in flags)
    out = Path("/proc/out")  # where even root can make nothing
    scheme = ("--scheme", "int8-qdq", "--calibration", text)
    done = call("quantize", byte_bundle, out, *scheme, *flags)
    assert done.code == 2
    assert done.err.startswith("seq2edge: error: cannot write /proc/out: /proc is not writable")


def test_what_cannot_be_measured_is_one_line(
    refused: Refused,
    byte_bundle: Path,
    bundle_of: Callable[[str], Path],
    data: Path,
    tmp_path: Path,
) -> None:
    def message(*flags: object, bundle: Path = byte_bundle, scheme: str = "int8") -> str:
        command = ("quantize", bundle, tmp_path / "out", "--scheme", scheme)
        return refused(*command, *flags)

    needs = "--max-drop needs --data and --metric to measure with"
    assert message("--max-drop", 1, "--metric", "cer") == needs
    assert message("--max-drop", 1, "--data", data) == needs
    alone = "--data, --metric and --limit mean nothing without --max-drop"
    for flags in (("--data", data), ("--metric", "cer"), ("--limit", 3)):
        assert message(*flags) == alone
    assert message(*budget(data, 1, "accuracy")).startswith("unknown metric 'accuracy'; there are")
    missing = tmp_path / "none"
    assert message(*budget(missing, 1)).startswith(f"cannot read {missing}: No such file")
    bf16 = message(*budget(data, 1), "--target", "cuda", scheme="bf16")
    assert bf16 == "a budget is measured on the CPU, which has no bfloat16 in ONNX Runtime"
    assert "has no tokenizer" in message(*budget(data, 1), bundle=bundle_of("bart"))
    assert "matches no layer" in message(*budget(data, 1), "--exclude", "no.*")


def test_a_full_disk_leaves_nothing(
    refuses: Refuses, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    message = refuses(
        "quantize", byte_bundle, tmp_path / "out", *INT8, *budget(data, 1), parent=tmp_path,
        # Python ignores SIGXFSZ, so that a write fails with EFBIG.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )  # fmt: skip
    assert message.startswith(f"cannot write {tmp_path / 'out'}: File too large")


@pytest.fixture
def interrupt(
    environment: dict[str, str], program: list[str], tmp_path: Path
) -> Callable[..., None]:
    """A function that runs a command, signals it once ``begun``, and looks at what is left."""
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()

    def run(number: signal.Signals, begun: str, *arguments: object) -> None:
        """``begun``: a pattern of a file that appears below the test's folder."""
        with subprocess.Popen(
            [*program, *map(str, arguments)],
            cwd=work,
            env={**environment, "TMPDIR": os.fspath(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A shell starts background jobs with SIGINT ignored, and children inherit it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            try:
                deadline = time.monotonic() + 60
                while not any(tmp_path.glob(begun)):
                    assert process.poll() is None, process.communicate()
                    assert time.monotonic() < deadline
                    time.sleep(0.002)
                process.send_signal(number)
                stdout, stderr = process.communicate(timeout=60)
            finally:
                process.kill()
        assert stderr.decode() == "seq2edge: error: interrupted; nothing was left half written\n"
        assert stdout == b""
        assert process.returncode == 2
        assert list(work.iterdir()) == []
        # onnxruntime leaves a file of its own there.
        assert [path for path in temporary.iterdir() if "seq2edge" in path.name] == []

    return run


@pytest.mark.parametrize(
    ("number", "begun"),
    [
        (signal.SIGINT, "temporary/seq2edge-*/decoder.onnx"),
        (signal.SIGTERM, "work/.*.seq2edge.trials/candidate/seq2edge.json"),
    ],
    ids=lambda value: getattr(
        value, "name", "measuring" if "work" in str(value) else "calibrating"
    ),
)
def test_interrupted_work_leaves_nothing(
    number: signal.Signals,
    begun: str,
    interrupt: Callable[..., None],
    byte_bundle: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"source": "a text", "target": "b"}\n' * 40)
    flags = ["--max-drop", -1000, "--metric", "cer", "--data", data]
    if "temporary" in begun:
        texts = tmp_path / "texts.txt"
        texts.write_text("a text that is looked at for a while\n" * 200)
        flags += ["--calibration", texts, "--save-calibration", "saved.npz"]
    scheme = "int8-qdq" if "temporary" in begun else "int8"
    interrupt(number, begun, "quantize", byte_bundle, "out", "--scheme", scheme, *flags)


def test_a_budget_is_a_number(
    refused: Refused, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refused("quantize", byte_bundle, out, *INT8, *budget(data, "nan"))


def test_json_is_json_for_any_budget(
    call: Call, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = call("quantize", byte_bundle, out, *INT8, *budget(data, "inf"), "--json")
    if done.code != 2:  # refusing it is fine
        assert "Infinity" not in done.out
        assert "Infinity" not in (out / "seq2edge.json").read_text()


def test_folders_above_the_output_are_made(
    call: Call, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "folder" / "out"
    done = call("quantize", byte_bundle, out, *INT8, *budget(data, 1000000))
    assert done.code == 0, done.err
    assert Bundle.open(out).manifest.quantization["mixed_precision"]["fallback"] == []


def test_the_manifest_says_what_was_measured(
    call: Call, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert call("quantize", byte_bundle, out, *INT8, *budget(data, 1000000)).code == 0
    found = Bundle.open(out).manifest.quantization["mixed_precision"]
    assert found["metric"] == "cer"
    assert found["examples"] == 4


def test_json_has_the_trials(call: Call, byte_bundle: Path, data: Path, tmp_path: Path) -> None:
    done = call("quantize", byte_bundle, tmp_path / "out", *INT8, *budget(data, 1000000), "--json")
    found = json.loads(done.out)["mixed_precision"]
    assert len(found["trials"]) == len(found["fallback"]) + 1


def test_only_what_can_be_more_exact_is_spared(byte_bundle: Path, tmp_path: Path) -> None:
    from seq2edge.quantize import Request, quantize_mixed_precision

    def loss(bundle: Path) -> float:
        """5 for an embedding that is quantized, 1 for layers of 4 bits."""
        layers = Bundle.open(bundle).manifest.quantization.get("layers", {})
        lost = 5.0 * layers.get("embedding", "float32").startswith("int8")
        return lost + any(treatment.startswith("int4") for treatment in layers.values())

    excluded = ("encoder.*", "cross.*", "lm_head", "decoder.layers.1.*")
    request = Request(byte_bundle, tmp_path / "out", "int4", exclude=excluded)
    found = quantize_mixed_precision(request, 5.5, loss)
    assert found.trials[-1].fallback == ("decoder.layers.0",)


def test_a_bundle_that_holds_nothing_quantized_is_not_written(
    call: Call, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    flags = ("--exclude", "[!e]*", "--exclude", "encoder.*")  # leaves the embedding
    command = ("quantize", byte_bundle, tmp_path / "out", "--scheme", "int8", *flags)
    assert call(*command, *budget(data, 0)).code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"data.jsonl"}
