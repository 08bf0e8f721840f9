"""Turn candidates into graded tuples; record each dropped candidate with the rule that dropped it."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from multigrain.config import GradingSection
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.data.mined_candidates import Mined, no_candidates
from multigrain.data.words import words_in
from multigrain.grading.block import Asked, Block, Graded
from multigrain.grading.candidate_rules import FEWEST_WORDS, broken_rule, is_same_text, lengths_against
from multigrain.grading.duplicates import NearDuplicates
from multigrain.grading.judges import EmbeddingJudge, Judge, judged
from multigrain.grading.measured import Flags, Measured, Numbers, by_pair
from multigrain.grading.near_copies import Signatures, find_copies
from multigrain.grading.selection import choose_rising
from multigrain.grading.synonyms import MARGIN, SYNONYM, exchanged_terms
from multigrain.records import FALSE_NEGATIVE, GIVEN, GRADES, Candidate, Dropped, GradedTuple, Pair, Source
from multigrain.retrieval.runs_of_equals import ranks_in_runs

WORDS_PER_TOKEN = 0.75
"""Words of English text for each token."""
CLEARLY_BELOW = 0.05
"""Distance below the bound of false negatives, by the first judge, beyond which BM25 has no say."""
LEXICAL = "bm25"
"""The name of the judge that sees only words."""
LARGEST = 1.5
"""Maximum relative relevance; higher values are clipped to it."""

IRRELEVANT_POSITIVE = "irrelevant positive"
"""The rule that drops all candidates of a pair."""

Verdicts = Mapping[tuple[str, str], bool]
"""(pair's id, text) -> whether a language model says that the text answers the query."""
Proposal = tuple[Pair, list[Candidate]]
Scores = NDArray[np.float64]


def _no_documents(numbers: Sequence[int]) -> Sequence[str]:
    """Return no texts, where there are no documents."""
    assert not numbers
    return []


@dataclass
class Grader:
    r"""Judges every candidate and gives it its measured grade, not the requested one.

    A judge's score s of a candidate c is divided by that of the positive p of the same query q,

        r(c) = s(q, c) / s(q, p)        for the embedding judge: cos(q, c) / cos(q, p)

    which is the *relative relevance*: 1 is as relevant as the positive. The first judge's r is cut into grades
    (`multigrain.records.grade_of`); all judges must agree on the rest. A candidate is dropped if it

    * breaks a rule (`multigrain.grading.candidate_rules`), nearly equals a text that was written for another pair
      ("near duplicate"), or is known not to be a negative of the pair ("known positive", "same group"; `known`);
    * is the positive with a term exchanged for another that means the same to the first judge ("synonym");
    * is as relevant as the positive by any judge ("false negative"). A text that is the positive with an exchanged
      term must be further below it. BM25, which sees only words, has no say if the first judge finds the text clearly
      below the positive. A language model's "no" outweighs the other judges;
    * answers the query according to a language model ("answers the query");
    * belongs to a positive that is itself irrelevant to the first judge ("irrelevant positive");
    * was written and is many times longer or shorter than the positive ("length");
    * comes from a source that its grade does not admit ("source");
    * has no place in the tuple: a better candidate fills its grade ("surplus"), or it breaks the order of the tuple
      for some judge ("order"). See `multigrain.grading.selection`.

    Negatives that came with their pair keep their grade if `section.keep_given`. No judge decides about them; they are
    dropped only if they repeat a text or are known not to be negatives. Labels, of a few words, are written for several
    pairs; they are not near duplicates.

    Args:
        judges: judges by name; the first one grades.
        section: bounds and limits.
        per_grade: negatives to keep in each grade.
        origins: sources admitted for each grade; all for a grade that is absent.
        longest: tokens of a text that training reads at most.
        nearest: grades for which the nearest mined documents are chosen.
        verdicts: verdicts of a language model on some of the candidates.
        known: false negatives that the input names.
        texts_of: returns the texts of mined documents, by their numbers.
    """

    judges: Mapping[str, Judge]
    section: GradingSection
    per_grade: int = 1
    origins: Mapping[int, frozenset[Source]] = field(default_factory=dict)
    longest: int = 256
    nearest: Collection[int] = ()
    verdicts: Verdicts = field(default_factory=dict)
    known: FalseNegatives = field(default_factory=FalseNegatives)
    texts_of: Callable[[Sequence[int]], Sequence[str]] = _no_documents
    _seen: NearDuplicates = field(default_factory=NearDuplicates)

    def __post_init__(self) -> None:
        self.signatures = Signatures(self.texts_of)

    def grade(self, proposals: Sequence[Proposal], mined: Mined | None = None) -> Graded:
        """Grade the candidates of some pairs; pairs that are left without a negative get no tuple.

        Args:
            proposals: pairs with the texts proposed for them.
            mined: the documents mined for them; `pair` is the place of the pair in `proposals`.
        """
        return self.finish(self.begin(proposals, mined))

    def finish(self, block: Block) -> Graded:
        """Grade the candidates of a block that has been begun."""
        candidates = self.measure(block).measured
        chosen = self._choose(block, self._admitted(block)) | candidates.is_kept
        return block.result(np.flatnonzero(chosen), self.signatures)

    def begin(self, proposals: Sequence[Proposal], mined: Mined | None = None) -> Block:
        """Return a block with the candidates that pass the rules; see `grade`.

        Blocks are begun in order, and finished in order. Several may be begun before the first of them is finished.
        """
        block = Block([pair for pair, _ in proposals], no_candidates() if mined is None else mined)
        for place, (pair, candidates) in enumerate(proposals):
            block.add_texts(place, self._by_rules(pair, candidates, block))
        self._drop_synonyms(block)
        return block

    def request(self, block: Block) -> None:
        """Start to encode, if the encoder of the judge does so ahead, what `measure` will need for a block."""
        for name, judge in self.judges.items():
            if isinstance(judge, EmbeddingJudge):
                texts = self._asked(name, block).texts
                judge.request([(pair.query, text) for pair, text in texts], [pair.instruction for pair, _ in texts])

    def measure(self, block: Block) -> Block:
        """Measure the candidates of a block that has been begun, and return it."""
        self.signatures.make_room()
        self._measure(block)
        return block

    def _by_rules(self, pair: Pair, candidates: list[Candidate], block: Block) -> list[Candidate]:
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
                block.dropped.append(Dropped(candidate, *broken))
            else:
                kept.append(candidate)
        return kept

    def _repeats_another_pair(self, candidate: Candidate) -> bool:
        is_text = self._is_written(candidate) and words_in(candidate.text) > FEWEST_WORDS
        return is_text and self._seen.add(candidate.text) is not None

    def _drop_synonyms(self, block: Block) -> None:
        """Drop texts that are the positive with a term exchanged for a synonym."""
        exchanges: dict[int, tuple[str, str]] = {}
        for number, candidate in enumerate(block.texts):
            pair = block.pair_of(number)
            if self._is_written(candidate) and (terms := exchanged_terms(candidate.text, pair.positive)):
                exchanges[number] = terms
        if not exchanges:
            return
        first = next(iter(self.judges.values()))
        likeness = dict(zip(exchanges, first.scores(list(exchanges.values())), strict=True))
        block.drop_texts({number: value for number, value in likeness.items() if value >= SYNONYM}, "synonym")

    def _choose(self, block: Block, rows: Numbers) -> Flags:
        """Choose among the candidates at these places and drop the others; return flags of the chosen ones, (C,).

        If two candidates of a tuple say the same, the later one is dropped, and its pair is chosen for again.
        """
        candidates = block.measured
        is_open, chosen, surplus = np.zeros((3, len(candidates)), dtype=bool)
        is_open[rows] = True
        is_waiting = np.ones(len(block.pairs), dtype=bool)
        while is_waiting.any():
            at = np.flatnonzero(is_open & is_waiting[candidates.pair])
            choice = choose_rising(candidates[at], self.per_grade, self.nearest)
            chosen[at], surplus[at] = choice.chosen, choice.surplus
            copies = self._copies(block, np.flatnonzero((chosen | candidates.is_kept) & is_waiting[candidates.pair]))
            is_open[copies] = chosen[copies] = False
            is_waiting[:] = False
            is_waiting[candidates.pair[copies]] = True
        block.drop_measured(np.flatnonzero(is_open & surplus), "surplus", candidates.grade)
        block.drop_measured(np.flatnonzero(is_open & ~surplus & ~chosen), "order", candidates.grade)
        return chosen

    def _copies(self, block: Block, places: Numbers) -> Numbers:
        """Drop documents that say the same as the query, the positive or another negative; return their places.

        Texts come before documents, and documents by grade and number.
        """
        known, negatives = self.signatures, block.measured[places]
        is_document = negatives.row >= 0
        document = np.where(is_document, block.mined.document[negatives.row], 0) if is_document.any() else negatives.row
        order = np.lexsort((document, negatives.grade, is_document, negatives.pair))
        places, negatives, is_document = places[order], negatives[order], is_document[order]
        pairs, pair = np.unique(negatives.pair, return_inverse=True)
        heads = 2 + np.bincount(pair[~is_document], minlength=len(pairs))
        ranks = 2 + ranks_in_runs(pair)
        texts = np.full((len(pairs), int(ranks.max(initial=1)) + 1), -1)
        texts[:, 0] = known.add([block.pairs[number].query for number in pairs.tolist()])
        texts[:, 1] = known.add([block.pairs[number].positive for number in pairs.tolist()])
        texts[pair, ranks] = known.add(block.texts_of(negatives, known))
        starts = np.searchsorted(pair, np.arange(len(pairs)))
        found = []
        for copy in find_copies(texts, known, heads):
            place = places[starts[copy.pair] + copy.place - 2]
            name = ("the query", "the positive")[copy.original] if copy.original < 2 else "another candidate"
            block.drop_rows(block.measured.row[[place]], f"copy of {name}", np.array([copy.value]))
            found.append(place)
        return np.array(found, dtype=np.int64)

    def _measure(self, block: Block) -> None:
        """Measure the texts and the mined candidates, relative to the positives."""
        own, text_scores, mined_scores = self._scores(block)
        block.own = own
        has_meaning = own[block.mined.pair, 0] > 0
        by_document = np.lexsort((block.mined.document, block.mined.pair))  # independent of how they were found
        lost, rows = np.flatnonzero(~has_meaning), by_document[has_meaning[by_document]]
        block.drop_rows(lost, IRRELEVANT_POSITIVE, own[block.mined.pair[lost], 0].round(4))
        mined, mined_scores = block.mined[rows], mined_scores[rows]
        places = np.array(block.places, dtype=np.int64)
        is_kept = np.array([self._is_kept(candidate) for candidate in block.texts], dtype=bool)
        is_lost = ~(own[places, 0] > 0) & ~is_kept  # relative relevance to such a positive means nothing
        for number in np.flatnonzero(is_lost).tolist():
            value = round(float(own[places[number], 0]), 4)
            block.dropped.append(Dropped(block.texts[number], IRRELEVANT_POSITIVE, value))
        texts = Measured(
            pair=places,
            text=np.arange(len(places)),
            row=np.full(len(places), -1),
            asked=np.array([candidate.grade for candidate in block.texts], dtype=np.int64),
            is_written=np.array([candidate.source == "llm" for candidate in block.texts], dtype=bool),
            is_kept=is_kept,
            relevance=_relative(text_scores, own[places], is_kept),
            grade=np.zeros(len(places), dtype=np.int64),
            length=np.zeros(len(places)),
            answers=np.zeros(len(places), dtype=bool),
        )
        documents = Measured(
            pair=mined.pair.astype(np.int64),
            text=np.full(len(rows), -1),
            row=rows,
            asked=mined.grade.astype(np.int64),
            is_written=np.zeros(len(rows), dtype=bool),
            is_kept=np.zeros(len(rows), dtype=bool),
            relevance=_relative(mined_scores, own[mined.pair], np.zeros(len(rows), dtype=bool)),
            grade=np.zeros(len(rows), dtype=np.int64),
            length=np.zeros(len(rows)),
            answers=np.zeros(len(rows), dtype=bool),
        )
        block.measured = self._graded(by_pair([texts[~is_lost], documents]), block)

    def _scores(self, block: Block) -> tuple[Scores, Scores, Scores]:
        """Return the judges' scores of positives, (P, J), of texts, (texts, J), and of the mined, (rows, J).

        A judge scores texts, and only those documents that mining has not scored.
        """
        own = np.full((len(block.pairs), len(self.judges)), np.nan)
        of_texts = np.zeros((len(block.texts), len(self.judges)))
        mined = block.mined
        of_rows = np.zeros((len(mined), len(self.judges)))
        for column, (name, judge) in enumerate(self.judges.items()):
            if name in mined.scores:
                own[mined.pair, column] = mined.positives[name]
                of_rows[:, column] = mined.scores[name]
            asked = self._asked(name, block)
            scores = judged(judge, asked.texts)
            first, last = len(asked.positives), len(asked.positives) + len(block.texts)
            own[asked.positives, column] = scores[:first]
            of_texts[:, column] = scores[first:last]
            of_rows[asked.rows, column] = scores[last:]
        return own, of_texts, of_rows

    def _asked(self, name: str, block: Block) -> Asked:
        """Return what a judge is asked about: positives, texts, and the documents that mining has not scored for it."""
        mined = block.mined
        is_scored = name in mined.scores
        rows = np.arange(0 if is_scored else len(mined))
        of_mined = set(mined.pair.tolist())
        positives = sorted(set(block.places) - of_mined if is_scored else set(block.places) | of_mined)
        asked = [(block.pairs[place], block.pairs[place].positive) for place in positives]
        asked += [(block.pair_of(number), text.text) for number, text in enumerate(block.texts)]
        documents = self.signatures.add_documents(mined.document[rows])
        for place, number in zip(mined.pair[rows].tolist(), documents.tolist(), strict=True):
            asked.append((block.pairs[place], self.signatures.texts[number]))
        return Asked(positives, rows, asked)

    def _graded(self, candidates: Measured, block: Block) -> Measured:
        """Return the candidates with grade, length and verdict."""
        is_text = candidates.text >= 0
        grade = np.searchsorted(self.section.bounds, candidates.relevance[:, 0], side="right") + 1
        limit = np.full(len(candidates), self.section.false_negative_above)
        for place in np.flatnonzero(candidates.is_written):
            candidate = block.texts[candidates.text[place]]
            if exchanged_terms(candidate.text, block.pairs[candidates.pair[place]].positive) is not None:
                limit[place] -= MARGIN
        denied, confirmed = self._verdicts_on(candidates, block)
        largest = self._largest(candidates)
        grade[denied & (grade == FALSE_NEGATIVE)] = max(GRADES)
        grade[~denied & ~confirmed & (largest >= limit)] = FALSE_NEGATIVE
        words = np.zeros(len(candidates))
        words[is_text] = [words_in(block.texts[number].text) for number in candidates.text[is_text].tolist()]
        words[~is_text] = block.mined.words[candidates.row[~is_text]]
        positives = np.array([words_in(pair.positive) for pair in block.pairs])
        length = lengths_against(words, positives[candidates.pair], int(self.longest * WORDS_PER_TOKEN))
        return replace(
            candidates,
            grade=np.where(candidates.is_kept, candidates.asked, grade),
            length=np.where(candidates.is_kept, 0.0, length),
            answers=confirmed & ~candidates.is_kept,
        )

    def _largest(self, candidates: Measured) -> Scores:
        """Return the largest relevance, (C,), by any judge that has a say."""
        relevance = candidates.relevance.copy()
        is_clear = relevance[:, 0] < self.section.false_negative_above - CLEARLY_BELOW
        for column, name in enumerate(self.judges):
            if column and name == LEXICAL:
                relevance[is_clear, column] = -np.inf
        largest: Scores = relevance.max(axis=1, initial=-np.inf)
        return largest

    def _verdicts_on(self, candidates: Measured, block: Block) -> tuple[Flags, Flags]:
        """Return flags, (C,) each: a language model says that the candidate does not answer the query; that it does."""
        denied, confirmed = np.zeros((2, len(candidates)), dtype=bool)
        if self.verdicts:
            for place, key in enumerate(block.keys_of(candidates, self.signatures)):
                verdict = self.verdicts.get(key)
                denied[place], confirmed[place] = verdict is False, verdict is True
        return denied, confirmed

    def _is_kept(self, candidate: Candidate) -> bool:
        """Return whether the candidate keeps the grade that it came with."""
        return self.section.keep_given and candidate.model == GIVEN

    def _is_written(self, candidate: Candidate) -> bool:
        return candidate.source == "llm" and not self._is_kept(candidate)

    def _admitted(self, block: Block) -> Numbers:
        """Return the places of the candidates that may be chosen; drop the others by the first rule they break."""
        candidates = block.measured
        filled = np.zeros((len(block.pairs), FALSE_NEGATIVE + 1), dtype=bool)
        filled[candidates.pair[candidates.is_kept], candidates.grade[candidates.is_kept]] = True
        is_unwanted = np.zeros(len(candidates), dtype=bool)
        for grade, origins in self.origins.items():
            for source, is_of_source in (("llm", candidates.is_written), ("mined", ~candidates.is_written)):
                if source not in origins:
                    is_unwanted |= is_of_source & (candidates.grade == grade)
        largest = self._largest(candidates)
        too_long = candidates.is_written & (np.abs(candidates.length) > math.log(self.section.length_ratio))
        rules = (
            ("surplus", filled[candidates.pair, candidates.grade], candidates.grade),
            ("answers the query", candidates.answers, candidates.relevance[:, 0].round(4)),
            ("false negative", candidates.grade == FALSE_NEGATIVE, largest.round(4)),
            ("length", too_long, np.exp(candidates.length).round(2)),
            ("source", is_unwanted, candidates.grade),
        )
        is_left = ~candidates.is_kept
        for rule, breaks, value in rules:
            block.drop_measured(np.flatnonzero(is_left & breaks), rule, value)
            is_left &= ~breaks
        return np.flatnonzero(is_left)


def _relative(scores: Scores, own: Scores, is_kept: Flags) -> Scores:
    """Return the scores of candidates divided by those of their positives, all (C, J).

    A judge that finds the positive irrelevant has no say: the value of the first judge takes its place.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = scores / own
    first = shares[:, :1]
    relative: Scores = np.where(own > 0, np.minimum(shares, LARGEST), first)
    relative[is_kept] = np.where(own[is_kept] != 0, shares[is_kept], 0.0)
    return relative


def unfilled(graded: GradedTuple | None, grades: Sequence[int]) -> list[int]:
    """Return the grades, among those wanted, that have no negative."""
    filled = {negative.grade for negative in graded.negatives} if graded else set()
    return [grade for grade in grades if grade not in filled]
