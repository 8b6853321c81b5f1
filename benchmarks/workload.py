"""What is measured: lengths, batch, beams, runs, and where."""

from __future__ import annotations

from dataclasses import dataclass

from seq2edge.runtime.backends import Backend, load_backend
from seq2edge.runtime.bundle.reader import Bundle

#: Source tokens where nothing is said.
_SOURCE_TOKENS = 64
#: Runs before the measured ones, where nothing is said and nobody looks.
_WARMUP = 3


@dataclass(frozen=True)
class Workload:
    """Settings of a measurement.

    Attributes:
        source_length: tokens of a text; None: 64.
        audio_seconds: of a speech model's sources; None: its whole window. The encoder reads no
            more than that, as ``seq2edge transcribe --fit-window`` has it.
        audio: path of a recording whose beginning they are; None: noise.
        new_tokens: that are generated.
        batch_size, num_beams, runs: sources at once, beams, measured runs.
        warmup: runs before those; None: until times are steady.
        threads: None: the backend's default.
        backend, device, strict, encoder_backend, precision: of
            :func:`seq2edge.runtime.backends.load_backend`.
    """

    source_length: int | None = None
    audio_seconds: float | None = None
    audio: str | None = None
    new_tokens: int = 64
    batch_size: int = 1
    num_beams: int = 1
    runs: int = 20
    warmup: int | None = None
    threads: int | None = None
    backend: str = "onnxruntime"
    device: str | None = None
    strict: bool = False
    encoder_backend: str | None = None
    precision: str | None = None

    def load(self, bundle: Bundle) -> Backend:
        """``bundle`` in what it is measured on.

        Raises:
            BackendError: it cannot be loaded.
        """
        return load_backend(
            bundle,
            backend=self.backend,
            device=self.device,
            strict=self.strict,
            num_threads=self.threads,
            encoder_backend=self.encoder_backend,
            precision=self.precision,
        )

    @property
    def source_tokens(self) -> int:
        """``source_length``, always a number."""
        return _SOURCE_TOKENS if self.source_length is None else self.source_length

    @property
    def warmup_rounds(self) -> int:
        """``warmup``, always a number: where steadiness is not looked for."""
        return _WARMUP if self.warmup is None else self.warmup
