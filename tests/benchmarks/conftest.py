"""Scripts that are run in processes of their own."""

from __future__ import annotations

from pathlib import Path

WORKERS = Path(__file__).resolve().parents[2] / "benchmarks" / "workers"
