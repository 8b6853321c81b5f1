"""Write a bundle as a model of NVIDIA's Triton Inference Server (Python backend).

The layout and the fields of ``config.pbtxt`` are Triton's: server/docs/user_guide/
model_repository.md and model_configuration.md, and the README of python_backend.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from seq2edge.runtime.backends.onnxruntime import BACKENDS
from seq2edge.runtime.bundle.atomic_write import OutputFolder, check_folder
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import BackendError, InputError
from seq2edge.runtime.progress import CountProgress

from ..pack.archive import NAME
from ..token_limit import MAX_NEW_TOKENS

#: Triton takes a folder of this name for a version, and serves the highest.
_VERSION = "1"
_BUNDLE = "bundle"
#: The file that tells a model of ours from any other.
_MARKER = f"{_VERSION}/{_BUNDLE}/{MANIFEST_NAME}"
_KIND = "a Triton model of seq2edge"

#: Engines and their devices, the usual one first.
_DEVICES = {**BACKENDS, "tensorrt": ("cuda",), "tensorrt-rtx": ("cuda",)}

#: What a request may hold and a response holds: name, type, whether it may be left out. The
#: names are those that Triton's generate extension and its clients for language models use.
INPUTS = (
    ("text_input", "TYPE_STRING", False),
    ("stream", "TYPE_BOOL", True),
    ("sampling_parameters", "TYPE_STRING", True),
)
OUTPUTS = (
    ("text_output", "TYPE_STRING"),
    ("finish_reason", "TYPE_STRING"),
    ("score", "TYPE_FP32"),
)
#: The same of a speech bundle: ``audio`` is a file's bytes, ``segments`` JSON.
SPEECH_INPUTS = (
    ("audio", "TYPE_STRING", False),
    ("stream", "TYPE_BOOL", True),
    ("sampling_parameters", "TYPE_STRING", True),
)
SPEECH_OUTPUTS = (
    ("text_output", "TYPE_STRING"),
    ("segments", "TYPE_STRING"),
    ("language", "TYPE_STRING"),
)


@dataclass(frozen=True)
class TritonModel:
    """How Triton is to run a bundle.

    Attributes:
        name: in the repository and in requests.
        engine, device: as :meth:`seq2edge.runtime.Seq2SeqModel.load` takes them; a GPU is the
            first that the server sees.
        instances: processes that each load the bundle.
        max_batch_size: requests that wait are taken together, so many at most.
    """

    name: str
    backend: str = "onnxruntime"
    device: str | None = None
    instances: int = 1
    max_batch_size: int = 8

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise InputError(
                f"{self.name!r} is no name for a Triton model: use letters, digits, '.', '_' and"
                " '-'"
            )
        for option in ("instances", "max_batch_size"):
            if getattr(self, option) < 1:
                raise InputError(f"{option} must be at least 1, not {getattr(self, option)}")
        devices = _DEVICES.get(self.backend)
        if devices is None:
            raise InputError(f"unknown engine {self.backend!r}; there are: {', '.join(_DEVICES)}")
        if self.device not in (None, *devices):
            raise InputError(
                f"unknown device {self.device!r}; the engine {self.backend} runs on:"
                f" {', '.join(devices)}"
            )

    @property
    def on_gpu(self) -> bool:
        return self.backend != "onnxruntime" or self.device not in (None, "cpu")


def write_triton_model(
    bundle: Bundle,
    repository: str | os.PathLike[str],
    model: TritonModel,
    *,
    overwrite: bool = False,
    progress: CountProgress | None = None,
) -> Path:
    """Write ``repository/NAME``: ``config.pbtxt``, ``1/model.py`` and ``1/bundle``.

    Nothing of it is read from elsewhere, so it may be copied; the server's Python must have the
    runtime and the engine installed.

    Returns:
        The model's folder.

    Raises:
        InputError: the bundle has no tokenizer: a request is a text.
        BackendError: it was quantized for something else than ``model`` runs it on.
        BundleError: the bundle hears speech, or its files are not what its manifest says.
        OutputExistsError, OutputError: see :class:`.OutputFolder`.
    """
    if bundle.manifest.tokenizer.kind == "none":
        raise InputError(
            f"{bundle.directory} has no tokenizer, and Triton's requests are texts; export it"
            " again with the tokenizer's files beside the weights"
        )
    _check_target(bundle, model)
    destination = Path(repository) / model.name
    check_folder(destination, overwrite, _MARKER, _KIND)
    bundle.verify()
    with OutputFolder(destination, overwrite=overwrite, marker=_MARKER, kind=_KIND) as out:
        version = out.directory / _VERSION
        (version / _BUNDLE).mkdir(parents=True)
        speech = bundle.manifest.speech is not None
        text = config(model, speech=speech)
        (out.directory / "config.pbtxt").write_text(text, encoding="utf-8")
        template = Path(__file__).with_name("speech_model.py" if speech else "model.py")
        shutil.copyfile(template, version / "model.py")
        _copy(bundle, version / _BUNDLE, progress)
        out.publish()
    return destination


def _check_target(bundle: Bundle, model: TritonModel) -> None:
    required = "cpu"
    if model.on_gpu:
        required = "cuda" if model.backend == "onnxruntime" else "tensorrt"
        bundle.require_slots(f"the engine {model.backend} on a GPU")
    target = bundle.manifest.quantization.get("target", required)
    if target != required and not (required == "cpu" and _runs_on_cpu(bundle)):
        raise BackendError(
            f"{bundle.directory} is quantized for {target}, and {model.backend} on"
            f" {model.device or _DEVICES[model.backend][0]} takes bundles for {required}: choose"
            f" another engine or device, or quantize with --target {required}"
        )


def _runs_on_cpu(bundle: Bundle) -> bool:
    """ONNX Runtime has all kernels but those of bfloat16."""
    return all(spec.dtype != "bfloat16" for spec in bundle.manifest.graphs["decoder"].inputs)


def config(model: TritonModel, *, speech: bool = False) -> str:
    """``config.pbtxt``: the text form of Triton's ModelConfig."""
    taken, given = (SPEECH_INPUTS, SPEECH_OUTPUTS) if speech else (INPUTS, OUTPUTS)
    inputs = ",\n".join(
        f'  {{ name: "{name}" data_type: {kind} dims: [ 1 ]{" optional: true" if free else ""} }}'
        for name, kind, free in taken
    )
    outputs = ",\n".join(
        f'  {{ name: "{name}" data_type: {kind} dims: [ 1 ] }}' for name, kind in given
    )
    settings = [("backend", model.backend), ("device", model.device)]
    if not speech:
        settings.append(("max_new_tokens", str(MAX_NEW_TOKENS)))
    parameters = ",\n".join(
        f'  {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
        for key, value in settings
        if value is not None
    )
    # The runtime takes the first GPU; without a list Triton would start instances on all.
    instance_kind = "KIND_GPU gpus: [ 0 ]" if model.on_gpu else "KIND_CPU"
    return f"""\
# Written by seq2edge; docs/triton.md tells what a request may hold.
name: "{model.name}"
backend: "python"
max_batch_size: {model.max_batch_size}
input [
{inputs}
]
output [
{outputs}
]
# A request may have several responses: one for each piece of text.
model_transaction_policy {{ decoupled: true }}
# Requests that wait are handed over together; none waits for others.
dynamic_batching {{ }}
instance_group [
  {{ count: {model.instances} kind: {instance_kind} }}
]
parameters [
{parameters}
]
"""


def _copy(bundle: Bundle, folder: Path, progress: CountProgress | None) -> None:
    """What was verified: a file that has changed since is an error."""
    (folder / MANIFEST_NAME).write_bytes(bundle.manifest_bytes())
    done, total = 0, bundle.size
    for name, info in bundle.manifest.files.items():
        bundle.copy_file(name, folder / name)
        done += info.size
        if progress is not None:
            progress(min(done, total), total)
