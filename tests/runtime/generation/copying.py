"""Models to decode with: one that copies, random ones; and an engine that records its steps.

The copying T5 has weights set by hand. It is an induction head: each source token carries the
two tokens before it, and the decoder looks for the source token whose two predecessors are
the last two of the output. A few tokens are replaced by others on the way. Sources that hold
no pair of tokens twice are copied exactly, with a margin that no rounding reaches.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seq2edge.runtime import Seq2SeqModel
from seq2edge.runtime.backends import (
    Backend,
    EncoderInputs,
    EncoderOutput,
    SlotCache,
    Step,
    load_backend,
    slot_backend,
)
from seq2edge.runtime.backends.base import Ids
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.text.tokenizer import load_tokenizer

PAD, EOS, START = 0, 1, 2
#: Tokens that sources are made of; the ones above them stand for edited ones.
TOKENS = range(4, 52)
EDITS = {16: 52, 40: 53}
_VOCAB = 64
#: End tokens of the random models, beside their own.
ENDS = range(20, 384, 35)
#: Score of a source position whose predecessor is the right one, and of the one before that.
_MATCH = (40.0, 20.0)
#: Logits of the right token over those of the others.
_MARGIN = 5.0


def copying_source(length: int, seed: int) -> list[int]:
    """``length`` random tokens, no two of them in a row twice, between START and EOS."""
    rng = np.random.default_rng(seed)
    tokens, pairs = [START], set[tuple[int, int]]()
    while len(tokens) <= length:
        pair = tokens[-1], int(rng.choice(TOKENS))
        if pair not in pairs:
            pairs.add(pair)
            tokens.append(pair[1])
    return [*tokens, EOS]


def copy_of_source(source: list[int]) -> list[int]:
    """What the model makes of ``source``."""
    return [EDITS.get(token, token) for token in source[1:]]


def copying_bundle(folder: Path) -> Path:
    """The copying model's bundle, written into ``folder``."""
    from seq2edge.export import export_checkpoint

    _save_copying_t5(folder / "checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(folder / "checkpoint", folder / "bundle", validate=False)
    return folder / "bundle"


def _save_copying_t5(folder: Path) -> None:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    size, width = _VOCAB, 4 * _VOCAB
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=size,
            d_model=width,
            d_kv=2 * size,
            d_ff=8,
            num_layers=1,
            num_heads=2,
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=START,
            tie_word_embeddings=False,
        )
    )
    eye = torch.eye(size)
    edit, unedit = torch.eye(size), torch.eye(size)
    for token, edited in EDITS.items():
        edit[[token, token]] = 0.0
        edit[edited, token] = 1.0
        unedit[:, edited] = eye[:, token]

    def root_mean_square(parts: int) -> float:
        """Of a state that is a sum of so many one-hot vectors: what its norm divides by."""
        return float(np.sqrt(parts / width))

    # A state is four one-hot vectors: token, the one before, the one before that, the copy.
    token, before, second, copy = (slice(i * size, (i + 1) * size) for i in range(4))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if name.endswith("layer_norm.weight") else 0.0)
        model.shared.weight[:, token] = eye
        for stack, targets in ((model.encoder, (before, second)), (model.decoder, (before,))):
            attention = stack.block[0].layer[0].SelfAttention
            for head, target in enumerate(targets):
                # Attention to the token 1 + head places to the left, whatever it is.
                attention.relative_attention_bias.weight[1 + head, head] = 60.0
                inner = slice(2 * size * head, 2 * size * head + size)
                attention.v.weight[inner, token] = eye * root_mean_square(1)
                attention.o.weight[target, inner] = eye
        cross = model.decoder.block[0].layer[1].EncDecAttention
        scales = root_mean_square(2) * root_mean_square(3)
        for number, (query, key) in enumerate(((token, before), (before, second))):
            inner = slice(number * size, (number + 1) * size)
            cross.q.weight[inner, query] = unedit * (_MATCH[number] * scales)
            cross.k.weight[inner, key] = eye
        cross.v.weight[:size, token] = edit * root_mean_square(3)
        cross.o.weight[copy, :size] = eye
        head = torch.zeros(size, width)
        head[:, copy] = eye * (_MARGIN * root_mean_square(3))
        model.lm_head.weight = torch.nn.Parameter(head)  # it was the embedding itself
    model.save_pretrained(folder)


def lively_bundle(variant_of: Callable[..., Any], shape: str) -> Path:
    """A random model's bundle with so many end tokens that rows end at different times.

    A T5 has ByT5's tokenizer; a BART has none.
    """
    from safetensors.numpy import load_file, save_file

    from seq2edge.export import export_checkpoint

    if shape.startswith("t5"):
        files = {"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}}
        bundle: Path = variant_of(shape, files, eos_token_id=[1, *ENDS]).bundle
        return bundle
    checkpoint, bundle = variant_of(shape, eos_token_id=[2, *ENDS])
    tensors = load_file(checkpoint / "model.safetensors")
    for name in tensors:
        # Where attention drowns the token that is run, a random BART says one for ever.
        if ".decoder." in name and name.endswith(("out_proj.weight", "fc2.weight")):
            tensors[name] *= np.float32(0.1)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(checkpoint, bundle, overwrite=True, validate=False)
    return bundle


@dataclass(frozen=True)
class Run:
    """One decoder run: sources in the batch, tokens of each."""

    batch_size: int
    num_tokens: int


class RecordingBackend:
    """Another backend, with a record of what its caches were asked for."""

    def __init__(self, backend: Backend, *, replaces_rows: bool) -> None:
        self._backend = slot_backend(backend)
        self.num_threads = backend.num_threads
        self.capabilities = replace(backend.capabilities, replaces_rows=replaces_rows)
        self.runs: list[Run] = []
        #: Rows that each ``keep`` went on with.
        self.kept: list[list[int]] = []

    def encode(self, inputs: EncoderInputs) -> EncoderOutput:
        return self._backend.encode(inputs)

    def new_cache(self, encoded: EncoderOutput, max_cache_len: int) -> SlotCache:
        cache: Any = _RecordingCache(self._backend.new_cache(encoded, max_cache_len), self)
        return cache

    def close(self) -> None:
        self._backend.close()


class _RecordingCache:
    def __init__(self, cache: SlotCache, record: RecordingBackend) -> None:
        self._cache = cache
        self._record = record

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def select_batch(self, rows: Ids) -> None:
        self._record.kept.append(rows.tolist())
        self._cache.select_batch(rows)

    def forward(self, step: Step) -> None:
        self._record.runs.append(Run(*step.input_ids.shape))
        self._cache.forward(step)

    def advance(self, step: Step, slot: int) -> None:
        self._record.runs.append(Run(*step.input_ids.shape))
        self._cache.advance(step, slot)


class Recorded:
    """A loaded bundle as ``model``, and what its decoders did since the last question.

    Without ``replaces_rows`` its batches are as those of backends that cannot refill them.
    """

    def __init__(self, path: Path, *, replaces_rows: bool = True) -> None:
        bundle = Bundle.open(path)
        backend = load_backend(bundle, num_threads=1)
        self._backend = RecordingBackend(backend, replaces_rows=replaces_rows)
        self.model = Seq2SeqModel(bundle, self._backend, load_tokenizer(bundle))

    def runs(self) -> list[Run]:
        """The decoder runs since this was last asked."""
        runs, self._backend.runs = self._backend.runs, []
        return runs

    def kept(self) -> list[list[int]]:
        """The rows that each ``keep`` since the last question went on with."""
        kept, self._backend.kept = self._backend.kept, []
        return kept
