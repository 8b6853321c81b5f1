"""How much memory a call may take: what would take more is refused, with numbers, before it runs.

A system without the memory that a call needs does not refuse it: it stops for minutes while it
swaps, or ends some process. Sources: proc(5) for /proc/meminfo, and the kernel's documentation of
cgroup-v2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..bundle.manifest import BLOCK_ENCODER, GraphInfo, Manifest
from ..errors import InputError
from .base import EncoderInputs

#: Copies of the scores that an encoder's attention holds, without and with relative positions.
_COPIES, _COPIES_RELATIVE = 2.5, 5.5
#: What an encoder that holds no scores takes, in values [positions, d_model] (Whisper's: 19).
_VALUES = 20
#: Of an encoder that computes attention in blocks (``quantize/passes/cpu_lowering``): sources that
#: are in blocks whatever its products are of, queries of a block, copies of its bias by distance,
#: and of a layer's values. Over 8,192 positions of T5-small's geometry 614 MB.
_IN_BLOCKS, _BLOCK_ROWS, _BLOCK_BIASES, _BLOCK_VALUES = 1024, 256, 6, 12
#: Sizes of a head, where a manifest does not say how many an encoder has.
_USUAL_HEAD = 64
#: Calls that need less are not looked at: reading the system's numbers takes longer than a step.
_ALWAYS_ALLOWED = 256 << 20
#: Part of the free memory that a call may take.
_SHARE = 0.9
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class MemoryBudget:
    """What calls of a model may take, each.

    Args:
        limit: bytes; None: nine tenths of what the machine and the process's control group have
            free at the time.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise InputError(f"max_memory must be at least 1 byte, not {limit}")
        self._limit = limit

    def check(self, needed: int, what: str) -> None:
        """Refuse what needs more; ``what`` is the subject of the error's sentence.

        Raises:
            InputError: how much is needed, and how much there is.
        """
        if self._limit is None and needed <= _ALWAYS_ALLOWED:
            return
        allowed = self._limit if self._limit is not None else _free()
        if allowed is not None and needed > allowed:
            whose = "max_memory is" if self._limit is not None else "this machine can give"
            raise InputError(
                f"{what} would take about {needed / 1e9:.2f} GB of memory, and {whose}"
                f" {allowed / 1e9:.2f} GB: give shorter texts, fewer at once or fewer beams"
            )


class CallMemory:
    """The parts of a call that grow with its texts, held to a budget.

    Scores of attention, [batch, heads, positions, positions], are most of what an encoder takes:
    ONNX Runtime's CPU kernels hold them whole, in several copies (measured with 1.32 over 3,000
    positions: 2.3 with BART, 4.5 and 5.5 with T5, whose relative positions are scores as well).
    Encoders by blocks hold none.

    Args:
        manifest: of the bundle.
        budget: what a call may take.
        encoder: the graph that encodes, where it may be another than the canonical one.
    """

    def __init__(
        self, manifest: Manifest, budget: MemoryBudget, encoder: GraphInfo | None = None
    ) -> None:
        dims, self._budget = manifest.dimensions, budget
        # Its attention over long sources is in blocks, where a Scan is in it.
        self._blocks = encoder is not None and encoder.file == f"{BLOCK_ENCODER}.onnx"
        self._speech = manifest.speech
        self._slot_bytes = manifest.cache_bytes_per_slot
        # Encoders of one model have as many heads as its decoders nearly always.
        self._heads = dims.decoder_heads or max(1, dims.d_model // _USUAL_HEAD)
        decoder = manifest.graphs.get("decoder")
        relative = decoder is not None and "cache_position_ids" in decoder.input_names()
        self._copies = _COPIES_RELATIVE if relative else _COPIES
        #: Bytes of a position, where attention goes through its scores by blocks.
        self._position_bytes = 0
        operators = {} if encoder is None else encoder.operators
        if "MultiHeadAttention" in operators and "Attention" not in operators:
            self._position_bytes = 4 * _VALUES * dims.d_model

    def check_encoder(self, inputs: EncoderInputs) -> None:
        """Before the encoder runs.

        Raises:
            InputError: see :meth:`MemoryBudget.check`.
        """
        batch = len(next(iter(inputs.values())))
        if "input_ids" in inputs:
            positions, unit = inputs["input_ids"].shape[1], "tokens"
        elif self._speech is not None and "input_features" in inputs:
            positions = inputs["input_features"].shape[-1] // self._speech.frames_per_position
            unit = "positions"
        else:
            return
        needed = int(batch * self._heads * positions * positions * 4 * self._copies)
        if self._position_bytes:
            needed = batch * positions * self._position_bytes
        if self._blocks and positions >= _IN_BLOCKS:
            biases = _BLOCK_BIASES * _BLOCK_ROWS if self._copies == _COPIES_RELATIVE else 0
            values = _BLOCK_VALUES * batch * _USUAL_HEAD
            needed = 4 * self._heads * positions * (biases + values)
        several = f"{batch} sources of up to" if batch > 1 else "a source of"
        self._budget.check(needed, f"attention of {several} {positions} {unit}")

    def check_cache(self, batch: int, slots: int) -> None:
        """Before a cache of so many slots is made.

        Raises:
            InputError: see :meth:`MemoryBudget.check`.
        """
        needed = batch * slots * self._slot_bytes
        self._budget.check(needed, f"a cache of {batch} times {slots} tokens")


def parse_size(text: str) -> int:
    """Bytes of ``500M``, ``2G``, ``1.5 GB``.

    Raises:
        InputError: it is none.
    """
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise InputError(f"{text!r} is no amount of memory, such as 500M or 2G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _free(root: Path = Path("/")) -> int | None:
    """Bytes that a call may take now; None: the system does not say."""
    found = [*_available(root), *_of_groups(root)]
    return int(_SHARE * min(found)) if found else None


def _available(root: Path) -> Iterator[int]:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    if match:
        yield int(match[1]) << 10


def _of_groups(root: Path) -> Iterator[int]:
    """Room in each control group that the process is in, of version 2 or 1."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # In a container the path may be the host's, which is not there: its mount still is.
        parts = [part for part in name.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = mount.joinpath(*parts[:depth])
            limit, used = (_text(folder / file).strip() for file in names)
            if limit.isdigit() and used.isdigit() and int(limit) < 1 << 60:
                yield max(0, int(limit) - int(used) + _reclaimable(folder))


def _reclaimable(folder: Path) -> int:
    """File pages that the kernel drops before anything else; they count as used."""
    match = re.search(r"^(?:total_)?inactive_file (\d+)", _text(folder / "memory.stat"), re.M)
    return int(match[1]) if match else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
