"""Write a split as JSON lines for `seq2edge eval`: a word and its listed pronunciations.

python jsonl.py --split test --output test.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import islice
from pathlib import Path

from data import SPLITS, Lexicon, load_splits, without_relatives


def lines(lexicon: Lexicon) -> str:
    """{"source": word, "target": [pronunciation, ...]}, one word a line."""
    return "".join(
        json.dumps({"source": word, "target": [" ".join(phones) for phones in found]}) + "\n"
        for word, found in lexicon.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument(
        "--unrelated", action="store_true", help="leave out words with a plural or so in train"
    )
    parser.add_argument("--limit", type=int, help="only the first N words of the split")
    parser.add_argument("--sample", type=int, help="N words, evenly spaced in the split")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    splits = load_splits()
    lexicon = splits[args.split]
    if args.unrelated:
        lexicon = without_relatives(lexicon, splits["train"])
    if args.sample:
        step = max(1, len(lexicon) // args.sample)
        lexicon = dict(islice(lexicon.items(), 0, step * args.sample, step))
    lexicon = dict(islice(lexicon.items(), args.limit))
    partial = args.output.with_name(f".{args.output.name}.partial")
    try:
        partial.write_text(lines(lexicon), encoding="utf-8")
        partial.replace(args.output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        sys.exit(f"jsonl.py: cannot write {args.output}: {error.strerror}")
    print(f"{args.output}: {len(lexicon)} words")


if __name__ == "__main__":
    main()
