"""compare.py with made-up times: who is compared with whom, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOKENS = list(range(64))


@pytest.fixture
def compare(
    peer_module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """The script, but environments, models and times are made up (see ``times``)."""
    module = peer_module("compare")

    def models(names: list[str], folder: Path, *_: object) -> dict[str, Path]:
        for name in names:
            (folder / name).mkdir()
            (folder / name / "weights").write_bytes(b"x" * len(name))
        return {name: folder / name for name in names}

    monkeypatch.setattr(module, "prepare", lambda folder, _: folder / "bin" / "python")
    monkeypatch.setattr(module, "make_models", models)
    monkeypatch.setattr(module, "_check_interpreter", lambda: None)
    return module


def times(
    module: ModuleType, tokens: Mapping[str, list[int]], started: list[Any]
) -> Callable[..., dict[str, Any]]:
    """An ``alternate`` in which a contender's time follows from how it was started."""

    def alternate(contenders: Mapping[str, Any], *, rounds: int, **_: object) -> dict[str, Any]:
        results = {}
        for name, contender in contenders.items():
            task = json.loads(contender.command[2])
            started.append((Path(contender.command[1]).name, task, dict(contender.variables)))
            slow = {"float32": 800.0, "int8": 400.0}.get(task["precision"], 300.0)
            if "ctranslate2" in contender.command[1]:
                slow += 100 * (task["threads"] == 1)
                slow += 200 * (contender.variables["OMP_WAIT_POLICY"] == "active")
            made = tokens.get(name, TOKENS)
            results[name] = module.Result([slow] * rounds, made, {"package": "1.0"}, 5)
        return results

    return alternate


def test_ctranslate2_is_compared_at_its_best(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(compare, "alternate", times(compare, {}, started))
    names = ("ctranslate2:int8", "seq2edge:int8", "seq2edge:int4", "optimum:float32")
    assert compare.main(["--rounds", "3", "--json", "--contenders", *names]) == 0
    report = json.loads(capsys.readouterr().out)
    entries = report["contenders"]
    assert list(entries) == [name for name in compare.CONTENDERS if name in names]
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
    workers = {worker for worker, _, _ in started}
    assert workers == {"_ctranslate2_worker.py", "_optimum_worker.py", "_seq2edge_worker.py"}
    sources = {tuple(task["source"]) for _, task, _ in started}
    assert len(sources) == 1  # all translate the same tokens
    assert len(next(iter(sources))) == 64
    for worker, _, variables in started:
        # A peer must not meet the caller's packages; seq2edge is one of them.
        assert ("PYTHONPATH" in variables) == (worker != "_seq2edge_worker.py")


def test_float32_models_that_differ_are_an_error(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [*TOKENS[:10], 99, *TOKENS[11:]]
    for name, code in (("seq2edge:float32", 1), ("seq2edge:int8", 0)):
        monkeypatch.setattr(compare, "alternate", times(compare, {name: changed}, []))
        assert compare.main([]) == code
        text = capsys.readouterr().out
        assert "10 of 64" in text
        assert ("DIFFER" in text) == (code == 1)


def test_fewer_tokens_are_no_comparison(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = {"ctranslate2:int8": TOKENS[:-1]}
    monkeypatch.setattr(compare, "alternate", times(compare, short, []))
    assert compare.main([]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err == (
        "compare.py: error: ctranslate2:int8 generated 63 tokens instead of 64;"
        " the times cannot be compared\n"
    )


def test_an_environment_of_somebody_else_is_left_alone(
    peer_module: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    environments = peer_module("_environments")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(peer_module("_driver").PeerError, match="was not made by this script"):
        environments.prepare(tmp_path, ("numpy",))
    assert (tmp_path / "file").read_text() == "mine"
