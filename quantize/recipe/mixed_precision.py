"""Fit a loss of quality into a budget: find out which layers cost most, and spare those.

Each group of layers is quantized alone and measured. If all of them together lose too much,
the groups that lost most get the scheme's more exact treatment, one after the other, until what
is left fits.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.bundle.reader import check_destination
from seq2edge.runtime.errors import OutputError

from ..errors import QuantizationError
from ..pipeline import QuantizeResult, improvable_layers, load_calibration, quantize_request
from ..request import Request
from .schemes import find_scheme


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
class Effect:
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
    """What is lost with all groups quantized but ``spared``, against the float32 bundle.

    Attributes:
        bytes: of the bundle.
        interval: of ``loss``, 95 %; None: not measured.
    """

    spared: tuple[str, ...]
    loss: float
    interval: Bounds | None = None
    bytes: int = 0

    def resolves(self, bound: float) -> bool:
        """Whether the data can tell that ``loss`` is within ``bound``: its interval is no wider.

        True without an interval.
        """
        return self.interval is None or self.interval[1] - self.interval[0] <= abs(bound)


@dataclass(frozen=True)
class Budgeted:
    """A bundle that fits, and how it was found.

    Attributes:
        result: what was written.
        effects: of each group, the largest loss first; empty if nothing had to be spared.
        trials: the last is the one that was written.
    """

    result: QuantizeResult
    effects: tuple[Effect, ...]
    trials: tuple[Trial, ...]

    def __repr__(self) -> str:
        last = self.trials[-1]
        return f"Budgeted({self.result!r}, loss={last.loss:.3g}, spared={len(last.spared)})"


class BudgetError(QuantizationError):
    """Even the most exact candidate loses too much; ``effects`` and ``trials`` say how much."""

    def __init__(self, message: str, effects: Sequence[Effect], trials: Sequence[Trial]) -> None:
        super().__init__(message)
        self.effects, self.trials = tuple(effects), tuple(trials)


def quantize_within(
    request: Request,
    max_drop: float,
    measure: Measure,
    *,
    described: Mapping[str, Any] = MappingProxyType({}),
    measuring: Measuring | None = None,
) -> Budgeted:
    """Quantize so that no more than ``max_drop`` is lost.

    Args:
        request: what :func:`.pipeline.quantize_request` would do without a budget.
        max_drop: the largest loss allowed, in what ``measure`` returns.
        measure: how bad a bundle is; called once for the float32 bundle, once for the
            quantized one, and if that loses too much, about twice for each group.
        described: what ``measure`` measures, and on what, for the manifest.
        measuring: called before each measurement.

    Raises:
        BudgetError: even with every group spared the loss is too large.
        QuantizationError: ``max_drop`` is not a number, or as :func:`.pipeline.quantize_request`.
        OutputError: candidates cannot be written beside ``request.out``.
    """
    if not math.isfinite(max_drop):
        raise QuantizationError(f"the budget must be a number, not {max_drop}")
    if find_scheme(request.scheme, request.target).compute == "bfloat16":
        raise QuantizationError(
            "a budget is measured on the CPU, which has no bfloat16 in ONNX Runtime"
        )
    check_destination(request.out, request.overwrite)
    names = improvable_layers(request)
    request = replace(request, calibration=load_calibration(request))
    with _beside(request.out) as folder:
        search = _Search(request, folder / "candidate", names, measure, measuring)
        effects, trials = search.run(max_drop)
    found = trials[-1]
    notes = {
        "budget": {
            **described,
            "max_drop": max_drop,
            "loss": found.loss,
            "interval": found.interval,
            "resolved": found.resolves(max_drop),
            "spared": list(found.spared),
            "effects": [asdict(effect) for effect in effects],
            "trials": [asdict(trial) for trial in trials],
        }
    }
    # With the block size that the trials had; the whole bundle is checked once more.
    final = replace(search.sparing(found.spared, request.out), check=request.check)
    result = quantize_request(final, notes=notes, choose_block=False)
    return Budgeted(result, tuple(effects), tuple(trials))


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder for candidates, on the disk of ``out``, and gone afterwards.

    Raises:
        OutputError: it cannot be made, or a candidate not be written; says so of ``out``.
    """
    parent = next(path for path in out.absolute().parents if path.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".seq2edge-", dir=parent) as folder:
            yield Path(folder)
    except OutputError as error:
        raise OutputError(str(error).replace(str(Path(folder) / "candidate"), str(out))) from None
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}") from None


def group_of(layer: str) -> str:
    """The group that a layer is measured with: its transformer layer, or itself.

    ``cross.2.kv`` is the keys and values of decoder layer 2, though the encoder computes them.
    """
    found = _GROUP.match(layer)
    return f"{found[1] or 'decoder'}.layers.{found[2]}" if found else layer


class _Search:
    """Measures candidates, one at a time in the same folder."""

    def __init__(
        self,
        request: Request,
        candidate: Path,
        layers: Mapping[str, bool],
        measure: Measure,
        measuring: Measuring | None,
    ) -> None:
        self._request = replace(request, progress=None, check=False)
        self._candidate = candidate
        self._measure = measure
        self._measuring = measuring
        self._done = 0
        self._groups: dict[str, list[str]] = {}
        self._layers = list(layers)
        for layer in (name for name, improvable in layers.items() if improvable):
            self._groups.setdefault(group_of(layer), []).append(layer)
        self._reference = self._measured("float32", Path(request.bundle))

    def run(self, max_drop: float) -> tuple[list[Effect], list[Trial]]:
        """Spare groups until the loss fits; see :class:`Budgeted`.

        Raises:
            BudgetError: it never does.
        """
        trials = [self.trial(())]
        effects = [] if trials[0].loss <= max_drop else self.effects()
        for effect in effects:
            spared = (*trials[-1].spared, effect.group)
            if self._nothing_left(spared):
                break
            trials.append(self.trial(spared))
            if trials[-1].loss <= max_drop:
                break
        if not trials[-1].loss <= max_drop:  # nor is not a number
            raise BudgetError(
                f"with {len(trials[-1].spared)} of {len(self._groups)} groups of layers more exact"
                f" the loss is still {trials[-1].loss:.3g}, more than {max_drop:g}; a more exact"
                " scheme may fit this budget",
                effects,
                trials,
            )
        return effects, trials

    def _nothing_left(self, spared: Sequence[str]) -> bool:
        """Whether this would leave every layer as it was exported."""
        scheme = find_scheme(self._request.scheme, self._request.target)
        layers = sum(len(self._groups[group]) for group in spared)
        return (
            scheme.fallback is None and scheme.compute == "float32" and layers == len(self._layers)
        )

    def trial(self, spared: tuple[str, ...]) -> Trial:
        """All but these groups quantized."""
        label = f"all but {len(spared)} groups" if spared else "all groups"
        return Trial(spared, *self._lost(label, self.sparing(spared, self._candidate)))

    def effects(self) -> list[Effect]:
        """Each group alone, the largest loss first; of equals the one with fewer layers."""
        effects = []
        for group, layers in self._groups.items():
            others = [name for name in self._layers if name not in layers]
            request = replace(
                self._request,
                out=self._candidate,
                exclude=(*self._request.exclude, *others),
                overwrite=True,
            )
            effects.append(Effect(group, len(layers), *self._lost(group, request)))
        return sorted(effects, key=lambda effect: (-effect.loss, effect.layers))

    def sparing(self, groups: Sequence[str], out: Path) -> Request:
        names = [name for group in groups for name in self._groups[group]]
        own = out == self._candidate
        return replace(
            self._request,
            out=out,
            more_exact=(*self._request.more_exact, *names),
            overwrite=own or self._request.overwrite,
        )

    def _lost(self, label: str, request: Request) -> tuple[float, Bounds | None, int]:
        """What a candidate loses, the interval of that, and the candidate's bytes."""
        result = quantize_request(request)
        loss, interval = self._measured(label, request.out).over(self._reference)
        return loss, interval, result.bytes

    def _measured(self, label: str, bundle: Path) -> Loss:
        if self._measuring is not None:
            self._measuring(label, self._done)
        self._done += 1
        found = self._measure(bundle)
        return found if isinstance(found, Loss) else Loss(found)
