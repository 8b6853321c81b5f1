"""Names that do not fit a hand-written model: all that is wrong is told at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seq2edge.export import (
    CheckpointError,
    ModuleParts,
    ParityError,
    PositionalEncoding,
    export_module,
    export_state_dict,
    layer_options,
    layout_parts,
)

from ...hand_written import (
    TOKENS,
    Annotated,
    Fairseq,
    OpenNmt,
    Tutorial,
    XTransformers,
    randomized,
)
from ...translators import Shape, make_translator, parts_of

PARTS = layout_parts("tutorial", nhead=4)


def message_of(
    model: nn.Module, parts: ModuleParts, folder: Path, error: Any = CheckpointError, **more: Any
) -> str:
    """What the refusal says; nothing is left behind."""
    options = {"tokens": TOKENS, "forward": model, **more}
    with pytest.raises(error) as caught:
        export_module(model, folder / "bundle", parts=parts, **options)
    assert not list(folder.iterdir())
    return str(caught.value)


def names(**changes: str | None) -> ModuleParts:
    """The tutorial's parts with other names in the encoder; None takes one out."""
    changed = {name.replace("__", "."): text for name, text in changes.items()}
    merged = {**PARTS.encoder_names, **changed}  # type: ignore[dict-item]
    return replace(PARTS, encoder_names={n: text for n, text in merged.items() if text})


def test_all_that_is_wrong_is_told_at_once_with_the_nearest_names(tmp_path: Path) -> None:
    model = randomized(Tutorial())
    model.decoder.layers[1].encoder_attention.fc_v = nn.Linear(32, 31)
    model.spare = nn.Linear(3, 3)
    parts = replace(
        names(ffn__up="positionwise_feedforward.fc1"),
        layers=layer_options(nhead=5, activation="relu", norm_first=False),
    )
    message = message_of(model, parts, tmp_path)
    for part in (
        "d_model 32 is not a multiple of the encoder's 5 heads",
        "missing tensor encoder.layers.0.positionwise_feedforward.fc1.weight (there is"
        " encoder.layers.0.positionwise_feedforward.fc_1.weight)",
        "tensor decoder.layers.1.encoder_attention.fc_v.weight has shape [31, 32],"
        " expected [32, 32]",
        "2 more unused",
        "unused tensor encoder.layers.0.positionwise_feedforward.fc_1.weight",
    ):
        assert part in message
    assert "fc_k" not in message  # what fits is not told


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (names(ffn_norm=None), "the names of the encoder lack ffn_norm"),
        (names(self_attention__key=None), "the names of the encoder lack self_attention.key"),
        (names(ffn__uhp="x"), "the names of the encoder have ffn.uhp; there are: "),
        (
            names(self_attention__qkv="self_attention.in_proj"),
            "self_attention.qkv and self_attention.query and self_attention.key and"
            " self_attention.value, which give the same twice",
        ),
        (
            names(self_attention__query="encoder.{layers}.q"),
            "self_attention.query of the encoder is 'encoder.{layers}.q'; a whole name has one",
        ),
        (
            replace(PARTS, encoder="enc.layers"),
            "no layers of the encoder (no tensor of enc.layers.0.self_attention.fc_q)",
        ),
        (
            replace(PARTS, source_embedding="encoder.embedding", generator="fc_out"),
            "missing tensor fc_out.weight (there is decoder.fc_out.weight)",
        ),
        (
            replace(PARTS, positions=PositionalEncoding("learned", table="encoder.position")),
            "missing tensor encoder.position",
        ),
        (replace(PARTS, layers=None), "need ModuleParts(layers=layer_options(...))"),
        (replace(PARTS, decoder_names=None), "names for the layers of one side only"),
    ],
)
def test_a_map_that_does_not_fit_is_told(parts: ModuleParts, expected: str, tmp_path: Path) -> None:
    message = message_of(randomized(Tutorial()), parts, tmp_path)
    assert expected in message
    # A projection that the map lacks is no reason to call the others wrongly shaped.
    assert "has shape" not in message


def test_layers_of_ones_own_are_sent_to_their_names(tmp_path: Path) -> None:
    shape = Shape("lists")
    model = make_translator(shape)
    model.encoder = nn.ModuleList([nn.Linear(64, 64)])
    message = message_of(model, parts_of(shape), tmp_path)
    assert "encoder.0 is a Linear, and must be an nn.TransformerEncoderLayer" in message
    assert "layout_parts(...)" in message
    assert "docs/pytorch.md" in message


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda *a: MODEL(*a).log_softmax(-1), "log-probabilities, not logits"),
        (lambda *a: MODEL(*a) + 0.01 * MODEL(*a).sin(), "differs from PyTorch"),
    ],
)
def test_a_forward_that_computes_something_else_is_told(
    forward: Any, expected: str, tmp_path: Path
) -> None:
    assert expected in message_of(MODEL, PARTS, tmp_path, ParityError, forward=forward)


MODEL = randomized(Tutorial())


def test_an_epsilon_that_the_norms_do_not_have_is_told(tmp_path: Path) -> None:
    parts = layout_parts("tutorial", nhead=4, layer_norm_eps=1e-6)
    message = message_of(MODEL, parts, tmp_path)
    assert "self_attn_layer_norm has eps 1e-05, and layer_norm_eps is 1e-06" in message


def test_norms_that_are_not_stored_less_one_are_warned_about(tmp_path: Path) -> None:
    model = randomized(XTransformers())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.add_(1)
    with pytest.warns(UserWarning, match="say norm_offset = 0"):
        export_module(
            model,
            tmp_path / "b",
            parts=layout_parts("x-transformers"),
            tokens=TOKENS,
            forward=model,
        )


def test_without_a_forward_the_comparison_is_named_for_what_it_is(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not with what the Tutorial computes"):
        export_module(MODEL, tmp_path / "bundle", parts=PARTS, tokens=TOKENS)


def add(model: nn.Module, path: str, *shape: int) -> None:
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent).register_parameter(name, nn.Parameter(torch.zeros(*shape)))


def without_norm_biases(model: OpenNmt) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            model.get_submodule(name).register_parameter("bias", None)


def rms(model: XTransformers) -> None:
    norm = model.encoder.attn_layers.layers[0][0][0]
    norm.g = norm.gamma
    del norm.gamma


@pytest.mark.parametrize(
    ("layout", "model", "change", "expected"),
    [
        (
            "opennmt",
            OpenNmt,
            lambda m: m.encoder.transformer[0].feed_forward.add_module("w_3", nn.Linear(2, 2)),
            'gated: name "ffn.gate" = "feed_forward.w_1"',
        ),
        ("opennmt", OpenNmt, without_norm_biases, "say norm = 'rms' or norm = 'layer'"),
        (
            "x-transformers",
            XTransformers,
            lambda m: add(m, "decoder.net.attn_layers.layers.0.1.mem_k", 3),
            "memory tokens and keys are not supported (decoder.net.attn_layers.layers.0.1.mem_k)",
        ),
        ("x-transformers", XTransformers, rms, "use_rmsnorm or use_scalenorm"),
        (
            "fairseq",
            Fairseq,
            lambda m: add(m, "encoder.embed_positions.weight", 62, 32),
            'learned positions: say kind = "learned"',
        ),
    ],
)
def test_what_a_layout_may_have_besides_is_refused_by_name(
    layout: str,
    model: Callable[[], nn.Module],
    change: Callable[[nn.Module], None],
    expected: str,
    tmp_path: Path,
) -> None:
    made = randomized(model())
    change(made)
    options = {"norm_first": False} if layout == "fairseq" else {}
    assert expected in message_of(made, layout_parts(layout, nhead=4, **options), tmp_path)


def test_norms_that_may_divide_by_the_deviation_ask_which(tmp_path: Path) -> None:
    parts = layout_parts("annotated", nhead=4, norm=None)
    message = message_of(randomized(Annotated()), parts, tmp_path)
    assert "say norm = 'std' if they do, else norm = 'layer'" in message


@pytest.mark.parametrize(
    ("layout", "options", "expected"),
    [
        ("tutorials", {"nhead": 4}, "no layout 'tutorials'; known layouts: tutorial, annotated"),
        ("tutorial", {}, "missing 1 required keyword-only argument: 'nhead'"),
        ("fairseq", {"nhead": 4}, "'norm_first'"),
        ("tutorial", {"nhead": 4, "heads": 4}, "unexpected keyword argument 'heads'"),
        ("tutorial", {"nhead": 4, "activation": "mish"}, "'mish' is not supported"),
        ("tutorial", {"nhead": 4, "norm": "batch"}, "known norms: layer, rms, std"),
        ("tutorial", {"nhead": 0}, "nhead is 0"),
    ],
)
def test_layouts_and_options_are_checked(
    layout: str, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        layout_parts(layout, **options)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('layout = "own"\n', "there is no layout 'own'"),
        ('layout = "tutorial"\n', "layers is missing"),
        ('layout = "tutorial"\n[layers]\nactivation = "relu"\n', "layers.nhead is missing"),
        ('layout = "tutorial"\n[layers]\nnhead = 4\n[names]\nffn.up = 3\n', "names.ffn.up must be"),
        ('layout = "fairseq"\n[layers]\nnhead = 4\n', "layers.norm_first is missing"),
        (
            'layout = "tutorial"\n[layers]\nnhead = 4\n[positions]\norder = "halves"\n',
            "the order of positions is for sinusoids without a table",
        ),
    ],
)
def test_a_description_of_a_layout_is_checked(text: str, expected: str, tmp_path: Path) -> None:
    torch.save(MODEL.state_dict(), tmp_path / "model.pt")
    tokens = "[tokens]\npad = 1\ndecoder_start = 2\neos = [2]\n"
    (tmp_path / "model.toml").write_text(text + tokens)
    with pytest.raises(CheckpointError) as caught:
        export_state_dict(tmp_path / "model.pt", tmp_path / "model.toml", tmp_path / "bundle")
    assert expected in str(caught.value)


def test_names_may_be_changed_for_both_sides(tmp_path: Path) -> None:
    """A fused projection takes the place of the layout's three."""
    state = MODEL.state_dict()
    for side, attentions in (("encoder", ["self"]), ("decoder", ["self", "encoder"])):
        for layer in range(2):
            for attention in attentions:
                prefix = f"{side}.layers.{layer}.{attention}_attention"
                for kind in ("weight", "bias"):
                    three = [state.pop(f"{prefix}.fc_{part}.{kind}") for part in "qkv"]
                    state[f"{prefix}.in_proj.{kind}"] = torch.cat(three)
    torch.save(state, tmp_path / "fused.pt")
    (tmp_path / "fused.toml").write_text(
        'layout = "tutorial"\n[tokens]\npad = 1\ndecoder_start = 2\neos = [2]\n'
        "[layers]\nnhead = 4\n"
        '[names]\nself_attention.qkv = "self_attention.in_proj"\n'
        'cross_attention.qkv = "encoder_attention.in_proj"\n'
    )
    fused = export_state_dict(tmp_path / "fused.pt", tmp_path / "fused.toml", tmp_path / "fused")
    apart = export_module(
        MODEL, tmp_path / "apart", parts=PARTS, tokens=TOKENS, forward=MODEL, validate=True
    )
    assert fused.manifest == apart.manifest  # with the hash of every file
