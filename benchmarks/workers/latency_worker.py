"""A bundle that is timed by parts, in a process of its own: ``seq2edge bench``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.workers.worker import Ready, answer_turns
else:
    from worker import Ready, answer_turns


def start(task: str) -> Ready:
    from seq2edge.benchmarks.fixed_length import engine_version
    from seq2edge.benchmarks.latency import LatencyRunner
    from seq2edge.benchmarks.workload import Workload
    from seq2edge.runtime import Bundle
    from seq2edge.runtime.bundle.version import package_version

    given = json.loads(task)
    workload = Workload(**given["workload"])
    runner = LatencyRunner(given["path"], workload)
    bundle = Bundle.open(given["path"])
    backend = workload.backend
    library = "onnxruntime" if backend.startswith("onnxruntime") else backend
    versions = {"seq2edge": package_version(), library: engine_version(backend)}
    if runner.encoder:
        name, _, version = runner.encoder.partition(" ")
        versions[f"{name} (encoder)"] = version
    facts = {
        "versions": versions,
        "loaded_bytes": sum(file.size for file in bundle.manifest.files.values()),
        "threads": runner.threads,
    }
    return facts, runner.turn


if __name__ == "__main__":
    answer_turns(start)
