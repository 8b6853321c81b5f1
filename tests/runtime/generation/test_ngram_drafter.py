"""What prompt lookup guesses, and when it stops guessing."""

from __future__ import annotations

import numpy as np
import pytest

from seq2edge.runtime.generation.ngram_drafter import NgramDrafter

#: Any number of tokens: no limit of the caller's own.
FREE = 99


def drafter(
    source: list[int], output: list[int], *, longest: int = 2, most: int = 2, after: int = 0
) -> NgramDrafter:
    """One that has seen ``output``; ``after`` right guesses have made its own guesses longer."""
    found = NgramDrafter(source, longest, most)
    for token in output:
        found.append(token)
    for _ in range(after):
        found.learn(1, 1)
    return found


def test_without_a_match_nothing_is_guessed() -> None:
    assert drafter([5, 6, 7], [8, 9]).guess(FREE) == []
    assert drafter([5, 6, 7], []).guess(FREE) == []
    assert drafter([], [8, 9]).guess(FREE) == []
    assert drafter([5], [5]).guess(FREE) == []


def test_what_follows_in_the_source_is_guessed() -> None:
    assert drafter([5, 6, 7, 8, 9], [3, 5, 6]).guess(FREE) == [7, 8]
    assert drafter([5, 6, 7, 8, 9], [3, 6], longest=1).guess(FREE) == [7, 8]
    assert drafter([5, 6, 7, 8, 9], [8], longest=1).guess(FREE) == [9]
    assert drafter([5, 6, 7, 8, 9], [9], longest=1).guess(FREE) == []


def test_a_single_token_is_matched_only_if_no_more_are_asked_for() -> None:
    assert drafter([5, 6, 7, 8, 9], [3, 6]).guess(FREE) == []
    assert drafter([], [7, 8, 9, 10, 3, 8]).guess(FREE) == []


def test_what_followed_in_the_output_is_guessed() -> None:
    assert drafter([5, 6], [7, 8, 9, 10, 7, 8]).guess(FREE) == [9, 10]
    assert drafter([], [7, 8, 9, 10, 3, 8], longest=1).guess(FREE) == [9, 10]


def test_what_repeats_to_the_end_of_the_output_is_taken_to_go_on() -> None:
    assert drafter([], [7, 7, 7], most=5, after=9).guess(FREE) == [7] * 5
    assert drafter([], [7, 8, 9, 7, 8], most=8, after=9).guess(FREE) == [9, 7, 8, 9, 7, 8, 9, 7]


def test_the_longest_n_gram_is_matched_first() -> None:
    # 6 alone was last followed by 40, after 5 by 10, and after 4, 5 by 20.
    source = [4, 5, 6, 20, 21, 5, 6, 10, 11, 6, 40, 41]
    assert drafter(source, [4, 5, 6], longest=1).guess(FREE) == [40, 41]
    assert drafter(source, [4, 5, 6], longest=2).guess(FREE) == [10, 11]
    assert drafter(source, [4, 5, 6], longest=3).guess(FREE) == [20, 21]
    assert drafter(source, [4, 5, 6], longest=9).guess(FREE) == [20, 21]


def test_a_longer_match_in_the_output_goes_before_a_shorter_one_in_the_source() -> None:
    assert drafter([6, 40, 41], [5, 6, 10, 11, 5, 6]).guess(FREE) == [10, 11]
    assert drafter([6, 40, 41], [5, 6, 10, 11, 5, 6], longest=1).guess(FREE) == [40, 41]


def test_the_last_of_several_places_counts() -> None:
    assert drafter([5, 6, 5, 7, 5, 8], [5], longest=1).guess(FREE) == [8]
    assert drafter([], [5, 6, 5, 7, 5], longest=1).guess(FREE)[0] == 7


def test_a_copy_goes_on_where_it_is_in_the_source_though_its_tokens_repeat() -> None:
    source = [5, 6, 7, 50, 6, 7, 60]
    found = drafter(source, [5], longest=1)
    assert found.guess(FREE) == [6, 7]
    for token in (6, 7):
        found.append(token)
    found.learn(2, 2)
    assert found.guess(FREE)[:1] == [50]


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_a_guess_is_no_longer_than_the_caller_allows(most: int) -> None:
    found = drafter(list(range(5, 40)), [5, 6], most=10, after=9)
    assert found.guess(most) == [7, 8, 9][:most]


def test_right_guesses_double_the_length_up_to_the_most() -> None:
    found, lengths = drafter(list(range(200)), [5, 6], most=10), []
    token = 7
    for _ in range(5):
        guess = found.guess(FREE)
        assert guess == list(range(token, token + len(guess)))
        lengths.append(len(guess))
        for right in [*guess, guess[-1] + 1]:
            found.append(right)
        token = guess[-1] + 2
        found.learn(len(guess), len(guess))
    assert lengths == sorted(lengths)
    assert lengths[0] < 10 and lengths[-2:] == [10, 10]


def test_a_guess_that_is_right_in_part_sets_the_length_to_that_part_and_one_more() -> None:
    found = drafter(list(range(5, 60)), [5, 6], most=10, after=9)
    assert len(found.guess(FREE)) == 10
    found.learn(10, 3)
    assert found.guess(FREE) == [7, 8, 9, 10]


def wrong_guesses(source: list[int], answer: list[int], most: int) -> list[tuple[int, int]]:
    """Place in ``answer`` and length of each guess, none of which may have a right token."""
    found, made = NgramDrafter(source, 1, most), []
    for place, token in enumerate(answer):
        guess = found.guess(FREE)
        found.append(token)
        if guess:
            assert guess[0] != token
            made.append((place, len(guess)))
            found.learn(len(guess), 0)
    return made


@pytest.mark.parametrize("most", [1, 4, 10])
def test_wrong_guesses_grow_rare_and_short(most: int) -> None:
    source = np.random.default_rng(0).permutation(500).tolist()
    made = wrong_guesses(source, source[::-1], most)
    places = [place for place, _ in made]
    assert np.diff(places).tolist() == [2, 4, 8, 16] + [17] * (len(places) - 5)
    assert len(places) > 25
    lengths = [length for _, length in made]
    assert lengths == sorted(lengths, reverse=True)
    assert sum(lengths) <= len(lengths) + most


def waits(found: NgramDrafter, token: int) -> int:
    """How many tokens, ``token`` the first, are appended before it guesses again."""
    for count in range(1, FREE):
        found.append(token)
        if found.guess(FREE):
            return count
        token += 1
    raise AssertionError("no more guesses")


def test_a_right_guess_ends_the_pause() -> None:
    found = NgramDrafter(list(range(200)), 1, 1)
    found.append(10)
    for _ in range(3):
        found.learn(1, 0)
    assert waits(found, 11) == 7
    found.learn(1, 1)
    assert waits(found, 18) == 1
    found.learn(1, 0)
    # As after the first wrong guess of all.
    assert found.guess(FREE) == []
    assert waits(found, 19) == 1


def test_random_tokens_are_guessed_from_what_was_there() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        longest, most = (int(n) for n in rng.integers(1, 6, 2))
        source, output = (rng.integers(0, 4, rng.integers(0, 30)).tolist() for _ in range(2))
        found = drafter(source, output, longest=longest, most=most, after=int(rng.integers(0, 4)))
        guess = found.guess(int(rng.integers(0, 9)))
        assert len(guess) <= most
        assert set(guess) <= {*source, *output}


def test_n_grams_of_any_length_are_bounded_by_the_text() -> None:
    """Fault: a bundle that asked for n-grams of a billion tokens hung, whatever the source."""
    source = [number % 50 for number in range(2000)]
    assert drafter([5, 6, 7, 8, 9], [3, 5, 6], longest=10**9).guess(FREE) == [7, 8]
    assert drafter(source, source[:20], longest=10**9).guess(FREE) == source[20:22]
