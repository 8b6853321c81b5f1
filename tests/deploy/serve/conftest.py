"""Services in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seq2edge.runtime import Bundle

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from .process import ServerProcess


@pytest.fixture(scope="module")
def server(demo: Bundle) -> Iterator[ServerProcess]:
    """The demo model, as it is served without options."""
    with ServerProcess(demo.directory) as process:
        yield process
