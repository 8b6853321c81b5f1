"""Which layer's weight gets which format: a scheme, applied to a bundle's layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..errors import QuantizationError
from ..numerics.rounding import fitting_block
from .layers import Layer
from .options import DEFAULT_BLOCK_SIZES, Options
from .schemes import QuantizationScheme, leave_layers
from .weight_formats import DynamicQuant, PerChannel, WeightFormat, WeightOnly


@dataclass(frozen=True)
class LayerPlan:
    """What is done to each layer.

    Attributes:
        formats: by the layer's name; None: left to what the scheme computes in.
        float32_layers: names of those that stay in float32, whatever that is.
    """

    formats: Mapping[str, WeightFormat | None]
    float32_layers: Collection[str]

    def describe(self, compute: str) -> dict[str, str]:
        """What the manifest says of each layer."""
        described = {}
        for name, weight_format in self.formats.items():
            plain = "float32" if name in self.float32_layers else compute
            described[name] = plain if weight_format is None else weight_format.describe()
        return described


def plan_layers(
    layers: Sequence[Layer],
    scheme: QuantizationScheme,
    options: Options,
    exclude: Sequence[str] = (),
    fallback_layers: Sequence[str] = (),
    outliers: Collection[str] = (),
) -> LayerPlan:
    """The format of each layer.

    Args:
        exclude: patterns (``fnmatch``) of layers to leave as they are.
        fallback_layers: patterns of layers that get the scheme's more exact format.
        outliers: names of layers whose inputs one int8 scale does not hold: they get 8 bit blocks,
            whose inputs have a scale for each block of a row.

    Raises:
        QuantizationError: a pattern of ``exclude`` that matches no layer.
    """
    for pattern in exclude:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            names = ", ".join(layer.name for layer in layers[:3])
            raise QuantizationError(
                f"the pattern {pattern!r} matches no layer; layers are named like {names}"
            )
    recipe = scheme.recipe(options)
    fallback = (scheme.fallback or leave_layers)(options)
    formats: dict[str, WeightFormat | None] = {}
    for layer in layers:
        chosen = fallback if _matches(layer.name, fallback_layers) else recipe
        excluded = _matches(layer.name, exclude)
        weight_format = chosen(layer)
        if layer.name in outliers and isinstance(weight_format, DynamicQuant):
            weight_format = WeightOnly(8, options.block_size or DEFAULT_BLOCK_SIZES[0])
        formats[layer.name] = None if excluded else _fitted(layer, weight_format)
    # More exact than half precision is nothing but float32.
    exact = (*exclude, *(fallback_layers if scheme.recipe is leave_layers else ()))
    return LayerPlan(formats, {name for name in formats if _matches(name, exact)})


def improvable_layers(
    layers: Sequence[Layer],
    scheme: QuantizationScheme,
    options: Options,
    exclude: Sequence[str] = (),
    fallback_layers: Sequence[str] = (),
) -> dict[str, bool]:
    """Layers that are not excluded, and whether their fallback format is another one."""
    plans = [
        plan_layers(layers, scheme, options, exclude, fallback)
        for fallback in (fallback_layers, ("*",))
    ]
    now, then = (plan.formats for plan in plans)
    return {
        name: scheme.recipe is leave_layers or now[name] != then[name]
        for name in now
        if not _matches(name, exclude)
    }


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _fitted(layer: Layer, weight_format: WeightFormat | None) -> WeightFormat | None:
    """The format with a block size that suits the layer; None if no block does."""
    if isinstance(weight_format, DynamicQuant) and weight_format.stored is not None:
        stored = weight_format.stored
        block = fitting_block(layer.matrix_shape[0], stored, whole=True)
        return DynamicQuant(replace(stored, block_size=block) if block else None)
    if not isinstance(weight_format, WeightOnly):
        return weight_format
    inputs, outputs = layer.matrix_shape
    # A table's rows are looked up, and standard blocks are, whole.
    whole = layer.outputs_first or weight_format.standard
    if weight_format.standard:  # two blocks a row at least: see passes/weight_only_standard.py
        most = min(weight_format.block_size, inputs // 2)
        weight_format = replace(weight_format, block_size=most)
    block = fitting_block(inputs, weight_format, whole=whole)
    if weight_format.standard and (not block or outputs % 2):
        return PerChannel()
    return replace(weight_format, block_size=block) if block else None
