"""Parts of a model that load at the same time, and what is left where one of them fails."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.runtime import BundleError, Seq2SeqModel
from seq2edge.runtime.backends.onnxruntime import OrtBackend
from seq2edge.runtime.background import Background


def test_both_run_at_the_same_time() -> None:
    here, there = threading.Event(), threading.Event()

    def call() -> bool:
        there.set()
        return here.wait(30)

    with Background(call) as work:
        assert there.wait(30)
        here.set()
    assert work.result()


def test_an_error_of_the_thread_is_raised_where_its_result_is_asked_for() -> None:
    def call() -> None:
        raise BundleError("broken")

    with Background(call) as work:
        pass
    with pytest.raises(BundleError, match="broken"):
        work.result()


def test_it_may_run_before_the_body_on_the_same_thread() -> None:
    with Background(threading.current_thread, apart=False) as work:
        assert work.result() is threading.current_thread()


def test_the_bodys_error_counts_and_the_result_is_let_go() -> None:
    discarded: list[int] = []
    with pytest.raises(KeyError), Background(lambda: 7, discarded.append):
        raise KeyError
    assert discarded == [7]


def test_a_model_whose_tokenizer_is_broken_is_closed(
    byte_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[OrtBackend] = []

    def broken(_bundle: object) -> None:
        raise BundleError("its tokenizer fails")

    monkeypatch.setattr("seq2edge.runtime.model.load_tokenizer", broken)
    monkeypatch.setattr(OrtBackend, "close", lambda backend: closed.append(backend))
    before = threading.active_count()
    with pytest.raises(BundleError, match="its tokenizer fails"):
        Seq2SeqModel.load(byte_bundle)
    assert len(closed) == 1
    assert threading.active_count() == before


def test_a_graph_that_is_refused_is_the_error_of_load(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BundleError("refused")

    monkeypatch.setattr("seq2edge.runtime.backends.onnxruntime.encoder.open_session", refused)
    with pytest.raises(BundleError, match="refused"):
        Seq2SeqModel.load(bundle_of("t5"))


def test_sockets_are_not_imported_for_a_text() -> None:
    """asyncio would be a sixth of the import."""
    code = "import sys, seq2edge.runtime; assert 'asyncio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
