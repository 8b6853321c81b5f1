"""Timestamp tokens: what the model may write, and the pieces that they cut a window into.

Source: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section
4.5 and its code's rules; both as transformers has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..bundle.speech_info import SpeechInfo
from ..generation.processor import BanProcessor, Rows
from ..numerics import Scores, logsumexp

#: Seconds from one timestamp token to the next.
STEP = 0.02


class TimestampRules(BanProcessor):
    """The first token is a timestamp; they come in pairs and do not go back in time.

    Where the timestamps together are more probable than any other token, one of them comes.

    Args:
        speech: of a model that has timestamps.
        eos: the end token; text tokens are below it.
        begin: how many tokens are before the window's first one.
        most: the last timestamp that may come first, counted from the one of 0 seconds; None: any.
    """

    def __init__(self, speech: SpeechInfo, eos: int, begin: int, most: int | None) -> None:
        if speech.timestamp_begin is None or speech.no_timestamps is None:
            raise AssertionError("the model has timestamps")
        self._times, self._none = speech.timestamp_begin, speech.no_timestamps
        self._eos = eos
        self._begin = begin
        self._most = most

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        times, tokens = self._times, rows.token_ids[:, self._begin :]
        scores[:, self._none] = -np.inf
        no_text = np.zeros(len(scores), np.bool_)
        if tokens.shape[1] == 0:
            no_text[:] = True
            scores[:, self._eos : times] = -np.inf
            if self._most is not None:
                scores[:, times + self._most + 1 :] = -np.inf
        else:
            is_time = tokens >= times
            for row, ours in enumerate(is_time):
                if not ours.any():
                    continue
                latest = int(tokens[row, len(ours) - 1 - ours[::-1].argmax()])
                if not ours[-1]:
                    # 0 seconds do not come twice.
                    scores[row, times : latest + 1] = -np.inf
                elif len(ours) < 2 or ours[-2]:
                    scores[row, times:] = -np.inf
                else:
                    no_text[row] = True
                    scores[row, times:latest] = -np.inf
        scores[no_text, : self._eos] = -np.inf
        together = logsumexp(scores[:, times:])
        only_times = together > scores[:, :times].max(axis=1)
        scores[only_times, :times] = -np.inf
        if rows.unscored_logsumexp is not None:
            rows.unscored_logsumexp[no_text | only_times] = -np.inf
        return scores


@dataclass(frozen=True)
class Piece:
    """Tokens of one segment, its timestamps included, and its times in seconds of the window."""

    start: float
    end: float
    tokens: list[int]


def split(
    tokens: Sequence[int], duration: float, begin: int | None, *, rest: bool = False
) -> tuple[list[Piece], float]:
    """The pieces of a window, and the seconds after which the next window begins.

    Args:
        tokens: what was decoded, without the end token.
        duration: seconds of audio in the window.
        begin: the timestamp of 0 seconds; None: the model has none.
        rest: whether what follows the last pair of timestamps is a piece that ends with the window;
            else the next window hears it again.
    """
    if not tokens:
        return [], duration
    # Without timestamps no token is one.
    start = max(tokens) + 1 if begin is None else begin
    is_time = [token >= start for token in tokens]
    pairs = [place for place in range(1, len(tokens)) if is_time[place - 1] and is_time[place]]
    if not pairs:
        stamps = [token for token in tokens if token >= start]
        end = duration
        if stamps and stamps[-1] != start:
            end = (stamps[-1] - start) * STEP
        return [Piece(0.0, end, list(tokens))], duration
    # One timestamp at the end: nobody speaks after it. A text without one is cut by the window's
    # end, so it is heard again by the next window.
    is_whole = is_time[-2:] == [False, True]
    if rest and not is_whole:
        last = tokens[pairs[-1]]
        pieces, _ = split([*tokens[: pairs[-1]], last], duration, begin)
        pieces[-1].tokens.pop()
        left = Piece((last - start) * STEP, duration, list(tokens[pairs[-1] :]))
        return [*pieces, left], duration
    ends = [*pairs, len(tokens)] if is_whole else [*pairs[:-1], pairs[-1] + 1]
    pieces = []
    for first, last in zip([0, *ends], ends, strict=False):
        part = list(tokens[first:last])
        until = part[-1] if is_whole or last != ends[-1] else part[-2]
        # A prefix may stand where a timestamp would.
        since = max(part[0] - start, 0)
        pieces.append(Piece(since * STEP, max(until - start, 0) * STEP, part))
    return pieces, duration if is_whole else pieces[-1].end
