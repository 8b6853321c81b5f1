"""TensorRT's Python bindings without TensorRT: what each class has, and with which arguments.

The bindings are packages of their own. Their extension module is imported over libraries of its
needed names that do nothing, in a process of its own.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.package_cache import wheel

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_CU12, _CU13 = "tensorrt-cu12-bindings==10.3.0", "tensorrt-cu13-bindings==11.4.0.106"
#: Version to package, the number in its libraries' names, and SHA-256 of its wheels.
VERSIONS: dict[str, tuple[str, str, dict[str, str]]] = {
    "10.3": (
        _CU12,
        "10",
        {
            "3.10": "1d6e4cf08ef1f54f6fd44a33cf6b253050af2fc6e9a1d92e40e1436a1d858eb0",
            "3.11": "59ace22d7f2ca1e9dcde2cb0cb5916912cb3cd5a9d72dd7852be0160d9b3a0ee",
            "3.12": "f5c2582aeaa7f5628d2c4d4148a701ebe97be78f7ff3b46a617f0ee0cb5460f2",
        },
    ),
    "11.4": (
        _CU13,
        "11",
        {
            "3.10": "1d17853da33a186c4d4d39995c1186bb59f643689aabac9c3e33ae5f0ba402f5",
            "3.11": "d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc",
            "3.12": "5fc7a6c412881f7212030893bd5531b1a0ff415c72c7678dfe4ead7a7765b38d",
            "3.13": "bac9a362c9189b5f5dd0444213913846e4b46003237834958e890eff57d86ed5",
        },
    ),
}
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "getNvOnnxParserVersion"),
    "initLibNvInferPlugins",
)
_SIGNATURE = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\) -> ", re.MULTILINE)


class Bindings:
    """The classes of one version. The name of the module itself is empty."""

    def __init__(self, classes: dict[str, dict[str, str]]) -> None:
        self._listed = classes

    def has(self, kind: str, name: str) -> bool:
        return name in self._listed.get(kind, {})

    def kinds(self) -> set[str]:
        return set(self._listed) - {""}

    def takes(self, kind: str, name: str, count: int, keywords: set[str]) -> bool:
        """Whether the method takes so many arguments by position and these by name."""
        if kind == "" and name in self._listed:  # a constructor
            kind, name = name, "__init__"
        signatures = [_parameters(text) for called, text in self._signatures(kind, name)]
        return any(
            sum(not default for _, default in found) <= count + len(keywords) <= len(found)
            and keywords <= {parameter for parameter, _ in found[count:]}
            for found in signatures
        )

    def _signatures(self, kind: str, name: str) -> list[tuple[str, str]]:
        return _SIGNATURE.findall(self._listed[kind][name])


def listed(module: Any) -> dict[str, dict[str, str]]:
    """Docstrings of the attributes of each class of a module, and of its own under ``""``."""
    found = {"": {name: getattr(module, name).__doc__ or "" for name in dir(module)}}
    for name in dir(module):
        kind = getattr(module, name)
        if isinstance(kind, type):
            found[name] = {each: getattr(kind, each, None).__doc__ or "" for each in dir(kind)}
    return found


def bindings(version: str, folder: Path) -> Bindings:
    """The classes of the bindings of a TensorRT; ``folder`` is for what is unpacked and built."""
    package, number, hashes = VERSIONS[version]
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip(f"the pinned wheels of {package} are for x86-64 Linux")
    if _PYTHON not in hashes:
        pytest.skip(f"{package} has no wheel for Python {_PYTHON}")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to make stub libraries with")
    with zipfile.ZipFile(wheel(package, hashes[_PYTHON])) as archive:
        archive.extractall(folder)
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
    for name in _LIBRARIES:
        library = folder / f"lib{name}.so.{number}"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}
    program = f"import json, typing\nAny = typing.Any\n{inspect.getsource(listed)}"
    program += "import tensorrt_bindings\nprint(json.dumps(listed(tensorrt_bindings)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Bindings(json.loads(done.stdout))


def _parameters(text: str) -> list[tuple[str, bool]]:
    """Name, and whether it has a default, of each parameter but ``self``."""
    parts, depth, start = [], 0, 0
    for at, sign in enumerate(text):
        depth += (sign in "[(<{") - (sign in "])>}")
        if sign == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    named = [part.strip() for part in parts if part.strip()]
    found = [(part.partition(":")[0].strip(), " = " in part) for part in named]
    return [parameter for parameter in found if parameter[0] not in ("self", "*", "/")]
