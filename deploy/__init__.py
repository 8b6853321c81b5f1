"""Take a bundle to where it runs: an archive for a device, a model for NVIDIA Triton.

>>> from seq2edge.deploy import plan, write_pack
>>> deployment = plan(bundle, "jetson-orin")
>>> write_pack(bundle, deployment, "app.tar.zst")
"""

from __future__ import annotations

from .pack.pack import Pack, write_pack
from .targets import JETPACKS, TARGETS, Deployment, JetPack, Target, advise_target, plan
from .triton.repository import TritonModel, write_triton_model

__all__ = [
    "JETPACKS",
    "TARGETS",
    "Deployment",
    "JetPack",
    "Pack",
    "Target",
    "TritonModel",
    "advise_target",
    "plan",
    "write_pack",
    "write_triton_model",
]
