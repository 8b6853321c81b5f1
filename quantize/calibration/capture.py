"""Run a bundle over texts and look at every value of its graphs.

The runtime generates from the texts, with its cache, as the device will. Each pair of source
and output then goes through the graphs once more, all positions in one run: the causal mask
makes them the values that the steps had, and one run shows them all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.runtime.bundle.manifest import GraphInfo
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.generation.divergence import TokenPair
from seq2edge.runtime.generation.source import collate
from seq2edge.runtime.model import Seq2SeqModel
from seq2edge.runtime.progress import StageProgress
from seq2edge.runtime.text.sources import TextSource

from .texts import Text

#: A value: the graph ("encoder", "decoder") and its name there.
Key = tuple[str, str]
#: Called with a value's contents in one run of its graph.
Observer = Callable[[Key, NDArray[np.float32]], None]

_BATCH = 16


def capture_activations(
    bundle: Bundle, texts: Sequence[Text], observe: Observer, progress: StageProgress | None = None
) -> list[TokenPair]:
    """Show ``observe`` every float32 value that the graphs compute over ``texts``.

    Returns:
        Each text's token ids and those that were generated from it.

    Raises:
        InputError: the bundle has no tokenizer, or a text is too long or has no tokens.
    """
    pairs = generate_pairs(bundle, texts, progress)
    start = bundle.manifest.special_tokens.decoder_start
    with tempfile.TemporaryDirectory(prefix="seq2edge-") as folder:
        encoder = TappedGraph(bundle, "encoder", Path(folder))
        decoder = TappedGraph(bundle, "decoder", Path(folder))
        for number, pair in enumerate(pairs):
            if progress is not None:
                progress("calibrating", number, len(pairs))
            mask = np.ones((1, 1, 1, len(pair.source)), np.bool_)
            ids = np.array([pair.source], np.int64)
            encoded = encoder.run({"input_ids": ids, "encoder_attention_mask": mask}, observe)
            # The last token is never read: it ends the sequence, or the limit did.
            target = [start, *pair.target[:-1]]
            decoder.run(_decoder_inputs(decoder.info, target, mask, encoded), observe)
    return pairs


def generate_pairs(
    bundle: Bundle, texts: Sequence[Text], progress: StageProgress | None = None
) -> list[TokenPair]:
    """Token ids of each text, and the model's greedy answer to it.

    Raises:
        InputError: the bundle has no tokenizer, or a text is too long or has no tokens.
    """
    with Seq2SeqModel.load(bundle.directory) as model:
        written = [text for text in texts if isinstance(text, str)]
        words = iter(model.tokenize(written) if written else [])
        sources = [next(words) if isinstance(text, str) else text for text in texts]
        greedy = replace(
            model.generation_config, num_beams=1, num_return_sequences=1, do_sample=False
        )
        pairs: list[TokenPair] = []
        for first in range(0, len(sources), _BATCH):
            if progress is not None:
                progress("generating", first, len(sources))
            batch = sources[first : first + _BATCH]
            inputs = collate(
                [TextSource.of(source) for source in batch], bundle.manifest.special_tokens.pad
            )
            answers = model.generate_ids(inputs["input_ids"], inputs["attention_mask"], greedy)
            pairs += [
                TokenPair(source, answer.token_ids)
                for source, answer in zip(batch, answers, strict=True)
            ]
    return pairs


class TappedGraph:
    """A graph of the bundle that also puts out what its nodes compute.

    Args:
        bundle: a float32 bundle.
        name: of the graph.
        folder: for a file that is read at once.
        only: names of the values; None: all floats.
    """

    def __init__(
        self, bundle: Bundle, name: str, folder: Path, *, only: Collection[str] | None = None
    ) -> None:
        import onnxruntime

        self.info = bundle.manifest.graphs[name]
        self._name = name
        model = ir.load(bundle.path(self.info.file))
        taps = [
            value
            for node in model.graph
            for value in node.outputs
            if _is_float(value) and (only is None or value.name in only)
        ]
        self._taps = [str(value.name) for value in taps]
        own = {value.name for value in model.graph.outputs}
        model.graph.outputs.extend(value for value in taps if value.name not in own)
        path = folder / self.info.file
        ir.save(model, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", os.fspath(bundle.directory)
        )
        self._session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Mapping[str, NDArray[Any]], observe: Observer) -> dict[str, NDArray[Any]]:
        """Show all values to ``observe``; the graph's own outputs."""
        input_names = self.info.input_names()
        names = [*self._taps, *(spec.name for spec in self.info.outputs)]
        names = list(dict.fromkeys(names))
        feeds = {name: array for name, array in inputs.items() if name in input_names}
        values = dict(zip(names, self._session.run(names, feeds), strict=True))
        for name in self._taps:
            observe((self._name, name), values[name])
        return values


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT


def _decoder_inputs(
    info: GraphInfo, target: Sequence[int], mask: NDArray[np.bool_], encoded: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """All positions of ``target`` as one tree step over an empty cache of as many slots."""
    count = len(target)
    positions = np.arange(count, dtype=np.int64)[None]
    inputs: dict[str, NDArray[Any]] = {
        "input_ids": np.array([target], np.int64),
        "position_ids": positions,
        "cache_position_ids": positions,
        "attention_mask": np.tril(np.ones((1, 1, count, count), np.bool_)),
        "write_indices": np.zeros(1, np.int64),
        "encoder_attention_mask": mask,
    }
    for spec in info.inputs:
        if spec.name.startswith("past_"):
            heads, head_dim = int(spec.shape[1]), int(spec.shape[3])
            inputs[spec.name] = np.zeros((1, heads, count, head_dim), np.float32)
        elif spec.name in encoded:
            inputs[spec.name] = encoded[spec.name]
    return inputs
