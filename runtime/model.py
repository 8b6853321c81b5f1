"""The public face of the runtime: load a bundle, generate text or token ids."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bundle import Bundle
from .decoding import GenerationConfig, greedy
from .engines import Engine, load_engine
from .errors import InputError
from .manifest import Manifest
from .tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Generation:
    """One generated sequence.

    Attributes:
        text: the decoded text, or None where the bundle has no tokenizer.
        token_ids: tokens after the decoder start token, with a decoder prefix and the end
            token where there is one.
        score: sum of the tokens' log-probabilities (natural logarithm; forced tokens count
            as 0), or None unless ``return_scores`` was asked for.
        finish_reason: ``eos`` or ``length``.
    """

    text: str | None
    token_ids: list[int]
    score: float | None
    finish_reason: str


class Seq2SeqModel:
    """A loaded encoder-decoder. Use it as a context manager, from one or several threads.

    >>> with Seq2SeqModel.load("g2p.bundle") as model:
    ...     print(model.generate(["hello"])[0].text)
    """

    def __init__(self, bundle: Bundle, engine: Engine, tokenizer: Tokenizer | None) -> None:
        self._bundle = bundle
        self._engine = engine
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        engine: str = "onnxruntime",
        device: str = "cpu",
        num_threads: int | None = None,
    ) -> Seq2SeqModel:
        """Open a bundle and load it into an engine.

        Args:
            path: the bundle's folder.
            engine: ``onnxruntime``.
            device: ``cpu``.
            num_threads: threads within an operator; None: one for a small model, whose steps
                are too short to share, else as many as there are cores.

        Raises:
            BundleError: the bundle is missing, incomplete or of a newer format.
            EngineError: the engine is missing or too old for the bundle.
        """
        bundle = Bundle.open(path)
        tokenizer = load_tokenizer(bundle)
        loaded = load_engine(bundle, engine=engine, device=device, num_threads=num_threads)
        return cls(bundle, loaded, tokenizer)

    @property
    def manifest(self) -> Manifest:
        return self._bundle.manifest

    def __enter__(self) -> Seq2SeqModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine. The model cannot be used afterwards."""
        self._engine.close()

    def generate(
        self,
        texts: str | Sequence[str],
        *,
        max_new_tokens: int | None = None,
        decoder_prefix: Sequence[int] = (),
        return_scores: bool = False,
    ) -> list[Generation]:
        """Greedy decoding of each text, as one batch.

        Args:
            texts: the sources; one string counts as a list of one.
            max_new_tokens: limit of new tokens; None: the checkpoint's own default.
            decoder_prefix: token ids that every output starts with (forced).
            return_scores: fill ``Generation.score``.

        Returns:
            One :class:`Generation` a text, in order.

        Raises:
            InputError: no tokenizer in the bundle, an empty text, a text that is too long,
                or an impossible option.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        config = self._config(max_new_tokens, decoder_prefix, return_scores)
        return self._generate(self.tokenize(texts), config)

    def generate_ids(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        *,
        max_new_tokens: int | None = None,
        decoder_prefix: Sequence[int] = (),
        return_scores: bool = False,
    ) -> list[Generation]:
        """Greedy decoding of token ids, for callers who have their own tokenizer.

        Args:
            input_ids: [B, S] integers, padded on the right with the pad token.
            attention_mask: [B, S], nonzero where a token counts; None: all but pad tokens.
            max_new_tokens, decoder_prefix, return_scores: as in :meth:`generate`.

        Raises:
            InputError: wrong shape, ids outside the vocabulary, a row with nothing in it, or
                a source longer than the model allows.
        """
        config = self._config(max_new_tokens, decoder_prefix, return_scores)
        ids, mask = self._checked_ids(input_ids, attention_mask)
        return self._run(ids, mask, config) if len(ids) else []

    def _config(
        self, max_new_tokens: int | None, decoder_prefix: Sequence[int], return_scores: bool
    ) -> GenerationConfig:
        return GenerationConfig.resolve(
            self.manifest,
            max_new_tokens=max_new_tokens,
            decoder_prefix=_token_ids(decoder_prefix),
            return_scores=return_scores,
        )

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, checked as :meth:`generate` checks them.

        Raises:
            InputError: as in :meth:`generate`; the text is named by its place in ``texts``.
        """
        if self.tokenizer is None:
            raise InputError(
                f"{self._bundle.directory} has no tokenizer (the checkpoint had no tokenizer"
                " files); export it again with them beside the weights, or use generate_ids"
            )
        encoded = []
        limit = self.manifest.dimensions.max_source_length
        vocabulary = self.manifest.dimensions.vocab_size
        for number, text in enumerate(texts, start=1):
            if not text.strip():
                raise InputError(f"text {number} is empty")
            try:
                ids = self.tokenizer.encode(text)
            except Exception as error:  # the tokenizers library raises bare Exception
                raise InputError(f"text {number} cannot be tokenized: {error}") from None
            if not ids:
                raise InputError(f"text {number} has no token that the tokenizer knows")
            if limit is not None and len(ids) > limit:
                raise InputError(
                    f"text {number} has {len(ids)} tokens and the model takes at most {limit};"
                    " split it or shorten it"
                )
            if max(ids) >= vocabulary:
                raise InputError(
                    f"text {number} holds token {max(ids)} and the model knows only"
                    f" {vocabulary}: the tokenizer is larger than the model"
                )
            encoded.append(ids)
        return encoded

    def _generate(self, encoded: list[list[int]], config: GenerationConfig) -> list[Generation]:
        if not encoded:
            return []
        length = max(len(ids) for ids in encoded)
        input_ids = np.full((len(encoded), length), self.manifest.special_tokens.pad, np.int64)
        mask = np.zeros((len(encoded), length), np.bool_)
        for row, ids in enumerate(encoded):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return self._run(input_ids, mask, config)

    def _run(
        self, input_ids: NDArray[np.int64], mask: NDArray[np.bool_], config: GenerationConfig
    ) -> list[Generation]:
        source = self._engine.encode(input_ids, mask)
        return [
            Generation(
                text=None if self.tokenizer is None else self.tokenizer.decode(found.token_ids),
                token_ids=found.token_ids,
                score=found.log_probability if config.return_scores else None,
                finish_reason=found.finish_reason or "length",
            )
            for found in greedy(self._engine, source, self.manifest, config)
        ]

    def _checked_ids(
        self, input_ids: ArrayLike, attention_mask: ArrayLike | None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        try:
            ids = np.asarray(input_ids)
        except ValueError:
            raise InputError(
                "input_ids must be a rectangle [batch, length]; pad the rows"
            ) from None
        if ids.shape == (0,):
            ids = ids.reshape(0, 0).astype(np.int64)
        if ids.ndim != 2 or (ids.size and ids.dtype.kind not in "iu"):
            raise InputError(
                f"input_ids must be integers of shape [batch, length], not {ids.dtype} {ids.shape}"
            )
        ids = ids.astype(np.int64)
        dims, pad = self.manifest.dimensions, self.manifest.special_tokens.pad
        if ids.size and not (ids.min() >= 0 and ids.max() < dims.vocab_size):
            raise InputError(f"input_ids must lie in 0..{dims.vocab_size - 1}")
        if dims.max_source_length is not None and ids.shape[1] > dims.max_source_length:
            raise InputError(
                f"the source has {ids.shape[1]} tokens and the model takes at most"
                f" {dims.max_source_length}"
            )
        try:
            mask = ids != pad if attention_mask is None else np.asarray(attention_mask) != 0
        except ValueError:
            raise InputError("attention_mask must be a rectangle [batch, length]") from None
        if mask.shape != ids.shape:
            raise InputError(f"attention_mask has shape {mask.shape}, input_ids {ids.shape}")
        empty = np.flatnonzero(~mask.any(axis=1))
        if empty.size:
            raise InputError(f"row {int(empty[0])} of input_ids holds no token that counts")
        return ids, mask


def _token_ids(tokens: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(operator.index(token) for token in tokens)
    except TypeError:
        raise InputError(f"decoder_prefix must hold integers, not {list(tokens)}") from None
