"""Import a folder that ``optimum-cli export onnx`` wrote: its graphs as they are, in a bundle."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import onnx_ir as ir

from seq2edge.runtime.bundle.manifest import MANIFEST_NAME, Dimensions, GraphInfo
from seq2edge.runtime.bundle.optimum import is_optimum_folder, read_optimum_folder
from seq2edge.runtime.bundle.reader import BundleWriter, check_destination
from seq2edge.runtime.bundle.tokenizer_info import TokenizerInfo
from seq2edge.runtime.bundle.version import package_version
from seq2edge.runtime.progress import StageProgress

from .concat_cache import count_parameters, describe_graph, publish
from .errors import CheckpointError
from .pipeline import ExportResult, write_tokenizers
from .tokenizers import find_tokenizer


def import_optimum(
    folder: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: StageProgress | None = None,
) -> ExportResult:
    """Make a bundle of a folder that ``optimum-cli export onnx`` wrote.

    The graphs are copied byte by byte, with their external data; the tokenizer is converted as
    an export does it. The bundle's cache is concatenated (docs/design.md, section 2): it generates
    as any other does, on the CPU; its weights can be quantized, but it cannot be downgraded or
    built.

    Args:
        folder: with ``encoder_model.onnx``, and ``decoder_model_merged.onnx`` or
            ``decoder_model.onnx`` with ``decoder_with_past_model.onnx``.
        bundle: folder to write; it appears complete or not at all.
        overwrite: replace a bundle that is already there.
        progress: called with the stage, what is done of it and what there is to do.

    Raises:
        CheckpointError: it is no such folder, or its graphs cannot be read or do not run.
        BundleError: a decoder without a cache, or a configuration that lacks something.
        OutputExistsError, OutputError: the bundle cannot be written.
    """
    check_destination(Path(bundle), overwrite)
    source = Path(folder)
    if (source / MANIFEST_NAME).is_file():
        raise CheckpointError(f"{source} is a bundle already")
    if not is_optimum_folder(source):
        raise CheckpointError(
            f"{source} is no folder of 'optimum-cli export onnx': it lacks config.json or"
            " encoder_model.onnx ('seq2edge export' takes checkpoints)"
        )
    unread = read_optimum_folder(source)
    tokenizer = find_tokenizer(source)
    if tokenizer is None:
        warnings.warn(
            f"{source} has no tokenizer files: the bundle takes token ids (generate_ids), not text",
            stacklevel=2,
        )
    models = {name: _load(source / info.file) for name, info in unread.graphs.items()}
    data = {name for model in models.values() for name in _external_files(source, model)}
    graphs = {
        name: describe_graph(model, unread.graphs[name].file) for name, model in models.items()
    }
    manifest = replace(
        unread,
        producer=f"seq2edge {package_version()}",
        dimensions=_dimensions(unread.dimensions, graphs),
        tokenizer=TokenizerInfo() if tokenizer is None else tokenizer.info,
        graphs=graphs,
        parameter_count=count_parameters(models.values()),
    )
    with BundleWriter(bundle, overwrite=overwrite) as out:
        names = sorted({*data, *(info.file for info in graphs.values())})
        for number, name in enumerate(names):
            if progress is not None:
                progress("copying", number, len(names))
            shutil.copyfile(source / name, out.directory / name)
        target = write_tokenizers(out, tokenizer)
        manifest = replace(manifest, files=out.files(), target_tokenizer=target)
        publish(out, manifest)
        return ExportResult(out.destination, manifest, None)


def _load(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as error:  # protobuf's are of no common class
        raise CheckpointError(f"{path} is damaged: {error}; copy it again") from None


def _external_files(folder: Path, model: ir.Model) -> set[str]:
    """Names of the files that hold a graph's external data.

    Raises:
        CheckpointError: one that is missing, or lies elsewhere.
    """
    names = {
        str(value.const_value.location)
        for graph in (model.graph, *model.graph.subgraphs())
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    for name in names:
        if name != PurePosixPath(name).name:
            raise CheckpointError(f"{folder}: external data {name!r} lies in another folder")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks {name}; copy the whole folder")
    return names


def _dimensions(config: Dimensions, graphs: Mapping[str, GraphInfo]) -> Dimensions:
    """Dimensions as the graphs have them: a configuration may use other names."""
    keys = [
        spec.shape
        for spec in graphs["decoder"].inputs
        if spec.name.startswith("past_key_values.") and spec.name.endswith(".decoder.key")
    ]
    if not keys or len(keys[0]) != 4:
        return config
    _, heads, _, head_dim = keys[0]
    return replace(
        config,
        decoder_layers=len(keys),
        decoder_heads=heads if isinstance(heads, int) else config.decoder_heads,
        decoder_head_dim=head_dim if isinstance(head_dim, int) else config.decoder_head_dim,
    )
