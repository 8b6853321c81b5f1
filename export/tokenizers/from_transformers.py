"""A checkpoint's tokenizer as transformers loads it, without torch.

transformers converts a checkpoint's vocabulary files, and applies the settings beside them, in its
tokenizer classes. They are asked for by name: ``AutoTokenizer``, which finds them, imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenizers import Tokenizer, processors

from seq2edge.runtime.bundle.tokenizer_info import AddedByteToken
from seq2edge.runtime.errors import MissingDependencyError

from ..errors import CheckpointError
from .pieces import PieceModel
from .sentencepiece import with_pieces
from .serialized import serialized

#: The class that reads a tokenizer.json and nothing else.
GENERIC = "TokenizersBackend"


def find_class(name: str) -> Any:
    """The class of that name if it makes tokenizers of the ``tokenizers`` library; else None.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    _need()
    import transformers

    found = getattr(transformers, name, None)
    fast = isinstance(found, type) and issubclass(found, transformers.PreTrainedTokenizerFast)
    return found if fast else None


def own_module(family: str) -> ModuleType:
    """transformers' module of a family's tokenizer.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    _need()
    return import_module(f"transformers.models.{family}.tokenization_{family}")


def _need() -> None:
    if find_spec("transformers") is None:
        raise MissingDependencyError(
            "the checkpoint's tokenizer files are read with transformers, which is not installed:"
            " pip install transformers (torch is not needed)"
        )


def files_of(kind: Any) -> list[str]:
    """Names of the vocabulary files that a class of transformers needs."""
    files = kind.vocab_files_names
    return [files[key] for key in ("vocab_file", "merges_file") if key in files]


def load(kind: Any, directory: Path, files: list[str]) -> Tokenizer:
    """What a class of transformers makes of ``directory``.

    Args:
        kind: the class.
        directory: the checkpoint.
        files: what it reads there, for the message.

    Raises:
        CheckpointError: it cannot read them.
    """
    own = _from_pretrained(kind, directory, files)
    tokenizer: Tokenizer = own.backend_tokenizer
    if kind.__name__ == "BlenderbotTokenizer":
        _end_with(tokenizer, own.eos_token)
    return tokenizer


def byte_tokens(directory: Path) -> tuple[AddedByteToken, ...]:
    """Tokens of a ByT5 checkpoint that are no bytes, by id.

    Raises:
        CheckpointError: transformers cannot read its settings.
        MissingDependencyError: transformers is not installed.
    """
    _need()
    from transformers import ByT5Tokenizer

    own = _from_pretrained(ByT5Tokenizer, directory, ["tokenizer_config.json"])
    special = set(own.all_special_tokens)  # what decoding leaves out, whatever a token says
    return tuple(
        AddedByteToken(number, token.content, token.content in special, token.lstrip, token.rstrip)
        for number, token in sorted(own.added_tokens_decoder.items())
    )


def _from_pretrained(kind: Any, directory: Path, files: list[str]) -> Any:
    with quiet():
        try:
            return kind.from_pretrained(directory, local_files_only=True)
        except Exception as error:  # transformers raises many classes
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"{directory}: {', '.join(files)} cannot be read by transformers'"
                f" {kind.__name__}: {reason}"
            ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from logging warnings; what matters of them is said by the caller."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _end_with(tokenizer: Tokenizer, eos: str) -> None:
    """Version 5 of transformers forgets the end token that Blenderbot's documentation shows."""
    number = tokenizer.token_to_id(eos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", eos], special_tokens=[(eos, number)]
    )


def cut_as_sentencepiece(tokenizer: Tokenizer, model: PieceModel) -> Tokenizer:
    """T5's tokenizer of transformers, mended where SentencePiece shows it to be wrong.

    It leaves out byte fallback, and puts a space after the symbols that users of SentencePiece
    defined, because it takes them for added tokens.
    """
    user_defined = {piece.text for piece in model.pieces if piece.user_defined}
    if not model.byte_fallback and not user_defined:
        return tokenizer
    made = json.loads(serialized(tokenizer))
    made["added_tokens"] = [t for t in made["added_tokens"] if t["content"] not in user_defined]
    made["model"]["byte_fallback"] = model.byte_fallback
    mended = Tokenizer.from_str(json.dumps(made))
    with_pieces(mended, model)
    return mended
