"""The smallest keys of each pair and grade, against a dictionary of everything that was offered."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.records import FALSE_NEGATIVE
from multigrain.retrieval.graded_choice import Chosen, GradedChoice, joined

BOUNDS = (0.35, 0.6, 0.8, 0.95)
PAIRS, DOCUMENTS = 3, 8
RELEVANCE = [-np.inf, -0.5, 0.0, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.2, np.inf, np.nan]


class Offer(NamedTuple):
    pair: int
    document: int
    relevance: float
    key: float


def grade_by_definition(relevance: float) -> int:
    """As `grade_of`, in the precision in which relevance is measured; not a number has no grade."""
    if np.isnan(relevance):
        return FALSE_NEGATIVE
    return 1 + sum(bool(np.float32(relevance) >= np.float32(bound)) for bound in BOUNDS)


def expected(offers: Sequence[Offer], grades: list[int], per_grade: int) -> list[tuple[int, int, float, int]]:
    """(pair, grade, key, document) of the smallest keys of each."""
    cells: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for offer in offers:
        cells.setdefault((offer.pair, grade_by_definition(offer.relevance)), []).append((offer.key, offer.document))
    kept = {cell: sorted(members)[:per_grade] for cell, members in cells.items() if cell[1] in grades}
    return [(*cell, *member) for cell in sorted(kept) for member in kept[cell]]


def found(chosen: Chosen) -> list[tuple[int, int, float, int]]:
    columns = (chosen.pair, chosen.grade, chosen.key, chosen.document)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def offer_all(choice: GradedChoice, offers: list[Offer]) -> None:
    pairs, documents, relevance, keys = zip(*offers, strict=True)
    choice.offer(
        np.array(pairs), np.array(documents), np.array(relevance, dtype=np.float32), np.array(keys, dtype=np.uint32)
    )


keys = st.lists(
    st.integers(0, 20) | st.integers(2**32 - 30, 2**32 - 2), min_size=DOCUMENTS, max_size=DOCUMENTS, unique=True
)
tables = st.lists(
    st.tuples(st.lists(st.sampled_from(RELEVANCE), min_size=DOCUMENTS, max_size=DOCUMENTS), keys),
    min_size=PAIRS,
    max_size=PAIRS,
).map(
    lambda rows: [
        Offer(pair, document, relevance[document], of_pair[document])
        for pair, (relevance, of_pair) in enumerate(rows)
        for document in range(DOCUMENTS)
    ]
)
wanted_grades = st.lists(st.integers(1, 4), min_size=1, unique=True)


@settings(max_examples=200)
@given(tables.flatmap(st.permutations), st.integers(1, 8), wanted_grades, st.integers(1, 3))
def test_offers_in_any_order(offers: list[Offer], at_once: int, grades: list[int], per_grade: int) -> None:
    choice = GradedChoice(PAIRS, grades, per_grade, BOUNDS)
    for start in range(0, len(offers), at_once):
        offer_all(choice, offers[start : start + at_once])
    chosen = choice.chosen()
    assert found(chosen) == expected(offers, grades, per_grade)
    relevance = {(offer.pair, offer.document): np.float32(offer.relevance) for offer in offers}
    of_chosen = zip(chosen.pair.tolist(), chosen.document.tolist(), strict=True)
    assert chosen.relevance.tolist() == [relevance[place] for place in of_chosen]


@settings(max_examples=200)
@given(
    tables,
    st.permutations(range(DOCUMENTS)),
    st.integers(1, DOCUMENTS),
    st.integers(1, PAIRS),
    wanted_grades,
    st.integers(1, 3),
    st.sets(st.integers(1, 4)),
)
def test_grids_choose_what_offers_do(
    offers: list[Offer], order: list[int], columns: int, rows: int, grades: list[int], per_grade: int, nearest: set[int]
) -> None:
    relevance = np.array([offer.relevance for offer in offers], dtype=np.float32).reshape(PAIRS, DOCUMENTS)
    keys = np.array([offer.key for offer in offers], dtype=np.uint32).reshape(PAIRS, DOCUMENTS)
    choice = GradedChoice(PAIRS, grades, per_grade, BOUNDS, nearest)
    for column in range(0, DOCUMENTS, columns):
        documents = np.array(order[column : column + columns])
        for first in range(0, PAIRS, rows):
            grid = slice(first, first + rows)
            choice.offer_nearest(first, documents, relevance[grid][:, documents])
            choice.offer_grid(first, documents, relevance[grid][:, documents], keys[grid][:, documents])
    chosen = choice.chosen()
    random = [offer for offer in offers if grade_by_definition(offer.relevance) not in nearest]
    is_near = np.isin(chosen.grade, list(nearest))
    assert found(chosen.rows(np.flatnonzero(~is_near))) == expected(random, grades, per_grade)
    by_nearness = [offer._replace(key=-offer.relevance) for offer in offers]
    of_near = [row for row in expected(by_nearness, grades, per_grade) if row[1] in nearest]
    near = chosen.rows(np.flatnonzero(is_near))
    columns_of_near = (near.pair, near.grade, -near.relevance, near.document)
    assert list(zip(*(column.tolist() for column in columns_of_near), strict=True)) == [
        (pair, grade, float(np.float32(key)), document) for pair, grade, key, document in of_near
    ]


def test_equal_keys_of_one_offer_go_by_number() -> None:
    choice = GradedChoice(1, [1], 2, BOUNDS)
    offer_all(choice, [Offer(0, document, 0.1, 5) for document in (9, 3, 7)])
    assert found(choice.chosen()) == [(0, 1, 5, 3), (0, 1, 5, 7)]


def test_large_numbers_of_documents_and_keys_are_kept_apart() -> None:
    choice = GradedChoice(1, [2], 2, BOUNDS)
    offer_all(choice, [Offer(0, 2**31 + 5, 0.5, 2**31 + 1), Offer(0, 2**32 - 1, 0.5, 0)])
    assert found(choice.chosen()) == [(0, 2, 0, 2**32 - 1), (0, 2, 2**31 + 1, 2**31 + 5)]


def test_nothing_was_offered() -> None:
    assert found(GradedChoice(2, [1, 4], 1, BOUNDS).chosen()) == []


def test_rows_and_parts() -> None:
    choice = GradedChoice(2, [1, 3], 2, BOUNDS)
    offer_all(choice, [Offer(0, 4, 0.1, 1), Offer(1, 5, 0.7, 2), Offer(1, 6, 0.1, 3)])
    chosen = choice.chosen()
    some = chosen.rows(np.array([2, 0]))
    assert found(some) == [(1, 3, 2, 5), (0, 1, 1, 4)]
    assert some.relevance.tolist() == np.array([0.7, 0.1], dtype=np.float32).tolist()
    assert found(joined([some, chosen])) == found(some) + found(chosen)
