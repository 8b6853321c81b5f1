"""Say how words are pronounced: python pronounce.py BUNDLE WORD..."""

from __future__ import annotations

import sys

from seq2edge.runtime import Seq2EdgeError, Seq2SeqModel


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: pronounce.py BUNDLE WORD...")
    bundle, *words = sys.argv[1:]
    try:
        with Seq2SeqModel.load(bundle) as model:
            for word, found in zip(words, model.generate(words), strict=True):
                print(f"{word:16} {found.text}")
    except Seq2EdgeError as error:
        sys.exit(f"pronounce.py: {error}")


if __name__ == "__main__":
    main()
