import math

import pytest

from multigrain.grading.lexical import Bm25Judge


def test_equal_to_a_hand_computation() -> None:
    """The texts have 2, 3 and 4 words, 3 on average; "cat" is in two of three, "dog" in one."""
    pairs = [("cat", "cat tree"), ("cat", "cat cat stone"), ("cat", "dog stone bird fish"), ("dog cat", "cat tree")]
    pairs += [("dog cat", "dog stone bird fish")]

    def term(count: int, words: int, documents: int) -> float:
        idf = math.log(1 + (3 - documents + 0.5) / (documents + 0.5))
        return idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * words / 3))

    by_hand = [term(1, 2, 2), term(2, 3, 2), 0.0, term(1, 2, 2), term(1, 4, 1)]
    assert Bm25Judge("english").scores(pairs) == pytest.approx(by_hand, rel=1e-5)


def test_a_pair_that_comes_twice_has_one_score_and_counts_once() -> None:
    judge = Bm25Judge("english")
    once = judge.scores([("cat", "cat tree"), ("cat", "dog")])
    assert judge.scores([("cat", "cat tree"), ("cat", "dog"), ("cat", "cat tree")]) == [*once, once[0]]


def test_endings_and_stop_words() -> None:
    judge = Bm25Judge("english")
    scores = judge.scores([("sleeping cats", "the cat sleeps"), ("who is the", "the cat sleeps"), ("cat", "a dog")])
    assert scores[0] > 0
    assert scores[1:] == [0.0, 0.0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pairs", [[], [("cat", "...")], [("", "")], [("the", "of the")], [("cat", ""), ("", "the")]])
def test_without_words_nothing_is_relevant(pairs: list[tuple[str, str]]) -> None:
    assert Bm25Judge("english").scores(pairs) == [0.0] * len(pairs)


def test_a_text_without_words_beside_others() -> None:
    empty, other = Bm25Judge("english").scores([("cat", "..."), ("cat", "cat tree")])
    assert (empty, other > 0) == (0.0, True)


def test_an_unknown_language_has_whole_words() -> None:
    same, ending = Bm25Judge("klingon").scores([("cats", "the cats"), ("cats", "the cat")])
    assert (same > 0, ending) == (True, 0.0)


def test_scores_are_plain_numbers() -> None:
    assert all(type(score) is float for score in Bm25Judge("english").scores([("cat", "cat"), ("the", "dog")]))
