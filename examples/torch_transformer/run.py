"""Train a model from scratch, export it, quantize it, and compare what all of them answer."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from data import PAD, START, padded, source_ids, split, target_ids
from network import PARTS, TOKENS, NumberReader

from seq2edge.export import export_module
from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import Seq2SeqModel

_RATE = 2e-3
_WARM_UP = 50  # steps


@dataclass(frozen=True)
class Size:
    """How much is trained and tested."""

    limit: int
    steps: int
    batch: int
    width: int
    held_out: int


FULL = Size(limit=1_000_000, steps=400, batch=128, width=96, held_out=2000)
QUICK = Size(limit=1000, steps=30, batch=32, width=32, held_out=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("work"), help="folder to write")
    parser.add_argument(
        "--quick", action="store_true", help="seconds, of a model that knows little"
    )
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    options.output.mkdir(parents=True, exist_ok=True)

    numbers, held_out = split(size.limit, size.held_out)
    model = train(numbers, size)
    torch.save(model.state_dict(), options.output / "model.pt")

    exact, int8 = options.output / "numbers.bundle", options.output / "numbers.int8.bundle"
    result = export_module(
        model, exact, parts=PARTS, tokens=TOKENS, forward=model, overwrite=True, validate=True
    )
    if result.parity is not None:
        print(f"same as PyTorch: {result.parity.summary()}")
    quantize_bundle(exact, int8, "int8", overwrite=True)

    sources = padded([source_ids(number) for number in held_out])
    answers = {
        "PyTorch": timed(model.greedy, sources),
        "float32 bundle": run_bundle(exact, sources),
        "int8 bundle": run_bundle(int8, sources),
    }
    print_table(answers, [target_ids(number) for number in held_out])


def train(numbers: list[int], size: Size) -> NumberReader:
    """A model that has seen ``size.steps`` batches of ``numbers``."""
    torch.manual_seed(0)
    generator = random.Random(1)
    model = NumberReader(size.width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / _WARM_UP, 1.0) * (1 - n / size.steps)
    )
    start = time.perf_counter()
    for step in range(size.steps):
        batch = generator.choices(numbers, k=size.batch)
        source = padded([source_ids(number) for number in batch])
        target = padded([[START, *target_ids(number)] for number in batch])
        logits = model(source, source == PAD, target[:, :-1])
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99 or step == size.steps - 1:
            print(f"step {step + 1}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s")
    return model.eval()


Answers = tuple[list[list[int]], float]


def timed(answer: Callable[[torch.Tensor], list[list[int]]], sources: torch.Tensor) -> Answers:
    """Answers, and the seconds that they took."""
    start = time.perf_counter()
    found = answer(sources)
    return found, time.perf_counter() - start


def run_bundle(bundle: Path, sources: torch.Tensor) -> Answers:
    """What a bundle answers; loading is not timed."""
    with Seq2SeqModel.load(bundle) as loaded:
        return timed(lambda ids: [one.token_ids for one in loaded.generate_ids(ids)], sources)


def print_table(answers: dict[str, Answers], expected: list[list[int]]) -> None:
    reference = answers["PyTorch"][0]
    print(f"{'':16}{'exact match':>12}{'as PyTorch':>12}{'seconds':>9}")
    for name, (found, seconds) in answers.items():
        right = sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)
        same = sum(a == b for a, b in zip(found, reference, strict=True))
        print(f"{name:16}{right:12.1%}{f'{same}/{len(expected)}':>12}{seconds:9.2f}")


if __name__ == "__main__":
    main()
