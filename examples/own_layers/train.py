"""Train the model to reverse digits: ``3141`` to ``1413``. Writes model.pt and tokenizer.json."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from network import Decoder, Encoder, Seq2Seq
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from torch import Tensor

PAD, START, END = 0, 1, 2
SYMBOLS = ["<pad>", "<s>", "</s>", *"0123456789"]
LONGEST = 8  # digits
_RATE, _BATCH = 2e-3, 64


def make_model() -> Seq2Seq:
    """The model before training: 2 + 2 layers of 64."""
    torch.manual_seed(0)
    sizes = (len(SYMBOLS), 64, 2, 4, 128, 20)
    return Seq2Seq(Encoder(*sizes), Decoder(*sizes), PAD)


def make_tokenizer() -> Tokenizer:
    """A token for each digit; sources get the end token."""
    tokenizer = Tokenizer(WordLevel({s: n for n, s in enumerate(SYMBOLS)}, unk_token="<pad>"))
    tokenizer.add_special_tokens(SYMBOLS[:3])
    tokenizer.pre_tokenizer = Split(Regex(r"\d"), "isolated")
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    tokenizer.decoder = Fuse()
    return tokenizer


def texts(count: int, seed: int, *, held_out: bool = False) -> list[str]:
    """Numbers of 1 to LONGEST digits; a fifth of all is held out, by the sum of the digits."""
    generator = random.Random(seed)
    made: list[str] = []
    while len(made) < count:
        text = "".join(generator.choices("0123456789", k=generator.randint(1, LONGEST)))
        if (sum(map(int, text)) % 5 == 0) == held_out:
            made.append(text)
    return made


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """[B, longest] int64, padded on the right."""
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PAD)


def ids(text: str) -> list[int]:
    return [SYMBOLS.index(digit) for digit in text]


def train(steps: int) -> Seq2Seq:
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / 50, 1.0) * (1 - n / steps)
    )
    for step in range(steps):
        batch = texts(_BATCH, seed=step)
        source = padded([[*ids(text), END] for text in batch])
        target = padded([[START, *ids(text[::-1]), END] for text in batch])
        logits = model(source, target[:, :-1])
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99 or step == steps - 1:
            print(f"step {step + 1}: loss {loss:.4f}")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("work"), help="folder to write")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model = train(options.steps)
    torch.save(model.state_dict(), options.output / "model.pt")
    make_tokenizer().save(str(options.output / "tokenizer.json"))


if __name__ == "__main__":
    main()
