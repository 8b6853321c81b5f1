"""Bundle in, bundle out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from seq2edge.runtime.progress import StageProgress

from .calibration import Calibration
from .candidates import QuantizeResult, write_quantized
from .errors import QuantizationWarning
from .recipe.options import Options
from .request import CalibrationFiles, Request
from .source import open_source


def quantize_bundle(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    scheme: str,
    *,
    target: str = "cpu",
    options: Options | None = None,
    calibration: CalibrationFiles | Calibration | None = None,
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    progress: StageProgress | None = None,
    check: bool = True,
) -> QuantizeResult:
    """Write a quantized copy of a bundle, and compare what both compute.

    Without a ``block_size`` in ``options``, blocks of 128 are tried first, then 32, then 16,
    until the comparison is within its bound.

    Args:
        bundle: a float32 bundle, as ``export`` writes it.
        out: folder to write; it appears complete or not at all.
        scheme: name of one of :data:`.schemes.SCHEMES`.
        target: what it will run on.
        options: block size, algorithm and so on, where the scheme's own do not suit.
        calibration: text that the model will meet, for schemes that need to know its values:
            static int8 always, gptq, and float16 to find out what overflows. The copy is
            compared with the bundle on this text; without one, on random prompts.
        exclude: patterns (``fnmatch``) of layer names to leave as they are.
        overwrite: replace a bundle that is already there.
        progress: called with the stage, what is done of it and what there is to do.
        check: whether to compare the copy with the bundle, on this machine's CPU: agreement
            and KL divergence of next-token distributions (``result.check``, and ``check`` in
            the manifest's record).

    Warns:
        QuantizationWarning: the copy computes something else, or the head in two stages that was
            asked for may miss tokens; what to try.

    Raises:
        QuantizationError: an unknown scheme or option, a pattern that matches no layer, a
            bundle that is quantized already, weights that are not finite, or a calibration
            that is missing, empty or of another bundle.
        InputError: calibration text that is too long, or no tokenizer for it.
        BundleError: the bundle cannot be read.
        OutputExistsError, OutputError: the copy cannot be written.
    """
    request = Request(
        Path(bundle),
        Path(out),
        scheme,
        target,
        options or Options(),
        calibration,
        tuple(exclude),
        overwrite=overwrite,
        progress=progress,
        check=check,
    )
    return quantize_request(request, stacklevel=3)


def quantize_request(request: Request, *, stacklevel: int = 2) -> QuantizeResult:
    """:func:`quantize_bundle`, with ``request.fallback_layers``, that get a more exact format.

    Args:
        stacklevel: of the warning, as :func:`warnings.warn` has it.
    """
    source = open_source(request)
    result = write_quantized(source, request)
    for message in result.complaints(source.scheme, request):
        warnings.warn(message, QuantizationWarning, stacklevel=stacklevel)
    return result
