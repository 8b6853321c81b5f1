"""Where time goes, by ONNX Runtime's own profiler."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seq2edge.benchmarks import bench as bench_module
from seq2edge.benchmarks.profile import measure_profile
from seq2edge.benchmarks.workload import Workload
from seq2edge.cli.main import main
from seq2edge.runtime import Bundle, InputError
from seq2edge.runtime.backends.limits import Limits
from seq2edge.runtime.backends.tensorrt.cuda import Cuda
from seq2edge.runtime.backends.tensorrt.execution import load

from ..runtime.backends.tensorrt.execution.fake_cuda import FakeCuda
from ..runtime.backends.tensorrt.execution.fake_tensorrt import FakeTensorRT, write_engines

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


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-tensorrt"])
def test_a_gpus_time_is_not_told_from_what_the_cpu_does(
    backend: str, bundle_of: Callable[[str], Path]
) -> None:
    workload = replace(WORK, backend=backend, device="cuda")
    with pytest.raises(InputError, match="--profile cannot tell where a GPU's time goes"):
        bench_module.bench([bundle_of("t5")], [workload], profile=True)


def test_it_leaves_nothing_behind(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    measure_profile(bundle_of("t5"), WORK)
    assert not list(tmp_path.iterdir())


def test_engines_of_tensorrt_tell_of_their_layers(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    shutil.copytree(bundle_of("t5"), path)
    bundle, cuda = Bundle.open(path), FakeCuda()
    limits = Limits(max_batch=2, max_source_length=24, max_target_length=32, max_num_tokens=4)
    trt = FakeTensorRT(cuda, bundle, limits, in_place=True)
    write_engines(bundle, tmp_path / "model.engines" / "tensorrt-1", limits, in_place=True)
    monkeypatch.setattr(load, "load_library", lambda _name: trt.library())
    monkeypatch.setattr(load, "load_cuda", lambda: Cuda(cuda))
    work = replace(WORK, backend="tensorrt", threads=None)
    found = {profile.graph: profile for profile in measure_profile(path, work)}
    assert set(found) == {"encoder", "decoder"}
    # Each run has one layer of either kind, and nothing of loading counts.
    for graph, runs in (("encoder", 1), ("decoder", 6)):
        kinds = {share.name: share for share in found[graph].kinds}
        assert {name: share.calls for name, share in kinds.items()} == {
            "FcMulAdd": runs,
            "MatMul": runs,
        }
        assert kinds["FcMulAdd"].ms == pytest.approx(runs * 0.5)
        layers = {share.name: share.ms for share in found[graph].layers}
        assert layers == {
            "layer 0": pytest.approx(runs * 0.25),
            "outside the layers": pytest.approx(runs * 0.5),
        }
    assert cuda.allocations == 0


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
