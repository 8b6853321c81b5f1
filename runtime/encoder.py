"""An encoder-only model: texts to vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .backends import Backend, load_backend
from .bundle.manifest import STATES
from .bundle.reader import Bundle
from .errors import BundleError, InputError
from .generation.source import collate
from .model_base import LoadedModel
from .text.languages import LanguageTokens
from .text.sources import TextSource, checked_sources, tokenize
from .text.tokenizer import Tokenizer, load_tokenizer

FloatArray = NDArray[np.float32]

#: Ways to make one vector of a text's states.
POOLINGS = ("mean", "first")


class EncoderModel(LoadedModel[Backend]):
    """A loaded encoder. Use it as a context manager, from one or several threads.

    >>> with EncoderModel.load("bert.bundle") as model:
    ...     vectors = model.encode(["a text", "another one"])  # [2, D]
    """

    def __init__(self, bundle: Bundle, backend: Backend, tokenizer: Tokenizer | None) -> None:
        super().__init__(bundle, backend)
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        num_threads: int | None = None,
        encoder_backend: str | None = None,
        device: str | None = None,
        precision: str | None = None,
    ) -> EncoderModel:
        """Open a bundle and load it into ONNX Runtime on the CPU, or into OpenVINO.

        Args:
            path: the bundle's folder.
            num_threads: threads within an operator; None: one for a small model, else as many
                as there are cores.
            encoder_backend: as of :meth:`.Seq2SeqModel.load`.
            device: as of :meth:`.Seq2SeqModel.load`.
            precision: as of :meth:`.Seq2SeqModel.load`.

        Raises:
            BundleError: the bundle is missing, incomplete, of a newer format, or no encoder.
            BackendError: onnxruntime is missing or too old for the bundle, or OpenVINO has no such
                device or precision.
        """
        bundle = Bundle.open(path, single_stack=("encoder",))
        bundle.require_text()
        if bundle.manifest.single_stack != "encoder":
            raise BundleError(
                f"{path} generates text, and its encoder gives no vectors: use Seq2SeqModel, or"
                " export the encoder by itself"
            )
        backend = load_backend(
            bundle,
            device=device,
            num_threads=num_threads,
            encoder_backend=encoder_backend,
            precision=precision,
        )
        return cls(bundle, backend, load_tokenizer(bundle))

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        pooling: str | None = "mean",
        batch_size: int | None = None,
    ) -> FloatArray:
        """Vectors of ``texts``; one string counts as a list of one.

        Args:
            texts: the texts.
            pooling: ``mean`` over a text's tokens, the special ones included; ``first``, the
                state of its first token ([CLS]); None: the states of all tokens.
            batch_size: texts at once, of similar lengths; None: all of them.

        Returns:
            float32, [B, D]; without pooling [B, S, D], 0 after a text's last token.

        Raises:
            InputError: no tokenizer in the bundle, an empty text or one that is too long, an
                unknown pooling, or a ``batch_size`` below 1.
            BackendError: the engine failed, or the model was closed.
        """
        if self.tokenizer is None:
            raise InputError(f"{self._bundle.directory} has no tokenizer; use encode_ids")
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = tokenize(
            texts, self.tokenizer, self.manifest, LanguageTokens(), self._length_warning
        )
        sources = [TextSource.of(ids) for ids in rows]
        return self._encode(sources, pooling, batch_size)

    def encode_ids(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        *,
        pooling: str | None = None,
        batch_size: int | None = None,
    ) -> FloatArray:
        """:meth:`encode` of token ids [B, S], padded on the right with the pad token.

        Args:
            input_ids: [B, S] integers.
            attention_mask: [B, S], nonzero where a token counts; None: all but padding (where the
                pad token is an end token too, all).
            pooling: as in :meth:`encode`.
            batch_size: as in :meth:`encode`.

        Raises:
            InputError: wrong shape, ids outside the vocabulary, a row with nothing in it, a row
                longer than the model allows, or as :meth:`encode`.
            BackendError: the engine failed, or the model was closed.
        """
        sources = checked_sources(input_ids, attention_mask, self.manifest)
        return self._encode(sources, pooling, batch_size)

    def _encode(
        self, sources: list[TextSource], pooling: str | None, batch_size: int | None
    ) -> FloatArray:
        if pooling is not None and pooling not in POOLINGS:
            raise InputError(f"pooling must be None or one of {POOLINGS}, not {pooling!r}")
        size = max(1, len(sources)) if batch_size is None else batch_size
        if size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}")
        order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
        longest = max(map(len, sources), default=0)
        width = self.manifest.dimensions.d_model
        shape = (len(sources), longest, width) if pooling is None else (len(sources), width)
        found = np.zeros(shape, np.float32)
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            batch = collate(
                [sources[number] for number in numbers], self.manifest.special_tokens.pad
            )
            states, mask = self._backend.encode(batch).numpy(STATES), batch["attention_mask"]
            if pooling is None:
                found[numbers, : mask.shape[1]] = states * mask[:, :, None]
            else:
                found[numbers] = _pooled(states, mask, pooling)
        return found


def _pooled(states: FloatArray, mask: NDArray[np.bool_], pooling: str) -> FloatArray:
    """[B, D] of [B, S, D]."""
    if pooling == "first":
        first: FloatArray = states[np.arange(len(mask)), mask.argmax(axis=1)]
        return first
    counts = mask.sum(axis=1, keepdims=True)
    mean: FloatArray = (states * mask[:, :, None]).sum(axis=1) / counts.astype(np.float32)
    return mean
