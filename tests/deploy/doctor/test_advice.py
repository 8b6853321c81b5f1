"""What is advised for each board."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from seq2edge.deploy.doctor import Advice, Machine, advise
from seq2edge.deploy.doctor.install import own_source

from .conftest import BOARDS, NVIDIA_SMI, MakeSample

Examined = Callable[[str], Machine]


def install(advice: Advice) -> tuple[str, ...]:
    """The commands that install, if any."""
    return next((step.commands for step in advice.steps if "install" in step.what), ())


def texts(advice: Advice) -> str:
    return "\n".join(finding.text for finding in advice.findings)


def mending(advice: Advice) -> set[str | None]:
    return {finding.command for finding in advice.findings}


def test_orin_nano_fresh(machine: Examined) -> None:
    advice = advise(machine("orin-nano"))
    assert advice.backend == "tensorrt"
    assert install(advice) == (
        "sudo apt-get update",
        "sudo apt-get install -y nvidia-jetpack python3-libnvinfer python3-venv",
        "python3 -m venv --system-site-packages ~/seq2edge",
        ". ~/seq2edge/bin/activate",
        f"pip install {own_source()} 'cuda-bindings~=12.6'",
    )
    # JetPack 6.2's TensorRT 10.3 has neither operator.
    assert advice.downgrade is not None
    assert "10.3" in advice.downgrade
    prepare, here = advice.steps[1:]
    assert prepare.commands == (
        "seq2edge quantize model.bundle model.fp16.bundle --scheme fp16 --target tensorrt",
        "seq2edge downgrade model.fp16.bundle model.fp16.downgraded.bundle",
    )
    assert here.commands[-1] == "seq2edge build model.fp16.downgraded.bundle --backend tensorrt"
    # MAXN_SUPER is mode 2 on this board, and 0 on others.
    assert {"sudo nvpmodel -m 2", "sudo jetson_clocks"} <= mending(advice)
    assert "3995 MB of swap are compressed main memory" in texts(advice)
    assert "little memory is left: 627 of 7990 MB" in texts(advice)


def test_orin_nx_tuned_and_hot(machine: Examined) -> None:
    advice = advise(machine("orin-nx"))
    assert advice.backend == "tensorrt"
    assert install(advice) == ()
    assert advice.downgrade is not None
    assert mending(advice) == {None}
    # Clocks and mode are as they should be, and there is no zram.
    (heat,) = advice.findings
    assert "thermal throttles: 99 of 99 degrees" in heat.text


def test_a_cool_board_is_not_warned_of_heat_and_a_warm_one_is(sample: MakeSample) -> None:
    zones = {f"sys/class/thermal/thermal_zone{i}/temp": "60000\n" for i in range(5)}
    assert advise(sample("orin-nx", zones).examine()).findings == ()
    warm = {**zones, "sys/class/thermal/thermal_zone0/temp": "96000\n"}
    (heat,) = advise(sample("orin-nx", warm).examine()).findings
    assert "cpu-thermal is close to throttling: 96 of 99 degrees" in heat.text


def test_only_passive_trip_points_lower_clocks(sample: MakeSample) -> None:
    """The others start fans, or shut down."""
    zones = {f"sys/class/thermal/thermal_zone{i}/temp": "60000\n" for i in range(5)}
    fan = "sys/class/thermal/thermal_zone0/trip_point_9"
    files = {**zones, f"{fan}_type": "active\n", f"{fan}_temp": "55000\n"}
    assert advise(sample("orin-nx", files).examine()).findings == ()
    throttles = advise(sample("orin-nx", {**files, f"{fan}_type": "passive\n"}).examine())
    assert "cpu-thermal throttles: 60 of 55 degrees" in texts(throttles)


def test_zram_is_only_switched_off_while_it_is_empty(sample: MakeSample) -> None:
    command = "sudo systemctl disable --now nvzramconfig"
    files = {
        "proc/meminfo": "MemTotal: 7802324 kB\nMemAvailable: 4612000 kB\n"
        "SwapTotal: 3901152 kB\nSwapFree: 3901152 kB\n"
    }
    assert command in mending(advise(sample("orin-nano", files).examine()))
    assert command not in mending(advise(sample("orin-nano").examine()))


def test_agx_orin_whose_onnxruntime_lists_cuda(machine: Examined) -> None:
    advice = advise(machine("agx-orin"))
    assert advice.backend == "tensorrt"
    assert "onnxruntime lists CUDAExecutionProvider and cannot run it" in texts(advice)
    assert "no kernel image" in texts(advice)
    (gpu_wheel,) = (text for text in advice.alternatives if "onnxruntime-gpu" in text)
    assert gpu_wheel.startswith("not onnxruntime-gpu")
    assert "8.7" in gpu_wheel
    assert "the power mode is 30W" in texts(advice)
    assert "sudo nvpmodel -m 0" in mending(advice)
    # Python 3.10 has no onnxruntime for opset 24.
    (cpu,) = (text for text in advice.alternatives if "on the CPU" in text)
    assert "downgraded bundle" in cpu


def test_thor_with_jetpack_7_0(machine: Examined) -> None:
    advice = advise(machine("agx-thor"))
    assert advice.backend == "tensorrt"
    assert advice.downgrade is not None
    assert "10.13" in advice.downgrade
    # The bindings are of CUDA 12, and JetPack 7 has CUDA 13.
    assert "pip install 'cuda-bindings~=13.0'" in mending(advice)
    assert install(advice) == ("pip install 'cuda-bindings~=13.0'",)
    assert any(text.startswith("not onnxruntime-gpu") for text in advice.alternatives)


def test_orin_with_jetpack_7_2_needs_no_lowering(sample: MakeSample) -> None:
    files = {"etc/nv_tegra_release": "# R39 (release), REVISION: 2.0, GCID: 45755727\n"}
    made = sample("orin-nano", files)._replace(python="3.12.3")
    advice = advise(made.examine())
    assert (advice.backend, advice.downgrade) == ("tensorrt", None)
    assert install(advice)[-1] == f"pip install {own_source()} 'cuda-bindings~=13.0'"
    assert all("downgrade" not in command for step in advice.steps for command in step.commands)


def test_jetpack_7_2_2_may_take_the_indexs_tensorrt(sample: MakeSample) -> None:
    def alternatives(revision: str, tensorrt: str) -> list[str]:
        files = {"etc/nv_tegra_release": f"# R39 (release), REVISION: {revision}, GCID: 1\n"}
        commands = {"engine tensorrt": json.dumps({"version": tensorrt})}
        made = sample("orin-nano", files, commands)._replace(python="3.12.3")
        return [text for text in advise(made.examine()).alternatives if "tensorrt-cu13" in text]

    (offered,) = alternatives("2.2", "10.16.0")
    assert "pip install 'tensorrt-cu13~=11.4' 'cuda-bindings~=13.0'" in offered
    assert alternatives("2.2", "11.4.0.106") == []
    assert alternatives("2.1", "10.16.0") == []


def test_a_jetpack_that_is_not_known_yet_is_said_to_be(sample: MakeSample) -> None:
    files = {"etc/nv_tegra_release": "# R41 (release), REVISION: 1.0, GCID: 1\n"}
    advice = advise(sample("orin-nano", files, {"engine tensorrt": "{}"}).examine())
    assert advice.backend == "onnxruntime"
    assert "JetPack newer than 7.2.2" in advice.reason


def test_an_old_jetpack_is_to_be_updated(sample: MakeSample) -> None:
    files = {"etc/nv_tegra_release": "# R36 (release), REVISION: 3.0, GCID: 1\n"}
    advice = advise(sample("orin-nano", files).examine())
    assert advice.backend == "onnxruntime"
    assert "TensorRT 8.6" in advice.reason
    assert "JetPack 6.2 or newer" in advice.reason


def test_a_python_that_jetpack_has_no_tensorrt_for(sample: MakeSample) -> None:
    made = sample("orin-nx", commands={"engine tensorrt": "{}"})._replace(python="3.12.1")
    assert "use /usr/bin/python3" in texts(advise(made.examine()))


def test_workstation_with_an_rtx_gpu(machine: Examined) -> None:
    advice = advise(machine("x86-rtx"))
    assert (advice.backend, advice.downgrade, install(advice)) == ("tensorrt-rtx", None, ())
    assert [scheme.scheme for scheme in advice.schemes] == ["fp16", "int8-qdq", "int4", "bf16"]
    assert {scheme.target for scheme in advice.schemes} == {"tensorrt"}
    assert "the control group allows 4 of 16 cores" in texts(advice)
    assert "onnxruntime lists TensorrtExecutionProvider and cannot run it" in texts(advice)
    # What follows is about Jetsons: a workstation's clocks are its own.
    assert "clocks" not in texts(advice)


@pytest.mark.parametrize(
    ("smi", "backend", "commands"),
    [
        (
            "NVIDIA A100-SXM4-40GB, 8.0, 40960, 40000, 550.54.14",
            "tensorrt",
            ("pip install 'tensorrt-cu12>=10.15' 'cuda-bindings~=12.6'",),
        ),
        (
            "NVIDIA H100 80GB HBM3, 9.0, 81559, 81000, 580.65.06",
            "tensorrt",
            ("pip install tensorrt 'cuda-bindings~=13.0'",),
        ),
        (
            "NVIDIA GeForce RTX 5090, 12.0, 32607, 32000, 581.10",
            "tensorrt-rtx",
            ("pip install tensorrt-rtx 'cuda-bindings~=13.0'",),
        ),
        (
            "Tesla P100-PCIE-16GB, 6.0, 16384, 16000, 550.54.14",
            "onnxruntime-gpu",
            ("pip install onnxruntime-gpu",),
        ),
    ],
)
def test_other_gpus_with_nothing_installed(
    sample: MakeSample, smi: str, backend: str, commands: tuple[str, ...]
) -> None:
    nothing = {
        f"engine {name}": "{}" for name in ("onnxruntime", "tensorrt", "tensorrt-rtx", "cuda")
    }
    advice = advise(sample("x86-rtx", commands={**nothing, NVIDIA_SMI: smi}).examine())
    assert (advice.backend, install(advice)) == (backend, commands)


def test_turing_has_no_bfloat16_and_no_integers_in_tensorrt_rtx(sample: MakeSample) -> None:
    smi = {NVIDIA_SMI: "NVIDIA GeForce RTX 2080 Ti, 7.5, 11264, 11000, 580.65.06"}
    advice = advise(sample("x86-rtx", commands=smi).examine())
    assert advice.backend == "tensorrt-rtx"
    assert [scheme.scheme for scheme in advice.schemes] == ["fp16"]


def test_a_driver_that_is_too_old(sample: MakeSample) -> None:
    smi = {NVIDIA_SMI: "NVIDIA GeForce RTX 3060, 8.6, 12288, 12000, 470.82.01", "engine cuda": "{}"}
    advice = advise(sample("x86-rtx", commands=smi).examine())
    assert advice.backend == "onnxruntime"
    assert "the driver 470.82.01 is too old" in texts(advice)


def test_a_gpu_without_its_driver(sample: MakeSample) -> None:
    failed = "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.\n"
    commands = {
        NVIDIA_SMI: None,
        f"{NVIDIA_SMI} -> 9": failed,
        "engine cuda": '{"bindings": "13.5.0", "devices": 0, "error": "there is no NVIDIA driver"}',
    }
    machine = sample("x86-rtx", commands=commands).examine()
    text = texts(advise(machine))
    assert f"an NVIDIA GPU is there and its driver is not ({failed.strip()})" in text
    assert advise(machine).backend == "onnxruntime"


@pytest.mark.parametrize(
    ("flags", "says"),
    [("avx2 f16c", "without VNNI"), ("avx2 avx_vnni", "avx_vnni")],
)
def test_int8_arithmetic_depends_on_the_cpu(sample: MakeSample, flags: str, says: str) -> None:
    cpuinfo = f"processor : 0\nmodel name : A CPU\nflags : fpu {flags}\n"
    files = {"proc/cpuinfo": cpuinfo, "sys/bus/pci/devices/0000:01:00.0/vendor": None}
    made = sample("x86-rtx", files, {NVIDIA_SMI: None, "engine cuda": "{}"})
    schemes = {scheme.scheme: scheme.when for scheme in advise(made.examine()).schemes}
    assert list(schemes) == ["int8", "int8-dynamic", "int4"]
    assert says in schemes["int8-dynamic"]


def test_small_memory_starts_with_int4(sample: MakeSample) -> None:
    files = {
        "proc/meminfo": "MemTotal: 1900000 kB\nMemAvailable: 1500000 kB\n",
        "sys/bus/pci/devices/0000:01:00.0/vendor": None,
    }
    machine = sample("x86-rtx", files, {NVIDIA_SMI: None, "engine cuda": "{}"}).examine()
    assert advise(machine).schemes[0].scheme == "int4"


def test_python_310_needs_a_downgraded_bundle_on_the_cpu(sample: MakeSample) -> None:
    commands = {NVIDIA_SMI: None, "engine cuda": "{}", "engine onnxruntime": "{}"}
    files = {"sys/bus/pci/devices/0000:01:00.0/vendor": None}
    made = sample("x86-rtx", files, commands)._replace(python="3.10.12")
    advice = advise(made.examine())
    assert (advice.backend, install(advice)) == ("onnxruntime", ("pip install onnxruntime",))
    assert advice.downgrade is not None
    newer = made._replace(python="3.11.2")
    assert advise(newer.examine()).downgrade is None


@pytest.mark.parametrize("board", BOARDS)
def test_every_scheme_that_is_advised_exists(machine: Examined, board: str) -> None:
    from seq2edge.quantize.recipe.schemes import find_scheme

    for scheme in advise(machine(board)).schemes:
        assert find_scheme(scheme.scheme, scheme.target).name == scheme.scheme


@pytest.mark.parametrize(("maxn", "maxn_super"), [(0, 4), (2, 1)])
def test_maxn_super_is_faster_than_maxn(sample: MakeSample, maxn: int, maxn_super: int) -> None:
    conf = f"< POWER_MODEL ID={maxn} NAME=MAXN >\n< POWER_MODEL ID={maxn_super} NAME=MAXN_SUPER >\n"
    modes = {"etc/nvpmodel.conf": conf}
    advice = advise(sample("orin-nano", modes).examine())
    assert f"sudo nvpmodel -m {maxn_super}" in mending(advice)
