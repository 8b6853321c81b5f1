"""OpenVINO: the encoder alone, on CPUs with bfloat16 and on Intel's GPUs and NPUs.

Needs ``openvino`` (the extra of that name), which is imported when it is used. Decoder steps stay
with another library: OpenVINO (2026.4) has no ``TensorScatter``.
"""

from __future__ import annotations

from .encoder import OpenVinoEncoder, open_encoder
from .library import PRECISIONS

__all__ = ["PRECISIONS", "OpenVinoEncoder", "open_encoder"]
