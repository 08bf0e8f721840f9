"""Turn candidates into graded tuples; whatever is dropped is kept with the rule that dropped it."""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from multigrain.config import GradingSection
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.grading.candidate_rules import FEWEST_WORDS, broken_rule, is_same_text, length_against, words_in
from multigrain.grading.duplicates import NearDuplicates
from multigrain.grading.judges import Judge
from multigrain.grading.selection import Measured, choose_rising
from multigrain.grading.synonyms import MARGIN, SYNONYM, exchanged_terms
from multigrain.records import (
    FALSE_NEGATIVE,
    GIVEN,
    GRADES,
    Candidate,
    Dropped,
    GradedTuple,
    Negative,
    Pair,
    Source,
    grade_of,
)

WORDS_PER_TOKEN = 0.75
"""Words of English text for each token."""
LARGEST = 1.5
"""The largest relative relevance that is told apart: higher ones are cut to it."""

IRRELEVANT_POSITIVE = "irrelevant positive"
"""The rule that drops all candidates of a pair."""

Verdicts = Mapping[tuple[str, str], bool]
"""(pair's id, text) -> whether a language model says that the text answers the query."""
Proposal = tuple[Pair, list[Candidate]]


@dataclass(frozen=True)
class Graded:
    """The result: what is kept, what was dropped and why, and the measurements of all that were judged."""

    tuples: list[GradedTuple] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    """Every candidate that broke no rule."""


@dataclass
class Grader:
    r"""Judges every candidate and gives it the grade that it has, not the one it was asked for.

    A judge's score s of a candidate c is measured against that of the positive p of the same query q,

        r(c) = s(q, c) / s(q, p)        for the embedding judge: cos(q, c) / cos(q, p)

    which is the *relative relevance*: 1 is as relevant as the positive. The first judge's r is cut into grades
    (`multigrain.records.grade_of`); all judges must agree on the rest. A candidate is dropped if it

    * breaks a rule (`multigrain.grading.candidate_rules`), or nearly equals a text that was written for another pair
      ("near duplicate"), or is known to be no negative of the pair ("known positive", "same group"; `known`);
    * is the positive with a term exchanged for another that means the same to the first judge ("synonym");
    * is as relevant as the positive by any judge ("false negative"; a text that is the positive but for a term must
      be further below it), or answers the query by a language model's
      word ("answers the query"; that model's "no" outweighs the other judges);
    * belongs to a positive that is itself irrelevant to the first judge ("irrelevant positive");
    * is many times as long as the positive, or as short ("length");
    * comes from where its grade is not wanted from ("source");
    * has no place in the tuple: its grade is filled by a better one ("surplus"), or some judge finds the order of
      the tuple broken by it ("order"). See `multigrain.grading.selection`.

    Negatives that came with their pair keep their grade if `section.keep_given`: no judge is asked about them, and they
    are only dropped where they repeat a text or are known to be none. Labels, of a few words, are written for several
    pairs; they are no near duplicates.

    Args:
        judges: by name; the first one grades.
        section: bounds and limits.
        per_grade: negatives to keep in each grade.
        origins: where the negatives of each grade may come from; all, where a grade is absent.
        longest: tokens beyond which nobody reads.
        verdicts: of a language model, on some of the candidates.
        known: what the input says of texts.
    """

    judges: Mapping[str, Judge]
    section: GradingSection
    per_grade: int = 1
    origins: Mapping[int, frozenset[Source]] = field(default_factory=dict)
    longest: int = 256
    verdicts: Verdicts = field(default_factory=dict)
    known: FalseNegatives = field(default_factory=FalseNegatives)
    _seen: NearDuplicates = field(default_factory=NearDuplicates)

    def grade(self, proposals: Sequence[Proposal]) -> Graded:
        """Grade the candidates of some pairs; pairs that are left without any negative are not among the tuples."""
        result = Graded()
        for (pair, _), own, measured in self.measure(proposals, result):
            kept = [m for m in measured if self._is_kept(m.candidate)]
            others = self._beside({m.grade for m in kept}, measured, result)
            chosen, left = choose_rising(self._admitted(others, result), self.per_grade)
            chosen += kept
            result.dropped.extend(Dropped(m.candidate, rule, float(m.grade)) for m, rule in left)
            if chosen:
                result.tuples.append(_tuple_of(pair, chosen, own))
        places = {pair.id: place for place, (pair, _) in enumerate(proposals)}
        result.dropped.sort(key=lambda dropped: places[dropped.candidate.pair_id])
        return result

    def measure(self, proposals: Sequence[Proposal], result: Graded) -> list[tuple[Proposal, float, list[Measured]]]:
        """Return what passes the rules, measured, and the positive's own score; `result` gets the rest."""
        passed = [(pair, self._by_rules(pair, candidates, result)) for pair, candidates in proposals]
        passed = self._without_synonyms(passed, result)
        asked: list[tuple[str, str]] = []
        for pair, candidates in passed:
            asked.append((pair.query, pair.positive))
            asked += [(pair.query, candidate.text) for candidate in candidates]
        scores = [iter(judge.scores(asked)) for judge in self.judges.values()]  # read in the same order below
        found = []
        for pair, candidates in passed:
            own = [next(row) for row in scores]
            rows = [[next(row) for row in scores] for _ in candidates]
            measured = []
            for candidate, row in zip(candidates, rows, strict=True):
                if own[0] > 0 or self._is_kept(candidate):
                    measured.append(self._measured(pair, candidate, own, row))
            if own[0] > 0:
                result.measured.extend(measured)
            else:  # then no share of it means anything
                lost = [c for c in candidates if not self._is_kept(c)]
                result.dropped.extend(Dropped(c, IRRELEVANT_POSITIVE, round(own[0], 4)) for c in lost)
            if own[0] > 0 or measured:
                found.append(((pair, candidates), own[0], measured))
        return found

    def _by_rules(self, pair: Pair, candidates: list[Candidate], result: Graded) -> list[Candidate]:
        kept: list[Candidate] = []
        for candidate in sorted(candidates, key=lambda c: (not self._is_kept(c), c.source != "llm", c.grade, c.text)):
            earlier = [other.text for other in kept]
            rules = is_same_text if self._is_kept(candidate) else broken_rule
            broken = rules(candidate, pair, earlier)
            if broken is None and (rule := self.known.rule(pair, candidate.text)):
                broken = rule, 1.0
            if broken is None and self._repeats_another_pair(candidate):
                broken = "near duplicate", 1.0
            if broken:
                result.dropped.append(Dropped(candidate, *broken))
            else:
                kept.append(candidate)
        return kept

    def _repeats_another_pair(self, candidate: Candidate) -> bool:
        is_text = self._is_written(candidate) and words_in(candidate.text) > FEWEST_WORDS
        return is_text and self._seen.add(candidate.text) is not None

    def _without_synonyms(self, proposals: Sequence[Proposal], result: Graded) -> list[Proposal]:
        """Drop the texts that say what the positive says, in which only a word stands for another of its meaning."""
        exchanges: dict[tuple[str, str], tuple[str, str]] = {}
        for pair, candidates in proposals:
            for candidate in filter(self._is_written, candidates):
                if terms := exchanged_terms(candidate.text, pair.positive):
                    exchanges[pair.id, candidate.text] = terms
        if not exchanges:
            return list(proposals)
        first = next(iter(self.judges.values()))
        likeness = dict(zip(exchanges, first.scores(list(exchanges.values())), strict=True))
        left = []
        for pair, candidates in proposals:
            kept = [c for c in candidates if likeness.get((pair.id, c.text), 0.0) < SYNONYM]
            away = [c for c in candidates if likeness.get((pair.id, c.text), 0.0) >= SYNONYM]
            result.dropped.extend(Dropped(c, "synonym", round(likeness[pair.id, c.text], 4)) for c in away)
            left.append((pair, kept))
        return left

    def _measured(self, pair: Pair, candidate: Candidate, own: list[float], scores: list[float]) -> Measured:
        """Measure one candidate; a judge that finds the positive worth nothing has no say."""
        if self._is_kept(candidate):
            shares = [s / o if o else 0.0 for s, o in zip(scores, own, strict=True)]
            return Measured(candidate, tuple(shares), candidate.grade, 0.0)
        shares = [min(s / o, LARGEST) if o > 0 else scores[0] / own[0] for s, o in zip(scores, own, strict=True)]
        grade = grade_of(shares[0], self.section.bounds)
        verdict = self.verdicts.get((pair.id, candidate.text))
        if verdict is False and grade == FALSE_NEGATIVE:
            grade = max(GRADES)
        elif verdict is None and max(shares) >= self._limit(pair, candidate):
            grade = FALSE_NEGATIVE
        length = length_against(candidate.text, pair.positive, int(self.longest * WORDS_PER_TOKEN))
        return Measured(candidate, tuple(shares), grade, length, bool(verdict))

    def _is_kept(self, candidate: Candidate) -> bool:
        """Return whether the candidate keeps the grade that it came with."""
        return self.section.keep_given and candidate.model == GIVEN

    def _is_written(self, candidate: Candidate) -> bool:
        return candidate.source == "llm" and not self._is_kept(candidate)

    def _beside(self, filled: Set[int], measured: Sequence[Measured], result: Graded) -> list[Measured]:
        """Return those that are to be chosen among, where some grades are filled already."""
        others = [m for m in measured if not self._is_kept(m.candidate)]
        result.dropped.extend(Dropped(m.candidate, "surplus", float(m.grade)) for m in others if m.grade in filled)
        return [m for m in others if m.grade not in filled]

    def _limit(self, pair: Pair, candidate: Candidate) -> float:
        """Return the relevance from which on the candidate is taken for a false negative."""
        is_edited = candidate.source == "llm" and exchanged_terms(candidate.text, pair.positive) is not None
        return self.section.false_negative_above - (MARGIN if is_edited else 0.0)

    def _admitted(self, measured: Sequence[Measured], result: Graded) -> list[Measured]:
        admitted = []
        for m in measured:
            if m.answers:
                result.dropped.append(Dropped(m.candidate, "answers the query", round(m.relevance[0], 4)))
            elif m.grade == FALSE_NEGATIVE:
                result.dropped.append(Dropped(m.candidate, "false negative", round(max(m.relevance), 4)))
            elif abs(m.length) > math.log(self.section.length_ratio):
                result.dropped.append(Dropped(m.candidate, "length", round(math.exp(m.length), 2)))
            elif m.candidate.source not in self.origins.get(m.grade, (m.candidate.source,)):
                result.dropped.append(Dropped(m.candidate, "source", float(m.grade)))
            else:
                admitted.append(m)
        return admitted


def _tuple_of(pair: Pair, chosen: list[Measured], own: float) -> GradedTuple:
    """Put the pair and its chosen negatives together; `own` is the score of the positive."""
    negatives = []
    for m in sorted(chosen, key=lambda m: (m.grade, m.relevance[0])):
        score = round(m.relevance[0] * own, 4)
        negatives.append(Negative(m.candidate.text, m.grade, score, m.candidate.source))
    return GradedTuple(
        id=pair.id,
        query=pair.query,
        positive=pair.positive,
        negatives=tuple(negatives),
        instruction=pair.instruction,
        task=pair.task,
        score=round(own, 4),
        group=pair.group,
    )


def unfilled(graded: GradedTuple | None, grades: Sequence[int]) -> list[int]:
    """Return the grades, among those wanted, that have no negative."""
    filled = {negative.grade for negative in graded.negatives} if graded else set()
    return [grade for grade in grades if grade not in filled]
