"""Two functions of a user's own become a bundle that generates what they compute."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from seq2edge.export.callables import CallableSizes, export_callables
from seq2edge.export.errors import CheckpointError, ParityError
from seq2edge.export.length_limits import source_limit, target_limit
from seq2edge.export.tracing import Functions
from seq2edge.quantize import Options, QuantizationError, quantize_bundle
from seq2edge.quantize.check import DistributionCheck
from seq2edge.runtime import Bundle, InputError, Seq2SeqModel
from seq2edge.runtime.bundle.manifest import SpecialTokens

HEADS, HEAD_DIM, VOCAB, SOURCE_VOCAB, POSITIONS = 2, 6, 50, 60, 40
WIDTH = HEADS * HEAD_DIM
TOKENS = SpecialTokens(pad=0, decoder_start=1, eos=(2,))
SIZES = CallableSizes(
    pasts=[(HEADS, HEAD_DIM)] * 2,
    vocab_size=VOCAB,
    source_vocab_size=SOURCE_VOCAB,
    max_source_length=POSITIONS,
)


class Model(nn.Module):
    """No family's: a convolution encodes, and one layer of gated attention decodes."""

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(SOURCE_VOCAB, WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.target = nn.Embedding(VOCAB, WIDTH)
        self.positions = nn.Parameter(torch.randn(POSITIONS, WIDTH))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.gate = nn.Linear(2 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(WIDTH, VOCAB)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        counts = attention_mask[:, :, None].float()
        states = self.dropout(self.source(input_ids)) * counts
        return torch.tanh(self.conv(states.transpose(1, 2)).transpose(1, 2)) * counts

    def decode_step(
        self,
        input_ids: Tensor,
        pasts: Sequence[Tensor],
        cross: Sequence[Tensor],
        encoder_attention_mask: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        batch, queries = input_ids.shape
        past = pasts[0].shape[2]
        x = self.target(input_ids) + self.positions[past : past + queries]
        q, k, v = self.qkv(x).view(batch, queries, 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)
        k, v = torch.cat([pasts[0], k], 2), torch.cat([pasts[1], v], 2)
        places = torch.arange(past + queries)
        sees = places[None, :] <= past + torch.arange(queries)[:, None]
        scores = (q @ k.transpose(2, 3)).masked_fill(~sees, -1e9)
        own = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, queries, WIDTH)
        away = (encoder_attention_mask[:, None] == 0).expand(batch, queries, -1)
        weights = (own @ cross[0].transpose(1, 2)).masked_fill(away, -1e9).softmax(-1)
        read = weights @ cross[0]
        x = x + torch.sigmoid(self.gate(torch.cat([own, read], -1))) * (own + read)
        return self.head(self.dropout(x)), [k, v]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(3)
    model = Model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model.eval()


#: PyTorch's exporter says here that it has no torchvision, which nobody needs.
NOISY = "torch.onnx._internal.exporter._registration"


@contextmanager
def caplog_of(name: str) -> Iterator[list[str]]:
    """What is logged under that name."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger(name)
    log.addHandler(handler)
    try:
        yield messages
    finally:
        log.removeHandler(handler)


@pytest.fixture(scope="module")
def bundle(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("callables") / "bundle"
    with caplog_of(NOISY) as noise:
        result = export_callables(model.encode, model.decode_step, path, sizes=SIZES, tokens=TOKENS)
    assert not noise
    assert result.parity is not None
    assert result.parity.ok
    assert result.parity.decoder.maximum < 2e-4
    return path


def sources() -> tuple[np.ndarray, np.ndarray]:
    """Ten of mixed lengths, one of a single token."""
    generator = np.random.default_rng(5)
    lengths = np.array([1, 2, 3, 5, 8, 13, 4, 6, 7, 11])
    ids = generator.integers(3, SOURCE_VOCAB, (10, 13))
    mask = np.arange(13) < lengths[:, None]
    return np.where(mask, ids, TOKENS.pad), mask


def greedy(model: Model, ids: Tensor, mask: Tensor, start: list[int], count: int) -> list[int]:
    """By the functions, without a cache."""
    cross = [model.encode(ids[None], mask[None])]
    written = start
    for _ in range(count):
        pasts = [torch.zeros(1, HEADS, 0, HEAD_DIM)] * 2
        logits, _ = model.decode_step(torch.tensor([written]), pasts, cross, mask[None])
        written = [*written, int(logits[0, -1].argmax())]
        if written[-1] in TOKENS.eos:
            break
    return written[1:]


@pytest.mark.parametrize("prefix", [(), (7, 9, 4)])
def test_generates_what_the_functions_compute(
    model: Model, bundle: Path, prefix: tuple[int, ...]
) -> None:
    ids, mask = sources()
    with Seq2SeqModel.load(bundle) as loaded, torch.inference_mode():
        options = replace(
            loaded.generation_config, max_new_tokens=20, decoder_prefix=prefix, num_beams=1
        )
        found = [row.token_ids for row in loaded.generate_ids(ids, mask, options)]
        rows = zip(torch.from_numpy(ids), torch.from_numpy(mask).long(), strict=True)
        expected = [greedy(model, *row, [TOKENS.decoder_start, *prefix], 20) for row in rows]
    assert found == expected
    assert len({tuple(row) for row in found}) > 5


def test_beams_have_the_scores_that_the_functions_give(model: Model, bundle: Path) -> None:
    ids, mask = sources()
    with Seq2SeqModel.load(bundle) as loaded:
        options = replace(
            loaded.generation_config,
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=12,
            length_penalty=0.0,
        )
        found = loaded.generate_ids(ids, mask, options)
    assert len(found) == 40
    for row in found:
        source, counts = torch.tensor(ids[row.source]), torch.tensor(mask[row.source]).long()
        fed = torch.tensor([[TOKENS.decoder_start, *row.token_ids[:-1]]])
        with torch.inference_mode():
            cross = [model.encode(source[None], counts[None])]
            pasts = [torch.zeros(1, HEADS, 0, HEAD_DIM)] * 2
            logits, _ = model.decode_step(fed, pasts, cross, counts[None])
        scores = logits[0].log_softmax(-1)
        total = sum(float(scores[n, token]) for n, token in enumerate(row.token_ids))
        assert row.score == pytest.approx(total, abs=1e-3)


def test_manifest_says_what_was_told(bundle: Path) -> None:
    manifest = json.loads((bundle / "seq2edge.json").read_text())
    assert manifest["format_version"] == 4
    assert manifest["cache"] == "concat"
    assert manifest["dimensions"]["source_vocab_size"] == SOURCE_VOCAB
    assert manifest["generation"] == {"max_length": POSITIONS}
    assert manifest["parameter_count"] == sum(p.numel() for p in Model().parameters())


def test_lengths_beyond_the_positions_are_refused(bundle: Path) -> None:
    """The functions' tables end at 40 targets, which nobody said: they were tried."""
    with Seq2SeqModel.load(bundle) as loaded:
        with pytest.raises(InputError, match="at most 40"):
            loaded.generate_ids([[5] * (POSITIONS + 1)])
        with pytest.raises(InputError, match="40 target positions"):
            loaded.generate_ids([[5]], max_new_tokens=POSITIONS + 1)
        (found,) = loaded.generate_ids([[5]], max_new_tokens=POSITIONS)
    assert len(found.token_ids) == POSITIONS or found.token_ids[-1] in TOKENS.eos


def test_the_longest_inputs_are_tried_out(model: Model, bundle: Path) -> None:
    models = {name: ir.load(bundle / f"{name}.onnx") for name in ("encoder", "decoder")}
    table = torch.randn(17, WIDTH)

    def short(ids: Tensor, mask: Tensor) -> Tensor:
        return model.encode(ids, mask) + table[: ids.shape[1]]

    pasts = ((HEADS, HEAD_DIM),) * 2
    functions = Functions(short, model.decode_step, pasts)
    assert source_limit(functions, models, SOURCE_VOCAB, None) == 17
    assert source_limit(functions, models, SOURCE_VOCAB, 10) == 10
    assert target_limit(functions, models, VOCAB, None) == POSITIONS
    with pytest.raises(CheckpointError, match="is 18, and encode fails with more than 17 tokens"):
        source_limit(functions, models, SOURCE_VOCAB, 18)
    without = Functions(model.encode, model.decode_step, pasts)
    assert source_limit(without, models, SOURCE_VOCAB, None) is None


@pytest.mark.parametrize(("scheme", "bits"), [("int8", 8), ("int4", 4)])
def test_weights_are_quantized(bundle: Path, tmp_path: Path, scheme: str, bits: int) -> None:
    result = quantize_bundle(bundle, tmp_path / scheme, scheme)
    check = result.check
    assert isinstance(check, DistributionCheck)
    assert check.agreement > 0.7
    assert check.mean_kl < 0.3
    operators = result.manifest.graphs["decoder"].operators
    assert operators["MatMulNBits"] == 3  # query, key and value in one; gate; head
    kinds = set(result.manifest.quantization["summary"])
    assert any(kind.startswith(f"int{bits} weights, blocks of ") for kind in kinds)
    assert result.manifest.parameters == Bundle.open(bundle).manifest.parameters
    ids, mask = sources()
    tokens = []
    for path in (bundle, result.path):
        Bundle.open(path).verify()
        with Seq2SeqModel.load(path) as loaded:
            found = loaded.generate_ids(ids, mask, max_new_tokens=8)
        tokens.append([row.token_ids[0] for row in found])
    assert sum(a == b for a, b in zip(*tokens, strict=True)) >= 8


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        ("fp16", {}, "has int8 and int4 for the target cpu; fp16 for cpu takes the graphs"),
        ("int4", {"algorithm": "gptq"}, "gptq replays the graphs"),
        ("int8", {}, "every layer is left as it is"),
    ],
)
def test_what_cannot_be_quantized_is_told(
    bundle: Path, tmp_path: Path, scheme: str, options: dict[str, Any], message: str
) -> None:
    exclude = ["*"] if scheme == "int8" else []
    with pytest.raises(QuantizationError, match=message):
        quantize_bundle(
            bundle, tmp_path / "out", scheme, options=Options(**options), exclude=exclude
        )
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_goes_with_the_bundle(model: Model, tmp_path: Path) -> None:
    files = tmp_path / "tokenizer"
    files.mkdir()
    tokens = ["__null__", "__start__", "__end__", "__unk__", "the", "cat"]
    settings = {"tokenizer_class": "BlenderbotSmallTokenizer"}
    (files / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (files / "merges.txt").write_text("#version\nt h\nth e</w>\nc a\nca t</w>\n")
    (files / "tokenizer_config.json").write_text(json.dumps(settings))
    result = export_callables(
        model.encode,
        model.decode_step,
        tmp_path / "bundle",
        sizes=SIZES,
        tokens=TOKENS,
        tokenizer=files,
    )
    # Older readers would take pieces that the merges go through for tokens.
    assert result.manifest.format_version == 4
    with Seq2SeqModel.load(result.path) as runtime:
        assert runtime.tokenize(["the cat t"]) == [[4, 5, 3]]


def test_functions_over_a_module_are_put_in_evaluation_mode(model: Model, tmp_path: Path) -> None:
    model.train()
    try:
        result = export_callables(
            lambda ids, mask: model.encode(ids, mask),
            lambda ids, pasts, cross, mask: model.decode_step(ids, pasts, cross, mask),
            tmp_path / "bundle",
            sizes=SIZES,
            tokens=TOKENS,
        )
        assert model.training
        assert model.dropout.training
    finally:
        model.eval()
    assert result.parity is not None
    assert result.parity.ok
    assert result.manifest.parameters == sum(p.numel() for p in model.parameters())


def _encode(ids: Tensor, mask: Tensor) -> Any:
    return ids[:, :, None].float() * mask[:, :, None]


def _step(ids: Tensor, pasts: Sequence[Tensor], cross: Sequence[Tensor], _mask: Tensor) -> Any:
    new = ids[:, None, :, None].float().expand(-1, HEADS, -1, HEAD_DIM)
    grown = [torch.cat([past, new], 2) for past in pasts]
    total = grown[0].sum((1, 2, 3))[:, None, None] + cross[0].sum((1, 2))[:, None, None]
    return torch.cos(total * torch.arange(VOCAB)).expand(-1, ids.shape[1], -1), grown


@pytest.mark.parametrize(
    ("encode", "decode_step", "message"),
    [
        (lambda ids, _mask: ids[0], _step, "encode must give a tensor or several"),
        (lambda *_: {}["states"], _step, "encode failed: 'states'"),
        (_encode, lambda *a: _step(*a)[0], "must give logits and new pasts"),
        (_encode, lambda *a: (_step(*a)[0][..., :9], _step(*a)[1]), "over 9 tokens.* is 50"),
        (_encode, lambda *a: (_step(*a)[0], a[1]), "gave past 0 as .*, not .*appended"),
        (_encode, lambda *a: (_step(*a)[0], _step(*a)[1][:1]), "took 2 pasts and gave 1"),
        # A size that PyTorch traces with, but not every size.
        (_encode, lambda i, *a: _step(i.view(2, -1), *a), "cannot trace decode_step for any"),
        (_encode, lambda *a: _step(*a) if a[1][0].sum() else None, "cannot trace decode_step"),
    ],
)
def test_functions_that_do_something_else_are_refused(
    encode: Callable[..., Any], decode_step: Callable[..., Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        export_callables(encode, decode_step, tmp_path / "b", sizes=SIZES, tokens=TOKENS)
    assert not list(tmp_path.iterdir())


def test_functions_that_change_between_tracing_and_running_are_found_out(tmp_path: Path) -> None:
    drift = [1.0]

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        drift[0] += 1.0  # a trace keeps the value that it saw
        return _encode(ids, mask) * drift[0]

    with pytest.raises(ParityError, match="something else when it is run again"):
        export_callables(encode, _step, tmp_path / "b", sizes=SIZES, tokens=TOKENS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sizes", "tokens", "message"),
    [
        (replace(SIZES, pasts=[]), TOKENS, "heads and head size"),
        (SIZES, replace(TOKENS, eos=()), "no end token"),
        (SIZES, replace(TOKENS, eos=(50,)), r"\[50\] lie outside"),
    ],
)
def test_sizes_and_tokens_that_make_no_sense_are_refused(
    sizes: CallableSizes, tokens: SpecialTokens, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        export_callables(_encode, _step, tmp_path / "b", sizes=sizes, tokens=tokens)
