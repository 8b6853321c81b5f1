"""The vocabularies of a text model and the tokens that its config names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from .tensors import Tensors
from .transformer import SIDES
from .vocabulary import ids_of, read_vocabularies


class Tokens:
    """The vocabularies of a folder, and the tokens that its config names.

    ``rows`` are those of the two tables.
    """

    def __init__(self, folder: Path, told: Mapping[str, Any], tensors: Tensors) -> None:
        self.folder, self.told = folder, told
        unknown = str(told.get("unk_token", "<unk>"))
        found = read_vocabularies(folder, unknown)
        if found is None:
            raise CheckpointError(
                f"{folder} has no shared_vocabulary.json (or .txt), nor one of source and target"
            )
        self.source, self.target = found
        embeddings = "encoder/embeddings_0/weight"
        self.encoder_table = embeddings if tensors.has(embeddings) else "encoder/embeddings/weight"
        self.rows = [tensors.shape(t)[0] for t in (self.encoder_table, "decoder/embeddings/weight")]
        for rows, tokens, side in zip(self.rows, (self.source, self.target), SIDES, strict=True):
            if rows != len(tokens):
                raise CheckpointError(
                    f"{folder}: the vocabulary of the {side} has {len(tokens)} tokens, and the"
                    f" model {rows}"
                )
        self._source_ids, self._target_ids = ids_of(self.source), ids_of(self.target)

    def pad(self) -> int:
        """Of sources."""
        found = [self._source_ids[t] for t in ("<pad>", "<blank>") if t in self._source_ids]
        return found[0] if found else self.named("eos_token", "</s>")

    def named(self, key: str, default: str) -> int:
        """The id of a token that config.json names.

        Raises:
            CheckpointError: it is not in the vocabulary, or is not said.
        """
        token = self.told.get(key, default)
        if token is None and key == "decoder_start_token":
            raise CheckpointError(
                f"{self.folder}/config.json: decoder_start_token is null, because the first token"
                " of outputs is their language's: write that token there"
            )
        if not isinstance(token, str) or token not in self._target_ids:
            raise CheckpointError(
                f"{self.folder}/config.json: {key} {token!r} is not in the vocabulary"
            )
        return self._target_ids[token]

    def config(self) -> dict[str, int]:
        """The special tokens as config.json of transformers has them."""
        found = {
            "pad_token_id": self.pad(),
            "eos_token_id": self.named("eos_token", "</s>"),
            "decoder_start_token_id": self.named("decoder_start_token", "<s>"),
        }
        if self.told.get("bos_token") in self.target:
            found["bos_token_id"] = self.named("bos_token", "<s>")
        return found

    def first_output(self) -> dict[str, int]:
        """The token that all outputs begin with, which a package of Argos Translate may name."""
        if not self.told.get("target_prefix"):
            return {}
        return {"forced_bos_token_id": self.named("target_prefix", "")}
