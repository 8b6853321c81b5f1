"""What a call would take is refused beyond a budget, with numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seq2edge.runtime import InputError, Seq2SeqModel
from seq2edge.runtime.backends import memory_budget
from seq2edge.runtime.backends.memory_budget import MemoryBudget, parse_size


def test_a_long_source_is_refused_with_numbers(bundle_of: Callable[[str], Path]) -> None:
    """Fault: a source of 8,000 tokens took 4.2 GB, whatever there was."""
    with Seq2SeqModel.load(bundle_of("t5"), max_memory=5_000_000) as model:
        assert model.generate_ids(np.full((1, 100), 200), max_new_tokens=2)
        with pytest.raises(InputError, match=r"attention of a source of 1000 tokens would take ab"):
            model.generate_ids(np.full((1, 1000), 200), max_new_tokens=2)
        # Together they would take 0.01 GB; a few are encoded at once.
        assert model.generate_ids(np.full((4, 200), 200), max_new_tokens=2)
        inputs = {"input_ids": np.full((4, 200), 200), "attention_mask": np.ones((4, 200), bool)}
        message = r"4 sources of up to 200 tokens would take about 0\.01 GB .* max_memory is 0\.01"
        with pytest.raises(InputError, match=message):
            model.backend.encode(inputs)
        with pytest.raises(InputError, match="a cache of 2 times"):
            model.generate_ids(
                np.full((2, 3), 200), max_new_tokens=9000, min_new_tokens=9000, num_beams=2
            )


def test_what_is_free_is_the_least_that_any_group_has(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert memory_budget._free(tmp_path) is None
    write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    1000000 kB\n")
    assert memory_budget._free(tmp_path) == int(0.9 * (1_000_000 << 10))
    write("proc/self/cgroup", "0::/a/b\n")
    write("sys/fs/cgroup/a/b/memory.max", "max\n")
    write("sys/fs/cgroup/a/memory.max", "500000000\n")
    write("sys/fs/cgroup/a/memory.current", "300000000\n")
    write("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 100000000\n")
    assert memory_budget._free(tmp_path) == int(0.9 * 300_000_000)
    write("proc/self/cgroup", "4:memory:/c\n")
    write("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "70000000\n")
    write("sys/fs/cgroup/memory/c/memory.usage_in_bytes", "80000000\n")
    assert memory_budget._free(tmp_path) == 0


def test_without_a_limit_small_calls_are_never_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "_free", lambda: 1)
    MemoryBudget().check(100 << 20, "a call")
    with pytest.raises(InputError, match=r"a call would take about 1\.07 GB .* this machine can"):
        MemoryBudget().check(1 << 30, "a call")


def test_amounts() -> None:
    assert [parse_size(text) for text in ("500M", "2G", "1.5 GB", "7")] == [
        500_000_000,
        2_000_000_000,
        1_500_000_000,
        7,
    ]
    for text in ("", "G", "0", "-1", "1e9", "2 X", "nan"):
        with pytest.raises(InputError, match="is no amount of memory"):
            parse_size(text)
    with pytest.raises(InputError, match="at least 1 byte"):
        MemoryBudget(0)
