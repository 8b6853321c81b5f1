"""The commands of each step, and what their results depend on."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from seq2edge.deploy.pack.pack import find_wheels
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.bundle.version import package_version
from seq2edge.runtime.errors import InputError

from ..quality import data_of
from .output import Output
from .plan import FLOAT32, Plan
from .workspace import CommandStep, Workspace, digest, fingerprint


class Steps:
    """Makes the steps for the options that were given; nothing is run here.

    Args:
        look_up: whether a hub id may be resolved, for which its files are brought here.

    Raises:
        CheckpointError: there is no such checkpoint.
        InputError: a file of texts or data, or a combination of options, that cannot be.
        MissingDependencyError: ``--validate`` without torch or transformers.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        plan: Plan,
        output: Output,
        work: Workspace,
        *,
        look_up: bool,
    ) -> None:
        self._options, self._plan, self._output, self._work = options, plan, output, work
        measured = options.data is not None
        if measured != (options.metric is not None):
            raise InputError("--data and --metric belong together")
        if not measured and (options.max_drop is not None or options.limit is not None):
            raise InputError("--max-drop and --limit need --data and --metric to measure with")
        if measured:
            from seq2edge.benchmarks.quality.metrics import load_metric

            load_metric(options.metric)
        if options.wheels is not None:
            find_wheels(options.wheels)
        self._contents = {
            name: _content(path, f"--{name}")
            for name, path in (("texts", options.texts), ("data", options.data))
            if path is not None
        }
        if options.data is not None:
            self._contents["data"] = digest(self._contents["data"], _recordings(options))
        self._source = self._checkpoint(look_up)

    def check_data(self, bundle: Bundle) -> None:
        """Read what is measured on, before anything is quantized.

        Raises:
            InputError: a line, or a recording, that cannot be.
            MissingDependencyError: a format of audio that needs PyAV.
        """
        if self._options.data is not None:
            data_of(self._options, bundle)

    def export(self) -> CommandStep:
        """To a float32 bundle."""
        options = self._options
        key = digest(package_version(), "export", self._source)
        bundle = self._work.bundle(FLOAT32, key)
        words = ["export", options.checkpoint, bundle]
        words += _option("--revision", options.revision) + _option("--base", options.base)
        if options.validate is not None:
            words.append("--validate" if options.validate else "--no-validate")
        return _step(words, key, bundle)

    def quantize(self, source: CommandStep, scheme: str) -> CommandStep:
        """Of the float32 bundle, within ``--max-drop`` if that is given."""
        options, target = self._options, self._plan.quantize_target
        budget = [options.max_drop, options.metric, options.limit, self._contents.get("data")]
        about: list[Any] = [scheme, target, self._contents.get("texts"), options.encoding_errors]
        if options.max_drop is not None:
            about += budget
        key = digest("quantize", source.key, about)
        bundle = self._work.bundle(scheme, key)
        words = ["quantize", _written(source), bundle, "--scheme", scheme, "--target", target]
        words += _option("--calibration", options.texts)
        if options.max_drop is not None:
            words += ["--max-drop", f"{options.max_drop:g}", *self._data()]
        return _step([*words, *self._encoding()], key, bundle)

    def compare(self, reference: CommandStep, variant: CommandStep) -> CommandStep | None:
        """The metric on ``--data``; None: there is none."""
        if self._options.data is None:
            return None
        about = [self._options.metric, self._options.limit, self._contents["data"]]
        key = digest("compare", reference.key, variant.key, about, self._options.encoding_errors)
        words = ["compare", _written(reference), _written(variant), *self._data()]
        return _step([*words, *self._encoding()], key)

    def downgrade(self, source: CommandStep) -> CommandStep:
        """For the old runtime of the target."""
        key = digest("downgrade", source.key)
        bundle = self._work.bundle(f"{_written(source).name.partition('-')[0]}.downgraded", key)
        return _step(["downgrade", _written(source), bundle], key, bundle)

    def pack(self, bundle: CommandStep) -> CommandStep:
        """The archive."""
        options, output = self._options, self._output
        about = [options.target, options.jetpack, self._plan.backend, str(output.path.absolute())]
        wheels = None if options.wheels is None else fingerprint(options.wheels)
        words: list[Any] = ["pack", _written(bundle), "--for", options.target]
        words += [*_option("--jetpack", options.jetpack), "--backend", self._plan.backend]
        words += _option("--wheels", options.wheels)
        words += ["--service"] if options.service else []
        words += ["--output", output.archive(self._work.folder)]
        return _step(words, digest("pack", bundle.key, about, wheels, options.service))

    def _data(self) -> list[Any]:
        options = self._options
        words = ["--data", options.data, "--metric", options.metric]
        return words + _option("--limit", options.limit)

    def _encoding(self) -> list[str]:
        errors = self._options.encoding_errors
        return [] if errors == "strict" else ["--encoding-errors", errors]

    def _checkpoint(self, look_up: bool) -> Any:
        """A fingerprint of all that the float32 bundle depends on."""
        from seq2edge.export.checkpoint import is_hub_id, resolve_checkpoint
        from seq2edge.export.pipeline import can_validate

        options = self._options
        compared = can_validate(options.validate, ("torch", "transformers", "onnxruntime"))
        named = [options.revision, options.base, compared]
        if not look_up and not Path(options.checkpoint).exists() and is_hub_id(options.checkpoint):
            return [str(options.checkpoint), *named]
        resolved = resolve_checkpoint(options.checkpoint, options.revision, options.base)
        written = (self._work.folder, self._output.path)
        return [_files(resolved.path, written), _files(resolved.base, written), *named]


def _step(words: list[Any], key: str, output: Path | None = None) -> CommandStep:
    return CommandStep(tuple(map(str, words)), key, output)


def _written(step: CommandStep) -> Path:
    if step.output is None:
        raise AssertionError(f"{step.name} writes no bundle")
    return step.output


def _option(name: str, value: Any) -> list[Any]:
    return [] if value is None else [name, value]


def _recordings(options: argparse.Namespace) -> dict[str, Any]:
    """A fingerprint of the files that the data name, if they are recordings."""
    from seq2edge.benchmarks.quality.data import read_examples

    data: Path = options.data
    examples = read_examples(data, options.limit, encoding_errors=options.encoding_errors)
    files = {example.source: data.parent / example.source for example in examples}
    # Not Path.is_file, which refuses a text that is too long for a name.
    return {name: fingerprint(file) for name, file in files.items() if os.path.isfile(file)}  # noqa: PTH113


def _content(path: Path, option: str) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {option} {path}: {error.strerror}") from None


def _files(path: Path, written: Collection[Path]) -> Any:
    """Of a checkpoint's folder, without what this command writes into it."""
    folder = path if path.is_dir() else path.parent
    skipped = [other.resolve() for other in written]
    return {
        name: stamp
        for name, stamp in fingerprint(folder).items()
        if not any((folder / name).absolute().is_relative_to(other) for other in skipped)
    }
