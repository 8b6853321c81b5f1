"""What is compared: bundles of a trained model and of two made from configs, in four precisions.

The two are fitted to a few pairs. What a random model chooses next is as good as a tie: its 8 bit
roundings decide, and they differ from one processor to the next. After the fit a choice is as
clear as a trained model's.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
DEMO = TESTS.parent / "examples" / "g2p" / "model"
SCHEMES = ("int8", "int8-dynamic", "int4")
WORDS = ["keyboard", "february", "a", "piscataway"]

#: Wide enough for the blocks of 128 inputs and the kernels that a published model gets.
_WIDE = {
    "t5": {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_heads": 4},
    "bart": {"d_model": 128, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "init_std": 0.02},
}
#: Source and target tokens of the pairs, without the end token.
_LENGTHS = ((3, 5), (24, 14), (11, 9), (1, 2))
_MOST_STEPS = 200


def make_bundles(folder: Path) -> dict[str, dict[str, Any]]:
    """Write the bundles; the sources of each by ``model.scheme``, as device.py reads them."""
    cases: dict[str, dict[str, Any]] = {}
    cases |= _precisions(DEMO, folder / "g2p", {"texts": WORDS})
    for shape, changes in _WIDE.items():
        checkpoint, sources = _fitted(shape, changes, folder / f"{shape}.checkpoint")
        cases |= _precisions(checkpoint, folder / shape, {"input_ids": sources})
    return cases


def _precisions(checkpoint: Path, path: Path, sources: dict[str, Any]) -> dict[str, dict[str, Any]]:
    from seq2edge.export import export_checkpoint
    from seq2edge.quantize import quantize_bundle

    exact = path.with_suffix(".float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(checkpoint, exact, validate=False)
    bundles = [exact, *(path.with_suffix(f".{scheme}") for scheme in SCHEMES)]
    for scheme, bundle in zip(SCHEMES, bundles[1:], strict=True):
        quantize_bundle(exact, bundle, scheme)
    return {bundle.name: {"bundle": str(bundle), **sources} for bundle in bundles}


def _fitted(shape: str, changes: dict[str, Any], folder: Path) -> tuple[Path, list[list[int]]]:
    """A checkpoint that has learned some pairs by heart, and their sources."""
    import torch
    from transformers.utils import logging

    # Two threads on two busy cores mostly wait for each other.
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sys.path.insert(0, str(TESTS))
    from conftest import SHAPES, make_model

    *classes, values = SHAPES[shape]
    SHAPES["arm64"] = (*classes, {**values, **changes})
    model = make_model("arm64")
    generator = torch.Generator().manual_seed(0)

    def sequences(lengths: list[int]) -> list[list[int]]:
        words = [torch.randint(4, 300, (length,), generator=generator) for length in lengths]
        return [[*word.tolist(), model.config.eos_token_id] for word in words]

    sources = sequences([source for source, _ in _LENGTHS])
    targets = sequences([target for _, target in _LENGTHS])
    pad = model.config.pad_token_id
    ids, labels = _padded(sources, pad), _padded(targets, -100)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(_MOST_STEPS):
        loss = model(input_ids=ids, attention_mask=ids != pad, labels=labels).loss
        if loss < 1e-2:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    else:
        raise SystemExit(f"the {shape} model did not learn its pairs: loss {loss:.3f}")
    model.save_pretrained(folder)
    return folder, sources


def _padded(rows: list[list[int]], value: int) -> Any:
    import torch

    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=value
    )
