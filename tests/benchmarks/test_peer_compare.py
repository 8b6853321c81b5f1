"""compare.py with made-up times: who is compared with whom, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOKENS = list(range(64))


class Maker:
    """Stands for ModelMaker: a model is a file as long as its baseline's name."""

    def __init__(self, folder: Path, *_: object) -> None:
        self._folder = folder

    def make(self, name: Any) -> Path:
        model = self._folder / name.text
        model.mkdir()
        (model / "weights").write_bytes(b"x" * len(name.text))
        return model


@pytest.fixture
def compare(
    peer_module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """The script, but environments, models and times are made up (see ``times``)."""
    module, comparison = peer_module("compare"), peer_module("_comparison")

    def make_checkpoint(_: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text('{"vocab_size": 32128}')

    monkeypatch.setattr(comparison, "prepare", lambda folder, _: folder / "bin" / "python")
    monkeypatch.setattr(comparison, "ModelMaker", Maker)
    monkeypatch.setattr(module, "make_checkpoint", make_checkpoint)
    monkeypatch.setattr(module, "_check_interpreter", lambda: None)
    return module


def times(
    comparison: ModuleType, tokens: Mapping[str, list[int]], started: list[Any]
) -> Callable[..., dict[str, Any]]:
    """An ``alternate`` in which a baseline's time follows from how it was started."""

    def alternate(baselines: Mapping[str, Any], *, rounds: int, **_: object) -> dict[str, Any]:
        results = {}
        for name, baseline in baselines.items():
            task = json.loads(baseline.command[2])
            started.append((baseline.command, task, dict(baseline.variables)))
            slow = {"float32": 800.0, "int8": 400.0}.get(task["precision"], 300.0)
            if "ctranslate2" in baseline.command[1]:
                slow += 100 * (task["threads"] == 1)
                slow += 200 * (baseline.variables["OMP_WAIT_POLICY"] == "active")
            made = [tokens.get(name, TOKENS), *[TOKENS] * (len(task["sources"]) - 1)]
            results[name] = comparison.Result(
                [slow] * rounds, made, {"package": "1.0"}, 5, ["beware"]
            )
        return results

    return alternate


@pytest.fixture
def timed(
    peer_module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Any]]:
    """A function from tokens that differ to the list of baselines that will be started."""

    def get(tokens: Mapping[str, list[int]] | None = None) -> list[Any]:
        comparison, started = peer_module("_comparison"), []  # type: ignore[var-annotated]
        monkeypatch.setattr(comparison, "alternate", times(comparison, tokens or {}, started))
        return started

    return get


def test_ctranslate2_is_compared_at_its_best(
    compare: ModuleType, timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    started = timed()
    names = ("ctranslate2:int8", "seq2edge:int8", "seq2edge:int4", "optimum:float32")
    assert compare.main(["--rounds", "3", "--json", "--baselines", *names]) == 0
    report = json.loads(capsys.readouterr().out)
    entries = report["baselines"]
    assert list(entries) == [name for name in compare.CPU_BASELINES if name in names]
    assert len(entries["ctranslate2:int8"]["tried"]) == 4
    assert entries["ctranslate2:int8"]["setting"] == {"threads": 2, "wait_policy": "passive"}
    assert entries["seq2edge:int8"]["tried"] == {}
    assert entries["seq2edge:int8"]["rounds"] == [400.0] * 3
    assert entries["seq2edge:int8"]["disk_bytes"] == len("seq2edge:int8")
    assert {name: ratio["p50"] for name, ratio in report["ratios"].items()} == {
        "seq2edge:int8 / optimum:float32": 0.5,
        "seq2edge:int8 / ctranslate2:int8": 1.0,
        "seq2edge:int4 / optimum:float32": 0.375,
        "seq2edge:int4 / ctranslate2:int8": 0.75,
        "seq2edge:int4 / seq2edge:int8": 0.75,
    }
    workers = {Path(command[1]).name for command, _, _ in started}
    assert workers == {"_ctranslate2_worker.py", "_optimum_worker.py", "_seq2edge_worker.py"}
    sources = [task["sources"] for _, task, _ in started]
    assert all(given == sources[0] for given in sources)  # all translate the same tokens
    assert [len(source) for source in sources[0]] == [64]
    for command, _, variables in started:
        # A peer must not meet the caller's packages; seq2edge is one of them.
        assert ("PYTHONPATH" in variables) == (not command[1].endswith("_seq2edge_worker.py"))


def test_baselines_are_told_mode_and_device(
    compare: ModuleType, timed: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = timed()
    monkeypatch.setattr(compare, "missing_gpu", lambda: None)
    assert compare.main(["--gpu", "--torch", "/opt/torch/bin/python"]) == 0
    told = {
        (Path(command[1]).name, task["precision"], task["mode"], task["device"])
        for command, task, _ in started
    }
    assert {
        ("_transformers_worker.py", "float16", None, "cuda"),
        ("_transformers_worker.py", "float16", "compile", "cuda"),
        ("_seq2edge_worker.py", "fp16", None, "cuda"),
        ("_seq2edge_worker.py", "fp16", "tensorrt", "cuda"),
    } < told
    pythons = {command[0] for command, _, _ in started if "transformers" in command[1]}
    assert pythons == {"/opt/torch/bin/python"}


def test_float32_models_that_differ_are_an_error(
    compare: ModuleType, timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [*TOKENS[:10], 99, *TOKENS[11:]]
    for name, code in (
        ("seq2edge:float32", 1),
        ("transformers:float32", 1),
        ("seq2edge:int8", 0),
    ):
        timed({name: changed})
        assert compare.main(["--sources", "3"]) == code
        text = capsys.readouterr().out
        assert "138 of 192, 2 of 3 sources whole" in text
        assert ("DIFFER" in text) == (code == 1)
        assert f"{name}: NOTE: beware" in text


def test_all_tokens_are_in_the_report(
    compare: ModuleType, timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [*TOKENS[:10], 99, *TOKENS[11:]]
    timed({"seq2edge:int8": changed})
    names = ("seq2edge:int8", "seq2edge:float32")
    assert compare.main(["--json", "--sources", "2", "--baselines", *names]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["reference"] == "seq2edge:float32"
    entry = report["baselines"]["seq2edge:int8"]
    assert entry["tokens"] == [changed, TOKENS]
    assert entry["agreement"] == {"sources": 1, "tokens": 74, "distinct": 65}


def test_fewer_tokens_are_no_comparison(
    compare: ModuleType, timed: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    timed({"seq2edge:int8": TOKENS[:-1]})
    assert compare.main([]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.splitlines()[-1] == (
        "compare.py: error: seq2edge:int8 generated 63 tokens instead of 64;"
        " the times cannot be compared"
    )


def test_without_a_gpu_nothing_is_made(
    compare: ModuleType,
    timed: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = timed()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # on a machine that has one
    monkeypatch.setattr(compare, "make_checkpoint", lambda *_: pytest.fail("it was made"))
    for name in ("seq2edge:fp16:tensorrt", "seq2edge:fp16@cuda", "transformers:float16@cuda"):
        assert compare.main(["--baselines", "seq2edge:float32", name]) == 2
        error = capsys.readouterr().err
        assert error.startswith(
            f"compare.py: error: {name} needs an NVIDIA GPU, and CUDA finds none on this machine: "
        )
        assert error.count("\n") == 1
    assert not started


def test_a_folder_that_is_no_checkpoint_is_refused(
    compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(["--checkpoint", str(tmp_path)]) == 2
    assert "config.json has no vocab_size: is it a checkpoint?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch:float16", "'torch' is no library; there are: optimum, ctranslate2, transformers"),
        ("seq2edge", "'' is no precision of seq2edge; there are: float32, fp16"),
        ("transformers:fp16", "'fp16' is no precision of transformers"),
        ("seq2edge:fp16:tensort", "there are: onnxruntime, onnxruntime-tensorrt, tensorrt"),
        ("optimum:float32:compile", "'compile' is no mode of optimum; there are: none"),
        ("seq2edge:fp16:tensorrt@cpu", "'cpu' is no device of seq2edge:fp16:tensorrt"),
        ("optimum:float32@cuda", "'cuda' is no device of optimum:float32; there are: cpu"),
    ],
)
def test_a_baseline_that_there_is_not(
    compare: ModuleType, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    with pytest.raises(SystemExit):
        compare.main(["--baselines", name])
    assert message in capsys.readouterr().err


def test_an_environment_of_somebody_else_is_left_alone(
    peer_module: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    environments = peer_module("_environments")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(peer_module("_driver").PeerError, match="was not made by this script"):
        environments.prepare(tmp_path, ("numpy",))
    assert (tmp_path / "file").read_text() == "mine"
