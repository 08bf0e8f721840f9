import itertools
from collections.abc import Collection, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.grading import selection as module
from multigrain.grading.measured import Measured
from multigrain.grading.selection import choose_rising
from multigrain.records import Source


class Node(NamedTuple):
    """A candidate of one pair."""

    grade: int
    relevance: tuple[float, ...]
    asked: int
    source: Source
    length: float
    text: str


def measured(
    grade: int, *relevance: float, asked: int = 0, source: Source = "mined", length: float = 0.0, text: str = ""
) -> Node:
    return Node(grade, relevance, asked, source, length, text)


def columns_of(nodes: Sequence[Node], pairs: Sequence[int] | None = None) -> Measured:
    """The columns of candidates, of one pair where none is named."""
    count = len(nodes)
    relevance = np.array([node.relevance for node in nodes]).reshape(count, -1 if count else 1)
    return Measured(
        pair=np.array([0] * count if pairs is None else pairs, dtype=np.int64),
        text=np.arange(count),
        row=np.full(count, -1),
        asked=np.array([node.asked for node in nodes], dtype=np.int64),
        is_written=np.array([node.source == "llm" for node in nodes], dtype=bool),
        is_kept=np.zeros(count, dtype=bool),
        relevance=relevance,
        grade=np.array([node.grade for node in nodes], dtype=np.int64),
        length=np.array([node.length for node in nodes]),
        answers=np.zeros(count, dtype=bool),
    )


def choose(
    candidates: Sequence[Node], per_grade: int = 1, nearest: Collection[int] = ()
) -> tuple[list[Node], list[tuple[Node, str]]]:
    """The chosen candidates of one pair, as the tuple has them, and the others with what became of them."""
    choice = choose_rising(columns_of(candidates), per_grade, nearest)
    order = sorted(range(len(candidates)), key=lambda n: (candidates[n].grade, candidates[n].relevance))
    chosen = [candidates[n] for n in order if choice.chosen[n]]
    left = [(candidates[n], "surplus" if choice.surplus[n] else "order") for n in order if not choice.chosen[n]]
    assert not (choice.chosen & choice.surplus).any()
    return chosen, left


def value_of(chain: Sequence[Node], nearest: Collection[int] = ()) -> float:
    """The formula of the module, read again."""
    nodes = sum(100 + 0.3 * (m.asked == m.grade) for m in chain)
    nodes += sum(1.5 - abs(m.length) for m in chain if m.source == "llm")
    nodes += sum(20 * (max(m.relevance[0], 0.0) - 1) for m in chain if m.source == "mined" and m.grade in nearest)
    steps = [*(m.relevance for m in chain), (1.0,) * len(chain[0].relevance)] if chain else []
    gaps = sum(
        4 * sum(min(high - low, 0.35) for low, high in zip(a, b, strict=True)) / len(a)
        for a, b in itertools.pairwise(steps)
    )
    return nodes + gaps


def rises(chain: Sequence[Node]) -> bool:
    return all(
        a.grade < b.grade and all(x <= y for x, y in zip(a.relevance, b.relevance, strict=True))
        for a, b in itertools.pairwise(chain)
    )


nodes = st.builds(
    measured,
    st.integers(1, 4),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9]),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.4]),
    asked=st.integers(1, 4),
    source=st.sampled_from(["llm", "mined"]),
    length=st.floats(-1.1, 1.1),
    text=st.text("abc", max_size=3),
)


@settings(max_examples=200)
@given(st.lists(nodes, max_size=8), st.sets(st.integers(1, 4)))
def test_no_chain_is_worth_more(candidates: list[Node], nearest: set[int]) -> None:
    chosen, left = choose(candidates, nearest=nearest)
    assert rises(chosen)
    chains = (
        chain
        for count in range(1, 5)
        for chain in itertools.combinations(sorted(candidates, key=lambda m: m.grade), count)
        if rises(chain)
    )
    best = max((value_of(chain, nearest) for chain in chains), default=0.0)
    assert value_of(chosen, nearest) == pytest.approx(max(best, 0.0))
    assert len(chosen) + len(left) == len(candidates)
    grades = {m.grade for m in chosen}
    assert all((rule == "surplus") == (m.grade in grades) for m, rule in left)


@settings(max_examples=200)
@given(st.lists(nodes, max_size=10), st.randoms(), st.integers(1, 3))
def test_several_of_a_grade_rise_together_whatever_the_order_they_come_in(
    candidates: list[Node], random: Random, per_grade: int
) -> None:
    chosen, left = choose(candidates, per_grade)
    for low, high in itertools.permutations(chosen, 2):
        assert low.grade >= high.grade or all(a <= b for a, b in zip(low.relevance, high.relevance, strict=True))
    counts = [[m.grade for m in chosen].count(grade) for grade in (1, 2, 3, 4)]
    assert max(counts) <= per_grade
    assert all((rule == "surplus") == (counts[m.grade - 1] == per_grade) for m, rule in left)
    if len({(m.grade, m.relevance) for m in candidates}) == len(candidates):
        assert choose(random.sample(candidates, len(candidates)), per_grade) == (chosen, left)


def test_as_many_grades_as_can_be_come_first() -> None:
    """A short chain of fine texts loses against a long one of poor ones."""
    fine = [measured(1, 0.1, 0.6, source="llm", asked=1), measured(4, 0.9, 0.9, source="llm", asked=4)]
    poor = [measured(2, 0.4, 0.2, length=1.0), measured(3, 0.7, 0.3, length=-1.0)]
    chosen, left = choose([*fine, *poor])
    assert [m.grade for m in chosen] == [2, 3, 4]
    assert [(m.grade, rule) for m, rule in left] == [(1, "order")]


def test_of_written_equals_the_one_as_long_as_the_positive() -> None:
    lengths = (-0.5, 0.6, 0.1)
    short, long, even = (measured(2, 0.5, source="llm", length=length, text=str(length)) for length in lengths)
    chosen, left = choose([short, long, even])
    assert chosen == [even]
    assert {rule for _, rule in left} == {"surplus"}


def test_the_nearest_mined_one_whatever_its_length_and_a_written_one_before_it() -> None:
    far, near = measured(4, 0.75, 0.7, length=0.0), measured(4, 0.9, 0.2, length=2.0)
    written = measured(4, 0.75, 0.75, source="llm", length=1.0)
    assert choose([far, near])[0] == [far]  # well apart from the positive
    assert choose([far, near], nearest=[4])[0] == [near]
    assert choose([far, near, written], nearest=[4])[0] == [written]


def test_the_second_of_a_grade_may_not_cross_the_first_of_another() -> None:
    first, hard = measured(1, 0.1, 0.2, source="llm"), measured(3, 0.7, 0.5, source="llm")
    crossing = measured(1, 0.2, 0.6)  # less relevant than `hard` to the first judge, more to the second
    chosen, left = choose([first, hard, crossing], per_grade=2)
    assert chosen == [first, hard]
    assert left == [(crossing, "order")]
    both = measured(1, 0.2, 0.4)
    assert choose([first, hard, both], per_grade=2) == ([first, both, hard], [])


def test_nothing() -> None:
    assert choose([], per_grade=2) == ([], [])


@pytest.mark.parametrize("at_once", [1, 2**20])
@settings(max_examples=100)
@given(st.lists(st.lists(nodes, max_size=6), max_size=5), st.integers(1, 3))
def test_several_pairs_at_once_are_chosen_for_as_each_alone(
    at_once: int, of_pairs: list[list[Node]], per_grade: int
) -> None:
    """The numbers of pairs rise, and not all are there."""
    candidates = [node for members in of_pairs for node in members]
    pairs = [3 * place + 1 for place, members in enumerate(of_pairs) for _ in members]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        together = choose_rising(columns_of(candidates, pairs), per_grade)
    alone = [choose_rising(columns_of(members), per_grade) for members in of_pairs]
    assert together.chosen.tolist() == [flag for choice in alone for flag in choice.chosen.tolist()]
    assert together.surplus.tolist() == [flag for choice in alone for flag in choice.surplus.tolist()]
