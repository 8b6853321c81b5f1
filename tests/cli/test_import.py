"""``seq2edge import``: what optimum wrote becomes a bundle that runs, and says what it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from seq2edge.benchmarks.peers.environments import TIMED_IN, default_cache
from seq2edge.runtime import Seq2SeqModel

from ..optimum_folders import LAYOUTS, write_optimum_folder
from .conftest import Done

#: The interpreter of an environment with optimum-onnx 0.1.0; the peers' comparison makes one
#: (seq2edge peers --peers optimum:float32).
_OPTIMUM = os.environ.get("SEQ2EDGE_OPTIMUM_PYTHON") or str(
    default_cache() / TIMED_IN["optimum"] / "bin" / "python"
)
_TEXTS = ("one text", "another one")


@pytest.fixture(scope="module")
def folders(byte_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A T5 with ByT5's tokenizer, in each layout. Read only."""
    root = tmp_path_factory.mktemp("optimum")
    for layout in LAYOUTS:
        write_optimum_folder(byte_checkpoint, root / layout, layout)
        shutil.copy(byte_checkpoint / "tokenizer_config.json", root / layout)
    return {layout: root / layout for layout in LAYOUTS}


def test_a_weight_without_a_type_is_refused(
    folders: dict[str, Path], call: Callable[..., Done], tmp_path: Path
) -> None:
    """Found by mutated folders: TypeError."""
    folder = Path(shutil.copytree(folders["split"], tmp_path / "folder"))
    model = onnx.load(folder / "encoder_model.onnx")
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.data_type = onnx.TensorProto.UNDEFINED
    onnx.save(model, folder / "encoder_model.onnx")
    done = call("import", folder, tmp_path / "bundle")
    assert done.code == 2
    assert "encoder_model.onnx is damaged" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bundle_and_folder_generate_what_the_checkpoint_does(
    layout: str,
    folders: dict[str, Path],
    byte_bundle: Path,
    call: Callable[..., Done],
    tmp_path: Path,
) -> None:
    done = call("import", folders[layout], tmp_path / "bundle", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["cache"] == "concat"
    assert report["family"] == "t5"
    outputs = [
        call("run", path, *_TEXTS, "--num-beams", "3", "--max-new-tokens", "12").out
        for path in (byte_bundle, folders[layout], tmp_path / "bundle")
    ]
    assert outputs[0].count("\n") == 2
    assert outputs[1] == outputs[2] == outputs[0]


def test_inspect_says_what_the_graphs_are(
    folders: dict[str, Path], byte_bundle: Path, call: Callable[..., Done], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    assert call("import", folders["split"], bundle).code == 0
    ours, slots = (
        json.loads(call("inspect", path, "--verify", "--json").out)
        for path in (bundle, byte_bundle)
    )
    assert (ours["cache"], ours["format_version"], ours["tokenizer"]) == ("concat", 4, "byte")
    assert (slots["cache"], slots["format_version"]) == ("slots", 4)
    same = (
        "decoder_layers",
        "encoder_layers",
        "d_model",
        "vocab_size",
        "cache_bytes_per_slot",
        "generation",
    )
    assert {key: ours[key] for key in same} == {key: slots[key] for key in same}
    # A step reads all of the decoder but its embedding, and the cross-attention's keys and values.
    assert 0.8 < ours["bytes_read_per_token"] / slots["bytes_read_per_token"] < 1.2
    assert set(ours["graphs"]) == {"encoder", "decoder", "prompt"}
    assert ours["graphs"]["decoder"]["operators"]["MatMul"] > 10
    told = call("inspect", bundle).out
    assert "of which each step makes one" in told
    told = call("inspect", folders["split"]).out
    assert "'seq2edge import' makes a bundle" in told
    assert "parameters" not in told


def test_merged_decoder_reads_as_much_a_step_as_its_own_graph(
    folders: dict[str, Path], call: Callable[..., Done], tmp_path: Path
) -> None:
    read = []
    for layout in LAYOUTS:
        assert call("import", folders[layout], tmp_path / layout).code == 0
        report = json.loads(call("inspect", tmp_path / layout, "--json").out)
        read.append(report["bytes_read_per_token"])
    assert read[0] == read[1] > 0


def test_external_data_is_copied_and_hashed(
    folders: dict[str, Path], call: Callable[..., Done], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(folders["split"], folder)
    for name in ("encoder_model.onnx", "decoder_with_past_model.onnx"):
        model = onnx.load(folder / name)
        onnx.save(
            model,
            folder / name,
            save_as_external_data=True,
            location=f"{name}_data",
            size_threshold=0,
        )
    runs = [call("run", path, *_TEXTS, "--max-new-tokens", "9").out for path in (folder,)]
    done = call("import", folder, tmp_path / "bundle")
    assert done.code == 0, done.err
    shutil.rmtree(folder)
    assert (tmp_path / "bundle" / "encoder_model.onnx_data").stat().st_size > 10_000
    assert call("inspect", tmp_path / "bundle", "--verify").code == 0
    runs.append(call("run", tmp_path / "bundle", *_TEXTS, "--max-new-tokens", "9").out)
    assert runs[0] == runs[1] != ""
    (tmp_path / "bundle" / "encoder_model.onnx_data").write_bytes(b"")
    assert "encoder_model.onnx_data has 0 bytes" in call("inspect", tmp_path / "bundle").err


def test_a_tokenizer_is_converted(
    folders: dict[str, Path], call: Callable[..., Done], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(folders["merged"], folder)
    (folder / "tokenizer_config.json").unlink()
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *(chr(code) for code in range(0x21, 0x7F)), "Ġ"]
    (folder / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    refused = call("run", folder, "a text")
    assert refused.code == 2
    assert "run 'seq2edge import'" in refused.err
    assert call("import", folder, tmp_path / "bundle").code == 0
    assert call("run", tmp_path / "bundle", "a text").code == 0
    with Seq2SeqModel.load(tmp_path / "bundle") as model:
        assert model.tokenize(["ab!"]) == [[0, *(pieces.index(letter) for letter in "ab!"), 2]]


@pytest.mark.parametrize("command", ["downgrade", "build"])
def test_commands_for_our_own_graphs_refuse_it_by_name(
    command: str,
    folders: dict[str, Path],
    call: Callable[..., Done],
    refused: Callable[..., str],
    tmp_path: Path,
) -> None:
    bundle = tmp_path / "bundle"
    assert call("import", folders["merged"], bundle).code == 0
    more = {"downgrade": (tmp_path / "out",)}
    for path in (bundle, folders["merged"]):
        message = refused(command, path, *more.get(command, ()))
        assert message.startswith(f"{path} has graphs of another maker")
        assert f"{command} takes the graphs of 'seq2edge export'" in message


def test_what_cannot_be_imported_is_refused(
    folders: dict[str, Path],
    byte_checkpoint: Path,
    byte_bundle: Path,
    refused: Callable[..., str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    assert "no folder of 'optimum-cli export onnx'" in refused("import", byte_checkpoint, out)
    assert "is a bundle already" in refused("import", byte_bundle, out)
    assert "already exists" in refused("import", folders["split"], byte_bundle)
    assert "has no hashes" in refused("inspect", folders["split"], "--verify")
    folder = tmp_path / "folder"
    shutil.copytree(folders["merged"], folder)
    (folder / "decoder_model_merged.onnx").write_bytes(b"no graph")
    assert "decoder_model_merged.onnx is damaged" in refused("import", folder, out)
    shutil.copy(folders["split"] / "decoder_model.onnx", folder / "decoder_model_merged.onnx")
    assert "the graphs do not run" in refused("import", folder, out)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 390}))
    assert "logits over 384 tokens, and the vocabulary has 390" in refused("import", folder, out)


_GENERATE = """
import sys, json, torch
from optimum.onnxruntime import ORTModelForSeq2SeqLM
folder, layout, ids = sys.argv[1], sys.argv[2], torch.tensor(json.loads(sys.argv[3]))
model = ORTModelForSeq2SeqLM.from_pretrained(folder, use_merged=layout == "merged")
print(json.dumps([model.generate(ids, num_beams=beams, max_new_tokens=12, do_sample=False)[:, 1:]
                  .tolist() for beams in (1, 3)]))
"""


@pytest.mark.skipif(
    not Path(_OPTIMUM).exists(),
    reason="no environment with optimum-onnx: run seq2edge peers --peers optimum:float32 once, or"
    " name its interpreter in SEQ2EDGE_OPTIMUM_PYTHON",
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_real_folders_give_the_tokens_of_optimum(layout: str, tmp_path: Path) -> None:
    # Made by the environment's own transformers: newer ones write other configs.
    make = (
        "import sys, torch\nfrom transformers import BartConfig, BartForConditionalGeneration\n"
        "torch.manual_seed(1)\n"
        "config = BartConfig(vocab_size=120, d_model=32, encoder_layers=1, decoder_layers=2,"
        " encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=40,"
        " decoder_ffn_dim=40, max_position_embeddings=40, init_std=0.5)\n"
        "BartForConditionalGeneration(config).save_pretrained(sys.argv[1])\n"
    )
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "folder"
    _run(_OPTIMUM, "-c", make, checkpoint)
    more = () if layout == "merged" else ("--no-post-process",)
    command = ("-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", checkpoint)
    _run(_OPTIMUM, *command, "--task", "text2text-generation-with-past", *more, folder)
    ids = np.random.default_rng(2).integers(3, 120, (4, 9))
    printed = _run(_OPTIMUM, "-c", _GENERATE, folder, layout, json.dumps(ids.tolist()))
    expected = json.loads(printed.splitlines()[-1])
    with Seq2SeqModel.load(folder) as model:
        assert sorted(model.manifest.graphs) == sorted(
            ["encoder", "decoder", *(["prompt"] if layout == "split" else [])]
        )
        for beams, rows in zip((1, 3), expected, strict=True):
            options = replace(model.generation_config, num_beams=beams, max_new_tokens=12)
            found = [row.token_ids for row in model.generate_ids(ids, None, options)]
            end = model.manifest.special_tokens.eos[0]
            assert found == [row[: row.index(end) + 1] if end in row else row for row in rows]


def _run(*command: object) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_quantized(
    layout: str, folders: dict[str, Path], call: Callable[..., Done], tmp_path: Path
) -> None:
    assert call("import", folders[layout], tmp_path / "bundle").code == 0
    done = call("quantize", tmp_path / "bundle", tmp_path / "int8", "--scheme", "int8", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["check"]["agreement"] > 0.9
    assert report["check"]["mean_kl"] < 0.02
    before = sum(path.stat().st_size for path in (tmp_path / "bundle").glob("*.onnx*"))
    after = sum(path.stat().st_size for path in (tmp_path / "int8").glob("*.onnx*"))
    assert after < before
    operators = json.loads(call("inspect", tmp_path / "int8", "--json").out)["graphs"]
    # Also in the branches of the merged decoder.
    assert all(graph["operators"]["MatMulNBits"] > 1 for graph in operators.values())
    ran = call("run", tmp_path / "int8", *_TEXTS, "--max-new-tokens", "6")
    assert ran.code == 0, ran.err


def test_a_folder_is_imported_before_it_is_quantized(
    folders: dict[str, Path], call: Callable[..., Done], tmp_path: Path
) -> None:
    done = call("quantize", folders["merged"], tmp_path / "int8", "--scheme", "int8")
    assert done.code == 2
    assert "seq2edge import" in done.err
    assert not (tmp_path / "int8").exists()
