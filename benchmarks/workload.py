"""What is measured: lengths, batch, beams, runs, and where."""

from __future__ import annotations

from dataclasses import dataclass

#: Source tokens where nothing is said.
_SOURCE_TOKENS = 64


@dataclass(frozen=True)
class Workload:
    """Settings of a measurement.

    Attributes:
        source_length: tokens of a text; None: 64.
        audio_seconds: of a speech model's sources; None: its whole window. The encoder reads no
            more than that, as ``seq2edge transcribe --fit-window`` has it.
        audio: path of a recording whose beginning they are; None: noise.
        new_tokens: that are generated.
        batch_size, num_beams, runs, warmup: sources at once, beams, measured runs and those before.
        threads: None: the backend's default.
        backend, device, strict: of :func:`seq2edge.runtime.backends.load_backend`.
    """

    source_length: int | None = None
    audio_seconds: float | None = None
    audio: str | None = None
    new_tokens: int = 64
    batch_size: int = 1
    num_beams: int = 1
    runs: int = 20
    warmup: int = 3
    threads: int | None = None
    backend: str = "onnxruntime"
    device: str | None = None
    strict: bool = False

    @property
    def source_tokens(self) -> int:
        """``source_length``, always a number."""
        return _SOURCE_TOKENS if self.source_length is None else self.source_length
