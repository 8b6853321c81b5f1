"""Where time goes, by ONNX Runtime's own profiler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.benchmarks import bench as bench_module
from seq2edge.benchmarks.profile import measure_profile
from seq2edge.benchmarks.workload import Workload
from seq2edge.cli.main import main
from seq2edge.runtime.errors import InputError

WORK = Workload(source_length=5, new_tokens=6, threads=1)


def test_nodes_are_summed_by_kind_and_layer(bundle_of: Callable[[str], Path]) -> None:
    found = {profile.graph: profile for profile in measure_profile(bundle_of("t5"), WORK)}
    assert set(found) == {"encoder", "decoder"}
    decoder = found["decoder"]
    kinds = {share.name: share for share in decoder.kinds}
    # 2 layers with two attentions each, once per step.
    assert kinds["Attention"].calls == 6 * 4
    assert [share.name for share in decoder.layers] == ["layer 0", "layer 1", "outside the layers"]
    for profile in found.values():
        assert sum(share.ms for share in profile.kinds) == pytest.approx(profile.ms)
        assert sum(share.ms for share in profile.layers) == pytest.approx(profile.ms)
    shares = [share.share for profile in found.values() for share in profile.kinds]
    assert sum(shares) == pytest.approx(1)


def test_it_leaves_nothing_behind(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    measure_profile(bundle_of("t5"), WORK)
    assert not list(tmp_path.iterdir())


def test_engines_of_tensorrt_have_a_report_of_their_own(bundle_of: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=r"not for --backend tensorrt: 'seq2edge build' reports"):
        measure_profile(bundle_of("t5"), Workload(backend="tensorrt"))


def test_loading_is_timed_with_and_without_the_page_cache(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[str] = []
    monkeypatch.setattr(bench_module, "FEWEST_SAMPLES", 2)
    monkeypatch.setattr(bench_module, "_drop", lambda file: dropped.append(file.name))
    work = Workload(source_length=5, new_tokens=4, threads=1, runs=1, warmup=1)
    (entry,) = bench_module.bench([bundle_of("t5")], [work], load=True).entries
    for name in ("load cold", "load warm"):
        assert len(entry.measurements[name].samples) == 2
        assert min(entry.measurements[name].samples) > 0
    assert dropped.count("weights.bin") == 2


def test_a_profile_is_shown_to_people_and_on_the_page(
    bundle_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "bench",
        bundle_of("t5"),
        "--runs",
        1,
        "--warmup",
        1,
        "--new-tokens",
        4,
        "--threads",
        1,
    )
    assert main([*map(str, words), "--profile", "--html", str(tmp_path / "page.html")]) == 0
    text = capsys.readouterr().out
    assert "profile of" in text
    assert "outside the layers" in text
    assert '<figure id="profile">' in (tmp_path / "page.html").read_text()
