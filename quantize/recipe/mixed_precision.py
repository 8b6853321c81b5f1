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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seq2edge.runtime.bundle.reader import check_destination
from seq2edge.runtime.errors import OutputError

from ..errors import QuantizationError
from ..pipeline import (
    QuantizeResult,
    Request,
    improvable_layers,
    load_calibration,
    quantize_request,
)
from .schemes import find_scheme

#: What is lost with a bundle; less is better, in the metric's own unit.
Measure = Callable[[Path], float]
#: Called with what is measured next and how many measurements are done.
Measuring = Callable[[str, int], None]

_GROUP = re.compile(r"(?:cross|(encoder|decoder)\.layers)\.(\d+)\.")


@dataclass(frozen=True)
class Effect:
    """What quantizing one group alone loses, against the float32 bundle."""

    group: str
    layers: int
    loss: float


@dataclass(frozen=True)
class Trial:
    """What is lost with all groups quantized but ``spared``, against the float32 bundle."""

    spared: tuple[str, ...]
    loss: float


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
        QuantizationError: ``max_drop`` is not a number, or even with every group spared the
            loss is too large, or what :func:`.pipeline.quantize_request` raises.
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
            "spared": list(found.spared),
            "effects": [asdict(effect) for effect in effects],
            "trials": [asdict(trial) for trial in trials],
        }
    }
    result = quantize_request(search.sparing(found.spared, request.out), notes=notes)
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
        self._request = replace(request, progress=None)
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
            QuantizationError: it never does.
        """
        trials = [Trial((), self.loss_without(()))]
        effects = [] if trials[0].loss <= max_drop else self.effects()
        for effect in effects:
            spared = (*trials[-1].spared, effect.group)
            if self._nothing_left(spared):
                break
            trials.append(Trial(spared, self.loss_without(spared)))
            if trials[-1].loss <= max_drop:
                break
        if not trials[-1].loss <= max_drop:  # nor is not a number
            raise QuantizationError(
                f"with {len(trials[-1].spared)} of {len(self._groups)} groups of layers more exact"
                f" the loss is still {trials[-1].loss:.3g}, more than {max_drop:g}; a more exact"
                " scheme may fit this budget"
            )
        return effects, trials

    def _nothing_left(self, spared: Sequence[str]) -> bool:
        """Whether this would leave every layer as it was exported."""
        scheme = find_scheme(self._request.scheme, self._request.target)
        layers = sum(len(self._groups[group]) for group in spared)
        return (
            scheme.fallback is None and scheme.compute == "float32" and layers == len(self._layers)
        )

    def loss_without(self, spared: Sequence[str]) -> float:
        """The loss with all but these groups quantized."""
        quantize_request(self.sparing(spared, self._candidate))
        label = f"all but {len(spared)} groups" if spared else "all groups"
        return self._measured(label, self._candidate) - self._reference

    def effects(self) -> list[Effect]:
        """Each group alone, the largest loss first; of equals the one with fewer layers."""
        effects = []
        for group, layers in self._groups.items():
            others = [name for name in self._layers if name not in layers]
            quantize_request(
                replace(
                    self._request,
                    out=self._candidate,
                    exclude=(*self._request.exclude, *others),
                    overwrite=True,
                )
            )
            loss = self._measured(group, self._candidate) - self._reference
            effects.append(Effect(group, len(layers), loss))
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

    def _measured(self, label: str, bundle: Path) -> float:
        if self._measuring is not None:
            self._measuring(label, self._done)
        self._done += 1
        return self._measure(bundle)
