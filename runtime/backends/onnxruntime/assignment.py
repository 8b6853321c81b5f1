"""Which execution provider ONNX Runtime has given each node, and what that costs.

ONNX Runtime runs a node on the CPU where no provider before it has a kernel for its operator
and types. Every such node waits for the GPU, copies what it reads to the host and its result
back, and there can be no CUDA graph.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Session configuration entry that makes ONNX Runtime remember the assignment
#: (onnxruntime_session_options_config_keys.h); versions that do not know it ignore it.
RECORD = {"session.record_ep_graph_assignment_info": "1"}

#: Operators of shape arithmetic. ONNX Runtime puts those that read only shapes on the CPU on
#: purpose (GetCpuPreferredNodes in core/framework/fallback_cpu_capability.cc; pull request
#: 4940): their few integers are on the host anyway, and CUDA graphs allow them (pull request
#: 16491). In the graphs of a bundle these operators do little else (``Unsqueeze`` also lays out
#: positions, which are as small); ``Gather`` is not one of them, as it looks up embeddings. ONNX
#: Runtime's own ``session.disable_cpu_ep_fallback`` refuses shape arithmetic as well.
_SHAPE_OPERATORS = frozenset({"Shape", "Size", "Concat", "Squeeze", "Unsqueeze", "Constant"})

#: A ``Gather`` that ONNX Runtime has made itself, when it moved a transpose past a ``Shape``, whose
#: axes it then reorders (Whisper's encoder, seen in 1.31.1). A bundle's nodes have longer names.
_REORDERED_SHAPE = re.compile(r"Gather(_token_\d+)?")

#: A description is one line.
_MOST_OPERATORS, _MOST_NAMES = 8, 2


@dataclass(frozen=True)
class Node:
    """A node as ONNX Runtime runs it: after its optimizations, fused ones with a new name."""

    name: str
    operator: str
    provider: str


def assigned_nodes(session: Any) -> list[Node] | None:
    """The nodes of a session that was opened with :data:`RECORD`; None if that is not known.

    It is not where ONNX Runtime is too old to tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    return [
        Node(node.name, node.op_type, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def fallbacks(nodes: Iterable[Node], providers: Iterable[str]) -> list[Node]:
    """The nodes that are on none of ``providers`` and are not mere shape arithmetic."""
    required = frozenset(providers)
    return [
        node
        for node in nodes
        if node.provider not in required
        and node.operator not in _SHAPE_OPERATORS
        and not _REORDERED_SHAPE.fullmatch(node.name)
    ]


def describe(by_graph: Mapping[str, tuple[list[Node], int]]) -> str:
    """Say which nodes fell back: of each graph those and how many nodes it has.

    >>> describe({"decoder": ([Node("a/Attention_1", "Attention", "CPUExecutionProvider")], 74)})
    '1 of 74 nodes of the decoder: Attention (a/Attention_1)'
    """
    return "; ".join(
        f"{len(nodes)} of {total} nodes of the {graph}: {_operators(nodes)}"
        for graph, (nodes, total) in by_graph.items()
        if nodes
    )


def _operators(nodes: list[Node]) -> str:
    counts = Counter(node.operator for node in nodes).most_common()
    parts = []
    for operator, count in counts[:_MOST_OPERATORS]:
        names = [node.name for node in nodes if node.operator == operator and node.name]
        shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        times = f"{count} " if count > 1 else ""
        parts.append(f"{times}{operator}" + (f" ({shown})" if names else ""))
    others = sum(count for _, count in counts[_MOST_OPERATORS:])
    return ", ".join(parts) + (f" and {others} of other operators" if others else "")
