"""Mixed precision (``--max-drop``): the layers that lose most quality get a more exact format.

If all layers together lose too much, each group of layers is quantized alone and measured, which is
its sensitivity. The most sensitive groups get the scheme's fallback format, one after the other,
until the loss fits. All candidates are made of one open bundle.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.bundle.hidden_output import Claim, hidden_beside
from seq2edge.runtime.errors import OutputError

from .candidates import QuantizeResult, write_quantized
from .errors import QuantizationError, QuantizationWarning
from .recipe.options import DEFAULT_BLOCK_SIZES
from .recipe.plan import improvable_layers
from .request import Request
from .source import Source, open_source


@dataclass(frozen=True)
class Loss:
    """How bad a bundle is; less is better, in the metric's own unit.

    Attributes:
        value: on all examples.
        resampled: [R] float64, on R draws of the examples with replacement, the same draws for
            every bundle: differences of two bundles are paired. None: no interval is asked for.
    """

    value: float
    resampled: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    def over(self, reference: Loss) -> tuple[float, Bounds | None]:
        """What is lost against ``reference``, and the 95 % interval of that."""
        lost = self.value - reference.value
        if self.resampled is None or reference.resampled is None:
            return lost, None
        low, high = np.percentile(self.resampled - reference.resampled, [2.5, 97.5])
        return lost, (float(low), float(high))


#: Measures a bundle; a bare number is a :class:`Loss` without an interval.
Measure = Callable[[Path], "float | Loss"]
#: The ends of a 95 % confidence interval.
Bounds = tuple[float, float]
#: Called with what is measured next and how many measurements are done.
Measuring = Callable[[str, int], None]

_GROUP = re.compile(r"(?:cross|(encoder|decoder)\.layers)\.(\d+)\.")


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one group alone loses, against the float32 bundle.

    Attributes:
        layers: of the group.
        bytes: of the bundle.
        interval: of ``loss``, 95 %; None: not measured.
    """

    group: str
    layers: int
    loss: float
    interval: Bounds | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Trial:
    """What is lost with all groups quantized but ``fallback``, against the float32 bundle.

    Attributes:
        bytes: of the bundle.
        interval: of ``loss``, 95 %; None: not measured.
    """

    fallback: tuple[str, ...]
    loss: float
    interval: Bounds | None = None
    bytes: int = 0

    def resolves(self, bound: float) -> bool:
        """Whether the data can tell that ``loss`` is within ``bound``: its interval is no wider.

        True without an interval.
        """
        return self.interval is None or self.interval[1] - self.interval[0] <= abs(bound)


@dataclass(frozen=True)
class MixedPrecision:
    """A bundle that fits, and how it was found.

    Attributes:
        result: what was written.
        sensitivities: of each group, the largest loss first; empty if nothing had to be more exact.
        trials: the last is the one that was written.
    """

    result: QuantizeResult
    sensitivities: tuple[Sensitivity, ...]
    trials: tuple[Trial, ...]

    def __repr__(self) -> str:
        last = self.trials[-1]
        return (
            f"MixedPrecision({self.result!r}, loss={last.loss:.3g}, fallback={len(last.fallback)})"
        )


class MixedPrecisionError(QuantizationError):
    """Even the most exact candidate loses too much.

    ``sensitivities`` and ``trials`` say how much.
    """

    def __init__(
        self, message: str, sensitivities: Sequence[Sensitivity], trials: Sequence[Trial]
    ) -> None:
        super().__init__(message)
        self.sensitivities, self.trials = tuple(sensitivities), tuple(trials)


def quantize_mixed_precision(
    request: Request,
    max_drop: float,
    measure: Measure,
    *,
    described: Mapping[str, Any] = MappingProxyType({}),
    measuring: Measuring | None = None,
) -> MixedPrecision:
    """Quantize so that no more than ``max_drop`` is lost.

    Args:
        request: what :func:`.quantize_request` would do without a budget.
        max_drop: the largest loss allowed, in what ``measure`` returns.
        measure: how bad a bundle is; called once for the float32 bundle, once for the
            quantized one, and if that loses too much, about twice for each group.
        described: what ``measure`` measures, and on what, for the manifest.
        measuring: called before each measurement.

    Raises:
        MixedPrecisionError: even with every group in its fallback format the loss is too large.
        QuantizationError: ``max_drop`` is not a number, or as :func:`.quantize_request`.
        OutputError: candidates cannot be written beside ``request.out``.
    """
    if not math.isfinite(max_drop):
        raise QuantizationError(f"the budget must be a number, not {max_drop}")
    source = open_source(request)
    if source.scheme.compute == "bfloat16":
        raise QuantizationError(
            "a budget is measured on the CPU, which has no bfloat16 in ONNX Runtime"
        )
    layers = improvable_layers(
        source.layers, source.scheme, request.options, request.exclude, request.fallback_layers
    )
    with _beside(request.out) as folder:
        search = _SensitivitySearch(
            source, request, layers, folder / "candidate", measure, measuring
        )
        sensitivities, trials = search.run(max_drop)
    chosen = trials[-1]
    notes = {
        "mixed_precision": {
            **described,
            "max_drop": max_drop,
            "loss": chosen.loss,
            "interval": chosen.interval,
            "resolved": chosen.resolves(max_drop),
            "fallback": list(chosen.fallback),
            "sensitivities": [asdict(sensitivity) for sensitivity in sensitivities],
            "trials": [asdict(trial) for trial in trials],
        }
    }
    # With the block size that the trials had; the whole bundle is checked once more.
    final = search.with_fallback(chosen.fallback, request)
    result = write_quantized(source, final, notes=notes, choose_block=False)
    size = request.options.block_size or DEFAULT_BLOCK_SIZES[0]
    tried = replace(request, options=replace(request.options, block_size=size))
    for message in result.complaints(source.scheme, tried):
        warnings.warn(message, QuantizationWarning, stacklevel=2)
    return MixedPrecision(result, tuple(sensitivities), tuple(trials))


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder for candidates, on the disk of ``out``, and gone afterwards.

    Raises:
        OutputError: it cannot be made, or a candidate not be written; says so of ``out``.
    """
    parent = next(path for path in out.absolute().parents if path.exists())
    # One name for all runs, so that the next one empties what a killed run has left.
    folder = hidden_beside(parent / out.name, "trials")
    claim = None
    try:
        claim = Claim(folder, folder=True)
        yield folder
    except OutputError as error:
        raise OutputError(str(error).replace(str(folder / "candidate"), str(out))) from None
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}") from None
    finally:
        if claim is not None:
            claim.release()


def group_of(layer: str) -> str:
    """The group that a layer is measured with: its transformer layer, or itself.

    ``cross.2.kv`` is the keys and values of decoder layer 2, though the encoder computes them.
    """
    match = _GROUP.match(layer)
    return f"{match[1] or 'decoder'}.layers.{match[2]}" if match else layer


class _SensitivitySearch:
    """Measures candidates, one at a time in the same folder."""

    def __init__(
        self,
        source: Source,
        request: Request,
        layers: Mapping[str, bool],
        candidate: Path,
        measure: Measure,
        measuring: Measuring | None,
    ) -> None:
        self._source = source
        self._request = replace(request, out=candidate, overwrite=True, progress=None, check=False)
        self._measure = measure
        self._measuring = measuring
        self._done = 0
        self._groups: dict[str, list[str]] = {}
        self._layers = list(layers)
        for layer in (name for name, improvable in layers.items() if improvable):
            self._groups.setdefault(group_of(layer), []).append(layer)
        self._reference = self._measured("float32", Path(request.bundle))

    def run(self, max_drop: float) -> tuple[list[Sensitivity], list[Trial]]:
        """Give groups the fallback format until the loss fits; see :class:`MixedPrecision`.

        Raises:
            MixedPrecisionError: it never does.
        """
        trials = [self.trial(())]
        sensitivities = [] if trials[0].loss <= max_drop else self.sensitivities()
        for sensitivity in sensitivities:
            fallback = (*trials[-1].fallback, sensitivity.group)
            if self._nothing_left(fallback):
                break
            trials.append(self.trial(fallback))
            if trials[-1].loss <= max_drop:
                break
        if not trials[-1].loss <= max_drop:  # nor is not a number
            raise MixedPrecisionError(
                f"with {len(trials[-1].fallback)} of {len(self._groups)} groups of layers more"
                f" exact the loss is still {trials[-1].loss:.3g}, more than {max_drop:g}; a more"
                " exact scheme may fit this budget",
                sensitivities,
                trials,
            )
        return sensitivities, trials

    def _nothing_left(self, fallback: Sequence[str]) -> bool:
        """Whether this would leave every layer as it was exported."""
        scheme = self._source.scheme
        layers = sum(len(self._groups[group]) for group in fallback)
        return (
            scheme.fallback is None and scheme.compute == "float32" and layers == len(self._layers)
        )

    def trial(self, fallback: tuple[str, ...]) -> Trial:
        """All but these groups in the scheme's own format."""
        label = f"all but {len(fallback)} groups" if fallback else "all groups"
        return Trial(fallback, *self._lost(label, self.with_fallback(fallback, self._request)))

    def sensitivities(self) -> list[Sensitivity]:
        """Each group alone, the largest loss first; of equals the one with fewer layers."""
        sensitivities = []
        for group, layers in self._groups.items():
            others = [name for name in self._layers if name not in layers]
            request = replace(self._request, exclude=(*self._request.exclude, *others))
            sensitivities.append(Sensitivity(group, len(layers), *self._lost(group, request)))
        return sorted(sensitivities, key=lambda one: (-one.loss, one.layers))

    def with_fallback(self, groups: Sequence[str], request: Request) -> Request:
        """``request`` with the layers of these groups in the fallback format."""
        names = [name for group in groups for name in self._groups[group]]
        return replace(request, fallback_layers=(*request.fallback_layers, *names))

    def _lost(self, label: str, request: Request) -> tuple[float, Bounds | None, int]:
        """What a candidate loses, the interval of that, and the candidate's bytes."""
        result = write_quantized(self._source, request, choose_block=False)
        loss, interval = self._measured(label, request.out).over(self._reference)
        return loss, interval, result.bytes

    def _measured(self, label: str, bundle: Path) -> Loss:
        if self._measuring is not None:
            self._measuring(label, self._done)
        self._done += 1
        measured = self._measure(bundle)
        return measured if isinstance(measured, Loss) else Loss(measured)
