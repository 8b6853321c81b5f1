"""PyTorch beside seq2edge: the script as it is run, with real processes and small models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .conftest import PEERS


@pytest.mark.parametrize(("shape", "num_beams"), [("t5", 1), ("bart", 3)])
def test_tokens_are_pytorchs(
    peer_module: Callable[[str], ModuleType],
    checkpoint_of: Callable[[str], Path],
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
        "--rounds": 1,
    }
    names = ("seq2edge:int8", "seq2edge:float32", "transformers:float32")
    code = peer_module("compare").main(
        [
            *(part for option, value in numbers.items() for part in (option, str(value))),
            *("--checkpoint", str(checkpoint_of(shape)), "--torch", sys.executable),
            *("--json", "--baselines", *names),
        ]
    )
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    entries = report["baselines"]
    assert list(entries) == ["transformers:float32", "seq2edge:int8", "seq2edge:float32"]
    assert report["reference"] == "transformers:float32"
    expected = _generate(checkpoint_of(shape), peer_module, num_beams)
    for name in ("transformers:float32", "seq2edge:float32"):
        assert entries[name]["tokens"] == expected
        assert (entries[name]["agreement"]["sources"], entries[name]["agreement"]["tokens"]) == (
            3,
            27,
        )
    weights = checkpoint_of(shape) / "model.safetensors"
    assert entries["transformers:float32"]["loaded_bytes"] == weights.stat().st_size
    assert set(report["ratios"]) == {
        "seq2edge:int8 / transformers:float32",
        "seq2edge:float32 / transformers:float32",
        "seq2edge:float32 / seq2edge:int8",
    }


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
    peer_module: Callable[[str], ModuleType],
    checkpoint_of: Callable[[str], Path],
    tmp_path: Path,
    change: dict[str, str],
    variables: dict[str, str | None],
    message: str,
) -> None:
    driver, worker = peer_module("_driver"), peer_module("_worker")
    task = asdict(
        worker.Task(
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
        str(PEERS / "_transformers_worker.py"),
        json.dumps(task | change),
    )
    # A cache of its own: what was compiled before needs no compiler.
    variables = {**variables, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    baselines = {"torch": driver.Baseline(command, variables)}
    with pytest.raises(driver.PeerError, match=f"^torch failed: RuntimeError: .*{message}"):
        driver.alternate(baselines, rounds=1, warmup=0)


def test_a_step_is_measured_in_a_process_of_its_own(bundle_of: Callable[[str], Path]) -> None:
    what = (bundle_of("t5"), "onnxruntime", "cpu", 5, 6, 1, 1)
    command = [sys.executable, PEERS / "_roofline_worker.py", *what]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert (found["source_length"], found["cache_slots"], found["device"]) == (5, 6, "cpu")
    assert found["share"] > 0


def _generate(
    checkpoint: Path, peer_module: Callable[[str], ModuleType], num_beams: int
) -> list[list[int]]:
    """What transformers makes of the sources, all at once and without an end."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    sources = peer_module("_models").random_sources(checkpoint, 3, 7)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    model.generation_config.eos_token_id = None
    model.generation_config.forced_eos_token_id = None
    found = model.generate(torch.tensor(sources), num_beams=num_beams, max_new_tokens=9)
    tokens: list[list[int]] = found[:, 1:].tolist()
    return tokens
