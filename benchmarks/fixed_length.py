"""Generations of one length, and by what: all that a process needs that is timed while it loads."""

from __future__ import annotations

from dataclasses import replace

from seq2edge.runtime.bundle.manifest import Manifest
from seq2edge.runtime.generation import GenerationConfig


def fixed_length(new_tokens: int, num_beams: int) -> GenerationConfig:
    """Options under which a bundle without end tokens makes so many tokens.

    The checkpoint's own options do not count: they would make bundles hard to compare.
    """
    return GenerationConfig(max_new_tokens=new_tokens, num_beams=num_beams)


def without_end(manifest: Manifest) -> Manifest:
    return replace(manifest, special_tokens=replace(manifest.special_tokens, eos=()))


def engine_version(backend: str) -> str:
    """Of the library that an engine is: ONNX Runtime, TensorRT or TensorRT-RTX."""
    if not backend.startswith("onnxruntime"):
        from seq2edge.runtime.backends.tensorrt.library import load_library

        return load_library(backend).version
    import onnxruntime

    return str(onnxruntime.__version__)
