import pytest

from multigrain.data.held_out import split_by_share
from multigrain.data.near_queries import NearTo, near_queries
from multigrain.records import Pair

NEAR = [
    ("How do I reset my password?", "how do i reset my  password"),
    ("How do I reset my password?", "\u201cHow do I reset my password\u201d"),
    ("what is \uff21\uff22\uff23", "What is ABC?"),
    ("symptoms of measles", "measles: symptoms of?"),
    ("Does aspirin lower the risk of a stroke in women", "Does aspirin lower risk of a stroke in women"),
    ("\u4ec0\u4e48\u662f\u7cd6\u5c3f\u75c5\uff1f", "\u4ec0\u4e48\u662f\u7cd6\u5c3f\u75c5"),
    ("???", "???"),
]
FAR = [
    ("What are the symptoms of measles?", "What are the symptoms of mumps?"),
    ("What is vitamin B?", "What is vitamin C?"),
    ("what is C++", "what is C#"),
    ("what happened in the long and cold winter of 1984", "what happened in the long and cold winter of 1985"),
    ("what is diabetes", "what is diabetes insipidus"),
    ("???", "!!!"),
]


@pytest.mark.parametrize("queries", NEAR)
def test_queries_that_nearly_equal_each_other(queries: tuple[str, str]) -> None:
    for order in (queries, queries[::-1]):
        assert set(map(frozenset, near_queries([Pair(q, q, q) for q in order]))) == {frozenset({0, 1})}
        assert order[0] in NearTo([Pair("x", order[1], "x")])
    others = [Pair(str(i), f"question {i} on another matter", f"answer {i}") for i in range(18)]
    for seed in range(5):
        pairs = [*others, *(Pair(f"near {i}", query, f"near answer {i}") for i, query in enumerate(queries))]
        train, held_out = split_by_share(pairs, 0.5, seed)
        assert sum(pair.id.startswith("near") for pair in train) in (0, 2)
        assert len(held_out) == 10


@pytest.mark.parametrize("queries", FAR)
def test_queries_that_do_not(queries: tuple[str, str]) -> None:
    assert near_queries([Pair(query, query, query) for query in queries]) == []
    for order in (queries, queries[::-1]):
        assert order[0] not in NearTo([Pair("x", order[1], "x")])
