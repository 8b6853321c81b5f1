"""Times that TensorRT measures are kept for the next build; the builder is a fake."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from seq2edge.runtime.backends.limits import Limits
from seq2edge.runtime.backends.tensorrt import EngineKey, Library
from seq2edge.runtime.backends.tensorrt.builder.timing import TimingCache

_KEY = EngineKey("tensorrt", "10.3.0", ("8.7",), "Orin", Limits(1, 8, 8, 1), None, {})


class Times:
    """TensorRT's cache: what is in it, and on which GPU it was measured."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data


class Config:
    """A builder's settings on an Orin; it refuses times of others, and makes none of garbage."""

    def __init__(self) -> None:
        self.used: Times | None = None

    def create_timing_cache(self, data: bytes) -> Times | None:
        return None if data == b"garbage" else Times(data or b"Orin:")

    def set_timing_cache(self, times: Times, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if times.data.startswith(b"Orin:"):
            self.used = times
        return self.used is times


def build(folder: Path, engine: str = "tensorrt") -> bytes | None:
    """One build of two graphs, which measures one kernel; what was known before it."""
    cache = TimingCache(folder, Library(engine, "10.3.0", ModuleType(engine)), _KEY)
    known = None
    for graph in range(2):
        config = Config()
        cache.use(config)
        if config.used is not None:
            known = config.used.data if graph == 0 else known
            config.used.data += b"k" if graph == 0 else b""
    cache.save()
    return known


def test_what_was_measured_is_known_the_next_time(tmp_path: Path) -> None:
    folder = tmp_path / "model.engines"
    assert build(folder) == b"Orin:"
    assert build(folder) == b"Orin:k"
    assert [file.name for file in folder.iterdir()] == ["tensorrt-10.3.0-8.7.timing-cache"]


@pytest.mark.parametrize("kept", [b"garbage", b"Thor:k"])
def test_times_that_do_not_fit_are_measured_again(kept: bytes, tmp_path: Path) -> None:
    (tmp_path / "tensorrt-10.3.0-8.7.timing-cache").write_bytes(kept)
    assert build(tmp_path) == b"Orin:"
    assert build(tmp_path) == b"Orin:k"


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert build(tmp_path / "file" / "model.engines") == b"Orin:"


def test_tensorrt_rtx_measures_nothing(tmp_path: Path) -> None:
    assert build(tmp_path, "tensorrt-rtx") is None
    assert not list(tmp_path.iterdir())
