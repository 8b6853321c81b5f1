"""Baselines in turns: real processes that only pretend to be models."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .conftest import PEERS

Make = Callable[..., Any]


@pytest.fixture
def driver(peer_module: Callable[[str], ModuleType]) -> ModuleType:
    return peer_module("_driver")


@pytest.fixture
def make(driver: ModuleType, tmp_path: Path) -> Make:
    """A function from a name and the body of ``generate`` to a baseline.

    The body sees ``task``, the source's ``number`` and the folder ``shared``; ``start`` is run
    before it is ready, ``synchronize`` before each time stamp.
    """

    def get(
        name: str, body: str, start: str = "", synchronize: str = "pass", **variables: str | None
    ) -> Any:
        script = tmp_path / f"{name}.py"
        script.write_text(
            "import os, sys, time\n"
            "from pathlib import Path\n"
            f"sys.path.insert(0, {str(PEERS)!r})\n"
            "from _worker import Loaded, serve\n"
            f"shared = Path({str(tmp_path)!r})\n"
            "def load(task):\n"
            + textwrap.indent(textwrap.dedent(start), "    ")
            + "\n    def generate(number):\n"
            + textwrap.indent(textwrap.dedent(body), "        ")
            + f"\n    def synchronize():\n        {synchronize}"
            + f"\n    return Loaded(generate, {{{name!r}: '1.0'}}, 123, synchronize, ('slow',))\n"
            "serve(load)\n"
        )
        task = (
            '{"model": "m", "precision": "int8", "mode": null, "device": "cpu",'
            ' "sources": [[5, 6], [7, 8]], "new_tokens": 2, "num_beams": 1, "threads": 1}'
        )
        return driver.Baseline((sys.executable, str(script), task), variables)

    return get


def test_baselines_take_turns(driver: ModuleType, make: Make, tmp_path: Path) -> None:
    log = "with (shared / 'log').open('a') as log: log.write({!r})\n"
    log += "return [task.sources[number][0], {}]"
    rounds: list[tuple[int, int]] = []
    found = driver.alternate(
        {name: make(name, log.format(name, number)) for number, name in enumerate("AB")},
        rounds=2,
        warmup=1,
        progress=lambda done, total: rounds.append((done, total)),
    )
    assert (tmp_path / "log").read_text() == "AABBAABBAABB"  # two sources each
    assert rounds == [(1, 3), (2, 3), (3, 3)]
    assert found["A"].tokens == [[5, 0], [7, 0]]
    assert found["B"].tokens == [[5, 1], [7, 1]]
    assert found["B"].versions == {"B": "1.0"}
    assert found["B"].loaded_bytes == 123
    assert found["B"].notes == ["slow"]
    for result in found.values():
        assert len(result.milliseconds) == 2
        assert min(result.milliseconds) > 0


def test_a_device_is_done_before_each_time_stamp(
    driver: ModuleType, make: Make, tmp_path: Path
) -> None:
    """Work that goes on when ``generate`` has returned counts, as a GPU's does."""
    sync = "time.sleep(0.05); (shared / 'log').open('a').write('s')"
    baseline = make("device", "(shared / 'log').open('a').write('g')\nreturn [7]", synchronize=sync)
    found = driver.alternate({"device": baseline}, rounds=1, warmup=1)["device"]
    assert (tmp_path / "log").read_text() == "sggssggs"
    # The mean over two sources, of a round that waits once within the stamps.
    assert found.milliseconds[0] >= 25


def test_only_one_runs_at_a_time(driver: ModuleType, make: Make) -> None:
    """A thread that spins after its work, as OpenMP's may, takes no time from the next."""
    spin = """
        import threading
        def spin():
            while True: pass
        (shared / 'pid').write_text(str(os.getpid()))
        threading.Thread(target=spin, daemon=True).start()
    """
    look = """
        status = Path('/proc', (shared / 'pid').read_text(), 'status')
        deadline = time.monotonic() + 10
        while 'State:\\tT' not in status.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)  # the kernel may not have come to it yet
        return [int('State:\\tT' in status.read_text())]
    """
    baselines = {"spins": make("spins", "return []", spin), "looks": make("looks", look)}
    assert driver.alternate(baselines, rounds=2, warmup=0)["looks"].tokens == [[1], [1]]


def test_what_a_library_prints_is_no_answer(driver: ModuleType, make: Make) -> None:
    noisy = "print('loading'); os.write(1, b'{}\\n')"
    baseline = make("noisy", f"{noisy}\nreturn [7]", noisy)
    assert driver.alternate({"noisy": baseline}, rounds=1, warmup=0)["noisy"].tokens == [[7], [7]]


def test_each_has_its_own_variables(
    driver: ModuleType, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEER_TEST_GONE", "1")
    body = "return [int(os.environ.get('OMP_WAIT_POLICY') == 'active'),"
    body += " int('PEER_TEST_GONE' in os.environ)]"
    baselines = {
        "active": make("active", body, OMP_WAIT_POLICY="active", PEER_TEST_GONE=None),
        "other": make("other", body),
    }
    found = driver.alternate(baselines, rounds=1, warmup=0)
    assert found["active"].tokens == [[1, 0]] * 2
    assert found["other"].tokens == [[0, 1]] * 2


@pytest.mark.parametrize(
    ("body", "start", "message"),
    [
        ("return []", "raise RuntimeError('no such model')", "RuntimeError: no such model"),
        ("raise RuntimeError('out of memory')", "", "RuntimeError: out of memory"),
        ("os._exit(3)", "", "exit status 3"),
    ],
)
def test_one_that_fails_ends_them_all(
    driver: ModuleType, make: Make, tmp_path: Path, body: str, start: str, message: str
) -> None:
    note = "(shared / 'pid').write_text(str(os.getpid()))"
    baselines = {"works": make("works", "return []", note), "fails": make("fails", body, start)}
    with pytest.raises(driver.PeerError) as caught:
        driver.alternate(baselines, rounds=1, warmup=0)
    assert str(caught.value) == f"fails failed: {message}"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_others_may_go_on_without_one_that_does_not_start(driver: ModuleType, make: Make) -> None:
    baselines = {
        "fails": make("fails", "return []", "raise RuntimeError('no such model')"),
        "works": make("works", "return [3]"),
        "missing": driver.Baseline(("no-such-python", "x.py")),
    }
    left_out: dict[str, str] = {}
    found = driver.alternate(
        baselines,
        rounds=1,
        warmup=0,
        leave_out=lambda name, error: left_out.update({name: str(error)}),
    )
    assert list(found) == ["works"]
    assert left_out["fails"] == "fails failed: RuntimeError: no such model"
    assert "No such file" in left_out["missing"]


def test_an_interpreter_that_is_not_there(driver: ModuleType, tmp_path: Path) -> None:
    baseline = driver.Baseline((str(tmp_path / "python"), "x.py"))
    with pytest.raises(driver.PeerError, match=r"cannot start missing: .*No such file"):
        driver.alternate({"missing": baseline}, rounds=1, warmup=0)
