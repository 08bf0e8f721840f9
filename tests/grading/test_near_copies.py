"""Copies by signatures are those of the plain rule: the first earlier text, no copy itself, that says the same."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.grading import near_copies as module
from multigrain.grading.candidate_rules import likeness
from multigrain.grading.near_copies import Copy, Signatures, find_copies

WORDS = ["rivers", "run", "a", "northern", "oceans", "toward", "and", "\u732b", "\u72d7\u8dd1", ""]
bases = st.lists(st.sampled_from(WORDS), max_size=14)


def no_documents(numbers: Sequence[int]) -> list[str]:
    raise AssertionError(numbers)


def changed(words: list[str], place: int, kind: str) -> str:
    """A near copy: with a word left out, one doubled, other letters, or as it is."""
    place %= len(words) + 1
    if kind == "without":
        words = words[:place] + words[place + 1 :]
    elif kind == "more":
        words = [*words[:place], *words[:1], *words[place:]]
    text = " ".join(words)
    return text.upper() if kind == "upper" else text


kinds = st.sampled_from(["without", "more", "upper", "same"])
text_lists = st.lists(bases, min_size=1, max_size=2).flatmap(
    lambda some: st.lists(st.builds(changed, st.sampled_from(some), st.integers(0, 14), kinds), min_size=3, max_size=8)
)


def by_definition(texts: list[str], first: int) -> list[tuple[int, int, float]]:
    found: dict[int, tuple[int, float]] = {}
    for place in range(first, len(texts)):
        for original in range(place):
            if original not in found and (value := likeness(texts[place], texts[original])) is not None:
                found[place] = original, value
                break
    return [(place, *rest) for place, rest in found.items()]


@settings(max_examples=100)
@given(st.lists(text_lists, min_size=1, max_size=3), st.integers(1, 3))
def test_equal_to_the_plain_rule(of_pairs: list[list[str]], first: int) -> None:
    known = Signatures(no_documents)
    texts = np.full((len(of_pairs), max(map(len, of_pairs))), -1)
    for row, members in enumerate(of_pairs):
        texts[row, : len(members)] = known.add(members)
    expected = [Copy(row, *found) for row, members in enumerate(of_pairs) for found in by_definition(members, first)]
    assert find_copies(texts, known, np.full(len(of_pairs), first)) == expected


def test_documents_are_read_once_until_room_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def texts_of(numbers: Sequence[int]) -> list[str]:
        reads.extend(numbers)
        return [f"text {number % 2}" for number in numbers]

    known = Signatures(texts_of)
    numbers = known.add_documents(np.array([5, 2, 5, 4]))
    assert [known.texts[number] for number in numbers] == ["text 1", "text 0", "text 1", "text 0"]
    assert sorted(reads) == [2, 4, 5]
    known.make_room()
    assert known.add_documents(np.array([4, 2])).tolist() == [numbers[3], numbers[1]]
    assert sorted(reads) == [2, 4, 5]
    monkeypatch.setattr(module, "MOST_BYTES", 11)
    known.make_room()
    assert (known.texts, len(known.known)) == ([], 0)
    known.add_documents(np.array([4]))
    assert sorted(reads) == [2, 4, 4, 5]
    assert known.add_documents(np.array([], dtype=int)).tolist() == []
