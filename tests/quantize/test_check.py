"""Every quantized bundle is compared with its source, and one that lost its model says so."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.export import export_checkpoint
from seq2edge.quantize import (
    CalibrationFiles,
    DistributionCheck,
    NotChecked,
    Options,
    QuantizationWarning,
    check,
    quantize_bundle,
    quantize_mixed_precision,
)
from seq2edge.quantize.check import Checker, wilson_interval
from seq2edge.quantize.request import Request
from seq2edge.runtime import BackendError, Bundle, Seq2SeqModel

from .conftest import scale_weight

DEMO = Path(__file__).parents[2] / "examples" / "g2p" / "model"
WORDS = ["gateway", "raspberry", "keyboard", "february", "humanoid", "orchestra", "bicycle"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained demo model. Read only."""
    path = tmp_path_factory.mktemp("check") / "demo"
    export_checkpoint(DEMO, path, validate=False)
    return path


@pytest.fixture(scope="module")
def with_outliers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function to a bundle of the demo model that computes the same with larger weights.

    Some channels of every norm are divided by ``factor`` and the weights that read them
    multiplied: in float32 nothing changes, and what shares a block with them is rounded away.
    """

    def make(channels: list[int], factor: float) -> Path:
        from safetensors.numpy import load_file, save_file

        folder = tmp_path_factory.mktemp("outliers")
        shutil.copytree(DEMO, folder / "checkpoint")
        weights = {
            name: array.astype(np.float32)
            for name, array in load_file(DEMO / "model.safetensors").items()
        }
        for norm in [name for name in weights if name.endswith("layer_norm.weight")]:
            sublayer = norm.rpartition(".layer_norm.")[0]
            readers = [
                name
                for name in weights
                if name.startswith(f"{sublayer}.")
                and name.split(".")[-2] in ("q", "k", "v", "wi")
                and not (".EncDecAttention." in name and not name.endswith(".q.weight"))
            ]
            if norm == "encoder.final_layer_norm.weight":
                readers = [
                    name
                    for name in weights
                    if name.endswith(("EncDecAttention.k.weight", "EncDecAttention.v.weight"))
                ]
            if readers:
                weights[norm][channels] /= factor
                for name in readers:
                    weights[name][:, channels] *= factor
        save_file(weights, folder / "checkpoint" / "model.safetensors", {"format": "pt"})
        export_checkpoint(folder / "checkpoint", folder / "bundle", validate=False)
        return folder / "bundle"

    return make


def answers(bundle: Path) -> list[str | None]:
    with Seq2SeqModel.load(bundle) as model:
        return [generation.text for generation in model.generate(WORDS)]


@pytest.mark.parametrize(
    ("scheme", "target"),
    [
        ("int8", "cpu"),
        ("int4", "cpu"),
        ("int8-dynamic", "cpu"),
        ("fp16", "cpu"),
        ("int4", "cuda"),
        ("fp16", "cuda"),
        ("int4", "tensorrt"),
        ("fp16", "tensorrt"),
    ],
)
def test_a_good_bundle_is_measured_and_not_warned_about(
    scheme: str, target: str, demo: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", QuantizationWarning)
        result = quantize_bundle(demo, tmp_path / "out", scheme, target=target)
    found = result.check
    assert isinstance(found, DistributionCheck)
    assert found.prompts == "random prompts"
    assert 100 < found.positions < 1000
    assert found.interval[0] <= found.agreement <= found.interval[1]
    assert 0 <= found.mean_kl <= found.max_kl
    assert found.mean_kl < found.allowed <= 0.4
    recorded = Bundle.open(tmp_path / "out").manifest.quantization
    assert recorded["check"]["mean_kl"] == pytest.approx(found.mean_kl, rel=1e-3)
    assert recorded["check"]["passed"]
    assert "block_sizes" not in recorded  # the first was good enough


def test_a_destroyed_model_says_so_and_what_to_try(
    demo: Path, with_outliers: Callable[..., Path], tmp_path: Path
) -> None:
    broken = with_outliers([3, 67, 131], 64.0)
    assert answers(broken) == answers(demo)
    options = Options(block_size=128)
    with pytest.warns(QuantizationWarning) as caught:
        result = quantize_bundle(broken, tmp_path / "out", "int4", options=options)
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    for part in (str(tmp_path / "out"), "mean KL", "block-size 32 or 16", "gptq", "--max-drop"):
        assert part in message
    assert "--head-bits" not in message  # it has 8 already
    assert not result.manifest.quantization["check"]["passed"]
    assert sum(a == b for a, b in zip(answers(tmp_path / "out"), answers(demo), strict=True)) <= 1


def test_the_block_size_follows_the_measurement(
    with_outliers: Callable[..., Path], tmp_path: Path
) -> None:
    # All in one block of 16.
    source = with_outliers(list(range(3, 11)), 14.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", QuantizationWarning)
        result = quantize_bundle(source, tmp_path / "auto", "int4")
    record = result.manifest.quantization
    chosen, tried = record["block_sizes"]["chosen"], record["block_sizes"]["tried"]
    assert chosen in (32, 16)
    assert [int(size) for size in tried] == [size for size in (128, 32, 16) if size >= chosen]
    assert [report["passed"] for report in tried.values()] == [False] * (len(tried) - 1) + [True]
    assert record["check"] == tried[str(chosen)]
    assert record["options"] == {}
    Bundle.open(tmp_path / "auto").verify()
    options = Options(block_size=chosen)
    quantize_bundle(source, tmp_path / "fixed", "int4", options=options)
    for name in ("decoder.onnx", "encoder.onnx", "weights.bin"):
        assert (tmp_path / "auto" / name).read_bytes() == (tmp_path / "fixed" / name).read_bytes()


def test_where_no_block_size_is_good_enough_the_best_is_kept(
    with_outliers: Callable[..., Path], tmp_path: Path
) -> None:
    source = with_outliers([3, 67, 131], 64.0)
    with pytest.warns(QuantizationWarning, match="Try --algorithm gptq"):
        record = quantize_bundle(source, tmp_path / "out", "int4").manifest.quantization
    tried = record["block_sizes"]["tried"]
    assert list(tried) == ["128", "32", "16"]
    best = min(report["mean_kl"] for report in tried.values())
    assert tried[str(record["block_sizes"]["chosen"])]["mean_kl"] == best
    assert record["check"]["mean_kl"] == best


def test_the_check_is_the_same_each_time(demo: Path, tmp_path: Path) -> None:
    manifests = [
        quantize_bundle(demo, tmp_path / name, "int4").manifest.to_bytes() for name in ("a", "b")
    ]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("algorithm", [None, "gptq"])
def test_calibration_text_is_what_it_is_checked_on(
    algorithm: str | None, demo: Path, tmp_path: Path
) -> None:
    text = tmp_path / "words.txt"
    text.write_text("\n".join(WORDS))
    options = Options(algorithm=algorithm, block_size=32)
    save = tmp_path / "saved.npz" if algorithm else None
    result = quantize_bundle(
        demo, tmp_path / "out", "int4", options=options, calibration=CalibrationFiles(text, save)
    )
    found = result.check
    assert isinstance(found, DistributionCheck)
    assert (found.prompts, found.sequences) == ("calibration text", len(WORDS))
    with Seq2SeqModel.load(demo) as model:
        tokens = sum(len(answer.token_ids) for answer in model.generate(WORDS))
    assert found.positions == tokens
    # Words that the model was trained on: much nearer than on random letters.
    assert found.mean_kl < 0.05
    assert ("calibration" in result.manifest.quantization) == (algorithm is not None)
    if save is not None:
        again = quantize_bundle(
            demo, tmp_path / "again", "int4", options=options, calibration=CalibrationFiles(save)
        )
        assert again.manifest.quantization == result.manifest.quantization


def test_what_is_not_checked_says_why(
    demo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def reason(**options: Any) -> str:
        result = quantize_bundle(demo, tmp_path / "out", overwrite=True, **options)
        assert isinstance(result.check, NotChecked)
        recorded = result.manifest.quantization["check"]
        assert recorded == {"not_checked": result.check.reason}
        return result.check.reason

    assert "no bfloat16 kernels" in reason(scheme="bf16", target="cuda")

    def refuses(*_: object, **__: object) -> None:
        raise BackendError("no kernel for that")

    monkeypatch.setattr(check, "load_backend", refuses)
    assert "no kernel for that" in reason(scheme="int8")
    monkeypatch.setattr(check, "load_backend", lambda *_, **__: pytest.fail("loaded"))
    assert "not asked for" in reason(scheme="int4", check=False)


def test_values_that_are_no_numbers_do_not_pass(
    demo: Path, copy_of: Callable[[Path], Path]
) -> None:
    overflowing = copy_of(demo)
    scale_weight(overflowing, "decoder.final_norm.weight", float("inf"))
    with Checker(Bundle.open(demo)) as checker:
        found = checker.compare(Bundle.open(overflowing))
    assert not found.passed
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["mean_kl"] is None


def test_a_budget_keeps_its_block_size_and_is_checked_at_the_end(
    demo: Path, tmp_path: Path
) -> None:
    request = Request(demo, tmp_path / "out", "int4")
    budgeted = quantize_mixed_precision(request, 1.0, lambda _bundle: 0.0)
    assert isinstance(budgeted.result.check, DistributionCheck)
    assert "block_sizes" not in budgeted.result.manifest.quantization


def test_gptq_reports_every_layer(short_of: Callable[[str], Path], tmp_path: Path) -> None:
    text = tmp_path / "ids.jsonl"
    text.write_text('{"input_ids": [5, 6, 1]}\n{"input_ids": [9, 1]}\n')
    seen: list[tuple[str, int, int]] = []
    result = quantize_bundle(
        short_of("t5"),
        tmp_path / "out",
        "int4",
        options=Options(algorithm="gptq", block_size=32),
        calibration=CalibrationFiles(text),
        progress=lambda *stage: seen.append(stage),
    )
    count = len(result.formats)
    assert [step for step in seen if step[0] == "gptq"] == [
        ("gptq", done, count) for done in range(count + 1)
    ]
    assert ("checking", 2, 2) in seen


def test_the_interval_is_wilsons() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, trials, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
