"""An encoder in a library of its own: the seam within a backend whose decoder is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray


class EncoderGraph(Protocol):
    """An encoder graph in a library, which need not be the decoder's. Threads may share it."""

    @property
    def description(self) -> str:
        """The library's version, device and precision; "" where it is the backend's own."""
        ...

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], object]:
        """Run it once.

        Args:
            arrays: its inputs by name, contiguous and of their types.

        Returns:
            Its outputs by name, contiguous, in the CPU's memory, and what that memory belongs to.

        Raises:
            BackendError: the run failed.
        """
        ...
