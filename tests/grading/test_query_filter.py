from collections.abc import Sequence

import numpy as np
import pytest

from multigrain.config import GradingSection
from multigrain.grading import query_filter
from multigrain.grading.query_filter import FilteredQueries, broken_rule, filter_queries
from multigrain.model.roles import Role, Vectors
from multigrain.records import Document, Pair

PASSAGE = "Cats sleep in short naps through day and night alike, and hunt in between."
SECTION = GradingSection(round_trip=2, most_answers=1)


def unit(*degrees: float) -> Vectors:
    angles = np.radians(np.array(degrees, dtype=np.float32))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


class Compass:
    """An encoder in two dimensions: each text points somewhere, so a cosine is that of the angle between."""

    def __init__(self, degrees: dict[str, float]) -> None:
        self.degrees = degrees

    def __call__(self, texts: Sequence[str], role: Role) -> Vectors:
        return unit(*(self.degrees[text] for text in texts))


def alike(texts: Sequence[str], role: Role) -> Vectors:
    """All point one way."""
    return unit(*(0.0 for _ in texts))


def one(query_at: float, own_at: float, others: Sequence[float], section: GradingSection = SECTION) -> FilteredQueries:
    """One query, its passage, and other documents, each at an angle."""
    pair = Pair("p", "where do cats sleep", PASSAGE)
    documents = [Document("own", PASSAGE), *(Document(f"d{n}", f"document {n}") for n in range(len(others)))]
    degrees = {pair.query: query_at, PASSAGE: own_at} | {f"document {n}": at for n, at in enumerate(others)}
    return filter_queries([pair], documents, Compass(degrees), section, 7)


@pytest.mark.parametrize(
    ("just_broken", "just_kept", "name"),
    [
        ("why", "insulin", "too short"),
        ("\u7cd6", "\u4ec0\u4e48\u662f\u7cd6", "too short"),  # Chinese
        (" ".join("abcdefghi"[n % 9] + str(n) for n in range(81)), " ".join(map(str, range(80))), "too long"),
        ("I'm sorry, but I can't help with that.", "am I sorry", "refusal"),
        ("what does the passage say of cats", "what is a mountain passage", "speaks of the text"),
        ("who are the authors", "which authors write of cats", "speaks of the text"),
        (PASSAGE.upper(), "cats naps", "copy of the passage"),
        # Six words of seven stand in the passage in a row; four words are too few, and four of six too small a share.
        ("cats sleep in short naps through winter", "cats sleep in short winter days", "copy of the passage"),
        ("Cats sleep in short naps?", "sleep in short naps", "copy of the passage"),
    ],
)
def test_each_rule_at_its_limit(just_broken: str, just_kept: str, name: str) -> None:
    broken = broken_rule(Pair("p", just_broken, PASSAGE))
    assert broken is not None
    assert broken[0] == name
    assert broken_rule(Pair("p", just_kept, PASSAGE)) is None


def test_the_share_that_is_copied_is_told() -> None:
    assert broken_rule(Pair("p", "cats sleep in short naps through winter", PASSAGE)) == (
        "copy of the passage",
        round(6 / 7, 4),
    )


def test_near_duplicates_of_earlier_queries() -> None:
    pairs = [
        Pair("a", "where do the cats sleep at night", PASSAGE),
        Pair("b", "Where do the cats  sleep at NIGHT", "x"),
    ]
    found = filter_queries(pairs, [], alike, SECTION, 7)
    assert [pair.id for pair in found.kept] == ["a"]
    assert [(d.pair.id, d.rule) for d in found.dropped] == [("b", "near duplicate")]


@pytest.mark.parametrize(
    ("others", "rank", "rule"),
    [
        ([], 1, None),
        ([80, 90, 180], 1, None),
        ([10, 80], 2, None),  # one is nearer, which is as many as may
        ([10, 20, 80], 3, "round trip"),
        ([31, -31], 1, "fits many passages"),  # cos 31 = 0.857 > 0.95 cos 30 = 0.823
        ([35, -35], 1, None),  # cos 35 = 0.819
        ([31, 35, 90], 1, None),  # one fits, which is as many as may
    ],
)
def test_the_round_trip_by_hand(others: list[float], rank: int, rule: str | None) -> None:
    found = one(0, 30, others)
    assert [r for _, r in found.ranks] == [rank]
    assert [(d.rule, d.value) for d in found.dropped] == (
        [(rule, 3.0 if rule == "round trip" else 2.0)] if rule else []
    )
    assert found.kept_ranks == ([] if rule else found.ranks)


def test_a_query_that_points_away_from_its_passage() -> None:
    """Of a negative cosine 0.95 is more than all of it; nothing below the passage's own counts as fitting."""
    assert one(0, 100, [101, 102]).dropped == []
    assert [d.rule for d in one(0, 100, [99, 98]).dropped] == ["round trip"]


def test_copies_of_the_own_passage_are_no_rivals() -> None:
    pair = Pair("p", "where do cats sleep", PASSAGE)
    documents = [Document(str(n), text) for n, text in enumerate([PASSAGE, PASSAGE.upper(), f" {PASSAGE}", PASSAGE])]
    degrees = {pair.query: 0.0} | dict.fromkeys((document.text for document in documents), 5.0)
    found = filter_queries([pair], documents, Compass(degrees), SECTION, 7)
    assert (found.ranks, found.dropped) == ([(pair, 1)], [])


def test_blocks_of_documents_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    texts = [f"document {n}" for n in range(50)]
    pairs = [Pair(str(n), f"query {chr(97 + n)} of its own kind {n}", texts[n]) for n in range(20)]
    degrees = {text: float(draw.uniform(0, 360)) for text in [*texts, *(pair.query for pair in pairs)]}
    documents = [Document(text, text) for text in texts]
    whole = filter_queries(pairs, documents, Compass(degrees), SECTION, 7)
    monkeypatch.setattr(query_filter, "BLOCK", 7)
    monkeypatch.setattr(query_filter, "QUERIES", 3)
    assert filter_queries(pairs, documents, Compass(degrees), SECTION, 7) == whole
    by_hand = []
    for pair in pairs:
        cosines = {text: np.cos(np.radians(degrees[text] - degrees[pair.query])) for text in texts}
        by_hand.append(1 + sum(c > cosines[pair.positive] for text, c in cosines.items() if text != pair.positive))
    assert [rank for _, rank in whole.ranks] == by_hand


def test_stereotyped_openings_are_capped_and_drawn_by_seed() -> None:
    """Of 120 queries 5 % are 6; other openings have their places."""
    subjects = [f"{a}{b}" for a in "bcdfghklmnp" for b in ("adger", "ucket", "ishop", "oral", "elfry")]
    same = [
        Pair(f"s{n}", f"What is the best {subject} {subject[::-1]}", "x") for n, subject in enumerate(subjects[:50])
    ]
    other = [Pair(f"o{n}", f"{n} {subjects[n % 55]} {n * 7919}", "x") for n in range(70)]
    found = filter_queries([*same, *other], [], alike, SECTION, 7)
    assert sum(pair.id[0] == "s" for pair in found.kept) == 6
    assert {d.rule for d in found.dropped} == {"stereotyped opening"}
    assert len(found.kept) + len(found.dropped) == 120
    assert filter_queries([*same, *other], [], alike, SECTION, 7) == found
    again = filter_queries([*same, *other], [], alike, SECTION, 8)
    assert {pair.id for pair in again.kept} != {pair.id for pair in found.kept}
    order = [pair.id for pair in found.kept]
    assert order == [pair.id for pair in [*same, *other] if pair.id in set(order)]
    assert len(filter_queries(same[:5], [], alike, SECTION, 7).kept) == 5


def test_one_passage_and_no_pairs() -> None:
    assert one(0, 30, []).kept_ranks[0][1] == 1
    assert filter_queries([], [Document("d", "text")], alike, SECTION, 7) == FilteredQueries([], [], [])
