"""Examines a machine and recommends a setup for it.

Probes read the kernel's files under a root directory and run programs through a runner, so that
they can be given another machine's files. None of them raises for what it finds: a file that is
missing, unreadable or garbled is a value that is None, which means unknown. Engines are tried in
processes of their own, because a broken GPU library may take its process with it.
"""

from __future__ import annotations

from .advice import Advice, Instruction, SchemeAdvice, advise
from .bundle_advice import bundle_steps
from .cpu import cpu_model
from .facts import Machine
from .findings import Finding
from .fit import BundleFit, check_bundle
from .machine import examine, runnable_engines

__all__ = [
    "Advice",
    "BundleFit",
    "Finding",
    "Instruction",
    "Machine",
    "SchemeAdvice",
    "advise",
    "bundle_steps",
    "check_bundle",
    "cpu_model",
    "examine",
    "runnable_engines",
]
