"""Models with each kind of tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from seq2edge.export import export_checkpoint
from seq2edge.runtime import Seq2SeqModel

_DEMO = Path(__file__).parents[3] / "examples" / "g2p" / "model"

ModelWith = Callable[[str, Callable[[], Tokenizer] | None], Seq2SeqModel]


@pytest.fixture(scope="module")
def model_with(
    byte_bundle: Path,
    variant_of: Callable[..., tuple[Path, Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ModelWith]:
    """A function from a name and a maker of a tokenizer to a random T5 with that tokenizer.

    Two names need no maker: "bytes" and "demo", the trained model. Each is made once.
    """
    loaded: dict[str, Seq2SeqModel] = {}

    def get(kind: str, make: Callable[[], Tokenizer] | None) -> Seq2SeqModel:
        if kind not in loaded:
            if kind == "demo":
                bundle = tmp_path_factory.mktemp("demo") / "bundle"
                export_checkpoint(_DEMO, bundle, validate=False)
            elif make is None:
                bundle = byte_bundle
            else:
                files = {"tokenizer.json": json.loads(make().to_str())}
                bundle = variant_of("t5-v1.1", files)[1]
            loaded[kind] = Seq2SeqModel.load(bundle, num_threads=1)
        return loaded[kind]

    yield get
    for model in loaded.values():
        model.close()
