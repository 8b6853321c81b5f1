"""Writes a checkpoint of Whisper as whisper.cpp reads it; runs where whisper.cpp is.

python make_whisper_cpp.py whisper-cpp CHECKPOINT FOLDER PRECISION

The file (models/README.md of whisper.cpp): magic, sizes, the filters of the mel spectrogram, the
vocabulary as bytes, tensors. Weights are rounded by whisper.cpp's own quantizer, in its library.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import ctypes
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

_MAGIC = 0x67676D6C
_FLOAT32, _FLOAT16 = 0, 1
#: By precision: ggml's number of the tensors' type, and whisper.cpp's of the file's.
_TYPES = {"float16": (_FLOAT16, 1), "q8_0": (8, 7), "q5_1": (7, 9)}
#: How ggml's blocks are laid out, in thousands of the file's type.
_QUANTIZATION_VERSION = 2
_FFT, _RATE = 400, 16_000
#: Parts of names in transformers, and OpenAI's.
_NAMES = {
    "model.": "",
    "embed_tokens": "token_embedding",
    "embed_positions.weight": "positional_embedding",
    "layers": "blocks",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "self_attn": "attn",
    "encoder_attn": "cross_attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
}


def write(checkpoint: Path, folder: Path, precision: str) -> None:
    config = json.loads((checkpoint / "config.json").read_bytes())
    kind, file_kind = _TYPES[precision]
    if kind > _FLOAT16:
        file_kind += 1000 * _QUANTIZATION_VERSION
    folder.mkdir()
    with (folder / "model.bin").open("wb") as file:
        _numbers(file, _MAGIC, *_sizes(config), file_kind)
        filters = mel_filters(config["num_mel_bins"])
        _numbers(file, *filters.shape)
        file.write(filters.tobytes())
        words = _vocabulary(checkpoint)
        _numbers(file, len(words))
        for word in words:
            _numbers(file, len(word))
            file.write(word)
        for name, values in _tensors(checkpoint):
            _write_tensor(file, name, values, kind)


def _sizes(config: dict[str, Any]) -> tuple[int, ...]:
    return (
        config["vocab_size"],
        config["max_source_positions"],
        config["d_model"],
        config["encoder_attention_heads"],
        config["encoder_layers"],
        config["max_target_positions"],
        config["d_model"],
        config["decoder_attention_heads"],
        config["decoder_layers"],
        config["num_mel_bins"],
    )


def mel_filters(bands: int) -> np.ndarray:
    """Triangles [bands, bins] of Slaney's scale and area, as librosa's ``filters.mel`` has them."""
    step, corner, ratio = 200 / 3, 1000.0, np.log(6.4) / 27
    top = corner / step + np.log(_RATE / 2 / corner) / ratio
    mels = np.linspace(0, top, bands + 2)
    edges = np.where(
        mels < corner / step, mels * step, corner * np.exp(ratio * (mels - corner / step))
    )
    bins = np.linspace(0, _RATE / 2, _FFT // 2 + 1)
    widths = np.diff(edges)[:, None]
    slopes = edges[:, None] - bins
    rising, falling = -slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]
    weights = np.maximum(0, np.minimum(rising, falling))
    areas = (2 / (edges[2:] - edges[:-2]))[:, None]
    return np.ascontiguousarray(weights * areas, np.float32)


def _vocabulary(checkpoint: Path) -> list[bytes]:
    """Ordinary tokens by number; whisper.cpp knows the special ones."""
    described = json.loads((checkpoint / "tokenizer.json").read_bytes())
    special = {token["id"] for token in described["added_tokens"]}
    found = {n: word for word, n in described["model"]["vocab"].items() if n not in special}
    # GPT-2's letters for bytes: printable ones stand for themselves, the others come after 255.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in plain}
    others = [byte for byte in range(256) if byte not in plain]
    letters.update({chr(256 + number): byte for number, byte in enumerate(others)})
    return [bytes(letters[letter] for letter in found[number]) for number in sorted(found)]


def _tensors(checkpoint: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors.numpy import load_file

    for path in sorted(checkpoint.glob("*.safetensors")):
        for name, values in load_file(path).items():
            if name == "proj_out.weight":  # tied
                continue
            for part, theirs in _NAMES.items():
                name = name.replace(part, theirs)
            yield name, np.asarray(values, np.float32)


def _write_tensor(file: IO[bytes], name: str, values: np.ndarray, kind: int) -> None:
    if "conv" in name and name.endswith("bias"):
        values = values[:, None]
        kind = _FLOAT32
    elif values.ndim == 1 or name.endswith("positional_embedding"):
        kind = _FLOAT32
    elif values.ndim > 2:  # a convolution's weights
        kind = _FLOAT16
    data = {_FLOAT32: values.tobytes, _FLOAT16: values.astype(np.float16).tobytes}.get(kind)
    _numbers(file, values.ndim, len(name), kind, *reversed(values.shape))
    file.write(name.encode())
    file.write(_quantized(values, kind) if data is None else data())


def _quantized(values: np.ndarray, kind: int) -> bytes:
    import _pywhispercpp  # loads the libraries that it brings

    folder = Path(_pywhispercpp.__file__).parent / "pywhispercpp.libs"
    library = ctypes.CDLL(str(next(folder.glob("libggml-base*"))))
    quantize = library.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    quantize.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    values = np.ascontiguousarray(values)
    space = np.empty(values.nbytes, np.uint8)
    written = quantize(kind, values.ctypes.data, space.ctypes.data, 0, *values.shape, None)
    return space[:written].tobytes()


def _numbers(file: IO[bytes], *values: int) -> None:
    file.write(struct.pack(f"<{len(values)}I", *values))


if __name__ == "__main__":
    write(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
