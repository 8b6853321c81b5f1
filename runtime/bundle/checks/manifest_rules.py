"""Whether a manifest agrees with itself: sizes, tokens, inputs and records.

Types and ranges were checked when it was read. What is wrong here would end in an error of numpy's
or of the engine's somewhere in the middle, or in memory that no model needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..manifest import CONCAT, GraphInfo, Manifest
from ..tokenizer_info import TokenizerInfo

#: Of sizes of layers and vocabularies, numbers of layers and graphs, dimensions of a tensor.
_LARGEST, _MOST_LAYERS, _MOST_GRAPHS, _MOST_DIMENSIONS = 1 << 26, 4096, 16, 8
#: Inputs that hold nothing, of a decoder lowered for the CPU: an operator wants keys to add.
_EMPTY_INPUTS = frozenset({"no_key"})
#: What the runtime fills in, of a decoder that writes its cache in place.
_STEP_INPUTS = frozenset(
    {
        *("input_ids", "position_ids", "cache_position_ids", "attention_mask", "write_indices"),
        "encoder_attention_mask",
    }
)
_CACHES = ("past_key.", "past_value.")
#: Types of a cache, of which numpy has all but bfloat16 (that one is for GPUs).
_CACHE_TYPES = frozenset({"float32", "float16", "bfloat16"})


def manifest_problems(manifest: Manifest) -> list[str]:
    """What in a manifest contradicts itself, or is beyond what any model has."""
    return [
        *_dimensions(manifest),
        *_special_tokens(manifest),
        *_tokenizer(manifest, manifest.tokenizer, "tokenizer", manifest.dimensions.source_tokens),
        *(
            _tokenizer(manifest, manifest.target_tokenizer, "target_tokenizer", 0)
            if manifest.target_tokenizer is not None
            else ()
        ),
        *_graphs(manifest),
        *_quantization(manifest.quantization),
        *_speech(manifest),
    ]


def _dimensions(manifest: Manifest) -> Iterator[str]:
    dims = manifest.dimensions
    for name in ("vocab_size", "d_model", "decoder_heads", "decoder_head_dim", "source_vocab_size"):
        value = getattr(dims, name)
        if value is not None and value > _LARGEST:
            yield f"dimensions.{name} is {value}, and at most {_LARGEST} is possible"
    for name in ("encoder_layers", "decoder_layers"):
        if getattr(dims, name) > _MOST_LAYERS:
            yield f"dimensions.{name} is {getattr(dims, name)}; at most {_MOST_LAYERS} is possible"
    if dims.vocab_size < 1 and manifest.single_stack != "encoder":
        yield "dimensions.vocab_size must be at least 1"
    for name in ("max_source_length", "max_target_length"):
        if getattr(dims, name) == 0:
            yield f"dimensions.{name} must be at least 1, or null"


def _special_tokens(manifest: Manifest) -> Iterator[str]:
    dims, special = manifest.dimensions, manifest.special_tokens
    largest = max(dims.vocab_size, dims.source_tokens)
    tokens = {
        "pad": (special.pad, largest),
        "bos": (special.bos, largest),
        "decoder_start": (special.decoder_start, dims.vocab_size),
        **{f"eos[{place}]": (token, dims.vocab_size) for place, token in enumerate(special.eos)},
    }
    for name, (token, size) in tokens.items():
        if token is not None and size and token >= size:
            yield f"special_tokens.{name} is {token}, outside the vocabulary of {size}"


def _tokenizer(manifest: Manifest, info: TokenizerInfo, where: str, size: int) -> Iterator[str]:
    size = max(size, manifest.dimensions.vocab_size) or _LARGEST
    ids = {
        "unknown": info.unknown,
        **{f"added_tokens {token.content!r}": token.id for token in info.added_tokens},
    }
    if info.languages is not None:
        ids |= {f"languages.codes.{code}": id_ for code, id_ in info.languages.codes.items()}
        default = info.languages.default_source
        if default is not None and default not in info.languages.codes:
            yield f"{where}.languages.default_source {default!r} is none of its codes"
    for name, token in ids.items():
        if token is not None and token >= size:
            yield f"{where}.{name} is {token}, outside the vocabulary of {size}"
    for name, value in (("size", info.size), ("byte_offset", info.byte_offset)):
        if value is not None and value > _LARGEST:
            yield f"{where}.{name} is {value}, and at most {_LARGEST} is possible"


def _graphs(manifest: Manifest) -> Iterator[str]:
    if len(manifest.graphs) > _MOST_GRAPHS:
        yield f"there are {len(manifest.graphs)} graphs; at most {_MOST_GRAPHS} are possible"
        return
    files = [info.file for info in manifest.graphs.values()]
    if len(set(files)) != len(files):
        yield "two graphs have the same file"
    for name, info in manifest.graphs.items():
        if not info.file.endswith(".onnx"):
            yield f"graphs.{name}.file {info.file!r} is not named .onnx"
        for spec in (*info.inputs, *info.outputs):
            least = 0 if spec.name in _EMPTY_INPUTS else 1
            sizes = [size for size in spec.shape if isinstance(size, int)]
            if len(spec.shape) > _MOST_DIMENSIONS or any(
                isinstance(size, bool) or not least <= size <= _LARGEST for size in sizes
            ):
                yield f"graphs.{name}: {spec.name} cannot have the shape {list(spec.shape)[:9]}"
        names = [spec.name for spec in (*info.inputs, *info.outputs)]
        if len(set(names)) != len(names):
            yield f"graphs.{name}: two inputs or outputs have the same name"
    if manifest.cache != CONCAT and "decoder" in manifest.graphs:
        yield from _step(manifest, manifest.graphs["decoder"])


def _step(manifest: Manifest, decoder: GraphInfo) -> Iterator[str]:
    """The decoder of a slot cache (docs/design.md, section 3)."""
    encoder = manifest.graphs.get("encoder")
    encoded = {spec.name: spec for spec in encoder.outputs} if encoder is not None else {}
    outputs = {spec.name: spec for spec in decoder.outputs}
    inputs = {spec.name: spec for spec in decoder.inputs}
    missing = {"input_ids", "attention_mask", "write_indices"} - inputs.keys()
    missing |= {"next_token_ids", "logits"} - outputs.keys()
    caches = {name: spec for name, spec in inputs.items() if name.startswith(_CACHES)}
    missing |= {name.replace("past_", "present_", 1) for name in caches} - outputs.keys()
    if missing or not caches:
        yield f"graphs.decoder lacks {', '.join(sorted(missing)) or 'a cache'}"
    unknown = inputs.keys() - _STEP_INPUTS - caches.keys() - encoded.keys()
    if unknown:
        yield f"graphs.decoder has inputs that nothing fills: {', '.join(sorted(unknown))}"
    for name, spec in caches.items():
        shape = spec.shape
        if (
            len(shape) != 4
            or not (isinstance(shape[1], int) and isinstance(shape[3], int))
            or isinstance(shape[0], int)
            or isinstance(shape[2], int)
            or spec.dtype not in _CACHE_TYPES
        ):
            yield (
                f"graphs.decoder: {name} cannot be {spec.dtype} {list(shape)[:9]}; a cache is"
                " [batch, heads, slots, head size] with numbers of heads and head size"
            )
            continue
        present = outputs.get(name.replace("past_", "present_", 1))
        if present is not None and (
            present.dtype != spec.dtype or present.shape[1::2] != shape[1::2]
        ):
            yield f"graphs.decoder: {name} and {present.name} differ"
    for name in encoded.keys() & inputs.keys():
        if encoded[name].dtype != inputs[name].dtype:
            yield f"graphs: {name} has two types"
    vocab_size = manifest.dimensions.vocab_size
    logits = outputs.get("logits")
    if logits is not None and logits.shape[-1:] != (vocab_size,):
        yield f"graphs.decoder: logits are not over the vocabulary of {vocab_size}"


def _quantization(record: Mapping[str, Any]) -> Iterator[str]:
    """The record of ``quantize`` and ``downgrade``: the part of it that is read."""
    if not record:
        return
    expected: dict[str, type] = {"scheme": str, "target": str, "summary": dict}
    for name, kind in expected.items():
        if not isinstance(record.get(name), kind):
            yield f"quantization.{name} must be {'an object' if kind is dict else 'a string'}"
    summary = record.get("summary")
    if isinstance(summary, dict) and not all(_is_count(value) for value in summary.values()):
        yield "quantization.summary must hold numbers of layers"
    if "parameters" in record and not _is_count(record["parameters"]):
        yield "quantization.parameters must be a non-negative integer"
    downgrade = record.get("opset_downgrade", {"opset": 1})
    if not (isinstance(downgrade, dict) and _is_count(downgrade.get("opset"))):
        yield "quantization.opset_downgrade must say its opset"


def _speech(manifest: Manifest) -> Iterator[str]:
    speech = manifest.speech
    if speech is None:
        return
    if not manifest.special_tokens.eos:
        yield "special_tokens.eos is empty, and a model that hears ends each window with one"
    vocab_size, where = manifest.dimensions.vocab_size, "speech."
    tokens: dict[str, int | None] = {
        name: getattr(speech, name)
        for name in ("no_timestamps", "timestamp_begin", "no_speech", "previous_text")
    }
    for key in ("languages", "tasks"):
        tokens |= {f"{key}.{name}": token for name, token in getattr(speech, key).items()}
    for name, token in tokens.items():
        if token is not None and token >= vocab_size:
            yield f"{where}{name} is {token}, outside the vocabulary of {vocab_size}"
    if speech.timestamp_begin is not None and speech.no_timestamps is None:
        yield f"{where}no_timestamps is missing, and there are timestamps from timestamp_begin on"
    for name in ("sampling_rate", "mel_bins", "hop_length", "window_frames", "frames_per_position"):
        value = getattr(speech, name)
        if value is not None and not 0 < value <= _LARGEST:
            yield f"{where}{name} is {value}, and must be 1 to {_LARGEST}"
    dims = manifest.dimensions
    for layer, head in speech.alignment_heads:
        if layer >= dims.decoder_layers or head >= dims.decoder_heads:
            yield f"{where}alignment_heads has layer {layer}, head {head}, which is not there"
            break


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
