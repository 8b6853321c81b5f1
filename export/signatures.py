"""The two functions that :func:`.export_callables` traces, as types. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

#: (source tokens [B, S] int64, 1 where they count [B, S] int64) to what every step reads of
#: the source: one or more tensors of B rows each, such as states [B, S, D] or the keys and
#: values of cross-attention [B, H, S, Dh].
Encode = Callable[[Tensor, Tensor], "Tensor | Sequence[Tensor]"]
#: (tokens [B, Q] int64, past tensors [B, H, T, Dh] each, what ``encode`` gave, 1 where source
#: tokens count [B, S] int64) to (logits [B, Q, V], past tensors [B, H, T + Q, Dh]).
DecodeStep = Callable[
    [Tensor, Sequence[Tensor], Sequence[Tensor], Tensor], "tuple[Tensor, Sequence[Tensor]]"
]
