"""A T5-small: the bundle is no larger than its weights, and export needs little memory."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import T5Config, T5ForConditionalGeneration

from seq2edge.runtime import Bundle

#: Exports argv[1] to argv[2] and prints what it took. VmHWM is the peak of this process alone:
#: ru_maxrss starts at that of the process that started it, pytest with torch in it.
_EXPORT = """
import json, sys, warnings
from seq2edge.export import export_checkpoint

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))

warnings.simplefilter("ignore")
before = peak()
export_checkpoint(sys.argv[1], sys.argv[2], validate=False)
heavy = sorted({"torch", "transformers", "onnxruntime"} & set(sys.modules))
print(json.dumps({"growth": peak() - before, "heavy": heavy}))
"""


@dataclass(frozen=True)
class Export:
    """A T5-small checkpoint, its bundle, and what the exporting process took."""

    weight_bytes: int
    checkpoint_bytes: int
    bundle: Bundle
    growth: int
    heavy_modules: list[str]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """T5-small's geometry with random weights, exported by a fresh process."""
    folder = tmp_path_factory.mktemp("t5-small")
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(decoder_start_token_id=0))
    # Parameters are counted once each however many names they have.
    weight_bytes = sum(4 * parameter.numel() for parameter in model.parameters())
    model.save_pretrained(folder / "checkpoint")
    del model
    arguments = [str(folder / "checkpoint"), str(folder / "bundle")]
    done = subprocess.run(
        [sys.executable, "-c", _EXPORT, *arguments], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    return Export(
        weight_bytes=weight_bytes,
        checkpoint_bytes=(folder / "checkpoint" / "model.safetensors").stat().st_size,
        bundle=Bundle.open(folder / "bundle"),
        growth=found["growth"],
        heavy_modules=found["heavy"],
    )


def test_the_checkpoint_has_the_size_of_t5_small(export: Export) -> None:
    assert 60_000_000 < export.bundle.manifest.parameters < 61_000_000
    assert export.weight_bytes > 240_000_000


def test_the_bundle_takes_no_more_than_its_weights(export: Export) -> None:
    size = sum(file.stat().st_size for file in export.bundle.directory.iterdir())
    assert size <= 1.02 * export.weight_bytes
    assert export.bundle.size <= size


def test_export_needs_no_torch(export: Export) -> None:
    assert export.heavy_modules == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_export_holds_less_than_two_checkpoints_in_memory(export: Export) -> None:
    assert export.growth < 2 * export.checkpoint_bytes


def test_each_weight_lies_in_the_file_once(export: Export) -> None:
    places = sorted((w.offset, w.length) for w in export.bundle.manifest.weights.values())
    end = 0
    for offset, length in places:
        assert offset >= end, "tensors overlap"
        assert offset - end < 64, "a gap is more than alignment"
        assert offset % 64 == 0
        end = offset + length
    assert end == export.bundle.path("weights.bin").stat().st_size
    # The tied embedding is there once.
    table = [w for w in export.bundle.manifest.weights.values() if 32128 in w.shape]
    assert [w.shape for w in table] == [(32128, 512)]


def test_the_bundle_is_what_its_hashes_say(export: Export) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export.bundle.verify()


def test_the_table_is_the_checkpoints(export: Export) -> None:
    place = export.bundle.manifest.weights["embedding.weight"]
    with export.bundle.path("weights.bin").open("rb") as file:
        file.seek(place.offset)
        found = torch.frombuffer(bytearray(file.read(place.length)), dtype=torch.float32)
    checkpoint = export.bundle.directory.parent / "checkpoint" / "model.safetensors"
    with safe_open(checkpoint, framework="pt") as tensors:
        assert torch.equal(found.view(32128, 512), tensors.get_tensor("shared.weight"))
