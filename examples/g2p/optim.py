"""Muon for the weight matrices, AdamW for everything else, behind one object."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, about, for a stack (n, rows, columns) of matrices."""
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.transpose(1, 2)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; equal shapes are stacked to save time.

    The update is scaled to the size of an AdamW update, so one learning rate fits both.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_stack(parameters, group)

    def _step_stack(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        updates = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            buffer = state["momentum"].lerp_(parameter.grad, 1 - momentum)
            updates.append(parameter.grad.lerp(buffer, momentum))
        scale = 0.2 * max(parameters[0].shape) ** 0.5
        for parameter, update in zip(parameters, orthogonalise(torch.stack(updates)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"] * scale)


def build_optimizers(
    model: nn.Module, matrix_lr: float, lr: float, bias_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices; AdamW for the embeddings, norms and position biases."""
    matrices, biases, others = [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith("relative_attention_bias.weight"):
            biases.append(parameter)
        elif parameter.ndim < 2 or name.endswith("shared.weight"):
            others.append(parameter)
        else:
            matrices.append(parameter)
    groups = [{"params": others, "lr": lr}, {"params": biases, "lr": bias_lr}]
    return [
        Muon(matrices, lr=matrix_lr, momentum=0.95, weight_decay=weight_decay),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0, fused=True),
    ]
