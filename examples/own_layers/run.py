"""Train the model, export it with its own forward, quantize it, and compare what all answer."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from train import END, PAD, START, ids, make_tokenizer, padded, texts, train

from seq2edge.export import SpecialTokens, export_module, layout_parts
from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import Seq2SeqModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("work"), help="folder to write")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    exact, int8 = options.output / "reverse.bundle", options.output / "reverse.int8.bundle"

    model = train(options.steps)
    torch.save(model.state_dict(), options.output / "model.pt")
    make_tokenizer().save(str(options.output / "tokenizer.json"))
    result = export_module(
        model,
        exact,
        parts=layout_parts("tutorial", nhead=4),
        tokens=SpecialTokens(pad=PAD, decoder_start=START, eos=(END,)),
        tokenizer=options.output / "tokenizer.json",
        # The model finds the padding itself.
        forward=lambda source, padding, target: model(source, target),  # noqa: ARG005
        overwrite=True,
        validate=True,
    )
    if result.parity is not None:
        print(f"same as PyTorch: {result.parity.summary()}")
    quantize_bundle(exact, int8, "int8", overwrite=True)

    sources = texts(500, seed=1, held_out=True)
    rows = model.greedy(padded([[*ids(text), END] for text in sources]), START, END, 18)
    tokenizer = make_tokenizer()
    answers = {"PyTorch": tokenizer.decode_batch(rows)}
    for name, bundle in (("float32 bundle", exact), ("int8 bundle", int8)):
        with Seq2SeqModel.load(bundle) as loaded:
            answers[name] = [answer.text for answer in loaded.generate(sources)]
    for name, own in answers.items():
        right = sum(a == text[::-1] for a, text in zip(own, sources, strict=True))
        same = sum(a == b for a, b in zip(own, answers["PyTorch"], strict=True))
        print(f"{name:16}{right:5} of {len(sources)} right{same:5} as PyTorch")


if __name__ == "__main__":
    main()
