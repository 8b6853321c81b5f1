"""Models of CTranslate2, made by its own converters of models with random weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Families of the BART line by where their norms are, as the converter wants to be told.
_PRE_NORM, _EMBEDDING_NORM = ("mbart", "pegasus"), ("bart", "mbart")


def convert(
    checkpoint: Path,
    folder: Path,
    quantization: str = "float32",
    tokens: Sequence[str] | None = None,
    untied: bool = False,
) -> Path:
    """Convert a checkpoint of transformers with CTranslate2's converter.

    Args:
        checkpoint: which needs no tokenizer.
        folder: to write.
        quantization: how weights are stored.
        tokens: by id; None: ``t0``, ``t1`` and so on, and the special ones that its config names.
        untied: its head is a tensor of its own, which transformers 5 no longer says in the config.
    """
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, *args: Any, **options: Any) -> Any:
            model = super().load_model(*args, **options)
            kind = model.config.model_type
            model.config.normalize_before = kind in _PRE_NORM
            model.config.normalize_embedding = kind in _EMBEDDING_NORM
            if untied:
                model.config.tie_word_embeddings = False
            self.tokens = list(tokens or plain_tokens(model.config))
            return model

        def load_tokenizer(self, *_args: Any, **_options: Any) -> Any:
            return _tokenizer(self.tokens)

    Converter(str(checkpoint)).convert(str(folder), quantization=quantization)
    return folder


def plain_tokens(config: Any) -> list[str]:
    """``t0``, ``t1`` and so on, with the special tokens where a config has them."""
    tokens = [f"t{number}" for number in range(config.vocab_size)]
    special = {"bos_token_id": "<s>", "eos_token_id": "</s>", "pad_token_id": "<pad>"}
    for key, token in special.items():
        number = getattr(config, key, None)
        if number is not None:
            tokens[number] = token
    tokens[tokens.index("t3")] = "<unk>"
    return tokens


def _tokenizer(tokens: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    ids = {token: number for number, token in enumerate(tokens)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, **{name: token for name, token in named.items() if token in ids}
    )


def convert_opennmt(
    folder: Path,
    sources: Sequence[str],
    outputs: Sequence[str] | None = None,
    quantization: str = "float32",
    query_bias: bool = True,
    **options: Any,
) -> Path:
    """A model of OpenNMT-py with random weights, as CTranslate2 converts it.

    Args:
        folder: to write.
        sources: tokens by id.
        outputs: the same of outputs, with a table of their own; None: those of sources.
        quantization: how weights are stored.
        query_bias: attention's layers have biases (OpenNMT-py 3 trains without).
        options: of OpenNMT-py, such as ``max_relative_positions``.
    """
    from ctranslate2.converters import opennmt_py
    from ctranslate2.converters.converter import Converter

    layers = {"enc_layers": 2, "dec_layers": 3, "heads": 4}
    spec = opennmt_py._get_model_spec_seq2seq(
        argparse.Namespace(**layers, **options, position_encoding=not options),
        _opennmt_variables(len(sources), outputs and len(outputs), query_bias, **options),
        [list(sources)],
        [list(outputs or sources)],
        1,
    )

    class Loaded(Converter):  # type: ignore[misc]
        def _load(self) -> Any:
            return spec

    Loaded().convert(str(folder), quantization=quantization)
    return folder


def _opennmt_variables(
    sources: int, outputs: int | None, query_bias: bool, max_relative_positions: int = 0
) -> dict[str, NDArray[np.float32]]:
    width, inner, positions = 32, 64, 128
    generator = np.random.default_rng(0)
    found: dict[str, NDArray[np.float32]] = {}

    def random(name: str, *shape: int, scale: float = 0.3, mean: float = 0.0) -> None:
        found[name] = (mean + scale * generator.standard_normal(shape)).astype(np.float32)

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        random(f"{name}.weight", rows, columns)
        if bias:
            random(f"{name}.bias", rows)

    def norm(name: str) -> None:
        random(f"{name}.weight", width, scale=0.5, mean=1.0)
        random(f"{name}.bias", width)

    def attention(name: str) -> None:
        for kind in ("query", "keys", "values"):
            linear(f"{name}.linear_{kind}", width, width, query_bias)
        linear(f"{name}.final_linear", width, width, query_bias)
        if max_relative_positions:
            rows = 2 * max_relative_positions + 1
            random(f"{name}.relative_positions_embeddings.weight", rows, width // 4)

    angles = np.arange(positions)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(positions, 1, width)
    for side, layer, norms in (
        ("encoder", "transformer", {"self_attn": "layer_norm"}),
        (
            "decoder",
            "transformer_layers",
            {"self_attn": "layer_norm_1", "context_attn": "layer_norm_2"},
        ),
    ):
        random(f"{side}.embeddings.make_embedding.emb_luts.0.weight", sources, width)
        found[f"{side}.embeddings.make_embedding.pe.pe"] = table.astype(np.float32)
        norm(f"{side}.layer_norm")
        for index in range(2 if side == "encoder" else 3):
            scope = f"{side}.{layer}.{index}"
            for part, name in norms.items():
                attention(f"{scope}.{part}")
                norm(f"{scope}.{name}")
            norm(f"{scope}.feed_forward.layer_norm")
            linear(f"{scope}.feed_forward.w_1", inner, width)
            linear(f"{scope}.feed_forward.w_2", width, inner)
    tables = [f"{s}.embeddings.make_embedding.emb_luts.0.weight" for s in ("encoder", "decoder")]
    if outputs is None:
        found[tables[1]] = found[tables[0]]
    else:
        random(tables[1], outputs, width)
    found["generator.weight"] = found[tables[1]]
    random("generator.bias", len(found[tables[1]]))
    return found


def convert_marian(
    folder: Path,
    sources: Sequence[str],
    outputs: Sequence[str] | None = None,
    quantization: str = "float32",
    pre_norm: bool = False,
) -> Path:
    """A model of Marian's own with random weights, as CTranslate2 converts OPUS-MT's.

    Args:
        folder: to write.
        sources: tokens by id.
        outputs: the same of outputs, with a table of their own; None: those of sources.
        quantization: how weights are stored.
        pre_norm: its norms are before each part.
    """
    from ctranslate2.converters import marian
    from ctranslate2.converters.converter import Converter
    from ctranslate2.specs import common_spec, transformer_spec

    spec = transformer_spec.TransformerSpec.from_config(
        (2, 2), 4, pre_norm=pre_norm, activation=common_spec.Activation.SWISH
    )
    marian.set_transformer_spec(
        spec, _marian_weights(len(sources), outputs and len(outputs), pre_norm)
    )
    spec.register_source_vocabulary(list(sources))
    spec.register_target_vocabulary(list(outputs or sources))
    spec.config.add_source_eos = True

    class Loaded(Converter):  # type: ignore[misc]
        def _load(self) -> Any:
            return spec

    Loaded().convert(str(folder), quantization=quantization)
    return folder


def _marian_weights(
    sources: int, outputs: int | None, pre_norm: bool
) -> dict[str, NDArray[np.float32]]:
    width, inner = 32, 48
    generator = np.random.default_rng(2)
    found: dict[str, NDArray[np.float32]] = {}

    def random(name: str, *shape: int, mean: float = 0.0) -> None:
        found[name] = (mean + 0.3 * generator.standard_normal(shape)).astype(np.float32)

    def norm(name: str) -> None:
        random(f"{name}_ln_scale", 1, width, mean=1.0)
        random(f"{name}_ln_bias", 1, width)

    for side, parts in (("encoder", ("self",)), ("decoder", ("self", "context"))):
        if pre_norm:
            norm(f"{side}_top")
        for layer in (1, 2):
            scope = f"{side}_l{layer}"
            for part in parts:
                for kind in "qkvo":
                    random(f"{scope}_{part}_W{kind}", width, width)
                    random(f"{scope}_{part}_b{kind}", 1, width)
                norm(f"{scope}_{part}_Wo")
            for number, shape in (("1", (width, inner)), ("2", (inner, width))):
                random(f"{scope}_ffn_W{number}", *shape)
                random(f"{scope}_ffn_b{number}", 1, shape[1])
            norm(f"{scope}_ffn_ffn")
    for name, rows in {"Wemb": sources, "decoder_Wemb": outputs}.items():
        if rows is not None:
            random(name, rows, width)
    random("decoder_ff_logit_out_b", 1, outputs or sources)
    return found


def translate(
    folder: Path, sources: Sequence[Sequence[str]], length: int, **options: Any
) -> list[list[str]]:
    """CTranslate2's own greedy outputs, in float32."""
    import ctranslate2

    translator = ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)
    found = translator.translate_batch(
        [list(source) for source in sources], beam_size=1, max_decoding_length=length, **options
    )
    return [result.hypotheses[0] for result in found]


def write_model_bin(
    path: Path,
    variables: Mapping[str, NDArray[Any]],
    aliases: Mapping[str, str],
    header: tuple[int, str, int],
    edit: Callable[[str, bytes], bytes] = lambda _name, data: data,
) -> None:
    """Write a file of any version; ``header`` is version, kind and revision.

    ``edit`` changes what is written of a variable.
    """
    version, kind, revision = header
    types = ["<f4", "|i1", "<i2", "<i4", "<f2"]

    def text(value: str) -> bytes:
        data = value.encode() + b"\0"
        return len(data).to_bytes(2, "little") + data

    def number(value: int, size: int = 4) -> bytes:
        return value.to_bytes(size, "little")

    parts = [number(version), text(kind), number(revision), number(len(variables))]
    for name, array in variables.items():
        shape = b"".join(map(number, array.shape))
        size, item = array.nbytes, array.itemsize
        typed = (
            number(types.index(array.dtype.str), 1) + number(size)
            if version >= 4
            else number(item, 1) + number(size // item)
        )
        data = text(name) + number(array.ndim, 1) + shape + typed + array.tobytes()
        parts.append(edit(name, data))
    parts.append(number(len(aliases)))
    parts += [text(alias) + text(name) for alias, name in aliases.items()]
    path.write_bytes(b"".join(parts))
