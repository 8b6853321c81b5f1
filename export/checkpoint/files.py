"""Which files of a folder are the model's weights, and what the others are."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from ..errors import CheckpointError
from .formats import read_json

#: As transformers writes them, whole or (with INDEX after the name) sharded; the first that is
#: there is read.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
#: Files that an error names.
_MOST_NAMED = 12
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
#: What Trainer, accelerate and DeepSpeed keep to resume a training.
_TRAINING_STATE = re.compile(
    r"(optimizer|scheduler|scaler|sampler|rng_state|random_states|training_args|custom_checkpoint)"
    r"[\w.-]*\.(bin|pt|pth|pkl|safetensors)|trainer_state\.json|[\w.-]*optim_states\.pt"
)
#: What a folder may hold in place of weights, and what to do then. Folders end with a slash.
_OTHERS = (
    (
        r"zero_to_fp32\.py|global_step\d+/|[\w.-]*zero_pp_rank[\w.-]*\.pt",
        "shards of DeepSpeed ZeRO: join them with `python zero_to_fp32.py . OUT` (DeepSpeed writes"
        " the script beside them)",
    ),
    (
        r"[\w.-]+\.distcp|pytorch_model_fsdp[\w.-]*/|\.metadata",
        "shards of FSDP (torch.distributed.checkpoint): join them with `accelerate merge-weights"
        " SHARDS OUT`",
    ),
    (r"[\w.-]+\.gguf|ggml-[\w.-]+", "a GGUF model: export the checkpoint that it was made of"),
    (
        r"(shared|source|target)_vocabulary\.(json|txt)",
        "a model of CTranslate2 without its model.bin, or a damaged one: copy it again",
    ),
    (
        r"tf_model[\w.-]*\.h5|[\w.-]+\.ckpt\.index|saved_model\.pb",
        "TensorFlow's weights (tf_model.h5): load them with transformers 4 and from_tf=True, and"
        " save_pretrained",
    ),
    (
        r"flax_model[\w.-]*\.msgpack",
        "Flax's weights (flax_model.msgpack): load them with transformers 4 and from_flax=True, and"
        " save_pretrained",
    ),
    (
        r"[\w.-]*\.onnx|onnx/",
        "ONNX graphs: `seq2edge import` takes what optimum-cli exported",
    ),
    (r"openvino[\w.-]*\.xml", "a model of OpenVINO: export the checkpoint that it was made of"),
    (
        r"[\w.-]+\.npz",
        "a model of Marian's own (.npz): convert it with transformers' convert_marian_to_pytorch",
    ),
    (r"dict\.[\w-]+\.txt", "a model of fairseq: convert it to transformers' format"),
)


def listing(folder: Path) -> list[str]:
    """Names of what lies in a folder; those of folders end with a slash."""
    return sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())


def inner_models(folder: Path) -> str:
    """A clause on models that lie in a folder's folders, and in theirs; empty if there are none."""
    patterns = [f"{way}/{name}" for way in ("*", "*/*") for name in ("config.json", ADAPTER_CONFIG)]
    inner = {file.parent for pattern in patterns for file in folder.glob(pattern)}
    return f"; there are models in {_few(sorted(map(str, inner)))}: give one" if inner else ""


def weights_name(names: Collection[str], where: object) -> str:
    """The file with the weights, or the index of their shards, among a folder's names.

    Raises:
        CheckpointError: there are none, or several of which none has transformers' name.
    """
    for weights in WEIGHTS:
        for name in (weights, weights + INDEX):
            if name in names:
                return name
    others = [name for name in names if _may_be_weights(name, names)]
    if len(others) == 1:
        return others[0]
    if others:
        raise CheckpointError(
            f"{where} has several files of weights, none of them named as save_pretrained does:"
            f" {_few(sorted(others))}; give the one to export by its path"
        )
    raise CheckpointError(
        f"{where} has no weights: looked for model.safetensors and pytorch_model.bin, whole or"
        f" sharded, and for one .safetensors, .bin, .pt, .pth or .ckpt file{what_else(names)}"
    )


def _may_be_weights(name: str, names: Collection[str]) -> bool:
    if not name.endswith(SUFFIXES) or name in ADAPTER_WEIGHTS or name.startswith("ggml-"):
        return False
    of_ctranslate2 = name == "model.bin" and any("_vocabulary." in other for other in names)
    of_deepspeed = name.endswith("model_states.pt") or "zero_pp_rank" in name
    return not (of_ctranslate2 or of_deepspeed or _TRAINING_STATE.fullmatch(name))


def what_else(names: Collection[str]) -> str:
    """A clause on what a folder without a model holds instead; empty if that is not known."""
    steps = [name for name in names if re.fullmatch(r"checkpoint-\d+/", name)]
    if steps:
        steps.sort(key=lambda name: int(name.strip("/").rpartition("-")[2]))
        return (
            f"; it is a training's folder with {_few([s.strip('/') for s in steps])}: give one of"
            f" them, the latest is {steps[-1].strip('/')}"
        )
    for pattern, what in _OTHERS:
        if any(re.fullmatch(pattern, name) for name in names):
            return f"; it holds {what}"
    state = [name for name in names if _TRAINING_STATE.fullmatch(name)]
    if state:
        return (
            f"; it holds a training's state only ({_few(sorted(state))}): give the folder that the"
            " model itself was saved to"
        )
    return ""


def shard_names(index: Path) -> list[str]:
    """The files that an index of shards names.

    Raises:
        CheckpointError: it names none, or names that are paths.
    """
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(map(_is_file_name, shards.values())):
        raise CheckpointError(f"{index} has no weight_map of tensor names to file names")
    return sorted(set(shards.values()))


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value == PurePosixPath(value).name


def weights_files(folder: Path, name: str) -> list[Path]:
    """The files of tensors that ``name`` (of :func:`weights_name`) stands for.

    Raises:
        CheckpointError: a broken index, or shards that are missing.
    """
    if not name.endswith(INDEX):
        return [folder / name]
    files = [folder / shard for shard in shard_names(folder / name)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks shards: {_some(missing)}")
    return files


def _few(names: list[str], most: int = 4) -> str:
    hidden = len(names) - most
    return ", ".join(names) if hidden <= 0 else f"{', '.join(names[:most])} and {hidden} more"


def _some(names: list[str]) -> str:
    """Names of files, which an index may list any number of."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
