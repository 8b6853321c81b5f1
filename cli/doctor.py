"""Show what this machine can run, and recommend a setup; with --bundle, whether that runs here.

Exit code 0: the bundle can run here, or, without one, an engine runs. 2: not; why is on stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_json
from .output import human_bytes, print_result

if TYPE_CHECKING:
    from seq2edge.deploy.doctor import Advice, BundleFit, Machine

#: Width of the column of names.
_NAMES = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="BUNDLE",
        help="check whether this bundle can run on this machine",
    )
    parser.add_argument(
        "--program",
        metavar="PATH",
        help="what runs the bundle, for the advice (a pack's run.sh; default: seq2edge run)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from seq2edge.deploy.doctor import (
        advise,
        bundle_steps,
        check_bundle,
        examine,
        runnable_engines,
    )
    from seq2edge.runtime import BackendError, Bundle, InputError

    if options.program is not None and options.bundle is None:
        raise InputError("--program is for --bundle: give both, or neither")
    bundle = None if options.bundle is None else Bundle.open(options.bundle)
    machine = examine()
    engines = runnable_engines(machine)
    advice = advise(machine)
    fit = None if bundle is None else check_bundle(bundle, machine)
    if bundle is not None and fit is not None and fit.fits:
        steps = bundle_steps(bundle, fit, machine, advice, options.program)
        advice = replace(advice, steps=steps)
    lines = (*_machine(machine, engines), *_bundle(fit), *_advice(advice))
    print_result(options, _report(machine, engines, advice, fit), lines)
    if fit is not None and not fit.fits:
        raise BackendError(f"{fit.bundle} cannot run here: {fit.problem}")
    if fit is None and not engines:
        raise BackendError("no engine runs here: the report says what to install")
    return 0


def _report(
    machine: Machine, engines: Iterable[str], advice: Advice, fit: BundleFit | None
) -> dict[str, Any]:
    return {
        "machine": asdict(machine),
        "engines": list(engines),
        "bundle": None if fit is None else {**asdict(fit), "fits": fit.fits},
        "advice": asdict(advice),
    }


def _machine(machine: Machine, engines: Iterable[str]) -> Iterator[str]:
    yield "Machine"
    if machine.board is not None:
        yield _row("board", machine.board)
    yield _row("system", f"{machine.system or 'unknown'}, Python {machine.python}")
    yield from _cpu(machine)
    yield from _memory(machine)
    yield from _jetson(machine)
    yield from _gpus(machine)
    yield from _sensors(machine)
    yield ""
    yield "Engines"
    yield from _libraries(machine)
    yield _row("can run", ", ".join(engines) or "none")


def _cpu(machine: Machine) -> Iterator[str]:
    cpu = machine.cpu
    yield _row("CPU", f"{cpu.model} ({cpu.architecture or 'unknown'})")
    cores = (
        f"{_shown(cpu.physical_cores)} physical, {_shown(cpu.logical_cores)} logical,"
        f" {_shown(cpu.usable_cores)} for this process"
    )
    if cpu.cgroup_cores is not None:
        cores += f", of which the control group allows {cpu.cgroup_cores:g}"
    yield _row("cores", cores)
    yield _row("instructions", ", ".join(cpu.features) or "none of those that matter")


def _memory(machine: Machine) -> Iterator[str]:
    memory = machine.memory
    yield _row("memory", f"{human_bytes(memory.total)}, {human_bytes(memory.available)} available")
    if memory.cgroup_limit is not None:
        used = human_bytes(memory.cgroup_used)
        yield _row("", f"the control group allows {human_bytes(memory.cgroup_limit)}, {used} used")
    if memory.swap_total:
        zram = f", {human_bytes(memory.zram_total)} of it zram" if memory.zram_total else ""
        yield _row(
            "swap", f"{human_bytes(memory.swap_total)}, {human_bytes(memory.swap_free)} free{zram}"
        )


def _jetson(machine: Machine) -> Iterator[str]:
    jetson = machine.jetson
    if jetson is None:
        return
    yield _row(
        "Jetson",
        f"{_shown(jetson.family)} ({_shown(jetson.soc)}), L4T {_shown(jetson.l4t)},"
        f" JetPack {_shown(jetson.jetpack)}",
    )
    if jetson.stack is not None:
        stack = jetson.stack
        brings = f"CUDA {stack.cuda}, TensorRT {stack.tensorrt}, Python {stack.python}"
        yield _row("", f"which brings {brings}")
    mode = jetson.power_mode
    yield _row("power mode", "unknown" if mode is None else f"{mode.name} ({_shown(mode.number)})")


def _gpus(machine: Machine) -> Iterator[str]:
    cuda = machine.cuda
    for gpu in cuda.gpus:
        memory = "main memory" if gpu.shared_memory else human_bytes(gpu.memory_total)
        if gpu.memory_free is not None:
            memory += f", {human_bytes(gpu.memory_free)} free"
        yield _row(
            "GPU", f"{gpu.name}, compute capability {_shown(gpu.compute_capability)}, {memory}"
        )
    if cuda.problem is not None:
        yield _row("" if cuda.gpus else "GPU", cuda.problem)
    elif not cuda.gpus:
        yield _row("GPU", "none of NVIDIA's")
    if cuda.gpus:
        bindings = cuda.bindings or "not installed"
        yield _row(
            "CUDA",
            f"driver {_shown(cuda.driver)}, for CUDA {_shown(cuda.driver_cuda)} and older;"
            f" cuda-bindings {bindings}",
        )


def _sensors(machine: Machine) -> Iterator[str]:
    sensors = machine.sensors
    for index, clock in enumerate(sensors.clocks):
        state = "locked" if clock.locked else f"of {_megahertz(clock.maximum)}"
        now = f"{clock.name} {_megahertz(clock.current)}"
        yield _row("" if index else "clocks", f"{now}, {state}")
    if sensors.zones:
        zones = ", ".join(f"{zone.name} {zone.celsius:.0f}" for zone in sensors.zones)
        yield _row("degrees", zones)
    if sensors.rails:
        yield _row("watts", ", ".join(f"{rail.name} {rail.watts:.1f}" for rail in sensors.rails))


def _libraries(machine: Machine) -> Iterator[str]:
    runtime = machine.onnxruntime
    yield _row("onnxruntime", runtime.version or runtime.problem or "not installed")
    for provider in runtime.providers:
        state = "runs" if provider.runs else provider.problem
        if provider.runs is False:
            state = f"does not run: {provider.problem}"
        yield _row("", f"{provider.name} {state}")
    openvino = machine.openvino
    yield _row("openvino", openvino.version or openvino.problem or "not installed")
    for name, precision in openvino.devices.items():
        yield _row("", f"{name} computes encoders in {precision} unless asked for another")
    for library in machine.tensorrt:
        if library.version is None:
            state = library.problem or "not installed"
        elif library.cache_update and library.attention:
            state = f"{library.version}, with attention and a cache in place"
        else:
            state = f"{library.version}, without attention and a cache in place"
        yield _row(library.backend, state)
        if library.compute_capabilities:
            yield _row("", f"builds for {', '.join(library.compute_capabilities)}")


def _bundle(fit: BundleFit | None) -> Iterator[str]:
    if fit is None:
        return
    yield ""
    yield "Bundle"
    yield _row("path", fit.bundle)
    yield _row("made for", f"{fit.target}, opset {fit.opset}")
    yield _row(
        "memory",
        f"{human_bytes(fit.needed_bytes)}: weights {human_bytes(fit.weight_bytes)}, cache"
        f" {human_bytes(fit.cache_bytes)} for {fit.limits.max_source_length} source tokens and"
        f" {fit.limits.max_target_length} slots, and the process;"
        f" {human_bytes(fit.usable_bytes)} can be used",
    )
    for backend in fit.engines:
        yield _row(backend.backend, "runs it" if backend.runs else f"no: {backend.problem}")
    yield _row("verdict", fit.problem or "it can run here")


def _advice(advice: Advice) -> Iterator[str]:
    yield ""
    yield "Advice"
    yield _row("backend", advice.backend)
    yield _row("", advice.reason)
    for text in advice.alternatives:
        yield _row("or", text)
    for index, scheme in enumerate(advice.schemes):
        flags = f"--scheme {scheme.scheme} --target {scheme.target}"
        yield _row("" if index else "quantize", f"{flags}: {scheme.when}")
    if advice.downgrade is not None:
        yield _row("downgrade", f"needed: {advice.downgrade}")
    for finding in advice.findings:
        yield _row("look at", finding.text)
        if finding.command is not None:
            yield _row("", f"  {finding.command}")
    for step in advice.steps:
        yield ""
        yield f"# {step.what}"
        yield from step.commands


def _row(name: str, text: str) -> str:
    return f"  {name:{_NAMES}}{text}"


def _shown(value: object) -> str:
    return "unknown" if value is None else str(value)


def _megahertz(hertz: int | None) -> str:
    return "unknown" if hertz is None else f"{hertz / 1e6:.0f} MHz"
