import math
from collections.abc import Sequence

import bm25s
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.grading.bm25_judge import Bm25Judge
from multigrain.retrieval import bm25 as module
from multigrain.retrieval.bm25 import Words

CORPUS = ["cat tree", "cat cat stone", "dog stone bird fish"]
"""Of 2, 3 and 4 words, 3 on average; "cat" is in two of three, "dog" in one."""


def judge(queries: Sequence[str], corpus: Sequence[str] = CORPUS, language: str = "english") -> Bm25Judge:
    return Bm25Judge(language, queries, corpus)


def test_equal_to_a_hand_computation() -> None:
    pairs = [("cat", "cat tree"), ("cat", "cat cat stone"), ("cat", "dog stone bird fish"), ("dog cat", "cat tree")]
    pairs += [("dog cat", "dog stone bird fish"), ("cow", "cow cow")]

    def term(count: int, words: int, documents: int) -> float:
        idf = math.log(1 + (3 - documents + 0.5) / (documents + 0.5))
        return idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * words / 3))

    by_hand = [term(1, 2, 2), term(2, 3, 2), 0.0, term(1, 2, 2), term(1, 4, 1), term(2, 2, 0)]
    assert judge(["cat", "dog", "cow"]).scores(pairs) == pytest.approx(by_hand, rel=1e-9)


letters = st.lists(st.sampled_from(["cat", "dogs", "tree", "the", "stones", "fish"]), min_size=1, max_size=6)
texts = letters.map(" ".join)


@settings(max_examples=40)
@given(st.lists(texts, min_size=1, max_size=8), st.lists(texts, min_size=1, max_size=4))
def test_equal_to_bm25s_over_the_corpus(corpus: list[str], queries: list[str]) -> None:
    words = Words("english")
    ids, names = words([*corpus, *queries])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", 3)
        ours = [judge(queries, corpus).scores([(query, text) for text in corpus]) for query in queries]
    if not any(ids[: len(corpus)]):
        assert ours == [[0.0] * len(corpus)] * len(queries)
        return
    index = bm25s.BM25(method="lucene")
    index.index((ids[: len(corpus)], {word: n for n, word in enumerate(names)}), show_progress=False)
    for query, scores in zip(ids[len(corpus) :], ours, strict=True):
        theirs = index.get_scores(query) if query else [0.0] * len(corpus)
        assert scores == pytest.approx(list(theirs), rel=1e-5, abs=1e-6)


def test_a_score_does_not_hang_on_what_is_asked_beside_it() -> None:
    pairs = [(query, text) for query in ("cat", "dog bird", "stone cat") for text in CORPUS]
    asked = judge([query for query, _ in pairs])
    together = asked.scores([*pairs, *pairs[:2]])
    assert together == [asked.scores([pair])[0] for pair in [*pairs, *pairs[:2]]]
    assert len(set(together)) > 4


def test_endings_and_stop_words() -> None:
    pairs = [("sleeping cats", "the cat sleeps"), ("who is the", "the cat sleeps"), ("cat", "a dog")]
    scores = judge([query for query, _ in pairs]).scores(pairs)
    assert scores[0] > 0
    assert scores[1:] == [0.0, 0.0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pairs", [[], [("cat", "...")], [("", "")], [("the", "of the")], [("cat", ""), ("", "the")]])
@pytest.mark.parametrize("corpus", [[], ["..."], CORPUS])
def test_without_words_nothing_is_relevant(pairs: list[tuple[str, str]], corpus: list[str]) -> None:
    assert judge([query for query, _ in pairs], corpus).scores(pairs) == [0.0] * len(pairs)


def test_an_unknown_language_has_whole_words() -> None:
    same, ending = judge(["cats"], language="klingon").scores([("cats", "the cats"), ("cats", "the cat")])
    assert (same > 0, ending) == (True, 0.0)


def test_scores_are_plain_numbers() -> None:
    assert all(type(score) is float for score in judge(["cat"]).scores([("cat", "cat"), ("the", "dog")]))
