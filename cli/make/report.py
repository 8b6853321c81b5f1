"""Reports of the steps' commands, in a few lines for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..export import comparisons
from ..output import human_bytes, human_parameters

Report = Mapping[str, Any]


def describe(name: str, report: Report) -> list[str]:
    """Lines on the report of the command ``name``."""
    return _LINES[name](report)


def passed(report: Report) -> bool:
    """Whether a quantized bundle is near enough to the float32 one; not measured counts as such."""
    return bool(_check(report).get("passed", True))


def _export(report: Report) -> list[str]:
    size = f"{human_parameters(report['parameters'])}, {human_bytes(report['bytes'])}"
    return [f"{report['family']}, {size}", *comparisons(report)]


def _quantize(report: Report) -> list[str]:
    if "failed" in report:
        return [str(report["failed"])]
    return [human_bytes(report["bytes"]), quality(report)]


def quality(report: Report) -> str:
    """How near a quantized bundle is to the float32 one."""
    check = _check(report)
    if "not_checked" in check:
        return f"quality not checked: {check['not_checked']}"
    if "agreement" in check:
        within = "of at most" if check["passed"] else "and that is more than"
        bound = f"KL {_number(check['mean_kl'])} {within} {_number(check['allowed_mean_kl'])}"
        share = f"{check['agreement']:.1%} of {check['positions']} next tokens agree with float32"
        return f"{share} on {check['prompts']}, {bound} nats per token"
    if "mean_cosine" in check:
        return f"states have a cosine similarity of {_number(check['mean_cosine'])} with float32's"
    return "quality not measured"


def _compare(report: Report) -> list[str]:
    if "failed" in report:
        return [f"not measured here: {report['failed']}"]
    reference, variant = (entry["quality"] for entry in report["entries"])
    interval, unit = variant["difference_interval"], variant["unit"]
    return [
        f"{variant['metric']} {_number(variant['value'])} {unit}, in float32"
        f" {_number(reference['value'])} {unit}; difference {_number(variant['difference'])}"
        f" [{_number(interval['low'])}, {_number(interval['high'])}] on"
        f" {report['settings']['examples']}"
        " examples"
    ]


def _downgrade(report: Report) -> list[str]:
    return [f"opset {report['opset']}, {human_bytes(report['bytes'])}"]


def _pack(report: Report) -> list[str]:
    return [f"{report['path']}: {human_bytes(report['bytes'])}"]


def _check(report: Report) -> Mapping[str, Any]:
    check: Mapping[str, Any] = report.get("check") or {}
    return check


def _number(value: float | None) -> str:
    return "not a number" if value is None or not math.isfinite(value) else f"{value:.3g}"


_LINES: Mapping[str, Callable[[Report], list[str]]] = {
    "export": _export,
    "quantize": _quantize,
    "compare": _compare,
    "downgrade": _downgrade,
    "pack": _pack,
}
