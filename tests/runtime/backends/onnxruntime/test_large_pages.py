"""Memory that comes into large pages stays what it was, and no more is taken."""

from __future__ import annotations

import ctypes
import mmap
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.runtime import Seq2SeqModel
from seq2edge.runtime.backends.onnxruntime import large_pages
from seq2edge.runtime.backends.onnxruntime.large_pages import LargePages
from tests.runtime.generation.copying import copy_of_source, copying_bundle, copying_source

BLOCK = 1 << 21


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LargePages:
    """On a system whose user leaves large pages to programs."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "hpage_pmd_size").write_text(f"{BLOCK}\n")
    monkeypatch.setattr(large_pages, "_SETTINGS", tmp_path)
    return LargePages()


def mapped(size: int) -> NDArray[np.uint8]:
    """Memory of a mapping of its own, none of it resident yet."""
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE), np.uint8)


def resident(memory: NDArray[np.uint8]) -> NDArray[np.uint8]:
    found = np.zeros(len(memory) // mmap.PAGESIZE, np.uint8)
    address, vector = (ctypes.c_void_p(array.ctypes.data) for array in (memory, found))
    assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(len(memory)), vector) == 0
    return found & np.uint8(1)


def test_what_was_loaded_keeps_its_contents(pages: LargePages) -> None:
    memory = mapped(8 * BLOCK)
    memory[:] = np.arange(len(memory)) % 251
    pages.end_loading()
    joined = pages.join_pages()
    assert joined % BLOCK == 0
    assert np.array_equal(memory, np.arange(len(memory)) % 251)


def test_pages_that_are_not_there_stay_away(pages: LargePages) -> None:
    memory = mapped(8 * BLOCK)
    memory[: 4 * BLOCK : mmap.PAGESIZE] = 1
    memory[4 * BLOCK :: 2 * mmap.PAGESIZE] = 1
    before = resident(memory)
    pages.end_loading()
    pages.join_pages()
    assert np.array_equal(resident(memory), before)


@pytest.mark.usefixtures("pages")
def test_memory_from_before_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    advised: list[int] = []

    def advise(_libc: object, start: int, _length: int, _advice: int) -> int:
        advised.append(start)
        return 0

    monkeypatch.setattr(large_pages, "_advise", advise)
    old = mapped(8 * BLOCK)
    old[:] = 1
    other = LargePages()
    new = mapped(8 * BLOCK)
    new[:] = 1
    other.end_loading()
    assert other.join_pages() >= 7 * BLOCK
    assert any(new.ctypes.data <= start < new.ctypes.data + len(new) for start in advised)
    assert not any(old.ctypes.data <= start < old.ctypes.data + len(old) for start in advised)


def test_the_second_call_alone_joins(pages: LargePages) -> None:
    memory = mapped(4 * BLOCK)
    memory[:] = 1
    pages.end_loading()
    assert pages.begin_call() is None
    thread = pages.begin_call()
    assert thread is not None
    thread.join()
    assert pages.begin_call() is None


def test_a_closed_model_joins_nothing(pages: LargePages) -> None:
    memory = mapped(4 * BLOCK)
    memory[:] = 1
    pages.end_loading()
    pages.stop()
    assert [pages.begin_call(), pages.begin_call()] == [None, None]


@pytest.mark.parametrize("enabled", ["always madvise [never]\n", None])
def test_a_system_without_large_pages_is_left_as_it_is(
    enabled: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if enabled is not None:
        (tmp_path / "enabled").write_text(enabled)
        (tmp_path / "hpage_pmd_size").write_text(f"{BLOCK}\n")
    monkeypatch.setattr(large_pages, "_SETTINGS", tmp_path)
    pages = LargePages()
    memory = mapped(4 * BLOCK)
    memory[:] = 1
    pages.end_loading()
    assert [pages.begin_call(), pages.begin_call()] == [None, None]
    assert pages.join_pages() == 0


def test_an_older_linux_is_asked_to_join_later(
    pages: LargePages, monkeypatch: pytest.MonkeyPatch
) -> None:
    advice: list[int] = []

    def advise(_libc: object, _start: int, _length: int, what: int) -> int:
        advice.append(what)
        return 22 if what == 25 else 0  # EINVAL: MADV_COLLAPSE is not known

    monkeypatch.setattr(large_pages, "_advise", advise)
    memory = mapped(4 * BLOCK)
    memory[:] = 1
    pages.end_loading()
    assert pages.join_pages() >= 3 * BLOCK
    assert advice[0] == 25
    assert set(advice[1:]) == {14}


@pytest.mark.usefixtures("pages")
def test_a_model_joins_beside_its_second_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[LargePages] = []
    monkeypatch.setattr(LargePages, "join_pages", lambda pages: joined.append(pages))
    # A process that has freed as much may load a small model without mapping anything.
    monkeypatch.setattr(large_pages, "_without", lambda ranges, _: ranges)
    source = copying_source(9, 0)
    with Seq2SeqModel.load(copying_bundle(tmp_path / "bundle")) as model:
        for expected in (0, 1, 1):
            (found,) = model.generate_ids([source])
            for thread in threading.enumerate():
                if thread.name == "seq2edge-pages":
                    thread.join()
            assert found.token_ids == copy_of_source(source)
            assert len(joined) == expected
