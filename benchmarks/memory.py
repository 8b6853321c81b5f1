"""Resident memory of a loaded bundle, in an interpreter that does nothing else.

A fresh process is read at four moments: the bare ``interpreter``, after the ``imports`` of the
runtime and its engine, with the model ``loaded``, and after one generation (``generated``).
Linux counts a page as file-backed while it is an unchanged page of a file, such as a library:
processes share those and the kernel may drop them. All others are anonymous.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..runtime.bundle.reader import Bundle
    from .workload import Workload

STAGES = ("interpreter", "imports", "loaded", "generated")


@dataclass(frozen=True)
class Resident:
    """Bytes in memory at one moment.

    Attributes:
        total: Rss of /proc/self/smaps_rollup.
        anonymous: pages of no file, or changed since they were read.
        file_backed: the others.
        vm_rss: VmRSS of /proc/self/status, which the kernel counts less exactly.
    """

    total: int
    anonymous: int
    file_backed: int
    vm_rss: int


@dataclass(frozen=True)
class MemoryReport:
    """Memory of a process that loads a bundle and generates once. Bytes.

    Attributes:
        bundle_bytes: of the bundle's files.
        stages: by the names in STAGES.
        parts: what the last stage's total is made of, by what is mapped.
        peak: the most that was resident at once, loading included.
        ratio: ``loaded`` over ``bundle_bytes``.
        added_ratio: the same without what was there before loading (``imports``).
    """

    bundle_bytes: int
    stages: dict[str, Resident]
    parts: dict[str, int]
    peak: int
    ratio: float
    added_ratio: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_memory(path: str | os.PathLike[str], workload: Workload) -> MemoryReport:
    """Load a bundle in a fresh interpreter and generate once.

    Args:
        path: the bundle's folder.
        workload: lengths, batch size, beams and threads; ``runs`` and ``warmup`` do not count,
            and an end token ends the generation, as for a user. Of a bundle that hears speech it
            is one recording that is transcribed, greedily or with beams, in a window that fits it.

    Raises:
        BundleError, BackendError, InputError: as :func:`seq2edge.benchmarks.bench.bench`.
    """
    import subprocess  # here, because the fresh process need not pay for it

    from ..runtime.bundle.reader import Bundle
    from ..runtime.errors import BackendError
    from .sources import random_tokens

    bundle = Bundle.open(path)
    check_memory(bundle, workload)
    manifest = bundle.manifest
    bundle_bytes = sum(file.size for file in manifest.files.values())
    request: dict[str, Any] = {
        "path": os.fspath(path),
        "new_tokens": workload.new_tokens,
        "num_beams": workload.num_beams,
        "threads": workload.threads,
    }
    if manifest.speech is None:
        request["source"] = random_tokens(manifest, workload).tolist()
    else:
        request |= {"audio": workload.audio, "audio_seconds": workload.audio_seconds}
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise BackendError(f"memory was not measured, the fresh process failed: {reason}")
    measured = json.loads(done.stdout)
    stages = {name: Resident(**measured["stages"][name]) for name in STAGES}
    loaded, imports = stages["loaded"].total, stages["imports"].total
    return MemoryReport(
        bundle_bytes=bundle_bytes,
        stages=stages,
        parts=measured["parts"],
        peak=measured["peak"],
        ratio=loaded / bundle_bytes,
        added_ratio=(loaded - imports) / bundle_bytes,
    )


def check_memory(bundle: Bundle, workload: Workload) -> None:
    """Refuse what :func:`measure_memory` cannot measure.

    Raises:
        BundleError: speech without a tokenizer.
        InputError: lengths that the model cannot take, several recordings, or audio that cannot
            be read.
    """
    from ..runtime.errors import InputError
    from ..runtime.speech.prompt import checked_tokenizer
    from ..runtime.text.tokenizer import load_tokenizer
    from .sources import check_sources, read_audio

    check_sources(bundle, workload)
    if bundle.manifest.speech is None:
        return
    if workload.batch_size > 1:
        raise InputError("--memory transcribes one recording: leave out --batch-size")
    checked_tokenizer(load_tokenizer(bundle), bundle.directory)
    read_audio(bundle.manifest.speech, workload)


def resident() -> Resident:
    """This process now.

    Raises:
        OSError: the kernel has no /proc/self/smaps_rollup (Linux before 4.14).
    """
    rollup = _kilobytes(Path("/proc/self/smaps_rollup").read_text())
    status = _kilobytes(Path("/proc/self/status").read_text())
    total, anonymous = rollup["Rss"], rollup["Anonymous"]
    return Resident(total, anonymous, total - anonymous, status["VmRSS"])


def parts(bundle: Path) -> dict[str, int]:
    """Resident bytes of this process by what is mapped; the kinds that are there."""
    sizes: dict[str, int] = {}
    kind = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *values = line.split()
        if not key.endswith(":"):  # "address permissions offset device inode path"
            kind = _kind(" ".join(values[4:]), bundle)
        elif key == "Rss:":
            sizes[kind] = sizes.get(kind, 0) + 1024 * int(values[0])
    return {kind: size for kind, size in sizes.items() if size}


def _kind(mapped: str, bundle: Path) -> str:
    if not mapped.startswith("/"):
        return "stack" if mapped == "[stack]" else "heap and anonymous maps"
    path = Path(mapped)
    if path.is_relative_to(bundle):
        return "the bundle's files"
    return "libraries" if ".so" in path.name else "other files"


def _kilobytes(text: str) -> dict[str, int]:
    """The values in kB of a file under /proc, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {
        words[0].removesuffix(":"): 1024 * int(words[1])
        for words in lines
        if len(words) == 3 and words[2] == "kB"
    }


def _child(request: dict[str, Any]) -> dict[str, Any]:
    """Load, generate and measure, in a process that has imported little more than json."""
    stages = {"interpreter": resident()}
    import onnxruntime  # noqa: F401  # the engine would import it while it loads

    use = _generate if "source" in request else _transcribe
    made_of = use(request, stages)
    status = _kilobytes(Path("/proc/self/status").read_text())
    return {
        "stages": {name: asdict(stage) for name, stage in stages.items()},
        "parts": made_of,
        "peak": status["VmHWM"],
    }


def _generate(request: dict[str, Any], stages: dict[str, Resident]) -> dict[str, int]:
    """Parts at the end; ``stages`` gets the others."""
    from ..runtime import GenerationConfig, Seq2SeqModel

    stages["imports"] = resident()
    source = request["source"]
    config = GenerationConfig(max_new_tokens=request["new_tokens"], num_beams=request["num_beams"])
    with Seq2SeqModel.load(request["path"], num_threads=request["threads"]) as model:
        stages["loaded"] = resident()
        model.generate_ids(source, [[1] * len(row) for row in source], config)
        stages["generated"] = resident()
        return parts(Path(request["path"]).resolve())


def _transcribe(request: dict[str, Any], stages: dict[str, Resident]) -> dict[str, int]:
    """Parts at the end; ``stages`` gets the others."""
    from ..runtime.speech.model import SpeechModel
    from ..runtime.speech.prompt import speech_info
    from .sources import read_audio
    from .workload import Workload

    stages["imports"] = resident()
    workload = Workload(audio_seconds=request["audio_seconds"], audio=request["audio"])
    with SpeechModel.load(request["path"], num_threads=request["threads"]) as model:
        stages["loaded"] = resident()
        speech = speech_info(model.manifest)
        languages = ["en", *speech.languages]
        model.transcribe(
            read_audio(speech, workload)[0],
            language=next((code for code in languages if code in speech.languages), None),
            beam_size=request["num_beams"],
            temperature=0.0,
            max_new_tokens=request["new_tokens"],
            without_timestamps=True,
            fit_window=True,
        )
        stages["generated"] = resident()
        return parts(Path(request["path"]).resolve())


if __name__ == "__main__":
    print(json.dumps(_child(json.load(sys.stdin))))
