"""A user's two functions: traced to graphs with dynamic axes, and run beside these."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seq2edge.runtime.backends import load_backend
from seq2edge.runtime.backends.base import ConcatBackend, concat_backend
from seq2edge.runtime.bundle.reader import Bundle

from .errors import CheckpointError
from .judge import Expected, judge, near_ties
from .parity import Inputs, Parity, make_inputs
from .rounding import measure
from .signatures import DecodeStep, Encode

#: Of the traced graphs: what ONNX Runtime on older devices runs as well.
_OPSET = 18
#: Sizes while tracing: none is 0 or 1, which PyTorch would take for constants.
_BATCH, _SOURCE, _PAST, _QUERIES = 2, 7, 3, 5
#: Of the comparison: a prompt, and steps after it.
_PROMPT, _STEPS = 3, 6


@dataclass(frozen=True)
class Functions:
    """The two functions, with their results checked; ``pasts`` are heads and head sizes."""

    encode: Encode
    decode_step: DecodeStep
    pasts: tuple[tuple[int, int], ...]

    def run_encode(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """``encode``'s outputs as a tuple. Not checked: a check would fix sizes in a trace."""
        outputs = self.encode(input_ids, attention_mask)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)

    def encoded(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """:meth:`run_encode`, checked."""
        cross = self.run_encode(input_ids, attention_mask)
        for tensor in cross or (None,):
            if not isinstance(tensor, Tensor) or tensor.shape[:1] != input_ids.shape[:1]:
                raise CheckpointError(
                    "encode must give a tensor or several, each of as many rows as there are"
                    " sources"
                )
        return cross

    def decoded(
        self,
        input_ids: Tensor,
        pasts: Sequence[Tensor],
        cross: Sequence[Tensor],
        attention_mask: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits and new past tensors."""
        outputs = self.decode_step(input_ids, tuple(pasts), tuple(cross), attention_mask)
        if not isinstance(outputs, (tuple, list)) or len(outputs) != 2:
            raise CheckpointError("decode_step must give logits and new pasts, two values")
        logits, new = outputs[0], tuple(outputs[1])
        length = pasts[0].shape[2] + input_ids.shape[1]
        if tuple(logits.shape[:2]) != tuple(input_ids.shape) or logits.dim() != 3:
            raise CheckpointError(
                f"decode_step gave logits {list(logits.shape)}, not [batch, queries, vocabulary]"
            )
        if len(new) != len(pasts):
            raise CheckpointError(f"decode_step took {len(pasts)} pasts and gave {len(new)}")
        for number, (old, grown) in enumerate(zip(pasts, new, strict=True)):
            expected = (*old.shape[:2], length, old.shape[3])
            if tuple(grown.shape) != expected:
                raise CheckpointError(
                    f"decode_step gave past {number} as {list(grown.shape)}, not {list(expected)}:"
                    " the old one with the new tokens appended to its third axis"
                )
        return logits, new

    def empty(self, rows: int, length: int = 0) -> tuple[Tensor, ...]:
        """Random past tensors [rows, H, length, Dh]."""
        return tuple(torch.randn(rows, heads, length, size) for heads, size in self.pasts)

    def modules(self) -> list[nn.Module]:
        """The modules that the functions use, as far as they can be found."""
        modules = [m for f in (self.encode, self.decode_step) for m in _modules_of(f)]
        return list(dict.fromkeys(modules))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """All of them in evaluation mode."""
        modes = [(m, m.training) for root in self.modules() for m in root.modules()]
        for module, _ in modes:
            module.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def _modules_of(function: Any) -> Iterator[nn.Module]:
    """A module itself, that of a method, and those that a function's variables hold."""
    if isinstance(function, nn.Module):
        yield function
        return
    owner = getattr(function, "__self__", None)
    if isinstance(owner, nn.Module):
        yield owner
    code = getattr(function, "__code__", None)
    if code is None:
        return
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    names = [function.__globals__[n] for n in code.co_names if n in function.__globals__]
    yield from (value for value in (*cells, *names) if isinstance(value, nn.Module))


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable that is assigned later
        return False


class _Encoder(nn.Module):
    """The functions' modules are its own, so that their weights become initializers."""

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.functions = functions
        self.owned = nn.ModuleList(functions.modules())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return self.functions.run_encode(input_ids, attention_mask)


class _Decoder(_Encoder):
    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        encoder_attention_mask: Tensor,
        pasts: tuple[Tensor, ...],
        cross: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        decode_step = self.functions.decode_step
        logits, new = decode_step(input_ids, pasts, cross, encoder_attention_mask)
        return (logits, *new)


def trace(functions: Functions, vocab_size: int, source_vocab_size: int) -> dict[str, ir.Model]:
    """Graphs of both functions, with the names that the dynamic-cache backend reads.

    Raises:
        CheckpointError: a function fails, or cannot be traced for all sizes.
    """
    ids = torch.randint(source_vocab_size, (_BATCH, _SOURCE))
    longer = torch.randint(source_vocab_size, (_BATCH, _SOURCE + 2))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    targets = torch.randint(vocab_size, (_BATCH, _QUERIES))
    pasts = functions.empty(_BATCH, _PAST)
    with torch.no_grad():
        cross = _called("encode", functions.encoded, ids, mask)
        other = _called("encode", functions.encoded, longer, torch.ones_like(longer))
        logits, _ = _called("decode_step", functions.decoded, targets, pasts, cross, mask)
    if logits.shape[2] != vocab_size:
        raise CheckpointError(
            f"decode_step gave logits over {logits.shape[2]} tokens, and sizes.vocab_size is"
            f" {vocab_size}"
        )
    names = [f"cross.{number}" for number in range(len(cross))]
    dynamic = torch.export.Dim.DYNAMIC
    source = {0: dynamic, 1: dynamic}
    # The batch, and the axes that are longer for a longer source.
    fixed = tuple(
        {axis: dynamic for axis, size in enumerate(t.shape) if axis == 0 or size != o.shape[axis]}
        for t, o in zip(cross, other, strict=True)
    )
    return {
        "encoder": _export(
            "encode",
            _Encoder(functions),
            (ids, mask),
            ["input_ids", "attention_mask"],
            names,
            (source, source),
        ),
        "decoder": _export(
            "decode_step",
            _Decoder(functions),
            (targets, mask, pasts, cross),
            [
                "input_ids",
                "encoder_attention_mask",
                *(f"past_key_values.{n}" for n in range(len(pasts))),
                *names,
            ],
            ["logits", *(f"present.{n}" for n in range(len(pasts)))],
            (source, source, tuple({0: dynamic, 2: dynamic} for _ in pasts), fixed),
        ),
    }


def _called(name: str, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except CheckpointError:
        raise
    except Exception as error:  # it is the user's code
        raise CheckpointError(f"{name} failed: {_first_line(error)}") from error


def _export(
    what: str,
    module: nn.Module,
    arguments: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
    axes: tuple[Any, ...],
) -> ir.Model:
    with warnings.catch_warnings(), _without_torchvision():
        warnings.simplefilter("ignore")  # PyTorch's own, about its internals
        try:
            program = torch.onnx.export(
                module.eval(),
                arguments,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=axes,
                opset_version=_OPSET,
                verbose=False,
            )
        except Exception as error:  # of many classes
            raise CheckpointError(
                f"PyTorch cannot trace {what} for any batch and length: {_first_line(error)}"
            ) from error
    if program is None:
        raise AssertionError("with dynamo there is a program")
    return program.model


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Without the exporter's warnings that operators of torchvision are not there: none is used.

    It writes four for each graph (torch 2.13) to a log of its own, past Python's warnings.
    """
    log = logging.getLogger("torch.onnx._internal.exporter._registration")

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("torchvision is not installed")

    log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)


def _first_line(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause).strip().partition("\n")[0] or type(cause).__name__


def compare(functions: Functions, bundle: Bundle) -> Parity:
    """Run the bundle's graphs beside the functions, on random sources of mixed lengths.

    Batches of all of them and of one; a prompt and, after it, a step at a time. Both sides are
    fed the same tokens, and each row's most probable next ones are compared in every step.
    """
    manifest = bundle.manifest
    inputs = make_inputs(manifest, manifest.dimensions.source_tokens)
    backend = concat_backend(load_backend(bundle, num_threads=None))
    if backend is None:
        raise AssertionError("what is traced concatenates its cache")
    cross: list[tuple[NDArray[np.float32], Expected]] = []
    logits: list[tuple[NDArray[np.float32], Expected]] = []
    exact = ties = rows = 0
    for count, prompt in ((len(inputs.input_ids), _PROMPT), (1, 1)):
        part = Inputs(inputs.input_ids[:count], inputs.mask[:count], inputs.decoder_ids[:count])
        targets = part.decoder_ids[:, : prompt + _STEPS]
        parts = [targets[:, :prompt], *np.split(targets[:, prompt:], targets.shape[1] - prompt, 1)]
        run = partial(_run, functions, part, parts)
        expected = [_by_position(e) for e in measure(run, repeat=True)]
        outputs = _run_graphs(backend, part, parts, len(expected) - len(parts))
        pairs = [(f.reshape(e.exact.shape), e) for f, e in zip(outputs, expected, strict=True)]
        cross, logits = cross + pairs[: -len(parts)], logits + pairs[-len(parts) :]
        apart, near = _choices(pairs[-len(parts) :])
        rows, exact = rows + count, exact + int((~apart).all(0).sum())
        ties += int((apart.any(0) & (near | ~apart).all(0)).sum())
    backend.close()
    return Parity(judge(cross), judge(logits), rows, exact, ties)


def _run(functions: Functions, inputs: Inputs, parts: list[NDArray[np.int64]]) -> list[Tensor]:
    """The functions' outputs: of the encoder, and each step's logits [R, V]."""
    ids, counts = torch.from_numpy(inputs.input_ids), torch.from_numpy(inputs.mask).long()
    with torch.no_grad():
        cross = functions.encoded(ids, counts)
        pasts, logits = functions.empty(len(ids)), []
        for tokens in parts:
            step, pasts = functions.decoded(torch.from_numpy(tokens), pasts, cross, counts)
            logits.append(step[:, -1])
    return [*cross, *logits]


def _run_graphs(
    backend: ConcatBackend, inputs: Inputs, parts: list[NDArray[np.int64]], cross: int
) -> list[NDArray[np.float32]]:
    """The same of the graphs, which have so many ``cross`` tensors."""
    source = backend.encode({"input_ids": inputs.input_ids, "attention_mask": inputs.mask})
    decoder = backend.new_cache(source)
    states = [source.numpy(f"cross.{number}") for number in range(cross)]
    return [*states, *(decoder.forward(tokens) for tokens in parts)]


def _by_position(measured: Expected) -> Expected:
    """All axes but the last are positions."""
    exact = measured.exact.reshape(-1, measured.exact.shape[-1])
    return Expected(exact, measured.rounding.reshape(-1))


def _choices(
    steps: list[tuple[NDArray[np.float32], Expected]],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Each step's rows [T, R]: whether the graphs like another token best, and may."""
    apart = [logits.argmax(-1) != expected.exact.argmax(-1) for logits, expected in steps]
    near = [near_ties(logits, expected) for logits, expected in steps]
    return np.stack(apart), np.stack(near)
