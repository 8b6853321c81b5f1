"""The layers that cost most get a more exact format, until the loss fits the budget."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.quantize import (
    CalibrationFiles,
    MixedPrecision,
    Options,
    QuantizationError,
    Request,
    quantize_bundle,
    quantize_mixed_precision,
)
from seq2edge.quantize.calibration import store
from seq2edge.quantize.mixed_precision import group_of
from seq2edge.quantize.recipe.layers import find_layers
from seq2edge.runtime import Bundle, OutputError, OutputExistsError

from .conftest import BundleOf, CalibrationOf, difference, logits, models, reference

#: What each group costs at 4 bits; those not named cost nothing.
COSTS = {"decoder.layers.1": 5.0, "embedding": 3.0, "encoder.layers.0": 1.0}


class Fake:
    """A measure that knows what a bundle costs from its manifest, and keeps what it was shown."""

    def __init__(
        self, costs: Mapping[str, float] = COSTS, cheap: str = "int8", base: float = 10.0
    ) -> None:
        self.costs, self.cheap, self.base = costs, cheap, base
        self.seen: list[Path] = []

    def __call__(self, bundle: Path) -> float:
        self.seen.append(bundle)
        layers = Bundle.open(bundle).manifest.quantization.get("layers", {})
        coarse = {
            group_of(layer)
            for layer, said in layers.items()
            if not said.startswith(("float32", self.cheap))
        }
        return self.base + sum(self.costs.get(group, 0) for group in coarse)


def request_of(bundle: Path, out: Path, **more: Any) -> Request:
    return Request(bundle, out, "int4", **{"options": Options(head_bits=4), **more})


def groups(bundle: Path) -> list[str]:
    return list(dict.fromkeys(group_of(layer.name) for layer in find_layers(models(bundle))))


def only(folder: Path, *names: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_group_is_a_transformer_layer() -> None:
    for layer, group in (
        ("encoder.layers.0.self_attention.qkv", "encoder.layers.0"),
        ("decoder.layers.11.ffn.down", "decoder.layers.11"),
        ("decoder.layers.1.cross_attention.query", "decoder.layers.1"),
        ("cross.1.kv", "decoder.layers.1"),
        ("cross.12.kv", "decoder.layers.12"),
        ("embedding", "embedding"),
        ("lm_head", "lm_head"),
    ):
        assert group_of(layer) == group


def test_no_layer_is_more_exact_when_it_fits(short_of: BundleOf, tmp_path: Path) -> None:
    measure, labels = Fake(), []
    found = quantize_mixed_precision(
        request_of(short_of("t5"), tmp_path / "out"),
        9.0,
        measure,
        measuring=lambda label, done: labels.append((label, done)),
    )
    assert found.sensitivities == ()
    assert [(trial.fallback, trial.loss) for trial in found.trials] == [((), 9.0)]
    assert labels == [("float32", 0), ("all groups", 1)]
    assert measure.seen[0] == short_of("t5") and len(measure.seen) == 2
    assert only(tmp_path, "out")
    plain = quantize_bundle(
        short_of("t5"), tmp_path / "plain", "int4", options=Options(head_bits=4)
    )
    assert found.result.manifest.quantization["layers"] == plain.manifest.quantization["layers"]
    assert found.result.path == tmp_path / "out"
    Bundle.open(tmp_path / "out").verify()


def test_the_worst_groups_are_more_exact_first_and_no_more_than_needed(
    short_of: BundleOf, tmp_path: Path
) -> None:
    fallback = ["decoder.layers.1", "embedding", "encoder.layers.0"]
    for number, (allowed, count) in enumerate(((4.0, 1), (3.9, 2))):
        measure, out = Fake(), tmp_path / str(number)
        found = quantize_mixed_precision(request_of(short_of("t5"), out), allowed, measure)
        assert found.trials[-1].fallback == tuple(fallback[:count])
        losses = [trial.loss for trial in found.trials]
        assert losses == [9.0, 4.0, 1.0, 0.0][: count + 1]
        assert losses[-1] <= allowed < losses[-2]
        # Once each: float32, all, every group alone, and all with more groups more exact.
        assert len(measure.seen) == 2 + len(groups(short_of("t5"))) + count
        layers = Bundle.open(out).manifest.quantization["layers"]
        coarse = {group_of(layer) for layer, said in layers.items() if said.startswith("int4")}
        assert coarse == set(groups(short_of("t5"))) - set(fallback[:count])
    assert only(tmp_path, *"01")


@pytest.fixture(scope="module")
def searched(short_of: BundleOf, tmp_path_factory: pytest.TempPathFactory) -> MixedPrecision:
    """A search that had to make more exact all three groups that cost something. Read only."""
    out = tmp_path_factory.mktemp("searched") / "out"
    return quantize_mixed_precision(request_of(short_of("t5"), out), 0.5, Fake())


def test_effects_are_of_each_group_alone(searched: MixedPrecision, short_of: BundleOf) -> None:
    effects = {effect.group: effect for effect in searched.sensitivities}
    assert sorted(effects) == sorted(groups(short_of("t5"))) and len(effects) == 6
    assert {g: e.loss for g, e in effects.items()} == {g: COSTS.get(g, 0.0) for g in effects}
    # Self-attention qkv and out, cross-attention query, kv and out, feed-forward up and down.
    assert effects["decoder.layers.1"].layers == 7
    assert effects["encoder.layers.0"].layers == 4
    assert [effect.loss for effect in searched.sensitivities] == [5, 3, 1, 0, 0, 0]
    # Of groups that cost the same, the one with fewer layers comes first.
    assert [effect.layers for effect in searched.sensitivities[3:]] == [4, 4, 7]


def test_the_manifest_says_how_it_was_found(searched: MixedPrecision, short_of: BundleOf) -> None:
    manifest = json.loads((searched.result.path / "seq2edge.json").read_text())
    record = manifest["quantization"]["mixed_precision"]
    assert record["max_drop"] == 0.5
    assert record["loss"] == searched.trials[-1].loss == 0
    assert record["fallback"] == ["decoder.layers.1", "embedding", "encoder.layers.0"]
    first = record["sensitivities"][0]
    assert (first["group"], first["layers"], first["loss"]) == ("decoder.layers.1", 7, 5.0)
    assert record["trials"][-1]["bytes"] == searched.result.bytes < first["bytes"]
    assert first["interval"] is None  # of a measure that gives bare numbers
    assert record["resolved"] is True
    assert len(record["sensitivities"]) == len(searched.sensitivities)
    assert "mixed_precision" not in Bundle.open(short_of("t5")).manifest.quantization


def test_what_was_measured_is_what_is_written(short_of: BundleOf, tmp_path: Path) -> None:
    shown: list[np.ndarray] = []
    fake = Fake()

    def measure(bundle: Path) -> float:
        shown.append(logits(bundle))
        return fake(bundle)

    quantize_mixed_precision(request_of(short_of("t5"), tmp_path / "out"), 4, measure)
    np.testing.assert_array_equal(logits(tmp_path / "out"), shown[-1])
    assert 0 < difference(shown[-1], shown[0]) < difference(shown[1], shown[0])


def test_a_budget_that_nothing_fits_leaves_nothing(short_of: BundleOf, tmp_path: Path) -> None:
    request = request_of(short_of("t5"), tmp_path / "out")
    with pytest.raises(
        QuantizationError,
        match=r"6 of 6 groups .* the loss is still 2, more than 1\.5",
    ):
        quantize_mixed_precision(request, 1.5, lambda bundle: 2.0 * (bundle != short_of("t5")))
    assert only(tmp_path)


def test_layers_that_are_excluded_are_no_group(short_of: BundleOf, tmp_path: Path) -> None:
    request = request_of(
        short_of("t5"), tmp_path / "out", exclude=("decoder.layers.1.*", "cross.1.kv", "embed*")
    )
    found = quantize_mixed_precision(request, 0.5, Fake())
    names = {effect.group for effect in found.sensitivities}
    assert names == set(groups(short_of("t5"))) - {"decoder.layers.1", "embedding"}
    layers = Bundle.open(tmp_path / "out").manifest.quantization["layers"]
    assert {layers["embedding"], layers["cross.1.kv"]} == {"float32"}
    assert layers["encoder.layers.0.ffn.up"].startswith("int8")
    assert layers["encoder.layers.1.ffn.up"].startswith("int4")


@pytest.mark.parametrize(
    ("scheme", "target", "cheap"),
    [
        ("int8", "cpu", "float32"),
        ("fp16", "cpu", "float32"),
        ("fp16", "cuda", "float32"),
        ("int8", "cuda", "float16"),
        ("int4", "cuda", "int8"),
        ("int4", "tensorrt", "int8"),
        ("int8-qdq", "cpu", "int8 weights, blocks"),
        ("int8-qdq", "tensorrt", "float16"),
        ("int8-dynamic", "cpu", "int8 weights, blocks"),
    ],
)
def test_a_sensitive_layer_gets_the_schemes_fallback_format(
    scheme: str,
    target: str,
    cheap: str,
    short_of: BundleOf,
    calibration_of: CalibrationOf,
    tmp_path: Path,
) -> None:
    """Feed-forward layers of the encoder: only they are quantized."""
    source, out = short_of("t5"), tmp_path / "out"
    names = [layer.name for layer in find_layers(models(source))]
    chosen = [f"encoder.layers.{n}.ffn.up" for n in range(3)]
    request = Request(
        source,
        out,
        scheme,
        target,
        calibration=calibration_of("t5"),
        exclude=tuple(name for name in names if name not in chosen),
    )
    costs = {"encoder.layers.1": 2.0}
    quantize_mixed_precision(request, 1, Fake(costs, cheap))
    layers = Bundle.open(out).manifest.quantization["layers"]
    assert layers[chosen[1]].startswith(cheap)
    assert not layers[chosen[0]].startswith(cheap) or layers[chosen[0]] != layers[chosen[1]]
    assert difference(logits(out), reference(source)) < 0.4


def test_bfloat16_cannot_be_measured(short_of: BundleOf, tmp_path: Path) -> None:
    request = Request(short_of("t5"), tmp_path / "out", "bf16", "cuda")
    with pytest.raises(QuantizationError, match="no bfloat16"):
        quantize_mixed_precision(request, 1, Fake())
    assert only(tmp_path)


# Around it


def test_all_candidates_are_made_of_one_open_bundle(
    short_of: BundleOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    verify, opened = Bundle.verify, []
    monkeypatch.setattr(
        Bundle, "verify", lambda bundle: opened.append(bundle.directory) or verify(bundle)
    )
    result = quantize_mixed_precision(request_of(short_of("t5"), tmp_path / "out"), 4, Fake())
    assert len(result.sensitivities) > 3
    assert opened == [short_of("t5")]


def test_text_is_calibrated_on_once(
    short_of: BundleOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text, kept, calls = tmp_path / "text.jsonl", tmp_path / "kept", []
    text.write_text('{"input_ids": [5, 6, 7, 1]}\n{"input_ids": [9, 1]}\n')
    capture = store.capture_activations
    monkeypatch.setattr(
        store,
        "capture_activations",
        lambda *arguments: calls.append(arguments) or capture(*arguments),
    )
    request = request_of(
        short_of("t5"),
        tmp_path / "out",
        options=Options(algorithm="gptq", head_bits=4),
        calibration=CalibrationFiles(text, kept),
        exclude=("encoder.*", "decoder.layers.0.*", "cross.0.*"),
    )
    found = quantize_mixed_precision(request, 4, Fake())
    assert len(calls) == 1 and len(found.trials) == 2
    assert found.result.manifest.quantization["calibration"]["texts"] == 2
    assert only(tmp_path, "kept", "out", "text.jsonl")


def test_a_measure_that_fails_leaves_nothing(short_of: BundleOf, tmp_path: Path) -> None:
    for last in (1, 3):
        fake = Fake()

        def measure(bundle: Path, fake: Fake = fake, last: int = last) -> float:
            if len(fake.seen) + 1 == last:
                assert last == 1 or not only(tmp_path)
                raise KeyboardInterrupt
            return fake(bundle)

        with pytest.raises(KeyboardInterrupt):
            quantize_mixed_precision(request_of(short_of("t5"), tmp_path / "out"), 4, measure)
        assert only(tmp_path)


def test_trials_of_a_killed_run_go_with_the_next(short_of: BundleOf, tmp_path: Path) -> None:
    """Fault: they lay in a folder of a random name, and stayed."""
    (tmp_path / ".out.seq2edge.trials" / "candidate").mkdir(parents=True)
    quantize_mixed_precision(request_of(short_of("t5"), tmp_path / "out"), 9, Fake())
    assert only(tmp_path, "out")


def test_what_is_there_is_kept_until_something_fits(short_of: BundleOf, tmp_path: Path) -> None:
    out, measure = tmp_path / "out", Fake()
    quantize_bundle(short_of("t5"), out, "fp16")
    request = request_of(short_of("t5"), out)
    with pytest.raises(OutputExistsError, match="--force"):
        quantize_mixed_precision(request, 4, measure)
    assert not measure.seen
    with pytest.raises(QuantizationError, match="6 of 6 groups of layers more exact"):
        quantize_mixed_precision(
            replace(request, overwrite=True), 0.5, lambda b: 2.0 * (b != short_of("t5"))
        )
    assert Bundle.open(out).manifest.quantization["scheme"] == "fp16"
    quantize_mixed_precision(replace(request, overwrite=True), 9, measure)
    assert Bundle.open(out).manifest.quantization["scheme"] == "int4"
    assert only(tmp_path, "out")


def test_bad_requests_are_refused_before_anything_is_measured(
    short_of: BundleOf, tmp_path: Path
) -> None:
    done = quantize_bundle(short_of("t5"), tmp_path / "done", "int8").path
    measure = Fake()
    for match, bundle, more in (
        ("unknown scheme", short_of("t5"), {"scheme": "int3"}),
        ("block size 7", short_of("t5"), {"options": Options(block_size=7)}),
        ("quantized already", done, {}),
        ("needs to see the model", short_of("t5"), {"options": Options(algorithm="gptq")}),
    ):
        with pytest.raises(QuantizationError, match=match):
            request = replace(request_of(bundle, tmp_path / "out"), **more)
            quantize_mixed_precision(request, 4, measure)
    assert not measure.seen and only(tmp_path, "done")


def test_a_pattern_without_layers_is_refused_before_anything_is_measured(
    short_of: BundleOf, tmp_path: Path
) -> None:
    measure = Fake()
    with pytest.raises(QuantizationError, match="matches no layer"):
        request = request_of(short_of("t5"), tmp_path / "out", exclude=("nothing.*",))
        quantize_mixed_precision(request, 4, measure)
    assert not measure.seen


def test_a_folder_that_is_not_there_yet_is_made(short_of: BundleOf, tmp_path: Path) -> None:
    """As without a budget."""
    quantize_bundle(short_of("t5"), tmp_path / "new" / "plain", "int8")
    quantize_mixed_precision(request_of(short_of("t5"), tmp_path / "newer" / "out"), 9, Fake())
    assert only(tmp_path / "newer", "out")


def test_an_output_that_cannot_be_written_is_one_line(short_of: BundleOf, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        quantize_bundle(short_of("t5"), tmp_path / "file" / "out", "int8")
    with pytest.raises(OutputError):
        quantize_mixed_precision(request_of(short_of("t5"), tmp_path / "file" / "out"), 9, Fake())


def test_a_loss_that_is_not_a_number_fits_no_budget(short_of: BundleOf, tmp_path: Path) -> None:
    request = request_of(short_of("t5"), tmp_path / "out")
    with pytest.raises(QuantizationError):
        quantize_mixed_precision(request, 4, lambda b: 0.0 if b == short_of("t5") else float("nan"))
    assert only(tmp_path)


def test_a_budget_that_is_not_a_number_is_refused(short_of: BundleOf, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError):
        quantize_mixed_precision(request_of(short_of("t5"), tmp_path / "out"), float("nan"), Fake())
