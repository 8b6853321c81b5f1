"""Fit a loss of quality into a budget: find out which layers cost most, and spare those.

Each group of layers is quantized alone and measured. If all of them together lose too much,
the groups that lost most get the scheme's more exact treatment, one after the other, until what
is left fits.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from seq2edge.runtime.bundle import Bundle, check_destination

from .errors import QuantizationError
from .pipeline import QuantizeResult, Request, layers_of, load_calibration, quantize_request
from .policy import find_scheme

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
    request: Request, max_drop: float, measure: Measure, *, measuring: Measuring | None = None
) -> Budgeted:
    """Quantize so that no more than ``max_drop`` is lost.

    Args:
        request: what :func:`.pipeline.quantize_request` would do without a budget.
        max_drop: the largest loss allowed, in what ``measure`` returns.
        measure: how bad a bundle is; called once for the float32 bundle, once for the
            quantized one, and if that loses too much, about twice for each group.
        measuring: called before each measurement.

    Raises:
        QuantizationError: even with every group spared the loss is too large, or what
            :func:`.pipeline.quantize_request` raises.
    """
    check_destination(request.out, request.overwrite)
    if find_scheme(request.scheme, request.target).compute == "bfloat16":
        raise QuantizationError(
            "a budget is measured on the CPU, which has no bfloat16 in ONNX Runtime"
        )
    request = replace(request, calibration=load_calibration(request))
    with tempfile.TemporaryDirectory(
        prefix=".seq2edge-", dir=request.out.absolute().parent
    ) as folder:
        search = _Search(request, Path(folder) / "candidate", measure, measuring)
        trials = [Trial((), search.loss_without(()))]
        effects: list[Effect] = []
        if trials[0].loss > max_drop:
            effects = search.effects()
            spared: list[str] = []
            for effect in effects:
                spared.append(effect.group)
                trials.append(Trial(tuple(spared), search.loss_without(spared)))
                if trials[-1].loss <= max_drop:
                    break
            else:
                raise QuantizationError(
                    f"even with every layer more exact the loss is {trials[-1].loss:.3g}, more"
                    f" than {max_drop:g}; the best scheme for this budget is a more exact one"
                )
        found = trials[-1]
        notes = {
            "budget": {
                "max_drop": max_drop,
                "loss": found.loss,
                "spared": list(found.spared),
                "effects": [asdict(effect) for effect in effects],
            }
        }
        result = quantize_request(search.sparing(found.spared, request.out), notes=notes)
    return Budgeted(result, tuple(effects), tuple(trials))


def group_of(layer: str) -> str:
    """The group that a layer is measured with: its transformer layer, or itself.

    ``cross.2.kv`` is the keys and values of decoder layer 2, though the encoder computes them.
    """
    found = _GROUP.match(layer)
    return f"{found[1] or 'decoder'}.layers.{found[2]}" if found else layer


class _Search:
    """Measures candidates, one at a time in the same folder."""

    def __init__(
        self, request: Request, candidate: Path, measure: Measure, measuring: Measuring | None
    ) -> None:
        self._request = replace(request, progress=None)
        self._candidate = candidate
        self._measure = measure
        self._measuring = measuring
        self._done = 0
        self._groups: dict[str, list[str]] = {}
        names = layers_of(Bundle.open(request.bundle))
        chosen = [n for n in names if not any(fnmatchcase(n, p) for p in request.exclude)]
        for layer in chosen:
            self._groups.setdefault(group_of(layer), []).append(layer)
        self._reference = self._measured("float32", Path(request.bundle))

    def loss_without(self, spared: Sequence[str]) -> float:
        """The loss with all but these groups quantized."""
        quantize_request(self.sparing(spared, self._candidate))
        label = f"all but {len(spared)} groups" if spared else "all groups"
        return self._measured(label, self._candidate) - self._reference

    def effects(self) -> list[Effect]:
        """Each group alone, the largest loss first; of equals the one with fewer layers."""
        effects = []
        for group, layers in self._groups.items():
            others = [
                name for other in self._groups if other != group for name in self._groups[other]
            ]
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
