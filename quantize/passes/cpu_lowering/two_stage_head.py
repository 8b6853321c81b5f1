"""A head in two stages: 4 bits propose tokens, the head's own rows score them.

Greedy decoding wants the largest of all logits, for which the whole head is read in every step: a
third of a Whisper step, half of T5-small's. A copy of the head in 4 bits finds 64 candidates by
``TopK``, and 64 rows of the 8 bit head score them. On real Whisper (855 steps, and 1,774
deliberately mismatched ones) the right token was never below the 25th of the proposals; there is no
proof that it never is, so the bundle's record says that it has such a head. Where all logits are
wanted (beams, samples, scores), and for several tokens, ``full_logits`` asks for the whole head,
of the tokens from ``first_scored`` on: of a prompt only what comes after it is of interest, and the
head is more than half of what it costs.

Rules that weigh many tokens at once need those exactly (Whisper's timestamps against its best
word), so the last tokens of the vocabulary may be scored always, by rows of the 8 bit head. What is
neither proposed nor always scored is summed up from the 4 bits, for log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...numerics.rounding import BlockTensors, block_values, quantize_blocks
from ...recipe.weight_formats import WeightOnly
from ..rewrite import NodeBuilder
from .branch import Branch
from .graph_inputs import add_input

#: Never fewer, and never those within a window of scores, whose number has no bound.
PROPOSALS = 64
_BITS, _BLOCK = 4, 128
#: Added to the proposals' scores of tokens that never come, so that they take no place.
_SUPPRESSED = np.float32(-1e4)
#: Of a 4 bit logit; more is that of a token that is suppressed.
_LARGEST_ERROR = 8
_LARGEST_INT8 = 127
#: Keeps a block of zeros from being divided by 0.
_LEAST_SCALE = 1e-30
#: Of all tokens' probability, what those that are not proposed have at least: float32 is no finer.
_LEAST_SHARE = 1e-7
#: Inputs of MatMulNBits.
_PACKED, _SCALES, _ZERO_POINTS, _BIAS = 1, 2, 3, 5
_FLOAT, _INT64, _BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL


class TwoStageHeadPass(ir.passes.InPlacePass):
    """Puts both heads into the branches of an ``If``.

    The graph gets the inputs ``full_logits`` (bool) and ``first_scored`` [1] int64, the first token
    that the whole head is run for. Where ``full_logits`` is false, ``logits`` is [B, Q, 64], of
    the tokens that the new output ``candidates`` [B, Q, 64] int64 holds. Further outputs are
    ``unscored_logsumexp`` [B, Q], log(sum(exp(.))) of the 4 bit logits of all tokens that are not
    scored, and ``last_logits`` [B, Q, N], where N tokens are scored always.

    Args:
        suppressed: tokens that the model's own options never let come.
        scored_from: the first of the last tokens, which are scored always; None: there are none.
    """

    def __init__(self, suppressed: Sequence[int] = (), scored_from: int | None = None) -> None:
        super().__init__()
        self._suppressed = list(suppressed)
        self._scored_from = scored_from

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        head = head_of(model)
        if head is None or self._first_scored(head) <= PROPOSALS:
            return ir.passes.PassResult(model, modified=False)
        self._replace(model, head)
        return ir.passes.PassResult(model, modified=True)

    def _replace(self, model: ir.Model, head: ir.Node) -> None:
        logits = head.outputs[0]
        place = list(model.graph.outputs).index(logits)
        condition = add_input(model, "full_logits", _BOOL, [])
        first_scored = add_input(model, "first_scored", _INT64, [1])
        always = int(head.attributes["N"].as_int()) - self._first_scored(head)
        branches = {
            "then_branch": _all_tokens(model, head, always, first_scored),
            "else_branch": self._proposals(model, head),
        }
        both = ir.node("If", [condition], branches, num_outputs=4 if always else 3)
        model.graph.insert_before(head, both)
        scores, candidates, unscored, *last = both.outputs
        scores.type, scores.shape = ir.TensorType(_FLOAT), ir.Shape(["batch", "scored", "tokens"])
        candidates.name, candidates.type = "candidates", ir.TensorType(_INT64)
        candidates.shape = ir.Shape(["batch", "queries", "proposed"])
        unscored.name, unscored.type = "unscored_logsumexp", ir.TensorType(_FLOAT)
        unscored.shape = ir.Shape(["batch", "queries"])
        scores.name, logits.name = logits.name, "all_logits"
        model.graph.outputs[place] = scores
        for value in last:
            value.name, value.type = "last_logits", ir.TensorType(_FLOAT)
            value.shape = ir.Shape(["batch", "scored", always])
        model.graph.outputs.extend([candidates, unscored, *last])
        model.graph.remove(head, safe=True)

    def _proposals(self, model: ir.Model, head: ir.Node) -> ir.Graph:
        builder, states = NodeBuilder(model, head), head.inputs[0]
        packed, scales, bias = head.inputs[_PACKED], head.inputs[_SCALES], _input(head, _BIAS)
        if packed is None or packed.const_value is None or states is None or scales is None:
            raise AssertionError("head_of looked at it")
        if scales.const_value is None:
            raise AssertionError("head_of looked at it")
        name = str(packed.name).removesuffix(".packed")
        stored, factors = packed.const_value.numpy(), scales.const_value.numpy()
        added = None if bias is None or bias.const_value is None else bias.const_value.numpy()
        first = self._first_scored(head)
        graph = Branch("proposals")

        def product(role: str, weights: BlockTensors, bits: int, bias: Any) -> ir.Value:
            inputs: list[ir.Value | None] = [
                states,
                builder.initializer(f"{name}.{role}.packed", weights.packed),
                builder.initializer(f"{name}.{role}.scales", weights.scales),
            ]
            if bias is not None:
                inputs += [None, None, builder.initializer(f"{name}.{role}", bias)]
            return graph.op(
                "MatMulNBits",
                inputs,
                K=columns,
                N=len(weights.packed),
                bits=bits,
                block_size=_block(columns) if bits == _BITS else block_size,
                accuracy_level=4,
            )

        columns = int(head.attributes["K"].as_int())
        block_size = int(head.attributes["block_size"].as_int())
        factors = factors.reshape(len(stored), -1)
        rows = BlockTensors(stored[:first], factors[:first], None)
        proposed = product("proposing", _in_4_bits(rows), _BITS, self._bias(first, added))
        count = builder.initializer("proposals", np.array([PROPOSALS], np.int64))
        best, candidates = graph.ops("TopK", [proposed, count], 2, axis=-1, largest=1, sorted=1)
        looked_up = graph.op(
            "GatherBlockQuantized",
            [
                # The bytes of the head itself, a row for each token.
                builder.initializer(f"{name}.packed_rows", stored.reshape(len(stored), -1)),
                candidates,
                scales,
            ],
            bits=8,
            block_size=block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        column = _rounded(builder, graph, states, columns // block_size, block_size)
        last = builder.constant("axis", [3], _INT64)
        scores = graph.op("Squeeze", [graph.op("MatMul", [looked_up, column]), last])
        if bias is not None:
            scores = graph.op("Add", [scores, graph.op("Gather", [bias, candidates], axis=0)])
        unscored = _all_but(builder, graph, proposed, best, candidates)
        unscored = _corrected(builder, graph, unscored, best, scores)
        outputs = [scores, candidates, unscored]
        if first < len(stored):
            rows = BlockTensors(stored[first:], factors[first:], None)
            own = None if added is None else added[first:]
            outputs.append(product("last", rows, 8, own))
        return ir.Graph([], outputs, nodes=graph.nodes, name="proposals")

    def _first_scored(self, head: ir.Node) -> int:
        """As many tokens are there to be proposed."""
        tokens = int(head.attributes["N"].as_int())
        return tokens if self._scored_from is None else self._scored_from

    def _bias(self, count: int, own: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """Of the proposing head, which has the first ``count`` tokens."""
        if own is None and not self._suppressed:
            return None
        bias = np.zeros(count, np.float32) if own is None else own[:count].astype(np.float32)
        bias[[token for token in self._suppressed if token < count]] = _SUPPRESSED
        return bias


def _rounded(
    builder: NodeBuilder, graph: Branch, states: ir.Value, blocks: int, size: int
) -> ir.Value:
    """States [1, 1, D] as a column [1, 1, D, 1] of what the whole head's kernel makes of them.

    It rounds each block to int8, by the block's largest value. With the same numbers the two heads
    differ by 2e-6 and choose the same tokens; as they are, states differ by 0.07 in a logit.
    """
    shape = builder.constant("blocks", [1, 1, blocks, size], _INT64)
    rows = graph.op("Reshape", [states, shape])
    axis = builder.constant("axis", [3], _INT64)
    largest = graph.op("ReduceMax", [graph.op("Abs", [rows]), axis], keepdims=1)
    share = builder.constant("share_of_int8", 1 / _LARGEST_INT8, _FLOAT)
    least = builder.constant("least_scale", _LEAST_SCALE, _FLOAT)
    scale = graph.op("Max", [graph.op("Mul", [largest, share]), least])
    whole = graph.op("Round", [graph.op("Div", [rows, scale])])
    column = builder.constant("column", [1, 1, blocks * size, 1], _INT64)
    return graph.op("Reshape", [graph.op("Mul", [whole, scale]), column])


def _all_but(
    builder: NodeBuilder, graph: Branch, logits: ir.Value, best: ir.Value, places: ir.Value
) -> ir.Value:
    """log(sum(exp(logits))) [B, Q] without those at ``places``, whose values are ``best``.

    Through ``LogSoftmax``: ONNX Runtime's ``ReduceLogSumExp`` of 50256 took 210 us, this 25 us.
    """
    logprobs = graph.op(
        "GatherElements", [graph.op("LogSoftmax", [logits], axis=-1), places], axis=-1
    )
    axis = builder.initializer("last_axis", np.array([-1], np.int64))
    one = builder.constant("one", 1, _FLOAT)
    least = builder.constant("least_share", _LEAST_SHARE, _FLOAT)
    share = graph.op("ReduceSum", [graph.op("Exp", [logprobs]), axis], keepdims=0)
    left = graph.op("Log", [graph.op("Max", [graph.op("Sub", [one, share]), least])])
    # The same number for every place.
    total = graph.op("ReduceMax", [graph.op("Sub", [best, logprobs]), axis], keepdims=0)
    return graph.op("Add", [total, left])


def _corrected(
    builder: NodeBuilder, graph: Branch, total: ir.Value, proposed: ir.Value, scores: ir.Value
) -> ir.Value:
    """log(sum(exp(.))) [B, Q] of 4 bit logits, corrected by what 4 bits did to 64 others.

    Their errors are some tenths, so that the sum of their exponentials is too large by a quarter.
    """
    axis = builder.initializer("last_axis", np.array([-1], np.int64))
    most = builder.constant("largest_error", _LARGEST_ERROR, _FLOAT)
    errors = graph.op("Min", [graph.op("Sub", [scores, proposed]), most])
    mean = graph.op("ReduceLogSumExp", [errors, axis], keepdims=0)
    count = builder.constant("log_of_proposals", np.log(PROPOSALS), _FLOAT)
    return graph.op("Sub", [graph.op("Add", [total, mean]), count])


def head_of(model: ir.Model) -> ir.Node | None:
    """The node of an 8 bit head whose rows can be looked up; None: it has another form."""
    node = next((v.producer() for v in model.graph.outputs if v.name == "logits"), None)
    if node is None or node.op_type != "MatMulNBits" or node.attributes["bits"].as_int() != 8:
        return None
    whole = node.attributes["K"].as_int() % node.attributes["block_size"].as_int() == 0
    plain = whole and _input(node, _ZERO_POINTS) is None and _block(node.attributes["K"].as_int())
    return node if plain else None


def head_size(head: ir.Node) -> int:
    """Weights of the head."""
    return int(head.attributes["K"].as_int() * head.attributes["N"].as_int())


def _all_tokens(model: ir.Model, head: ir.Node, last: int, first_scored: ir.Value) -> ir.Graph:
    builder, graph = NodeBuilder(model, head), Branch("all_tokens")
    axis = builder.constant("tokens_axis", [1], _INT64)
    end = builder.constant("last_token", [np.iinfo(np.int64).max], _INT64)
    states = graph.op("Slice", [head.inputs[0], first_scored, end, axis])
    logits = graph.op("MatMulNBits", [states, *head.inputs[1:]], **head.attributes)
    none = np.zeros((1, 1, 0), np.int64), np.full((1, 1), -np.inf, np.float32)
    outputs = [logits, *(graph.op("Constant", [], value=ir.tensor(array)) for array in none)]
    if last:
        ends = [builder.constant("end", [n], _INT64) for n in (-last, np.iinfo(np.int64).max, -1)]
        outputs.append(graph.op("Slice", [logits, *ends]))
    return ir.Graph([], outputs, nodes=graph.nodes, name="all_tokens")


def _in_4_bits(rows: BlockTensors) -> BlockTensors:
    """Rows of the head, in 4 bits for their 8."""
    matrix = block_values(rows, 8).reshape(len(rows.packed), -1).T
    return quantize_blocks(np.ascontiguousarray(matrix), WeightOnly(_BITS, _block(len(matrix))))


def _block(columns: int) -> int:
    """The largest block size, at most 128, that divides ``columns``; 0: none does."""
    return next((size for size in (_BLOCK, 64, 32, 16) if columns % size == 0), 0)


def _input(node: ir.Node, place: int) -> ir.Value | None:
    return node.inputs[place] if len(node.inputs) > place else None
