"""For a bundle at hand: the exact next commands on this machine, with how many threads and why."""

from __future__ import annotations

import shlex

from ...runtime.backends.onnxruntime.session import chosen_threads
from ...runtime.bundle.reader import Bundle
from .advice import Advice, Instruction
from .facts import Machine
from .fit import BundleFit


def bundle_steps(
    bundle: Bundle, fit: BundleFit, machine: Machine, advice: Advice, program: str | None = None
) -> tuple[Instruction, ...]:
    """Commands to paste that make the bundle run here, and smaller where it is still float32.

    Args:
        bundle: a bundle of which ``fit`` says that it runs here.
        advice: for the machine; its backend is taken where it runs the bundle.
        program: what runs this bundle, such as a pack's ``run.sh``, which knows the bundle and
            its backend and has built its engines; None: ``seq2edge``.
    """
    name = shlex.quote(str(bundle.directory))
    running = [engine.backend for engine in fit.engines if engine.runs]
    backend = advice.backend if advice.backend in running else running[0]
    threads = threads_for(bundle, machine)
    options, reason = _options(backend, threads, bundle)
    hears = bundle.manifest.speech is not None
    if program is not None:
        # The program has the options of the backend already.
        threaded = [word for word in options if word in ("--threads", str(threads))]
        source = "recording.wav" if hears else "'a text'"
        run = [" ".join([shlex.quote(program), source, *threaded])]
    else:
        built = backend.startswith("tensorrt")
        run = [f"seq2edge build {name} --backend {backend}"] if built else []
        command = ["seq2edge run", name, "'a text'"]
        if hears:
            command = ["seq2edge transcribe", name, "recording.wav"]
        run.append(" ".join([*command, *options]))
    done = bundle.manifest.quantization
    scheme = f"{done['scheme']} for {done['target']}" if done.get("scheme") else "float32"
    steps = [Instruction(f"run this bundle ({scheme}) here, with {backend}{reason}", tuple(run))]
    if fit.target == "any" and not done.get("scheme"):
        steps.append(_quantize(bundle, advice))
    return tuple(steps)


def threads_for(bundle: Bundle, machine: Machine) -> int:
    """Threads of an operator on this machine's CPU: one for a small model, else a core each."""
    chosen = chosen_threads(None, bundle)
    if chosen is not None:
        return chosen
    cpu = machine.cpu
    cores = [count for count in (cpu.physical_cores, cpu.usable_cores, cpu.cgroup_cores) if count]
    return max(1, int(min(cores, default=1)))


def _options(backend: str, threads: int, bundle: Bundle) -> tuple[list[str], str]:
    """Options of ``seq2edge run`` for a backend, and a few words on why."""
    if backend.startswith("tensorrt"):
        return ["--backend", backend], ""
    if backend == "onnxruntime-gpu":
        return ["--device", "cuda"], ""
    read = bundle.manifest.graphs["decoder"].weight_bytes / 1e6
    if threads == 1:
        reason = f": a step reads {read:.1f} MB of weights, too few to share between threads"
    else:
        reason = f": a step reads {read:.0f} MB of weights; try fewer threads, too (seq2edge bench)"
    return ["--threads", str(threads)], f" and --threads {threads}{reason}"


def _quantize(bundle: Bundle, advice: Advice) -> Instruction:
    scheme = advice.schemes[0]
    folder = bundle.directory
    out = folder.with_name(f"{folder.name.removesuffix('.bundle')}.{scheme.scheme}.bundle")
    command = (
        f"seq2edge quantize {shlex.quote(str(folder))} {shlex.quote(str(out))}"
        f" --scheme {scheme.scheme} --target {scheme.target}"
    )
    return Instruction(f"make it smaller and faster, on a workstation: {scheme.when}", (command,))
