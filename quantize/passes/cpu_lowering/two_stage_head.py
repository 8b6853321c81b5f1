"""A head in two stages: 4 bits propose tokens, the head's own rows score them.

Greedy decoding wants the largest of all logits, for which the whole head is read in every step: a
third of a Whisper step, half of T5-small's. A copy of the head in 4 bits finds 64 candidates by
``TopK``, and 64 rows of the 8 bit head score them. On real Whisper (855 steps, and 1,774
deliberately mismatched ones) the right token was never below the 25th of the proposals; there is no
proof that it never is, so the bundle's record says that it has such a head. Where all logits are
wanted (beams, samples, scores), and for several tokens, ``full_logits`` asks for the whole head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...numerics.rounding import BlockTensors, block_values, quantize_blocks
from ...recipe.weight_formats import WeightOnly
from ..rewrite import MICROSOFT, NodeBuilder
from .graph_inputs import add_input

#: Never fewer, and never those within a window of scores, whose number has no bound.
PROPOSALS = 64
_BITS, _BLOCK = 4, 128
#: Added to the proposals' scores of tokens that never come, so that they take no place.
_SUPPRESSED = np.float32(-1e4)
#: Inputs of MatMulNBits.
_PACKED, _SCALES, _ZERO_POINTS, _BIAS = 1, 2, 3, 5
_FLOAT, _INT64, _BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL


class TwoStageHeadPass(ir.passes.InPlacePass):
    """Puts both heads into the branches of an ``If``.

    The graph gets the input ``full_logits`` (bool) and the output ``candidates`` [B, Q, 64] int64,
    the tokens whose scores ``logits`` [B, Q, 64] then holds.

    Args:
        suppressed: tokens that the model's own options never let come.
    """

    def __init__(self, suppressed: Sequence[int] = ()) -> None:
        super().__init__()
        self._suppressed = list(suppressed)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        head = head_of(model)
        if head is None:
            return ir.passes.PassResult(model, modified=False)
        self._replace(model, head)
        return ir.passes.PassResult(model, modified=True)

    def _replace(self, model: ir.Model, head: ir.Node) -> None:
        logits = head.outputs[0]
        place = list(model.graph.outputs).index(logits)
        condition = add_input(model, "full_logits", _BOOL, [])
        branches = {
            "then_branch": _all_tokens(head),
            "else_branch": self._proposals(model, head),
        }
        both = ir.node("If", [condition], branches, num_outputs=2)
        model.graph.insert_before(head, both)
        scores, candidates = both.outputs
        scores.type, scores.shape = ir.TensorType(_FLOAT), ir.Shape(["batch", "queries", "scored"])
        candidates.name, candidates.type = "candidates", ir.TensorType(_INT64)
        candidates.shape = ir.Shape(["batch", "queries", "proposed"])
        scores.name, logits.name = logits.name, "all_logits"
        model.graph.outputs[place] = scores
        model.graph.outputs.append(candidates)
        model.graph.remove(head, safe=True)

    def _proposals(self, model: ir.Model, head: ir.Node) -> ir.Graph:
        builder, states = NodeBuilder(model, head), head.inputs[0]
        packed, scales, bias = head.inputs[_PACKED], head.inputs[_SCALES], _input(head, _BIAS)
        if packed is None or packed.const_value is None or states is None or scales is None:
            raise AssertionError("head_of looked at it")
        name = str(packed.name).removesuffix(".packed")
        stored = packed.const_value.numpy()
        copy = _copy(head)
        inner: list[ir.Node] = []

        def op(op_type: str, inputs: Sequence[ir.Value | None], **more: int) -> ir.Value:
            domain = MICROSOFT if op_type in ("MatMulNBits", "GatherBlockQuantized") else ""
            count = 2 if op_type == "TopK" else 1
            node = ir.node(op_type, inputs, more, domain=domain, num_outputs=count)
            for number, value in enumerate(node.outputs):  # unlike those of the graph around it
                value.name = f"proposals/{len(inner)}.{number}"
            inner.append(node)
            return node.outputs[-1]

        proposing = self._bias(len(stored), None if bias is None else bias.const_value)
        columns = int(head.attributes["K"].as_int())
        proposed = op(
            "MatMulNBits",
            [
                states,
                builder.initializer(f"{name}.proposing.packed", copy.packed),
                builder.initializer(f"{name}.proposing.scales", copy.scales),
                None,
                None,
                None if proposing is None else builder.initializer(f"{name}.proposing", proposing),
            ],
            K=columns,
            N=len(stored),
            bits=_BITS,
            block_size=_block(columns),
            accuracy_level=4,
        )
        count = builder.initializer("proposals", np.array([PROPOSALS], np.int64))
        candidates = op("TopK", [proposed, count], axis=-1, largest=1, sorted=0)
        rows = op(
            "GatherBlockQuantized",
            [
                # The bytes of the head itself, a row for each token.
                builder.initializer(f"{name}.packed_rows", stored.reshape(len(stored), -1)),
                candidates,
                scales,
            ],
            bits=8,
            block_size=int(head.attributes["block_size"].as_int()),
            gather_axis=0,
            quantize_axis=1,
        )
        last = builder.initializer("column", np.array([3], np.int64))
        scores = op("Squeeze", [op("MatMul", [rows, op("Unsqueeze", [states, last])]), last])
        if bias is not None:
            scores = op("Add", [scores, op("Gather", [bias, candidates], axis=0)])
        scores.name, candidates.name = "proposal_scores", "proposed_tokens"
        return ir.Graph([], [scores, candidates], nodes=inner, name="proposals")

    def _bias(self, count: int, own: ir.TensorProtocol | None) -> NDArray[np.float32] | None:
        if own is None and not self._suppressed:
            return None
        bias = np.zeros(count, np.float32) if own is None else own.numpy().astype(np.float32)
        bias[self._suppressed] = _SUPPRESSED
        return bias


def head_of(model: ir.Model) -> ir.Node | None:
    """The node of an 8 bit head whose rows can be looked up; None: it has another form."""
    node = next((v.producer() for v in model.graph.outputs if v.name == "logits"), None)
    if node is None or node.op_type != "MatMulNBits" or node.attributes["bits"].as_int() != 8:
        return None
    whole = node.attributes["K"].as_int() % node.attributes["block_size"].as_int() == 0
    plain = whole and _input(node, _ZERO_POINTS) is None and _block(node.attributes["K"].as_int())
    tokens = node.attributes["N"].as_int()
    return node if plain and tokens > PROPOSALS else None


def head_size(head: ir.Node) -> int:
    """Weights of the head."""
    return int(head.attributes["K"].as_int() * head.attributes["N"].as_int())


def _all_tokens(head: ir.Node) -> ir.Graph:
    node = ir.node("MatMulNBits", head.inputs, head.attributes.copy(), domain=MICROSOFT)
    none = ir.node("Constant", [], {"value": ir.tensor(np.zeros((1, 1, 0), np.int64))})
    node.outputs[0].name, none.outputs[0].name = "logits_of_all", "no_candidates"
    return ir.Graph([], [node.outputs[0], none.outputs[0]], nodes=[node, none], name="all_tokens")


def _copy(head: ir.Node) -> BlockTensors:
    """The head in 4 bits, of its 8."""
    packed, scales = head.inputs[_PACKED], head.inputs[_SCALES]
    if packed is None or scales is None or not packed.const_value or not scales.const_value:
        raise AssertionError("head_of looked at it")
    stored, factors = packed.const_value.numpy(), scales.const_value.numpy()
    tensors = BlockTensors(stored, factors.reshape(len(stored), -1), None)
    matrix = block_values(tensors, 8).reshape(len(stored), -1).T
    return quantize_blocks(np.ascontiguousarray(matrix), WeightOnly(_BITS, _block(len(matrix))))


def _block(columns: int) -> int:
    """The largest block size, at most 128, that divides ``columns``; 0: none does."""
    return next((size for size in (_BLOCK, 64, 32, 16) if columns % size == 0), 0)


def _input(node: ir.Node, place: int) -> ir.Value | None:
    return node.inputs[place] if len(node.inputs) > place else None
