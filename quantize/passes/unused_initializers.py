"""Weights that no node reads any more."""

from __future__ import annotations

import onnx_ir as ir


class RemoveUnusedInitializersPass(ir.passes.InPlacePass):
    """Drops unused initializers, of branches within a graph as well.

    onnx_ir's ``RemoveUnusedNodesPass`` leaves those of branches.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for graph in (model.graph, *model.graph.subgraphs()):
            values = graph.initializers
            for name in [name for name, value in values.items() if not value.uses()]:
                del values[name]
                modified = True
        return ir.passes.PassResult(model, modified=modified)
