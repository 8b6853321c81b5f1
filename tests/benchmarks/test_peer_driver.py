"""Baselines in turns: real processes that only pretend to be models."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.benchmarks import driver
from seq2edge.benchmarks.compiled import compile_modules
from seq2edge.runtime.errors import InputError

from .conftest import WORKERS

Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
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
            f"sys.path.insert(0, {str(WORKERS)!r})\n"
            "from worker import Loaded, serve\n"
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


def test_baselines_take_turns(make: Make, tmp_path: Path) -> None:
    write = "with (shared / 'log').open('a') as log: log.write({!r})\n"
    write += "return [task.sources[number][0], {}]"
    rounds: list[tuple[int, int]] = []
    found = driver.alternate(
        {name: make(name, write.format(name, number)) for number, name in enumerate("AB")},
        rounds=2,
        warmup=1,
        progress=lambda done, total: rounds.append((done, total)),
    )
    log = (tmp_path / "log").read_text()
    # Two sources each, and once for nothing, because it is short. The order is drawn.
    assert {log[:8], log[8:16], log[16:]} <= {"AAAABBBB", "BBBBAAAA"}
    assert rounds == [(1, 2), (2, 2)]
    assert found["A"].tokens == [[5, 0], [7, 0]]
    assert found["B"].tokens == [[5, 1], [7, 1]]
    assert found["B"].versions == {"B": "1.0"}
    assert found["B"].loaded_bytes == 123
    assert found["B"].notes == ("slow",)
    for result in found.values():
        assert len(result.milliseconds["all"]) == 2
        assert min(result.milliseconds["all"]) > 0
        assert result.warmup_rounds == 1
        assert result.peak_bytes is not None


def test_a_device_is_done_before_each_time_stamp(make: Make, tmp_path: Path) -> None:
    """Work that goes on when ``generate`` has returned counts, as a GPU's does."""
    sync = "time.sleep(0.05); (shared / 'log').open('a').write('s')"
    baseline = make("device", "(shared / 'log').open('a').write('g')\nreturn [7]", synchronize=sync)
    found = driver.alternate({"device": baseline}, rounds=1, warmup=1)["device"]
    assert (tmp_path / "log").read_text() == "sggs" * 2
    # The mean over two sources, of a round that waits once within the stamps.
    assert found.milliseconds["all"][0] >= 25


def test_only_one_runs_at_a_time(make: Make) -> None:
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


def test_what_a_library_prints_is_no_answer(make: Make) -> None:
    noisy = "print('loading'); os.write(1, b'{}\\n')"
    baseline = make("noisy", f"{noisy}\nreturn [7]", noisy)
    assert driver.alternate({"noisy": baseline}, rounds=1, warmup=0)["noisy"].tokens == [[7], [7]]


def test_each_has_its_own_variables(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
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
    make: Make, tmp_path: Path, body: str, start: str, message: str
) -> None:
    note = "(shared / 'pid').write_text(str(os.getpid()))"
    baselines = {"works": make("works", "return []", note), "fails": make("fails", body, start)}
    with pytest.raises(driver.PeerError) as caught:
        driver.alternate(baselines, rounds=1, warmup=0)
    assert str(caught.value) == f"fails failed: {message}"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_others_may_go_on_without_one_that_does_not_start(make: Make) -> None:
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


def test_others_go_on_without_one_that_fails_later_or_hangs(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_ANSWERS_WITHIN", 5.0)
    once = "worked = []"
    baselines = {
        "fails": make("fails", "1 / (len(worked) < 5)\nworked.append(1)\nreturn [1]", once),
        "hangs": make("hangs", "time.sleep(99 * (number == 1))\nreturn [2]"),
        "works": make("works", "return [3]"),
    }
    left_out: dict[str, str] = {}
    found = driver.alternate(
        baselines,
        rounds=3,
        warmup=0,
        leave_out=lambda name, error: left_out.update({name: str(error)}),
    )
    assert found["works"].tokens == [[3], [3]]
    assert len(found["works"].milliseconds["all"]) == 3
    assert left_out == {
        "fails": "fails failed: ZeroDivisionError: division by zero",
        "hangs": "hangs failed: no answer within 5 s",
    }


def test_time_is_limited_once_there_are_enough_rounds(make: Make) -> None:
    baselines = {"x": make("x", "return []")}
    found = driver.alternate(baselines, rounds=50, warmup=0, seconds=0)["x"]
    assert len(found.milliseconds["all"]) == 8


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    baseline = driver.Baseline((str(tmp_path / "python"), "x.py"))
    with pytest.raises(driver.PeerError, match=r"cannot start missing: .*No such file"):
        driver.alternate({"missing": baseline}, rounds=1, warmup=0)


def test_warm_up_ends_when_times_are_steady(make: Make) -> None:
    """A process that gets faster for its first five rounds; times are made up, not slept."""
    start = """
        import worker
        clock = [0.0]
        worker.time.perf_counter = lambda: clock[0]
        count = [0]
    """
    body = """
        count[0] += number == 0
        clock[0] += 0.2 if count[0] > 5 else 1 + 2.0 ** (5 - count[0])
        return [count[0]]
    """
    found = driver.alternate({"slow": make("slow", body, start)}, rounds=2, warmup=None)["slow"]
    # The median of rounds 8 to 10 is that of 5 to 7.
    assert found.warmup_rounds == 10
    assert found.milliseconds["all"] == pytest.approx([200.0, 200.0])
    assert found.notes == ("slow",)


def test_times_that_do_not_become_steady_are_said_to_be_so(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_MOST_ROUNDS", 7)
    start = """
        import worker
        clock = [0.0]
        worker.time.perf_counter = lambda: clock[0]
        count = [0]
    """
    body = "count[0] += 1\nclock[0] += 1.5 ** count[0]\nreturn []"
    found = driver.alternate({"x": make("x", body, start)}, rounds=1, warmup=None)["x"]
    assert (found.steady, found.warmup_rounds) == (False, 7)


def test_an_error_of_ours_stays_what_it_is(make: Make) -> None:
    start = "from seq2edge.runtime.errors import SourceError\nraise SourceError(0, 'is too long')"
    with pytest.raises(InputError, match=r"^text 1 is too long$"):
        driver.alternate({"ours": make("ours", "return []", start)}, rounds=1, warmup=0)


def test_a_process_stays_on_its_cores(make: Make) -> None:
    core = max(os.sched_getaffinity(0))
    baseline = make("pinned", "return sorted(os.sched_getaffinity(0))")
    pinned = driver.Baseline(baseline.command, baseline.variables, {core})
    found = driver.alternate({"pinned": pinned}, rounds=1, warmup=0)["pinned"]
    assert found.tokens == [[core], [core]]


def test_processes_that_are_timed_find_our_modules_compiled(tmp_path: Path) -> None:
    """Fault: where Python may not write, loading was timed with 130 ms of compiling."""
    for name in ("one.py", "runtime/two.py", "benchmarks/workers/three.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    compile_modules(tmp_path)
    program = (
        "import pathlib, one, runtime.two as two;"
        "print(all(pathlib.Path(m.__cached__).exists() for m in (one, two)))"
    )
    command = [sys.executable, "-B", "-c", program]
    assert subprocess.check_output(command, cwd=tmp_path, text=True) == "True\n"
