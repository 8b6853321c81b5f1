"""``seq2edge export`` of ids on a hub: the client's real requests to a server on loopback."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from transformers import T5ForConditionalGeneration

from ..ctranslate2_folders import convert
from ..hub_server import COMMIT, OLDER, Hub, Repository
from .conftest import ERROR, Cli, Done

Export = Callable[..., Done]


@pytest.fixture(scope="module")
def model(checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded T5 with ByT5's tokenizer, and files beside it that export does not read."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    loaded = T5ForConditionalGeneration.from_pretrained(checkpoint_of("t5"))
    loaded.save_pretrained(folder, max_shard_size="200KB")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    for name in ("README.md", "pytorch_model.bin", "tf_model.h5", "training_args.bin"):
        (folder / name).write_bytes(b"not to be read")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "decoder_model.onnx").write_bytes(b"not to be read")
    return folder


@pytest.fixture(scope="module")
def converted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as CTranslate2 has it."""
    folder = convert(model, tmp_path_factory.mktemp("hub") / "converted")
    shutil.copy(model / "tokenizer_config.json", folder)
    return folder


@pytest.fixture
def hub(model: Path, converted: Path) -> Iterator[Hub]:
    files = Repository.of(model)
    broken = {name: data for name, data in files.files.items() if "-00002-" not in name}
    with Hub(
        org__model=files,
        org__private=Repository(files.files, access="private"),
        org__gated=Repository(files.files, access="gated"),
        org__broken=Repository(broken),
        org__tensorflow=Repository({"config.json": b"{}", "tf_model.h5": b"0"}),
        org__converted=Repository.of(converted),
        org__dataset=Repository({"README.md": b"", "train.csv": b""}),
    ) as running:
        yield running


@pytest.fixture
def export(
    call: Callable[..., Done], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Export:
    """Runs ``seq2edge export ID tmp_path/NAME --no-validate``; keywords are what the environment
    says, which the client reads when it is imported."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 5_000)

    def run(*arguments: object, name: str = "bundle", **variables: str) -> Done:
        endpoint = variables.get("HF_ENDPOINT", hub.url)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", "HF_HUB_OFFLINE" in variables)
        monkeypatch.setenv("HF_TOKEN", variables.get("HF_TOKEN", ""))
        return call("export", *arguments, tmp_path / name, "--no-validate", "--json")

    return run


def manifest(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "seq2edge.json").read_bytes())
    return found


def succeeded(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def refusal(done: Done) -> str:
    assert done.code == 2, done.err
    assert done.err.startswith(ERROR), done.err
    assert done.err.count("\n") == 1, done.err
    return done.err


def test_a_sharded_checkpoint_is_downloaded_once_and_then_read_offline(
    hub: Hub, export: Export, model: Path, tmp_path: Path
) -> None:
    report = succeeded(export("org/model"))
    assert report["source"] == {"checkpoint": "org/model", "commit": COMMIT}
    shards = sorted(path.name for path in model.glob("model-*.safetensors"))
    assert len(shards) > 2
    needed = {"config.json", "generation_config.json", "tokenizer_config.json", *shards}
    assert set(hub.downloaded()) == {*needed, "model.safetensors.index.json"}
    found = manifest(tmp_path / "bundle")
    assert found["source"] == {"checkpoint": "org/model", "commit": COMMIT}

    hub.requests.clear()
    succeeded(export("org/model", name="again"))
    assert hub.downloaded() == []
    hub.requests.clear()
    succeeded(export("org/model", name="offline", HF_HUB_OFFLINE="1"))
    assert hub.requests == []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        unreachable = export("org/model", name="unreachable", HF_ENDPOINT="http://127.0.0.1:1")
    succeeded(unreachable)
    assert "org/model is taken from the cache" in unreachable.err
    for name in ("again", "offline", "unreachable"):
        assert manifest(tmp_path / name) == found


def test_the_bundle_is_that_of_the_folder(export: Export, model: Path, tmp_path: Path) -> None:
    succeeded(export("org/model"))
    succeeded(export(model, name="folder"))
    assert manifest(tmp_path / "bundle")["files"] == manifest(tmp_path / "folder")["files"]
    assert "source" not in manifest(tmp_path / "folder")


def test_a_folder_of_ctranslate2_is_downloaded_with_its_vocabulary(
    hub: Hub, export: Export, converted: Path, tmp_path: Path
) -> None:
    succeeded(export("org/converted"))
    needed = {"config.json", "tokenizer_config.json", "model.bin", "shared_vocabulary.json"}
    assert set(hub.downloaded()) == needed
    succeeded(export(converted, name="folder"))
    succeeded(export("org/converted", name="offline", HF_HUB_OFFLINE="1"))
    files = [manifest(tmp_path / name)["files"] for name in ("bundle", "folder", "offline")]
    assert files[0] == files[1] == files[2]


def test_a_download_that_is_cut_goes_on_where_it_stopped(
    hub: Hub, export: Export, model: Path, tmp_path: Path
) -> None:
    shard = sorted(path.name for path in model.glob("model-*.safetensors"))[1]
    hub.cuts[shard] = 10_000
    succeeded(export("org/model"))
    ranges = [ask for method, path, ask in hub.requests if method == "GET" and shard in path]
    assert "bytes=10000-" in ranges
    succeeded(export(model, name="folder"))
    assert manifest(tmp_path / "bundle")["files"] == manifest(tmp_path / "folder")["files"]


def test_a_revision_is_the_one_that_is_exported(export: Export) -> None:
    assert succeeded(export("org/model", "--revision", "v1"))["source"]["commit"] == OLDER
    by_commit = export("org/model", "--revision", OLDER, name="commit", HF_HUB_OFFLINE="1")
    assert succeeded(by_commit)["source"]["commit"] == OLDER
    message = refusal(export("org/model", "--revision", "v9", name="none"))
    assert "no revision v9" in message


@pytest.mark.parametrize(
    ("name", "variables", "expected"),
    [
        ("org/private", {}, ["401", "HF_TOKEN", "private or does not exist", "no folder here"]),
        ("org/private", {"HF_TOKEN": "hf_wrong"}, ["404", "neither a folder here nor a model"]),
        ("org/missing", {"HF_TOKEN": "hf_right"}, ["404", "neither a folder here nor a model"]),
        ("org/gated", {}, ["gated", "accept its terms", "/org/gated", "HF_TOKEN"]),
        ("org/broken", {}, ["no model-00002-of-"]),
        ("org/tensorflow", {}, ["tf_model.h5", "no weights"]),
        ("org/dataset", {}, ["no config.json"]),
        ("org/model", {"HF_ENDPOINT": "http://127.0.0.1:1"}, ["does not answer", "cache"]),
        ("org/model", {"HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE is set", "no folder here"]),
        ("a/b/c", {}, ["no such checkpoint folder", "ORGANIZATION/NAME"]),
        ("org/na--me", {}, ["no such checkpoint folder", "ORGANIZATION/NAME"]),
        ("org/model@v1", {}, ["give the id alone: org/model --revision v1"]),
        ("https://huggingface.co/org/model/tree/main", {}, ["give the id alone: org/model"]),
    ],
)
def test_what_the_hub_does_not_give_is_explained_in_one_line(
    name: str, variables: dict[str, str], expected: list[str], export: Export, tmp_path: Path
) -> None:
    message = refusal(export(name, **variables))
    assert name in message
    for part in expected:
        assert part in message
    assert not (tmp_path / "bundle").exists()


def test_a_token_opens_private_and_gated_models(hub: Hub, export: Export) -> None:
    for name in ("org/private", "org/gated"):
        report = succeeded(export(name, name=name.replace("/", "-"), HF_TOKEN=hub.token))
        assert report["source"]["checkpoint"] == name


def test_a_part_in_the_cache_is_told_from_a_checkpoint(export: Export) -> None:
    refusal(export("org/broken"))
    message = refusal(export("org/broken", HF_HUB_OFFLINE="1"))
    assert "only a part of org/broken" in message


def test_a_folder_comes_before_an_id_and_has_no_revisions(
    hub: Hub, export: Export, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    succeeded(export("org/model"))
    assert hub.requests == []
    assert "leave out --revision" in refusal(export("org/model", "--revision", "v1", name="other"))


def test_the_environment_of_the_client_is_honoured(
    hub: Hub, cli: Cli, environment: dict[str, str], tmp_path: Path
) -> None:
    """In a process of its own: endpoint, token, cache and offline mode."""
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token}
    for name, offline in (("online", "0"), ("offline", "1")):
        hub.requests.clear()
        env = {**environment, **home, "HF_HUB_OFFLINE": offline}
        done = cli("export", "org/private", tmp_path / name, "--no-validate", env=env)
        assert done.returncode == 0, done.stderr.decode()
        assert f"made of org/private at {COMMIT}" in done.stdout.decode()
        assert bool(hub.requests) == (name == "online")


def test_an_adapter_brings_its_base_model(
    hub: Hub, export: Export, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    import peft

    base = T5ForConditionalGeneration.from_pretrained(checkpoint_of("t5"))
    config = peft.LoraConfig(r=2, target_modules=["q"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, config)
    adapted.save_pretrained(tmp_path / "adapter")
    named = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(named.read_text())
    settings.update(base_model_name_or_path="org/model", revision="v1")
    named.write_text(json.dumps(settings))
    hub.repositories["org/adapter"] = Repository.of(tmp_path / "adapter")
    source = succeeded(export("org/adapter", "--revision", "main"))["source"]
    assert source == {
        "checkpoint": "org/adapter",
        "commit": COMMIT,
        "base": "org/model",
        "base_commit": OLDER,
    }
    # An adapter in a folder, its base on the hub; now from the cache.
    local = succeeded(export(tmp_path / "adapter", name="local", HF_HUB_OFFLINE="1"))
    assert local["source"] == {"base": "org/model", "base_commit": OLDER}
    files = [manifest(tmp_path / name)["files"] for name in ("bundle", "local")]
    assert files[0] == files[1]
