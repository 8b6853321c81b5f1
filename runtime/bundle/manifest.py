"""``seq2edge.json``: what a bundle says about itself.

Plain frozen dataclasses, written as canonical JSON (sorted keys, two spaces, one final
newline) so that equal manifests are equal bytes. Reading checks every field and reports all
violations at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from ..errors import BundleError
from .checks.json_text import parse_json
from .json_schema import FieldReader
from .speech_info import SpeechInfo, read_speech
from .tokenizer_info import TokenizerInfo, read_tokenizer

MANIFEST_NAME = "seq2edge.json"
WEIGHTS_NAME = "weights.bin"
#: The only format that this version reads and writes. 4 renamed inputs and outputs of the decoder
#: graph (``next_token_ids``, ``write_indices``, ``logsumexp``).
FORMAT_VERSION = 4

#: Kinds of KV cache. Slots: the decoder is a tree step that writes in place (docs/design.md,
#: section 3). Concat: it takes past keys and values and returns them longer, as in ``optimum``'s
#: graphs.
SLOTS, CONCAT = "slots", "concat"
#: Graphs that ONNX Runtime, where it is new enough, runs on a CPU in place of others: the same
#: weights and numbers, by operators of its own (docs/design.md, section 6).
CPU_GRAPHS = {"encoder": "encoder_cpu", "decoder": "decoder_cpu"}
#: The same of the CUDA provider's.
CUDA_GRAPHS = {"decoder": "decoder_cuda"}
#: The encoder once more, with attention over long sources in blocks: ONNX Runtime's alone, while
#: others that run an encoder on a CPU take the one above.
BLOCK_ENCODER = "encoder_blocks"
#: What an encoder-only model gives, [B, S, D]; by transformers' name.
STATES = "last_hidden_state"
#: What a decoder of a concatenating cache calls it; of these, the fixed part for cross-attention.
_CONCAT_CACHE, _CONCAT_CROSS = "past_key_values.", ".encoder."

#: Bits an element, by the dtype names that manifests use: numpy's, bfloat16, and int4 and
#: uint4, of which two share a byte as ONNX packs them.
DTYPE_BITS = {
    "int4": 4,
    "uint4": 4,
    "bool": 8,
    "int8": 8,
    "uint8": 8,
    "float16": 16,
    "bfloat16": 16,
    "float32": 32,
    "int32": 32,
    "int64": 64,
}


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output; a ``str`` in ``shape`` names a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphInfo:
    """One ONNX graph of the bundle.

    ``weight_bytes`` is what one run reads of the weights (a table that is only looked up
    counts as zero); ``operators`` counts nodes by type, so that a device without the onnx
    package can still say what the graph is made of. ``minimum_onnxruntime``: the oldest version
    that runs it, where that does not follow from the opset; else empty.
    """

    file: str
    opset: int
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Mapping[str, int]
    weight_bytes: int
    minimum_onnxruntime: str = ""

    def input_names(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.inputs)


@dataclass(frozen=True)
class WeightInfo:
    """Where one tensor lies in ``weights.bin`` (bytes)."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class FileInfo:
    size: int
    sha256: str


@dataclass(frozen=True)
class Dimensions:
    """Sizes that the runtime needs; lengths are in tokens, ``None`` means no limit.

    What a bundle of one stack lacks counts 0. ``source_vocab_size`` is None where the encoder
    reads the decoder's ``vocab_size`` tokens.
    """

    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    decoder_heads: int
    decoder_head_dim: int
    max_source_length: int | None = None
    max_target_length: int | None = None
    source_vocab_size: int | None = None

    @property
    def source_tokens(self) -> int:
        """Size of the vocabulary that sources are written in."""
        return self.vocab_size if self.source_vocab_size is None else self.source_vocab_size


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids; ``eos`` may hold several, any of which ends a sequence.

    ``pad`` fills up what a mask covers. It is ``padding`` by itself, without a mask, only where it
    is neither an end token nor ``bos``: a source may hold those. ``bos`` is what the sources of an
    encoder begin with; None: not set.
    """

    pad: int
    decoder_start: int
    eos: tuple[int, ...]
    bos: int | None = None

    @property
    def padding(self) -> int | None:
        """The token that is padding wherever it stands; None: there is none."""
        return None if self.pad in (*self.eos, self.bos) else self.pad


@dataclass(frozen=True)
class Manifest:
    family: str
    dimensions: Dimensions
    special_tokens: SpecialTokens
    tokenizer: TokenizerInfo
    graphs: Mapping[str, GraphInfo]
    weights: Mapping[str, WeightInfo]
    files: Mapping[str, FileInfo]
    generation: Mapping[str, Any] = field(default_factory=dict)
    #: What ``quantize`` did; empty for a bundle as it was exported.
    quantization: Mapping[str, Any] = field(default_factory=dict)
    #: Hub id and commit of the checkpoint, and of an adapter's base model; empty for folders.
    source: Mapping[str, Any] = field(default_factory=dict)
    producer: str = ""
    format_version: int = FORMAT_VERSION
    #: SLOTS or CONCAT; the graphs of a CONCAT bundle hold their weights themselves.
    cache: str = SLOTS
    #: Of a CONCAT bundle: weights of all graphs, equal tensors counted once; 0: not known.
    parameter_count: int = 0
    #: Where outputs have other tokens than sources; None: ``tokenizer`` is for both.
    target_tokenizer: TokenizerInfo | None = None
    #: Of a bundle whose sources are speech.
    speech: SpeechInfo | None = None

    def __repr__(self) -> str:
        done = self.quantization
        scheme = f"{done['scheme']} for {done.get('target')}" if done.get("scheme") else "float32"
        return f"Manifest({self.family}, {self.parameters / 1e6:.1f} M parameters, {scheme})"

    @property
    def single_stack(self) -> str | None:
        """``encoder`` or ``decoder`` where the bundle has no other stack; else None."""
        if "decoder" not in self.graphs:
            return "encoder"
        return None if "encoder" in self.graphs else "decoder"

    @property
    def has_two_vocabularies(self) -> bool:
        """Whether a token id means one thing in a source and another one in an output."""
        dims = self.dimensions
        return self.target_tokenizer is not None or dims.source_tokens != dims.vocab_size

    @property
    def parameters(self) -> int:
        """Number of the model's weights, each tensor counted once; as before quantization."""
        if self.cache == CONCAT:
            return self.parameter_count
        if "parameters" in self.quantization:
            return int(self.quantization["parameters"])
        total = 0
        for info in self.weights.values():
            count = 1
            for size in info.shape:
                count *= size
            total += count
        return total

    @property
    def cache_bytes_per_slot(self) -> int:
        """Self-attention cache bytes that one slot (one token of one sequence) takes."""
        total = 0
        for spec in () if self.single_stack == "encoder" else self.graphs["decoder"].inputs:
            if _is_own_cache(spec.name):
                heads, head_dim = spec.shape[1], spec.shape[3]
                if isinstance(heads, int) and isinstance(head_dim, int):
                    total += heads * head_dim * DTYPE_BITS[spec.dtype] // 8
        return total

    def to_bytes(self) -> bytes:
        """Canonical JSON, UTF-8."""
        values = asdict(self)
        if not self.source:
            del values["source"]
        if self.speech is None:
            del values["speech"]
        for graph in values["graphs"].values():
            if not graph["minimum_onnxruntime"]:
                del graph["minimum_onnxruntime"]
        return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse and check a manifest.

        Raises:
            BundleError: not JSON, another format, or fields that are missing or of a wrong
                type; all of them are listed.
        """
        raw = parse_json(data, MANIFEST_NAME)
        if not isinstance(raw, dict):
            raise BundleError(f"{MANIFEST_NAME} must hold a JSON object")
        version = raw.get("format_version")
        if not isinstance(version, int) or version < 1:
            raise BundleError(f"{MANIFEST_NAME} has no valid format_version")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"bundle format {version} is newer than this seq2edge reads"
                f" ({FORMAT_VERSION}); upgrade seq2edge, or export the bundle again with"
                " this version"
            )
        if version < FORMAT_VERSION:
            raise BundleError(
                f"bundle format {version} is of an older seq2edge, and this one reads format"
                f" {FORMAT_VERSION}; export the checkpoint again"
            )
        reader = FieldReader()
        manifest = _manifest(reader, raw)
        if reader.problems:
            raise BundleError(f"{MANIFEST_NAME} is malformed: " + "; ".join(reader.problems))
        return manifest


def _is_own_cache(name: str) -> bool:
    """Whether a decoder's input is a part of its self-attention cache."""
    if name.startswith(_CONCAT_CACHE):
        return _CONCAT_CROSS not in name
    return name.startswith(("past_key.", "past_value."))


def _manifest(r: FieldReader, raw: dict[str, Any]) -> Manifest:
    dims = r.table(raw, "dimensions")
    special = r.table(raw, "special_tokens")
    graphs = {
        name: _graph(r, info if isinstance(info, dict) else {}, f"graphs.{name}.")
        for name, info in r.table(raw, "graphs").items()
    }
    missing = [name for name in ("encoder", "decoder") if name not in graphs]
    if len(missing) > 1:
        r.problems += [f"graphs.{name} is missing" for name in missing]
    sizes = [spec.name for spec in fields(Dimensions) if spec.default is MISSING]
    cache = r.text(raw, "cache", "")
    if cache not in (SLOTS, CONCAT):
        r.problems.append(f"cache {cache!r} is unknown")
    return Manifest(
        format_version=raw["format_version"],
        producer=r.text(raw, "producer", ""),
        family=r.text(raw, "family", ""),
        dimensions=Dimensions(
            **{name: r.number(dims, name, "dimensions.") for name in sizes},
            max_source_length=r.limit(dims, "max_source_length", "dimensions."),
            max_target_length=r.limit(dims, "max_target_length", "dimensions."),
            source_vocab_size=r.limit(dims, "source_vocab_size", "dimensions."),
        ),
        special_tokens=SpecialTokens(
            pad=r.number(special, "pad", "special_tokens."),
            decoder_start=r.number(special, "decoder_start", "special_tokens."),
            eos=r.integers(special, "eos", "special_tokens."),
            bos=r.limit(special, "bos", "special_tokens."),
        ),
        tokenizer=read_tokenizer(r, raw, "tokenizer"),
        target_tokenizer=None
        if raw.get("target_tokenizer") is None
        else read_tokenizer(r, raw, "target_tokenizer"),
        graphs=graphs,
        weights={
            name: _weight(r, info if isinstance(info, dict) else {}, f"weights.{name}.")
            for name, info in r.table(raw, "weights").items()
        },
        files={
            name: FileInfo(
                size=r.number(info if isinstance(info, dict) else {}, "size", f"files.{name}."),
                sha256=r.text(info if isinstance(info, dict) else {}, "sha256", f"files.{name}."),
            )
            for name, info in r.table(raw, "files").items()
        },
        generation=r.table(raw, "generation"),
        quantization=r.table(raw, "quantization"),
        source=r.table(raw, "source") if "source" in raw else {},
        cache=cache,
        parameter_count=r.number(raw, "parameter_count", ""),
        speech=None if raw.get("speech") is None else read_speech(r, raw),
    )


def _weight(r: FieldReader, raw: dict[str, Any], where: str) -> WeightInfo:
    dtype = r.text(raw, "dtype", where)
    shape = r.integers(raw, "shape", where)
    info = WeightInfo(dtype, shape, r.number(raw, "offset", where), r.number(raw, "length", where))
    if dtype not in DTYPE_BITS:
        r.problems.append(f"{where}dtype {dtype!r} is unknown")
    return info


def _graph(r: FieldReader, raw: dict[str, Any], where: str) -> GraphInfo:
    def specs(key: str) -> tuple[TensorSpec, ...]:
        tensors = []
        for item in r.items(raw, key, where):
            entry = item if isinstance(item, dict) else {}
            shape = r.items(entry, "shape", f"{where}{key}.")
            if not all(isinstance(size, (int, str)) for size in shape):
                r.problems.append(f"{where}{key}.shape must hold integers and names")
            dtype = r.text(entry, "dtype", f"{where}{key}.")
            if dtype not in DTYPE_BITS:
                r.problems.append(f"{where}{key}.dtype {dtype!r} is unknown")
            tensors.append(TensorSpec(r.text(entry, "name", f"{where}{key}."), dtype, tuple(shape)))
        return tuple(tensors)

    operators = r.table(raw, "operators", where)
    minimum = r.text(raw, "minimum_onnxruntime", where) if "minimum_onnxruntime" in raw else ""
    if minimum and not all(part.isdecimal() for part in minimum.split(".")):
        r.problems.append(f"{where}minimum_onnxruntime {minimum!r} is no version")
    return GraphInfo(
        file=r.text(raw, "file", where),
        opset=r.number(raw, "opset", where),
        precision=r.text(raw, "precision", where),
        inputs=specs("inputs"),
        outputs=specs("outputs"),
        operators={name: r.number(operators, name, f"{where}operators.") for name in operators},
        weight_bytes=r.number(raw, "weight_bytes", where),
        minimum_onnxruntime=minimum,
    )
