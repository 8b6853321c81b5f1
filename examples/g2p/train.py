"""Train the grapheme-to-phoneme demo model from scratch on a CPU.

The defaults are the settings of the shipped model.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from data import Lexicon, load_splits, pairs
from evaluate import evaluate, generate_batched
from network import EOS_ID, PAD_ID, VOCABULARY, build_model, build_tokenizer, save_pretrained
from optim import build_optimizers
from speed import accelerate, stop_dropout
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

Example = tuple[list[int], list[int]]
Batch = tuple[Tensor, Tensor]
Knot = tuple[float, float]


def encode(lexicon: Lexicon) -> list[Example]:
    """(source ids, target ids) of every listed pronunciation, each ending in </s>."""
    return [
        ([VOCABULARY[c] for c in word] + [EOS_ID], [VOCABULARY[p] for p in phones] + [EOS_ID])
        for word, phones in pairs(lexicon)
    ]


def pad(rows: Sequence[list[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [PAD_ID] * (width - len(row)) for row in rows])


def make_batches(examples: Sequence[Example], tokens: int, rng: random.Random) -> list[Batch]:
    """Batches of about `tokens` tokens, source and target together, in random order.

    Examples are sorted by source length and then by target length, up and down in turn, so that
    neighbours differ little and hardly any padding is needed.
    """

    def key(example: Example) -> tuple[int, int, float]:
        source, target = map(len, example)
        return source, target if source % 2 else -target, rng.random()

    batches, rows, widest = [], [], 0
    for example in sorted(examples, key=key):
        widest = max(widest, len(example[0]) + len(example[1]))
        if rows and widest * (len(rows) + 1) > tokens:
            batches.append(rows)
            rows, widest = [], len(example[0]) + len(example[1])
        rows.append(example)
    batches.append(rows)
    rng.shuffle(batches)
    return [(pad([s for s, _ in rows]), pad([t for _, t in rows])) for rows in batches]


def loss_of(model: T5ForConditionalGeneration, batch: Batch, smoothing: float) -> Tensor:
    """Mean cross-entropy of the target tokens."""
    source, target = batch
    mask = source.ne(PAD_ID)
    logits = model(
        input_ids=source,
        attention_mask=None if mask.all() else mask.long(),
        decoder_input_ids=nn.functional.pad(target[:, :-1], (1, 0), value=PAD_ID),
        use_cache=False,
    ).logits
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=PAD_ID, label_smoothing=smoothing
    )


@torch.no_grad()
def dev_loss(model: T5ForConditionalGeneration, batches: Sequence[Batch]) -> float:
    """Cross-entropy for each target token, without smoothing."""
    model.eval()
    total = count = 0.0
    for batch in batches:
        tokens = int(batch[1].ne(PAD_ID).sum())
        total, count = total + loss_of(model, batch, 0.0).item() * tokens, count + tokens
    model.train()
    return total / count


def parse_schedule(text: str) -> list[Knot]:
    """The points of "4:1,8:0" as [(0, 1), (4, 1), (8, 0)]: (epoch, learning-rate factor)."""
    knots = [(0.0, 1.0)]
    for part in text.split(","):
        epoch, factor = part.split(":")
        knots.append((float(epoch), float(factor)))
    return knots


def rate_factor(epoch: float, knots: Sequence[Knot]) -> float:
    """The learning-rate factor at a point in time, linear between the points of the schedule."""
    for (left, high), (right, low) in pairwise(knots):
        if epoch < right:
            return high + (low - high) * (epoch - left) / (right - left)
    return knots[-1][1]


class Trainer:
    """The model, its optimizers and where the training stands; it resumes between epochs."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(args.seed)
        self.model = build_model(
            args.d_model,
            args.d_ff,
            args.heads,
            args.encoder_layers,
            args.decoder_layers,
            args.dropout,
        )
        accelerate(self.model)
        self.optimizers = build_optimizers(
            self.model, args.matrix_lr, args.lr, args.bias_lr, args.weight_decay
        )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]
        splits = load_splits()
        self.examples, self.dev = encode(splits["train"]), splits["dev"]
        self.dev_batches = make_batches(encode(self.dev), args.tokens, random.Random(0))
        self.epoch, self.step, self.seconds = 0, 0, 0.0

    def run_epoch(self) -> float:
        """One pass over the training pairs; the mean smoothed loss."""
        seed = self.args.seed * 1000 + self.epoch
        torch.manual_seed(seed)
        batches = make_batches(self.examples, self.args.tokens, random.Random(seed))
        first, start = self.step, time.perf_counter()
        losses = 0.0
        if self.epoch >= self.args.dropout_epochs:
            stop_dropout(self.model)
        self.model.train()
        for batch in batches:
            done = self.step - first
            losses += self.update(batch, self.epoch + done / len(batches))
            done += 1
            if done % self.args.log_every == 0:
                rate = (time.perf_counter() - start) / done
                where = self.epoch + done / len(batches)
                print(f"  epoch {where:.2f} loss {losses / done:.4f} {rate:.3f} s/step")
        self.epoch += 1
        self.seconds += time.perf_counter() - start
        return losses / len(batches)

    def update(self, batch: Batch, epoch: float) -> float:
        """One optimizer step, with the learning rates of this point in time."""
        args = self.args
        factor = min((self.step + 1) / args.warmup, rate_factor(epoch, args.schedule))
        loss = loss_of(self.model, batch, args.label_smoothing)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), args.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def report(self, train_loss: float) -> dict[str, float]:
        """Loss and greedy error rates on the dev words."""
        loss = dev_loss(self.model, self.dev_batches)
        self.model.eval()
        tokenizer = build_tokenizer()
        scores, _ = evaluate(lambda w: generate_batched(self.model, tokenizer, w), self.dev)
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "train_loss": round(train_loss, 4),
            "dev_loss": round(loss, 4),
            "dev_per": round(scores.phoneme_error_rate, 2),
            "dev_wer": round(scores.word_error_rate, 2),
        }

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": (self.epoch, self.step, self.seconds),
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.epoch, self.step, self.seconds = state["progress"]
        print(f"resumed after epoch {self.epoch}")


def parse_arguments() -> argparse.Namespace:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=here / "model", help="folder of the finished model")
    add("--work", type=Path, default=here / "work", help="folder of the resumable checkpoint")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seed", type=int, default=1)
    add("--stop-after", type=int, help="save and stop after this epoch")
    add(
        "--schedule",
        type=parse_schedule,
        default="4:1,5:0.75,7:0.45,17:0",
        metavar="EPOCH:FACTOR,...",
        help="points of the piecewise linear learning-rate factor; the last one ends the training",
    )
    add("--tokens", type=int, default=4096, help="source and target tokens in a batch")
    add("--d-model", type=int, default=160)
    add("--d-ff", type=int, default=640)
    add("--heads", type=int, default=4)
    add("--encoder-layers", type=int, default=4)
    add("--decoder-layers", type=int, default=2)
    add("--dropout", type=float, default=0.1)
    add("--dropout-epochs", type=int, default=8, help="no dropout after this epoch")
    add("--label-smoothing", type=float, default=0.1)
    add("--matrix-lr", type=float, default=4e-3, help="peak rate of Muon, for the matrices")
    add("--lr", type=float, default=3e-3, help="peak rate of AdamW, for embeddings and norms")
    add("--bias-lr", type=float, default=2.4e-2, help="peak rate of the position biases")
    add("--warmup", type=int, default=100, help="steps of linear warm-up")
    add("--weight-decay", type=float, default=0.05)
    add("--clip", type=float, default=1.0, help="largest gradient norm")
    add("--log-every", type=int, default=100)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint = args.work / "checkpoint.pt"
    trainer = Trainer(args)
    print(f"{sum(p.numel() for p in trainer.model.parameters())} parameters")
    if checkpoint.exists():
        trainer.resume(checkpoint)
    last = int(args.schedule[-1][0])
    while trainer.epoch < min(last, args.stop_after or last):
        line = trainer.report(trainer.run_epoch())
        trainer.save(checkpoint)
        with (args.work / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    save_pretrained(trainer.model, args.output)
    print(f"saved {args.output}")


if __name__ == "__main__":
    main()
