"""An adapter_config.json is read whole before anything is merged, and is of an unknown sender."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seq2edge.export import CheckpointError
from seq2edge.export.checkpoint.adapter_config import AdapterConfig, read_adapter_config

MODULES = {
    "encoder.block.0.q": 4,
    "decoder.block.0.q": 4,
    "decoder.block.1.q": 2,
    "decoder.block.1.EncDecAttention.q": 2,
}


def read(folder: Path, **values: Any) -> AdapterConfig:
    text = json.dumps({"peft_type": "LORA", **values})
    (folder / "adapter_config.json").write_text(text)
    return read_adapter_config(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("r", "lora_alpha") for value in (0, -1, True, None, "8", 1e300)),
        *(("lora_alpha", value) for value in (float("inf"), float("nan"), [8])),
        *((key, "yes") for key in ("use_rslora", "use_dora")),
        *((key, v) for key in ("rank_pattern", "alpha_pattern") for v in (3, "q", [4], {"q": "4"})),
        *((key, {"q": None}) for key in ("rank_pattern", "alpha_pattern")),
        *(("modules_to_save", value) for value in (1, "lm_head", [1], [None])),
        *(("target_modules", value) for value in (7, [7], {"q": 1}, [["q"]])),
        *(
            ("trainable_token_indices", v)
            for v in (5, "a", [-1], [1.5], {"shared": None}, [1 << 40])
        ),
    ],
)
def test_values_of_other_types_are_refused_by_name(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json.* {key}|{key} must be"):
        read(tmp_path, **{key: value})


def test_the_first_pattern_that_fits_the_end_of_a_name_counts(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        r=4,
        lora_alpha=8,
        rank_pattern={r"block\.1.*\.q": 2},
        alpha_pattern={"EncDecAttention.q": 6, "block.1.*q": 4, r"(x|decoder.+)": 16},
    )
    assert config.scalings(MODULES) == {
        "encoder.block.0.q": 2,
        "decoder.block.0.q": 4,
        "decoder.block.1.q": 2,
        "decoder.block.1.EncDecAttention.q": 3,
    }
    with pytest.raises(CheckpointError, match=r"decoder\.block\.1\.q has the rank 4, .* have 2"):
        read(tmp_path, r=4).scalings(MODULES)


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        (None, []),
        ("all-linear", []),
        (["q"], []),
        (["decoder.block.1.q", "0.q"], ["decoder.block.1.EncDecAttention.q"]),
        (r".*decoder.*\.q", ["encoder.block.0.q"]),
        ("encoder.block.0.q", [name for name in MODULES if name != "encoder.block.0.q"]),
    ],
)
def test_modules_that_are_no_targets_are_named(
    pattern: Any, left: list[str], tmp_path: Path
) -> None:
    assert read(tmp_path, target_modules=pattern).not_targeted(MODULES) == left


@pytest.mark.parametrize("pattern", [r"(.*)*(.*)*(.*)*(.*)*x", r"((\w|[a-z.]|\d|\.)+)+!"])
@pytest.mark.parametrize("key", ["target_modules", "rank_pattern", "alpha_pattern"])
def test_patterns_that_would_take_years_are_refused(
    key: str, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seq2edge.export.checkpoint.patterns._SECONDS", 1.0)
    config = read(tmp_path, **{key: pattern if key == "target_modules" else {pattern: 4}})
    names = {f"encoder.block.0.layer.0.{'SelfAttention' * 20}.q": 8}
    with pytest.raises(CheckpointError, match=f"{key} has a regular expression that takes more"):
        config.not_targeted(names) if key == "target_modules" else config.scalings(names)


@pytest.mark.parametrize("pattern", ["(", "[a", "a**", "\\", "(?P<x>a)(?P<x>b)", "(" * 9000])
def test_patterns_that_are_none_are_refused(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="alpha_pattern has no regular expression"):
        read(tmp_path, alpha_pattern={pattern: 4}).scalings(MODULES)
    with pytest.raises(CheckpointError, match="target_modules has no regular expression"):
        read(tmp_path, target_modules=pattern).not_targeted(MODULES)
