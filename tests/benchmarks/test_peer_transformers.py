"""PyTorch beside seq2edge: the script as it is run, with real processes and small models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from seq2edge.benchmarks.driver import Baseline, PeerError, alternate
from seq2edge.benchmarks.peers.models import random_sources
from seq2edge.benchmarks.workers.worker import Task
from seq2edge.cli.main import main

from .conftest import WORKERS


@pytest.mark.parametrize(("shape", "num_beams"), [("t5", 1), ("bart", 3)])
def test_tokens_are_pytorchs(
    checkpoint_of: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shape: str,
    num_beams: int,
) -> None:
    """Models from the command line, workers in processes, sources one after the other."""
    numbers = {
        "--sources": 3,
        "--source-length": 7,
        "--new-tokens": 9,
        "--num-beams": num_beams,
        "--threads": 1,
        "--runs": 2,
        "--warmup": 1,
    }
    names = ("seq2edge:int8", "seq2edge:float32", "transformers:float32")
    words = (
        *("peers", checkpoint_of(shape), "--peers", *names, "--torch", sys.executable),
        *(part for pair in numbers.items() for part in pair),
        *("--cache", tmp_path / "peers", "--roofline", "--json"),
    )
    assert main([str(word) for word in words]) == 0
    report = json.loads(capsys.readouterr().out)
    entries = {entry["name"]: entry for entry in report["entries"]}
    assert list(entries) == ["transformers:float32", "seq2edge:int8", "seq2edge:float32"]
    expected = _generate(checkpoint_of(shape), num_beams)
    for name in ("transformers:float32", "seq2edge:float32"):
        tokens = entries[name]["tokens"]
        assert tokens["ids"] == expected
        assert (tokens["reference"], tokens["verdict"]) == ("transformers:float32", "same")
        assert (tokens["sources"], tokens["common"], tokens["total"]) == (3, 27, 27)
    weights = checkpoint_of(shape) / "model.safetensors"
    assert entries["transformers:float32"]["loaded_bytes"] == weights.stat().st_size
    roofline = entries["seq2edge:int8"]["details"]["roofline"]
    assert (roofline["source_length"], roofline["cache_slots"]) == (7, 9)
    # No environment was needed.
    assert [path.name for path in (tmp_path / "peers").iterdir()] == ["models"]


@pytest.mark.parametrize(
    ("change", "variables", "message"),
    [
        (
            {"device": "cuda", "precision": "float16"},
            {"CUDA_VISIBLE_DEVICES": ""},
            r"finds no CUDA GPU on this machine \(see nvidia-smi\)",
        ),
        (
            {"mode": "compile"},
            {"CXX": "/none/g++"},
            r"torch.compile does not work here: .*No working C\+\+ compiler",
        ),
    ],
)
def test_what_does_not_work_here_is_one_line(
    checkpoint_of: Callable[[str], Path],
    tmp_path: Path,
    change: dict[str, str],
    variables: dict[str, str | None],
    message: str,
) -> None:
    task = asdict(
        Task(
            model=str(checkpoint_of("t5")),
            precision="float32",
            mode=None,
            device="cpu",
            sources=((5, 6, 7),),
            new_tokens=4,
            num_beams=1,
            threads=1,
        )
    )
    command = (
        sys.executable,
        str(WORKERS / "transformers_worker.py"),
        json.dumps(task | change),
    )
    # A cache of its own: what was compiled before needs no compiler.
    variables = {**variables, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    baselines = {"torch": Baseline(command, variables)}
    with pytest.raises(PeerError, match=f"^torch failed: RuntimeError: .*{message}"):
        alternate(baselines, rounds=1, warmup=0)


def _generate(checkpoint: Path, num_beams: int) -> list[list[int]]:
    """What transformers makes of the sources, all at once and without an end."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    sources = random_sources(checkpoint, 3, 7)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    model.generation_config.eos_token_id = None
    model.generation_config.forced_eos_token_id = None
    found = model.generate(torch.tensor(sources), num_beams=num_beams, max_new_tokens=9)
    tokens: list[list[int]] = found[:, 1:].tolist()
    return tokens
