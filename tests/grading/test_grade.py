import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.config import GradingSection
from multigrain.data.mined_candidates import NO_RANK, Mined
from multigrain.data.words import words_in
from multigrain.grading.block import Graded
from multigrain.grading.grade import Grader, Proposal, unfilled
from multigrain.grading.judges import Judge
from multigrain.records import GIVEN, Candidate, Dropped, Pair, Source, to_json, tuple_from_json

SECTION = GradingSection(bands=[0.35, 0.6, 0.8], false_negative_above=0.95)
PAIR = Pair("p", "how do cats sleep at night", "cats sleep in short naps through day and night alike")
SUBJECTS = (
    "rivers run toward northern oceans",
    "copper kettles boil over campfires",
    "her violin was carved by monks",
    "ships need pilots in fog",
    "bakers knead dough before sunrise",
    "volcanoes build islands from lava",
    "gardeners prune roses every winter",
    "trains cross deserts without stopping",
)
"""Texts that share no words, so that no rule looks at them."""


class Told:
    """A judge that is told the relevance of each text; positives have 1."""

    def __init__(self, relevance: Mapping[str, float]) -> None:
        self.relevance = relevance

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [self.relevance.get(text, 1.0) for _, text in pairs]


def candidate(subject: int, grade: int, source: Source = "llm", pair_id: str = "p") -> Candidate:
    return Candidate(pair_id, grade, SUBJECTS[subject], source, "m")


def mined_of(candidates: Sequence[Candidate], judges: Mapping[str, Judge] | None = None) -> Mined:
    """References to documents, each its own, with the scores of those judges that mining has asked.

    Documents lie in the order of their texts, whatever the order of the candidates.
    """
    count = len(candidates)
    pairs = [(PAIR.query, c.text) for c in candidates]
    scores = {name: np.array(judge.scores(pairs), np.float32) for name, judge in (judges or {}).items()}
    return Mined(
        pair=np.zeros(count, np.int32),
        document=np.argsort(sorted(range(count), key=lambda n: (candidates[n].text, candidates[n].grade))).astype(
            np.int32
        ),
        grade=np.array([c.grade for c in candidates], np.int8),
        method=np.zeros(count, np.int8),
        rank=np.full(count, NO_RANK, np.int32),
        words=np.array([words_in(c.text) for c in candidates], np.float32),
        scores=scores,
        positives={
            name: np.full(count, judge.scores([(PAIR.query, PAIR.positive)])[0], np.float32)
            for name, judge in (judges or {}).items()
        },
    )


def grade(
    items: Sequence[tuple[Candidate, float | tuple[float, ...]]],
    section: GradingSection = SECTION,
    recorded: Sequence[str] = (),
    **settings: object,
) -> Graded:
    """Grade one pair's candidates, of which each judge is told the relevance; what is mined comes by reference.

    Of the documents that were dropped candidates are made again, beside the texts.
    """
    told = [(c, r if isinstance(r, tuple) else (r,)) for c, r in items]
    judges: dict[str, Judge] = {
        f"judge {n}": Told({c.text: relevance[n] for c, relevance in told})
        for n in range(len(told[0][1]) if told else 1)
    }
    return grade_by(judges, [c for c, _ in told], section, recorded, **settings)


def grade_by(
    judges: Mapping[str, Judge],
    candidates: Sequence[Candidate],
    section: GradingSection = SECTION,
    recorded: Sequence[str] = (),
    **settings: object,
) -> Graded:
    documents = [c for c in candidates if c.source == "mined" and c.model != GIVEN]
    corpus = sorted(c.text for c in documents)
    texts = [c for c in candidates if c.source != "mined" or c.model == GIVEN]
    grader = Grader(
        judges,
        section,
        texts_of=lambda numbers: [corpus[number] for number in numbers],
        **settings,  # type: ignore[arg-type]
    )
    mined = mined_of(documents, {name: judges[name] for name in recorded})
    graded = grader.grade([(PAIR, texts)], mined)
    of_documents = [
        Dropped(documents[row], each.rule, value)
        for each in graded.dropped_mined
        for row, value in zip(each.row.tolist(), each.value.tolist(), strict=True)
    ]
    return replace(graded, dropped=graded.dropped + of_documents)


def kept(graded: Graded) -> list[tuple[int, float, Source]]:
    return [(n.grade, n.score, n.source) for t in graded.tuples for n in t.negatives]


def dropped(graded: Graded) -> list[tuple[str, str, float]]:
    return [(d.candidate.text, d.rule, d.value) for d in graded.dropped]


def test_each_candidate_gets_the_grade_it_has_by_hand() -> None:
    graded = grade(
        [
            (candidate(0, 1), 0.1),
            (candidate(1, 2), 0.9),
            (candidate(2, 3), 0.96),
            (candidate(3, 4), 0.85),
            (candidate(4, 3, "mined"), 0.7),
        ]
    )
    # 0.9 was asked for grade 2 and measures 4; 0.85 was asked for grade 4, and is as far from the positive as counts.
    assert kept(graded) == [(1, 0.1, "llm"), (3, 0.7, "mined"), (4, 0.85, "llm")]
    assert dropped(graded) == [(SUBJECTS[2], "false negative", 0.96), (SUBJECTS[1], "surplus", 4.0)]
    assert graded.measured.grade.tolist() == [1, 4, 5, 4, 3]


def test_written_candidates_come_before_mined_ones() -> None:
    items = [(candidate(0, 1, "mined"), 0.1), (candidate(1, 1), 0.2)]
    assert kept(grade(items)) == [(1, 0.2, "llm")]
    assert kept(grade(items, per_grade=2)) == [(1, 0.1, "mined"), (1, 0.2, "llm")]


def test_a_score_is_the_judges_and_a_grade_is_a_share_of_the_positives() -> None:
    items = [candidate(0, 1), candidate(1, 3)]
    judge = Told({PAIR.positive: 0.5, items[0].text: 0.1, items[1].text: 0.35})
    assert kept(Grader({"one": judge}, SECTION).grade([(PAIR, items)])) == [(1, 0.1, "llm"), (3, 0.35, "llm")]


@pytest.mark.parametrize(("relevance", "rule"), [(0.949, None), (0.95, "false negative"), (9.0, "false negative")])
def test_a_false_negative_by_any_judge_is_dropped(relevance: float, rule: str | None) -> None:
    for by in [(relevance,), (0.5, relevance), (0.5, 0.5, relevance)]:
        found = dropped(grade([(candidate(0, 1), by)]))
        assert found == ([(SUBJECTS[0], rule, min(relevance, 1.5))] if rule else [])  # beyond 1.5 says nothing


def test_a_language_model_has_the_last_word_on_false_negatives() -> None:
    items = [(candidate(0, 1), (0.2, 0.2)), (candidate(1, 4), (0.97, 0.9)), (candidate(2, 2), (0.5, 0.99))]
    assert kept(grade(items)) == [(1, 0.2, "llm")]
    says_no = {("p", SUBJECTS[1]): False, ("p", SUBJECTS[2]): False, ("other", SUBJECTS[0]): True}
    # The second is a false negative to the first judge: it becomes grade 4. The third keeps the grade it has; of both
    # only one can stay, for the judges do not agree on their order.
    assert kept(grade(items, verdicts=says_no))[0] == (1, 0.2, "llm")
    assert kept(grade(items[:2], verdicts=says_no)) == [(1, 0.2, "llm"), (4, 0.97, "llm")]
    assert kept(grade([items[0], items[2]], verdicts=says_no)) == [(1, 0.2, "llm"), (2, 0.5, "llm")]
    assert dropped(grade(items[:1], verdicts={("p", SUBJECTS[0]): True})) == [(SUBJECTS[0], "answers the query", 0.2)]


def test_a_judge_must_see_the_order_too() -> None:
    graded = grade([(candidate(0, 1), (0.1, 0.5)), (candidate(1, 2), (0.4, 0.3)), (candidate(2, 4), (0.9, 0.9))])
    # 1 and 2 exclude each other, and are worth the same: both are further from 4 than counts (0.35), by both judges.
    assert [grade for grade, _, _ in kept(graded)] == [1, 4]
    assert dropped(graded) == [(SUBJECTS[1], "order", 2.0)]


def test_a_judge_that_finds_the_positive_worthless_has_no_say() -> None:
    item = candidate(0, 1)
    judges = {"one": Told({item.text: 0.5}), "two": Told({PAIR.positive: 0.0, item.text: 3.0})}
    assert kept(Grader(judges, SECTION).grade([(PAIR, [item])])) == [(2, 0.5, "llm")]


@pytest.mark.parametrize("own", [-0.01, 0.0])
def test_a_positive_that_is_irrelevant_itself_has_no_negatives(own: float) -> None:
    items = [candidate(0, 1), candidate(1, 2, "mined")]
    judge = Told({PAIR.positive: own, items[0].text: 0.1, items[1].text: -0.5})
    graded = grade_by({"one": judge}, items)
    assert (graded.tuples, len(graded.measured)) == ([], 0)
    assert [(d.rule, d.value) for d in graded.dropped] == [("irrelevant positive", own)] * 2


def test_length_by_hand() -> None:
    section = GradingSection(bands=[0.35, 0.6, 0.8], length_ratio=2.0)  # the positive has 10 words
    texts = {n: " ".join(f"word{n}x{i}" for i in range(n)) for n in (4, 5, 20, 21)}
    items = [(Candidate("p", 1, text, "llm", "m"), 0.1) for text in texts.values()]
    assert [(rule, value) for _, rule, value in dropped(grade(items, section)) if rule == "length"] == [
        ("length", 2.1),
        ("length", 0.4),
    ]
    mined = [(replace(item, source="mined"), score) for item, score in items]  # people's texts have no style to hide
    assert not [1 for _, rule, _ in dropped(grade(mined, section)) if rule == "length"]
    # A model that reads 20 tokens (15 words) reads neither more than 15 words of the text.
    assert not [1 for _, rule, _ in dropped(grade(items[3:], section, longest=20)) if rule == "length"]


def test_a_grade_comes_from_where_it_is_wanted_from() -> None:
    origins: dict[int, frozenset[Source]] = {1: frozenset({"mined"}), 2: frozenset({"llm"})}
    items = [
        (candidate(0, 2), 0.1),  # asked for grade 2, which may be written, and measures 1, which may not
        (candidate(1, 1, "mined"), 0.2),
        (candidate(2, 2, "mined"), 0.4),
        (candidate(3, 4, "mined"), 0.9),
    ]
    graded = grade(items, origins=origins)
    assert kept(graded) == [(1, 0.2, "mined"), (4, 0.9, "mined")]
    assert sorted(dropped(graded)) == sorted([(SUBJECTS[0], "source", 1.0), (SUBJECTS[2], "source", 2.0)])


def test_given_negatives_keep_their_grades_unjudged() -> None:
    """Those of grade 2 would be of grade 1 and 4 by the judge; what else has grade 2 finds its place taken."""
    given = [replace(candidate(n, 2, "mined"), model=GIVEN) for n in (0, 1)]
    items = [(given[0], 0.1), (given[1], 0.94), (candidate(2, 2), 0.5), (candidate(3, 3), 0.7)]
    graded = grade(items, SECTION.model_copy(update={"keep_given": True}))
    assert kept(graded) == [(2, 0.1, "mined"), (2, 0.94, "mined"), (3, 0.7, "llm")]
    assert dropped(graded) == [(SUBJECTS[2], "surplus", 2.0)]
    judged = grade(items)
    assert (2, 0.1, "mined") not in kept(judged)


def test_given_negatives_that_are_kept_need_no_judge() -> None:
    """Neither a near copy, nor one of a written text, nor beside a positive that the judge finds irrelevant."""
    section = SECTION.model_copy(update={"keep_given": True})
    near = replace(candidate(0, 3, "mined"), text=f"{PAIR.positive} indeed", model=GIVEN)
    written = replace(candidate(1, 2, "llm"), text=f"{PAIR.positive} indeed", model="m")
    told = [(near, 0.99), (written, 0.99)]
    assert kept(grade(told, section)) == [(3, 0.99, "mined")]
    assert [rule for _, rule, _ in dropped(grade(told, section))] == ["copy of the positive"]
    for own in (-0.5, 0.0):
        judge = Told({PAIR.positive: own, near.text: 0.25, SUBJECTS[2]: 0.2})
        graded = Grader({"one": judge}, section).grade([(PAIR, [near, candidate(2, 1)])])
        assert [(n.grade, n.text) for t in graded.tuples for n in t.negatives] == [(3, near.text)]
        assert [d.rule for d in graded.dropped] == ["irrelevant positive"]
        assert len(graded.measured) == 0


def test_labels_may_be_written_for_several_pairs() -> None:
    grader = Grader({"one": Told({"Java": 0.4})}, SECTION)
    for id in "ab":
        pair = Pair(id, "a language of snakes", "Python")
        graded = grader.grade([(pair, [Candidate(id, 2, "Java", "llm", "m")])])
        assert kept(graded) == [(2, 0.4, "llm")]


def test_what_was_written_for_another_pair_is_a_near_duplicate_and_what_was_mined_is_none() -> None:
    grader = Grader(
        {"one": Told({SUBJECTS[0]: 0.1, SUBJECTS[1]: 0.2})},
        SECTION,
        texts_of=lambda numbers: [SUBJECTS[1]] * len(numbers),
    )
    other = replace(PAIR, id="o", query="where do dogs sleep")
    mined = mined_of([candidate(1, 1, "mined")])
    grader.grade([(PAIR, [candidate(0, 1)])], mined)
    again = grader.grade([(other, [candidate(0, 1, pair_id="o")])], mined)
    assert [(d.rule, d.candidate.text) for d in again.dropped] == [("near duplicate", SUBJECTS[0])]
    assert again.dropped_mined == []
    assert kept(again) == [(1, 0.2, "mined")]


@pytest.mark.parametrize("proposals", [[], [(PAIR, [])]])
def test_no_pairs_and_no_candidates(proposals: list[Proposal]) -> None:
    graded = Grader({"one": Told({})}, SECTION).grade(proposals)
    assert (graded.tuples, graded.dropped, graded.dropped_mined, len(graded.measured)) == ([], [], [], 0)


def test_unfilled() -> None:
    (graded,) = grade([(candidate(0, 1), 0.1), (candidate(1, 3), 0.7)]).tuples
    assert unfilled(graded, [1, 2, 3, 4]) == [2, 4]
    assert unfilled(graded, [1, 3]) == []
    assert unfilled(None, [2, 3]) == [2, 3]


def test_several_pairs_at_once_are_graded_as_each_alone() -> None:
    """Pairs with texts, with documents, with both and with none; a document of two pairs is read once."""
    documents = ["the sea is salt", "iron rusts in rain", PAIR.positive.upper()]
    reads: list[int] = []
    relevance = {text: 0.1 + 0.2 * place for place, text in enumerate([*SUBJECTS[:3], *documents[:2]])}
    relevance |= {documents[1]: 0.2, documents[2]: 0.9}

    def texts_of(numbers: Sequence[int]) -> list[str]:
        reads.extend(numbers)
        return [documents[number] for number in numbers]

    pairs = [replace(PAIR, id=f"p{place}", query=f"{PAIR.query} {place}") for place in range(4)]
    texts = [[candidate(0, 1, pair_id="p0")], [], [candidate(1, 2, pair_id="p2")], []]
    mined = replace(
        mined_of([candidate(0, grade, "mined") for grade in (1, 2, 3, 1, 3)]),
        pair=np.array([1, 1, 1, 2, 2], np.int32),
        document=np.array([0, 1, 2, 1, 2], np.int32),
    )
    together = Grader({"one": Told(relevance)}, SECTION, texts_of=texts_of).grade(
        list(zip(pairs, texts, strict=True)), mined
    )
    assert sorted(reads) == [0, 1, 2]
    alone = []
    for place, pair in enumerate(pairs):
        own = mined[mined.pair == place]
        grader = Grader({"one": Told(relevance)}, SECTION, texts_of=texts_of)
        alone.append(grader.grade([(pair, texts[place])], own.counted_from(place)))
    assert together.tuples == [graded_tuple for graded in alone for graded_tuple in graded.tuples]
    assert len(together.tuples) == 3
    places = [
        row for each in together.dropped_mined for row in each.row.tolist() if each.rule == "copy of the positive"
    ]
    assert places == [2, 4]


@pytest.mark.parametrize("source", ["llm", "mined"])
@pytest.mark.parametrize("recorded", [(), ("one",)])
def test_nothing_is_measured_against_an_irrelevant_positive(source: Source, recorded: tuple[str, ...]) -> None:
    """BM25 finds a positive irrelevant that shares no word with its query, whoever has mined for it."""
    for score in (-0.5, 0.0, 0.5):
        judge = Told({PAIR.positive: 0.0, SUBJECTS[0]: score})
        graded = grade_by({"one": judge}, [candidate(0, 1, source)], recorded=recorded)
        assert (graded.tuples, len(graded.measured)) == ([], 0)
        assert dropped(graded) == [(SUBJECTS[0], "irrelevant positive", 0.0)]


relevance = st.floats(-1, 1.6).map(lambda r: round(r, 2))
items = st.lists(
    st.tuples(st.integers(0, 7), st.integers(1, 4), st.sampled_from(["llm", "mined"]), relevance, relevance),
    max_size=12,
)


@settings(max_examples=150)
@given(items, st.integers(1, 3), st.randoms())
def test_what_always_holds(drawn: list[tuple[int, int, Source, float, float]], per_grade: int, random: Random) -> None:
    first = {SUBJECTS[subject]: relevance for subject, _, _, relevance, _ in drawn}
    second = {SUBJECTS[subject]: relevance for subject, _, _, _, relevance in drawn}
    told = [
        (candidate(subject, asked, source), (first[SUBJECTS[subject]], second[SUBJECTS[subject]]))
        for subject, asked, source, _, _ in drawn
    ]
    graded = grade(told, per_grade=per_grade)
    negatives = graded.tuples[0].negatives if graded.tuples else ()

    # Every candidate is kept or dropped, once.
    everything = sorted([n.text for n in negatives] + [d.candidate.text for d in graded.dropped])
    assert everything == sorted(c.text for c, _ in told)
    # Nothing is twice in a tuple, and no grade has more than it may.
    assert len({n.text for n in negatives}) == len(negatives)
    assert max([[n.grade for n in negatives].count(g) for g in (1, 2, 3, 4)]) <= per_grade
    # Grades rise, and so does the relevance by every judge; no judge finds anything as relevant as the positive.
    assert [n.grade for n in negatives] == sorted(n.grade for n in negatives)
    assert [n.score for n in negatives] == sorted(n.score for n in negatives)
    for low in negatives:
        assert max(first[low.text], second[low.text]) < 0.95
        for high in negatives:
            if low.grade < high.grade:
                assert first[low.text] <= first[high.text] and second[low.text] <= second[high.text]
    # What mining has measured no judge is asked again.
    eighths = [(c, tuple(round(8 * share) / 8 for share in shares)) for c, shares in told]
    if told:
        asked, recorded = grade(eighths), grade(eighths, recorded=["judge 0", "judge 1"])
        assert (asked.tuples, asked.dropped) == (recorded.tuples, recorded.dropped)
    # The order in which candidates come does not matter.
    shuffled = random.sample(told, len(told))
    again = grade(shuffled, per_grade=per_grade) if told else graded
    assert again.tuples == graded.tuples
    assert sorted(map(repr, again.dropped)) == sorted(map(repr, graded.dropped))
    for graded_tuple in graded.tuples:
        assert tuple_from_json(json.loads(json.dumps(to_json(graded_tuple)))) == graded_tuple
    assert all(math.isfinite(d.value) for d in graded.dropped)


def test_words_alone_make_no_false_negative() -> None:
    """BM25 has a say only where the first judge finds a text within 0.05 of the bound (0.95)."""
    shares = {0: (0.89, 1.3), 1: (0.91, 1.3), 2: (0.94, 0.9), 3: (0.96, 0.1)}
    judges = {
        "embedding": Told({SUBJECTS[n]: first for n, (first, _) in shares.items()}),
        "bm25": Told({SUBJECTS[n]: second for n, (_, second) in shares.items()}),
    }
    candidates = [candidate(n, 4, "mined") for n in shares]
    false = {text for text, rule, _ in dropped(grade_by(judges, candidates)) if rule == "false negative"}
    assert false == {SUBJECTS[1], SUBJECTS[3]}
    judges = {"embedding": judges["embedding"], "cross-encoder": judges["bm25"]}  # which reads, and so has its say
    false = {text for text, rule, _ in dropped(grade_by(judges, candidates)) if rule == "false negative"}
    assert false == {SUBJECTS[0], SUBJECTS[1], SUBJECTS[3]}
