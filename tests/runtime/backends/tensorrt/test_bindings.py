"""Every call of TensorRT's API, against the bindings of the oldest and newest TensorRT and of RTX.

Calls are collected from the source: what is asked of a variable that holds an object of TensorRT.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .bindings import Bindings, bindings, listed

_SOURCE = Path(__file__).parents[4] / "runtime" / "backends" / "tensorrt"
_EXECUTION, _BUILDER = "execution/", "builder/"
#: What holds an object of TensorRT, by file: expression to class; "" is the module.
_HOLDERS: dict[str, dict[str, str]] = {
    "library.py": {"module": ""},
    "builder/engines.py": {"members": "ComputeCapability"},
    "builder/network.py": {
        "library": "",
        "network": "INetworkDefinition",
        "layer": "ILayer",
        "tensor": "ITensor",
        "kinds": "LayerType",
    },
    "builder/plan.py": {
        "trt": "",
        "library.module": "",
        "builder": "Builder",
        "network": "INetworkDefinition",
        "config": "IBuilderConfig",
        "parser": "OnnxParser",
        "error": "ParserError",
        "profile": "IOptimizationProfile",
        "attention": "IAttention",
        "data": "IHostMemory",
    },
    "builder/timing.py": {"config": "IBuilderConfig", "self._cache": "ITimingCache"},
    "execution/context.py": {"self._context": "IExecutionContext"},
    "execution/engine.py": {
        "trt": "",
        "plan": "ICudaEngine",
        "self._runtime": "Runtime",
        "context": "IExecutionContext",
    },
    "execution/layer_times.py": {"library.module": "", "context": "IExecutionContext"},
    "execution/runtime_cache.py": {
        "trt": "",
        "plan": "ICudaEngine",
        "config": "IRuntimeConfig",
        "self._cache": "IRuntimeCache",
    },
}
#: What only TensorRT-RTX has, and is asked for there alone: see ``RuntimeCache`` and ``_config``.
_RTX = {
    "ComputeCapability.CURRENT",
    "DynamicShapesKernelSpecializationStrategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_runtime_cache",
}
#: Of a layer whose class has been set to IAttentionInputLayer.
_ATTENTION = "ILayer.attention"
#: What each version lacks and no call of ours reaches there: the attention's layer type and the
#: class of runtime caches are asked for before.
_LACKING = {
    "10.3": {
        *_RTX,
        _ATTENTION,
        "IAttention.decomposable",
        "IAttentionInputLayer",
        "ICudaEngine.create_runtime_config",
        "IRuntimeConfig.set_execution_context_allocation_strategy",
    },
    "11.4": {*_RTX, _ATTENTION},
    "rtx": {_ATTENTION},
}
#: Methods that our subclasses of its classes override, by class.
_OVERRIDDEN = {
    "ILogger": ("log",),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
}


@dataclass(frozen=True)
class Use:
    """An attribute of a class, and how it is called if it is: arguments, and names of others."""

    kind: str
    name: str
    where: str
    call: tuple[int, frozenset[str]] | None

    def __str__(self) -> str:
        return f"{self.kind}.{self.name}".removeprefix(".")


def uses() -> list[Use]:
    found = [use for file in sorted(_SOURCE.rglob("*.py")) for use in _of(file)]
    assert {use.where.partition(":")[0] for use in found} == set(_HOLDERS)
    return found


def _of(file: Path) -> Iterator[Use]:
    name = file.relative_to(_SOURCE).as_posix()
    holders = _HOLDERS.get(name, {})
    tree = ast.parse(file.read_text(encoding="utf-8"))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        kind = _kind(node.value, holders)
        if kind is None:
            continue
        call = calls.get(id(node))
        arguments = None
        if call is not None:
            keywords = frozenset(word.arg for word in call.keywords if word.arg)
            arguments = len(call.args), keywords
        yield Use(kind, node.attr, f"{name}:{node.lineno}", arguments)


def _kind(node: ast.expr, holders: dict[str, str]) -> str | None:
    """The class of what an expression holds; of ``module.X`` it is ``X``."""
    kind = holders.get(ast.unparse(node))
    if kind is None and isinstance(node, ast.Attribute):
        return node.attr if holders.get(ast.unparse(node.value)) == "" else None
    return kind


@pytest.fixture(scope="module", params=list(_LACKING))
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def found(version: str, tmp_path_factory: pytest.TempPathFactory) -> Bindings:
    if version == "rtx":
        return Bindings(listed(pytest.importorskip("tensorrt_rtx")))
    return bindings(version, tmp_path_factory.mktemp("bindings"))


def test_all_that_is_used_is_there(found: Bindings, version: str) -> None:
    missing = {str(use): use.where for use in uses() if not found.has(use.kind, use.name)}
    assert set(missing) == _LACKING[version], missing
    assert found.has("IAttentionInputLayer", "attention") or version == "10.3"
    # What is looked for before it is used.
    assert found.has("", "IRuntimeCache") == (version == "rtx")
    assert found.has("LayerType", "ATTENTION_INPUT") == (version != "10.3")


def test_calls_have_the_arguments_that_it_takes(found: Bindings) -> None:
    called = [use for use in uses() if use.call is not None and use.name != "__init__"]
    assert len(called) > 25
    for use in called:
        if found.has(use.kind, use.name):
            assert found.takes(use.kind, use.name, *use.call), f"{use} in {use.where}"


def test_overridden_methods_are_there(found: Bindings) -> None:
    for kind, names in _OVERRIDDEN.items():
        assert [name for name in names if not found.has(kind, name)] == []


def test_no_holder_of_an_object_is_forgotten(found: Bindings) -> None:
    # A name of TensorRT's own that is asked of something else: a variable that is not in the list.
    held = {use.name for use in uses()}
    theirs = {
        name
        for kind in found.kinds()
        if kind.startswith("I") or kind in ("Builder", "Runtime", "OnnxParser")
        for name in held
        if "_" in name.strip("_") and found.has(kind, name)
    }
    for file in sorted(_SOURCE.rglob("*.py")):
        name = file.relative_to(_SOURCE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in theirs:
                kind = _kind(node.value, _HOLDERS.get(name, {}))
                assert kind is not None, f"{ast.unparse(node)} in {name}:{node.lineno}"
