"""What the export tests share: checkpoints that may be edited, exports that must fail."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from seq2edge.export import CheckpointError, ExportResult, export_checkpoint
from seq2edge.runtime import Seq2SeqModel
from seq2edge.runtime.text.tokenizer import Tokenizer

Tensors = dict[str, NDArray[Any]]


@pytest.fixture
def editable(checkpoint_of: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A function from a name in SHAPES to a copy of its checkpoint that a test may change."""

    def copy(shape: str, name: str = "checkpoint") -> Path:
        return Path(shutil.copytree(checkpoint_of(shape), tmp_path / name))

    return copy


@pytest.fixture
def edit_tensors() -> Callable[[Path, Callable[[Tensors], object]], None]:
    """A function that changes a checkpoint's ``model.safetensors``; the edit is in place."""

    def edit(checkpoint: Path, change: Callable[[Tensors], object]) -> None:
        file = checkpoint / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, file)

    return edit


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """A function that sets keys of a checkpoint's config.json; ``None`` removes one."""

    def edit(checkpoint: Path, file: str = "config.json", **values: Any) -> None:
        path = checkpoint / file
        config = json.loads(path.read_text()) if path.exists() else {}
        config.update(values)
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return edit


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., ExportResult]:
    """``export_checkpoint`` to ``tmp_path/bundles/NAME``, without a word on tokenizers."""

    def run(checkpoint: Path, name: str = "bundle", **options: Any) -> ExportResult:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*no tokenizer files")
            return export_checkpoint(
                checkpoint, tmp_path / "bundles" / name, **{"validate": False, **options}
            )

    return run


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """A function that exports, expects an error that leaves nothing, and gives its message."""

    def run(
        checkpoint: Path, error: type[Exception] = CheckpointError, validate: bool = False
    ) -> str:
        parent = tmp_path / "refused"
        parent.mkdir()
        with warnings.catch_warnings(), pytest.raises(error) as caught:
            warnings.filterwarnings("ignore", message=".*no tokenizer files")
            export_checkpoint(checkpoint, parent / "bundle", validate=validate)
        assert sorted(parent.iterdir()) == []
        parent.rmdir()
        return str(caught.value)

    return run


def load_for_training(checkpoint: Path) -> Any:
    """transformers' model of a checkpoint, as peft takes it."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = json.loads((checkpoint / "config.json").read_text())["model_type"]
    auto = AutoModelForCausalLM if kind == "gpt2" else AutoModelForSeq2SeqLM
    return auto.from_pretrained(checkpoint)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Path]:
    """A function from a base model to an adapter of it, all of whose tensors are random."""
    import peft
    import torch

    def run(base: Path, name: str = "adapter", **options: Any) -> Path:
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **options})
        torch.manual_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tied modules
            model = peft.get_peft_model(load_for_training(base), config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.1 * torch.randn_like(parameter))
            model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return run


@pytest.fixture(scope="session")
def greedy_tokens() -> Callable[[Path], list[list[int]]]:
    """A function from a bundle to what it makes of three fixed sources."""

    def run(bundle: Path) -> list[list[int]]:
        ids = [[5, 9, 33, 71, 200, 1], [8, 14, 1, 0, 0, 0], [90, 91, 92, 93, 1, 0]]
        mask = [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]
        with Seq2SeqModel.load(bundle, num_threads=1) as model:
            return [found.token_ids for found in model.generate_ids(ids, mask, max_new_tokens=16)]

    return run


_TEXT = (
    "the cat sat on a mat and the dog did not, it's café time in naïve Ünïcödé town 12 345.6"
    " hello world! running runner walked walking don't won't 日本語 東京 と 中文 привет мир"
)
_WORDS = _TEXT.split()
#: First and last code point of what texts are mixed from.
_RANGES = [
    (0x20, 0x7E),  # ASCII
    (0xA1, 0x17F),  # accented Latin
    (0x300, 0x36F),  # combining marks
    (0x391, 0x3C9),  # Greek
    (0x5D0, 0x5EA),  # Hebrew
    (0x4E00, 0x4FFF),  # CJK
    (0x3041, 0x3096),  # Hiragana
    (0xFB00, 0xFB06),  # ligatures, which NFKC takes apart
    (0xFF21, 0xFF3A),  # full-width Latin
    (0x1F600, 0x1F64F),  # emoji
]
_ODD = [
    *(
        "\x00",
        "\x07",
        "\x1b",
        "\x7f",
        "\x85",
        "\t",
        "\n",
        "\r\n",
        "  ",
        "     ",
        "\u00a0",
        "\u3000",
    ),
    *("\u200b", "\u200d", "\ufeff", "e\u0301", "a\u0308\u0323"),
    *("👩\u200d👩\u200d👧", "👍🏽", "🇯🇵", "▁"),
]


@pytest.fixture(scope="session")
def mixed_texts() -> list[str]:
    """200 strings of words, scripts, emoji, combining marks, controls and white space."""
    generator = random.Random(5)

    def piece() -> str:
        kind = generator.random()
        if kind < 0.4:
            return generator.choice(_WORDS)
        if kind < 0.6:
            return generator.choice(_ODD)
        first, last = generator.choice(_RANGES)
        return chr(generator.randint(first, last))

    def text() -> str:
        join = generator.choice(["", " ", " "])
        return join.join(piece() for _ in range(generator.randint(1, 12)))

    return [text() for _ in range(200)]


@pytest.fixture(scope="session")
def sentencepiece_texts(mixed_texts: list[str]) -> list[str]:
    """Those of ``mixed_texts`` that the tokenizers library normalizes as SentencePiece does.

    It loses a combining mark after a character that the normalization changes.
    """

    def loses_a_mark(text: str) -> bool:
        return any(combining(b) and normalize("NFKC", a) != a for a, b in pairwise(text))

    texts = [text for text in mixed_texts if not loses_a_mark(text)]
    assert len(texts) >= 198
    return texts


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """Sentences to train a tokenizer on, of the words that ``mixed_texts`` holds."""
    generator = random.Random(6)
    return [" ".join(generator.choices(_WORDS, k=12)) for _ in range(300)]


@pytest.fixture
def bundle_tokenizer(
    editable: Callable[..., Path], export: Callable[..., ExportResult]
) -> Callable[[Path], Tokenizer]:
    """A function from a folder of tokenizer files to the tokenizer of a bundle made with them."""

    def make(files: Path) -> Tokenizer:
        checkpoint = editable("bart", f"{files.name}-checkpoint")
        shutil.copytree(files, checkpoint, dirs_exist_ok=True)
        with Seq2SeqModel.load(export(checkpoint, files.name).path) as model:
            assert model.tokenizer is not None
            return model.tokenizer

    return make
