"""Prints a seq2edge baseline's step beside the bandwidth as JSON, in a process of its own.

python _roofline_worker.py MODEL ENGINE DEVICE SOURCE_LENGTH NEW_TOKENS THREADS ROUNDS
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    from seq2edge.benchmarks.roofline import measure_rooflines
    from seq2edge.benchmarks.workload import Workload

    model, backend, device, *numbers = sys.argv[1:]
    source_length, new_tokens, threads, rounds = map(int, numbers)
    workload = Workload(
        source_length=source_length,
        new_tokens=new_tokens,
        runs=rounds,
        threads=threads,
        backend=backend,
        device=device,
    )
    (roofline,) = measure_rooflines([model], workload)
    print(json.dumps(roofline.to_json()))


if __name__ == "__main__":
    main()
