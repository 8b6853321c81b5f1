"""``seq2edge peers`` with made-up times: who is compared with whom, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from seq2edge.benchmarks.driver import PeerError, Result
from seq2edge.benchmarks.peers import comparison, environments, run
from seq2edge.benchmarks.peers.model_cache import ModelCache
from seq2edge.benchmarks.peers.names import CPU_BASELINES
from seq2edge.cli.main import main
from seq2edge.runtime.errors import InputError

TOKENS = list(range(64))


class Maker:
    """Stands for ModelMaker: a model is a file as long as its baseline's name."""

    def __init__(self, cache: ModelCache, *_: object) -> None:
        self._cache = cache

    def make(self, name: Any) -> Path:
        if name.text == "openvino:int4":
            raise PeerError("cannot install the peers (is the package index within reach?)")

        def write(model: Path) -> None:
            model.mkdir()
            (model / "weights").write_bytes(b"x" * len(name.text))

        return self._cache.get(name.text, (), write)


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Environments, models and the checkpoint are made up."""

    def make_checkpoint(_: object, cache: ModelCache, geometry: str) -> Path:
        def write(folder: Path) -> None:
            folder.mkdir()
            (folder / "config.json").write_text('{"vocab_size": 32128}')

        return cache.get(geometry, (), write)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    monkeypatch.setattr(environments, "prepare", lambda folder, _: folder / "bin" / "python")
    monkeypatch.setattr(comparison, "ModelMaker", Maker)
    monkeypatch.setattr(comparison, "compile_modules", lambda: None)
    monkeypatch.setattr(run, "make_checkpoint", make_checkpoint)
    monkeypatch.setattr(run, "manifest_hash", lambda _: None)
    monkeypatch.setattr(run.Bundle, "open", lambda _: None)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """A function from tokens that differ to the list of processes that will be started."""

    def get(tokens: Mapping[str, list[int]] | None = None) -> list[Any]:
        started: list[Any] = []

        def alternate(baselines: Mapping[str, Any], *, rounds: int, **_: object) -> dict[str, Any]:
            results = {}
            for name, baseline in baselines.items():
                task = json.loads(baseline.command[2])
                started.append((baseline.command, task, dict(baseline.variables)))
                slow = {"float32": 800.0, "int8": 400.0}.get(task["precision"], 300.0)
                if "ctranslate2" in baseline.command[1]:
                    slow += 100 * (task["threads"] == 1)
                    slow += 200 * (baseline.variables["OMP_WAIT_POLICY"] == "active")
                made = [(tokens or {}).get(name, TOKENS)]
                made += [TOKENS] * (len(task["sources"]) - 1)
                results[name] = Result(
                    {"all": [slow] * rounds}, made, {"package": "1.0"}, 5, notes=("beware",)
                )
            return results

        monkeypatch.setattr(comparison, "alternate", alternate)
        return started

    return get


def report_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    report["entries"] = {entry["name"]: entry for entry in report["entries"]}
    return report


def test_ctranslate2_is_compared_at_its_best(
    timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    started = timed()
    names = ("ctranslate2:int8", "seq2edge:int8", "seq2edge:int4", "optimum:float32")
    assert main(["peers", "--runs", "3", "--json", "--peers", *names]) == 0
    entries = report_of(capsys)["entries"]
    assert list(entries) == [name for name in CPU_BASELINES if name in names]
    assert len(entries["ctranslate2:int8"]["details"]["tried"]) == 4
    settings = entries["ctranslate2:int8"]["settings"]
    assert (settings["threads"], settings["wait_policy"]) == (2, "passive")
    assert entries["seq2edge:int8"]["details"]["tried"] == {}
    assert entries["seq2edge:int8"]["measurements"]["all"]["samples"] == [400.0] * 3
    assert entries["seq2edge:int8"]["disk_bytes"] == len("seq2edge:int8")
    workers = {Path(command[1]).name for command, _, _ in started}
    assert workers == {"ctranslate2_worker.py", "optimum_worker.py", "seq2edge_worker.py"}
    sources = [task["sources"] for _, task, _ in started]
    assert all(given == sources[0] for given in sources)  # all translate the same tokens
    assert [len(source) for source in sources[0]] == [64]
    for command, _, variables in started:
        # A peer must not meet the caller's packages; seq2edge is one of them.
        assert ("PYTHONPATH" in variables) == (not command[1].endswith("seq2edge_worker.py"))


def test_peers_are_told_mode_and_device(
    timed: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = timed()
    monkeypatch.setattr(run, "missing_gpu", lambda: None)
    assert main(["peers", "--gpu", "--torch", "/opt/torch/bin/python"]) == 0
    told = {
        (Path(command[1]).name, task["precision"], task["mode"], task["device"])
        for command, task, _ in started
    }
    assert {
        ("transformers_worker.py", "float16", None, "cuda"),
        ("transformers_worker.py", "float16", "compile", "cuda"),
        ("seq2edge_worker.py", "fp16", None, "cuda"),
        ("seq2edge_worker.py", "fp16", "tensorrt", "cuda"),
    } < told
    pythons = {command[0] for command, _, _ in started if "transformers" in command[1]}
    assert pythons == {"/opt/torch/bin/python"}


@pytest.mark.parametrize(
    ("name", "code"), [("seq2edge:float32", 3), ("openvino:float32", 3), ("seq2edge:int8", 0)]
)
def test_a_wrong_token_in_float32_is_called_wrong(
    timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    timed({name: [*TOKENS[:10], 99, *TOKENS[11:]]})
    others = ("ctranslate2:float32", "optimum:float32")
    words = ["peers", "--sources", "3", "--peers", *others, name]
    assert main(words) == code
    text = capsys.readouterr().out
    assert "138 of 192" in text
    assert (f"{name} is WRONG: in float32 it gives 138 of 192" in text) == (code == 3)
    assert ("WRONG: 138 of 192 (65 distinct)" in text) == (code == 3)
    assert f"{name}: note: beware" in text


def test_a_wrong_peer_is_nobodys_yardstick(
    timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """openvino:float32 is as fast as optimum's and wrong, so ratios are to optimum's."""
    timed({"openvino:float32": [99, *TOKENS[1:]]})
    names = ("optimum:float32", "openvino:float32", "ctranslate2:float32", "seq2edge:int8")
    assert main(["peers", "--peers", *names]) == 3
    text = capsys.readouterr().out
    assert "seq2edge:int8 takes 0.50 x the time [0.50, 0.50] of the best peer, " in text
    assert "of the best peer, openvino" not in text


def test_two_that_disagree_accuse_each_other(
    timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    timed({"openvino:float32": [99, *TOKENS[1:]]})
    names = ("openvino:float32", "seq2edge:float32")
    assert main(["peers", "--peers", *names]) == 3
    text = capsys.readouterr().out
    assert "WRONG" not in text.partition("first tokens as: ")[0]
    assert "nobody else says which are right: add transformers:float32" in text
    # PyTorch says, also against a majority.
    timed({name: [99, *TOKENS[1:]] for name in names})
    assert main(["peers", "--peers", *names, "transformers:float32"]) == 3
    text = capsys.readouterr().out
    assert all(f"{name} is WRONG" in text for name in names)


def test_one_that_cannot_be_made_is_named(
    timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    timed()
    assert main(["peers", "--json"]) == 0
    report = report_of(capsys)
    assert report["left_out"] == {
        "openvino:int4": "cannot install the peers (is the package index within reach?)"
    }
    assert set(report["entries"]) == {*CPU_BASELINES} - {"openvino:int4"}


def test_prepare_makes_models_and_times_nothing(
    timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    started = timed()
    names = ("optimum:float32", "openvino:int4")
    assert main(["peers", "--prepare", "--peers", *names]) == 0
    assert not started
    assert capsys.readouterr().out.splitlines() == [
        "optimum:float32: ready",
        "openvino:int4: cannot install the peers (is the package index within reach?)",
    ]


def test_fewer_tokens_are_no_comparison(
    timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    timed({"seq2edge:int8": TOKENS[:-1]})
    names = ("seq2edge:int8", "seq2edge:float32")
    assert main(["peers", "--peers", *names]) == 0
    assert (
        "seq2edge:int8 was not measured: it generated 63 tokens instead of 64, so its times cannot"
        " be compared" in capsys.readouterr().out
    )


def test_without_a_gpu_nothing_is_made(
    timed: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = timed()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # on a machine that has one
    monkeypatch.setattr(run, "make_checkpoint", lambda *_: pytest.fail("it was made"))
    for name in ("seq2edge:fp16:tensorrt", "seq2edge:fp16@cuda", "transformers:float16@cuda"):
        assert main(["peers", "--peers", "seq2edge:float32", name]) == 2
        error = capsys.readouterr().err
        assert error.startswith(
            f"seq2edge: error: {name} needs an NVIDIA GPU, and CUDA finds none on this machine: "
        )
        assert error.count("\n") == 1
    assert not started


def test_a_folder_that_is_no_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["peers", str(tmp_path)]) == 2
    assert "config.json has no model_type: is it a Hugging Face folder?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch:float16", "'torch' is no library; there are: optimum, ctranslate2, openvino"),
        ("seq2edge", "'' is no precision of seq2edge; there are: float32, fp16"),
        ("transformers:fp16", "'fp16' is no precision of transformers"),
        ("seq2edge:fp16:tensort", "there are: onnxruntime, onnxruntime-tensorrt, tensorrt"),
        ("optimum:float32:compile", "'compile' is no mode of optimum; there are: none"),
        ("seq2edge:fp16:tensorrt@cpu", "'cpu' is no device of seq2edge:fp16:tensorrt"),
        ("optimum:float32@cuda", "'cuda' is no device of optimum:float32; there are: cpu"),
    ],
)
def test_a_baseline_that_there_is_not(
    capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert main(["peers", "--peers", name]) == 2
    assert message in capsys.readouterr().err


def test_an_environment_of_somebody_else_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PeerError, match="was not made by this command"):
        environments.prepare(tmp_path, ("numpy",))
    assert (tmp_path / "file").read_text() == "mine"


def test_parse_raises_what_the_command_line_shows() -> None:
    with pytest.raises(InputError):
        run.Name.parse("torch:float16")
