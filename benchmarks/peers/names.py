"""Names of baselines: ``library:precision``, then ``:mode`` and ``@device`` where they matter.

transformers:float16:compile@cuda    PyTorch, torch.compile of the decoder
seq2edge:int8                        ONNX Runtime on the CPU
seq2edge:fp16@cuda                   ONNX Runtime on a GPU
seq2edge:fp16:tensorrt               an engine of `seq2edge build`, always on a GPU
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from seq2edge.runtime.errors import InputError

_DEVICES = ("cpu", "cuda")
_CPU = ("cpu",)
#: Of `seq2edge`: its engines, and the devices of each, the default first.
_ENGINES: dict[str | None, tuple[str, ...]] = {
    "onnxruntime": _DEVICES,
    "onnxruntime-tensorrt": ("cuda",),
    "tensorrt": ("cuda",),
    "tensorrt-rtx": ("cuda",),
}


@dataclass(frozen=True)
class _Library:
    """The baselines of one library.

    Attributes:
        precisions: its names for them.
        modes: the devices of each, the default first; None is the mode that has no name.
    """

    precisions: tuple[str, ...]
    modes: dict[str | None, tuple[str, ...]]


#: In the order in which they take turns.
_LIBRARIES = {
    "optimum": _Library(("float32",), {None: _CPU}),
    "ctranslate2": _Library(("float32", "int8"), {None: _CPU}),
    "openvino": _Library(("float32", "bfloat16", "int8", "int4"), {None: _CPU}),
    "faster-whisper": _Library(("float32", "int8"), {None: _CPU}),
    "openvino-genai": _Library(("float32", "int8", "int4"), {None: _CPU}),
    "onnx-asr": _Library(("float32",), {None: _CPU}),
    "onnxruntime-genai": _Library(("float32", "int4"), {None: _CPU}),
    "whisper-cpp": _Library(("float16", "q8_0", "q5_1"), {None: _CPU}),
    "transformers": _Library(
        ("float32", "float16", "bfloat16"), {None: _DEVICES, "compile": _DEVICES}
    ),
    "seq2edge": _Library(
        ("float32", "fp16", "bf16", "int8", "int8-dynamic", "int8-qdq", "int4", "int4-head4"),
        {None: _DEVICES, **_ENGINES},
    ),
}

CPU_BASELINES = (
    "optimum:float32",
    "ctranslate2:float32",
    "ctranslate2:int8",
    "openvino:float32",
    "openvino:int8",
    "openvino:int4",
    "transformers:float32",
    "transformers:float32:compile",
    "seq2edge:float32",
    "seq2edge:int8",
    "seq2edge:int8-dynamic",
    "seq2edge:int4",
    "seq2edge:int4-head4",
)
#: Of a checkpoint that hears.
SPEECH_BASELINES = (
    "faster-whisper:float32",
    "faster-whisper:int8",
    "openvino-genai:float32",
    "openvino-genai:int8",
    "onnx-asr:float32",
    "onnxruntime-genai:float32",
    "whisper-cpp:q8_0",
    "whisper-cpp:q5_1",
    "transformers:float32",
    "seq2edge:float32",
    "seq2edge:int8",
)
_READ = ("optimum", "ctranslate2", "openvino")
_HEAR = ("faster-whisper", "openvino-genai", "onnx-asr", "onnxruntime-genai", "whisper-cpp")
#: float32 shows that the tokens are right; what is compared is float16 and less.
GPU_BASELINES = (
    "transformers:float32@cuda",
    "transformers:float16@cuda",
    "transformers:float16:compile@cuda",
    "seq2edge:float32@cuda",
    "seq2edge:fp16@cuda",
    "seq2edge:bf16@cuda",
    "seq2edge:int8@cuda",
    "seq2edge:int4@cuda",
    "seq2edge:fp16:tensorrt",
    "seq2edge:int8-qdq:tensorrt",
    "seq2edge:int4:tensorrt",
)


@dataclass(frozen=True)
class Name:
    """A baseline's name and its parts.

    Attributes:
        mode: of transformers ``compile``, of seq2edge the engine; None is the usual one.
        device: ``cpu`` or ``cuda``.
    """

    text: str
    library: str
    precision: str
    mode: str | None
    device: str

    @classmethod
    def parse(cls, text: str) -> Name:
        """Take a name apart.

        Raises:
            InputError: there is no such baseline; what there is.
        """
        rest, at, device = text.partition("@")
        library, _, rest = rest.partition(":")
        precision, colon, mode = rest.partition(":")
        choices = _LIBRARIES.get(library)
        if choices is None:
            raise _unknown(text, "library", library, _LIBRARIES)
        if precision not in choices.precisions:
            raise _unknown(text, f"precision of {library}", precision, choices.precisions)
        if (mode if colon else None) not in choices.modes:
            raise _unknown(text, f"mode of {library}", mode, filter(None, choices.modes))
        devices = choices.modes[mode if colon else None]
        if at and device not in devices:
            raise _unknown(text, f"device of {text.partition('@')[0]}", device, devices)
        return cls(text, library, precision, mode if colon else None, device or devices[0])

    def check_source(self, hears: bool) -> None:
        """Refuse a library for the other kind of checkpoint.

        Raises:
            InputError: it hears speech and the checkpoint reads texts, or the reverse.
        """
        if self.library in (_READ if hears else _HEAR) or (hears and self.mode is not None):
            kinds = ("hears speech", "reads texts")
            raise InputError(f"{self.text} is not for a checkpoint that {kinds[not hears]}")

    @property
    def exact(self) -> bool:
        """Whether it computes in float32, and so must give the same tokens as others that do."""
        return self.precision == "float32"

    @property
    def target(self) -> str:
        """The --target of its `seq2edge quantize`."""
        if self.mode in ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt"):
            return "tensorrt"
        return self.device

    @property
    def built(self) -> bool:
        """Whether `seq2edge build` makes its engine."""
        return self.mode in ("tensorrt", "tensorrt-rtx")


def in_turns(names: list[Name]) -> list[Name]:
    """The order in which they take turns: peers first, and no name twice."""
    order = list(_LIBRARIES)
    return sorted(dict.fromkeys(names), key=lambda name: order.index(name.library))


def _unknown(text: str, what: str, got: str, choices: Iterable[str]) -> InputError:
    listed = ", ".join(choices) or "none"
    return InputError(f"{text!r}: {got!r} is no {what}; there are: {listed}")
