"""Phoneme and word error rate of the grapheme-to-phoneme model on the held-out test words.

python evaluate.py --checkpoint model     # the transformers checkpoint
python evaluate.py --bundle DIR           # a seq2edge bundle exported from it
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from data import SPLITS, Lexicon, Pronunciation, load_splits, without_relatives

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

MAX_NEW_TOKENS = 48
Predict = Callable[[Sequence[str]], list[Pronunciation]]


@dataclass(frozen=True)
class Scores:
    """Error rates in percent over `words` words."""

    words: int
    phoneme_error_rate: float
    word_error_rate: float
    seconds: float


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Levenshtein distance: insertions, deletions and substitutions cost 1 each."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def closest(predicted: Pronunciation, references: Sequence[Pronunciation]) -> tuple[int, int]:
    """(edit distance, reference length) for the reference with the lowest error rate."""
    candidates = ((edit_distance(predicted, r), len(r)) for r in references)
    return min(candidates, key=lambda c: (c[0] / c[1], -c[1]))


def score(lexicon: Lexicon, predictions: Sequence[Pronunciation], seconds: float) -> Scores:
    """Compare one prediction for each word of the lexicon, in its order, with the listed ones."""
    errors = phonemes = wrong = 0
    for references, predicted in zip(lexicon.values(), predictions, strict=True):
        distance, length = closest(predicted, references)
        errors, phonemes = errors + distance, phonemes + length
        wrong += distance > 0
    return Scores(len(lexicon), 100 * errors / phonemes, 100 * wrong / len(lexicon), seconds)


def in_batches(
    words: Sequence[str], texts_of: Callable[[list[str]], list[str]], batch_size: int = 256
) -> list[Pronunciation]:
    """Pronunciations of many words; words of like length share a batch."""
    order = sorted(range(len(words)), key=lambda i: len(words[i]))
    results: list[Pronunciation] = [()] * len(words)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        texts = texts_of([words[i] for i in chosen])
        for i, text in zip(chosen, texts, strict=True):
            results[i] = tuple(text.split())
    return results


def generate_batched(
    model: PreTrainedModel, tokenizer: Tokenizer, words: Sequence[str]
) -> list[Pronunciation]:
    """Greedy pronunciations from a transformers model."""
    import torch

    tokenizer.enable_padding(pad_id=0, pad_token="<pad>")

    def texts_of(batch: list[str]) -> list[str]:
        encodings = tokenizer.encode_batch(batch)
        with torch.inference_mode():
            ids = model.generate(
                input_ids=torch.tensor([e.ids for e in encodings]),
                attention_mask=torch.tensor([e.attention_mask for e in encodings]),
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                num_beams=1,
            )
        return tokenizer.decode_batch(ids.tolist())

    return in_batches(words, texts_of)


def checkpoint_predictor(folder: Path) -> Predict:
    """Predictions of a transformers checkpoint, computed in fp32."""
    import torch
    from tokenizers import Tokenizer
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda words: generate_batched(model, tokenizer, words)


def bundle_predictor(folder: Path) -> Predict:
    """Predictions of an exported bundle, by the seq2edge runtime."""
    from seq2edge.runtime import Seq2SeqModel

    def predict(words: Sequence[str]) -> list[Pronunciation]:
        with Seq2SeqModel.load(folder) as model:

            def texts_of(batch: list[str]) -> list[str]:
                found = model.generate(batch, max_new_tokens=MAX_NEW_TOKENS)
                return [output.text or "" for output in found]

            return in_batches(words, texts_of)

    return predict


def evaluate(predict: Predict, lexicon: Lexicon) -> tuple[Scores, list[Pronunciation]]:
    """Predict every word of the lexicon once and score the result."""
    start = time.perf_counter()
    predictions = predict(list(lexicon))
    seconds = time.perf_counter() - start
    return score(lexicon, predictions, seconds), predictions


def show(lexicon: Lexicon, predictions: Sequence[Pronunciation], count: int) -> None:
    """Print the first `count` words with what was predicted and what is listed."""
    rows = zip(lexicon.items(), predictions, strict=True)
    for (word, references), predicted in islice(rows, count):
        mark = "right" if predicted in references else "WRONG"
        listed = " | ".join(" ".join(r) for r in references)
        print(f"{mark}  {word}: {' '.join(predicted)}  (listed: {listed})")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="folder of a transformers checkpoint")
    source.add_argument("--bundle", type=Path, help="folder of a seq2edge bundle")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument(
        "--unrelated", action="store_true", help="leave out words with a plural or so in train"
    )
    parser.add_argument("--limit", type=int, help="only the first N words of the split")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N predictions")
    parser.add_argument("--json", action="store_true", help="print the scores as one JSON object")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    splits = load_splits()
    lexicon = splits[args.split]
    if args.unrelated:
        lexicon = without_relatives(lexicon, splits["train"])
    lexicon = dict(islice(lexicon.items(), args.limit))
    predictor = checkpoint_predictor if args.checkpoint else bundle_predictor
    scores, predictions = evaluate(predictor(args.checkpoint or args.bundle), lexicon)
    if args.json:
        print(json.dumps({"split": args.split, **asdict(scores)}))
        return
    show(lexicon, predictions, args.show)
    print(
        f"{args.split}: {scores.words} words, "
        f"phoneme error rate {scores.phoneme_error_rate:.2f} %, "
        f"word error rate {scores.word_error_rate:.2f} %, {scores.seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
