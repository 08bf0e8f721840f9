"""Judge the candidates, repair grades that stay empty, and make graded tuples."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from multigrain.config import Config
from multigrain.data.candidates_by_pair import by_pair
from multigrain.data.corpus_file import Corpus
from multigrain.data.dropped_candidates import dropped_writer
from multigrain.data.jsonl import read_candidates, read_documents, read_pairs, write_records
from multigrain.data.mined_candidates import Mined, MinedFile
from multigrain.errors import LLMError, LLMReplyError
from multigrain.files import atomic_file, count_lines, to_line, write_json
from multigrain.grading.block import Block as MeasuredBlock
from multigrain.grading.block import Graded
from multigrain.grading.calibration import FEWEST_KNOWN, RATINGS, USABLE, Calibration, calibrate
from multigrain.grading.grade import IRRELEVANT_POSITIVE, Grader, Proposal, unfilled
from multigrain.grading.judges import CrossEncoderJudge, EmbeddingJudge, Judge
from multigrain.grading.near_copies import Signatures
from multigrain.grading.report import Report, leak_warning, render, render_examples, what_became
from multigrain.grading.source_counts import SourceCounts, render_sources
from multigrain.model.engine import LOCAL, Engine
from multigrain.model.roles import Embed
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.answers import Answers
from multigrain.pipeline.generation.prompt_style import with_decided_style
from multigrain.pipeline.known_false_negatives import false_negatives_of
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.records import Candidate, GradedTuple, Source, to_json
from multigrain.terminal import Meter, meter, say

BLOCK = 256
"""Number of pairs in memory at once."""
MOST_BEGUN = 64
"""Number of blocks begun before the first of them is finished."""
CALIBRATED_ON = 32
"""Number of known positives, and of known negatives, used to calibrate a language model."""


def grade(config: Config, run_dir: RunDir, engine: Engine = LOCAL) -> Result:
    """Write `tuples.jsonl`, `dropped.jsonl` and `report.json`."""
    config = with_decided_style(config, run_dir)
    answers = Answers(run_dir, run_dir.parked_repairs)
    grading = _Grading(config, run_dir, answers, engine)
    if "llm" in config.grading.judge:
        grading.ask_whether_they_answer()
    grading.grade()
    for attempt in range(1, config.grading.repairs + 1):
        if not grading.missing:
            break
        grading.repair(attempt)
        if "llm" in config.grading.judge:
            grading.ask_whether_they_answer()
        grading.grade()
    report = grading.report.result() | {"precision": grading.precision}
    by_data_source = grading.sources.result()
    if by_data_source:
        report["by_data_source"] = by_data_source
    write_json(run_dir.report, report)
    for line in [*render(report).splitlines(), *render_sources(by_data_source)]:
        say(f"  {line}")
    say("\n" + render_examples(report) + "\n")
    if warning := leak_warning(report):
        say(f"  warning: {warning}")
    if report["tuples"] < config.training.batch_size:
        say(f"  warning: {what_became(report)}")
    dropped = sum(report["dropped"].values())
    counts = {"tuples": report["tuples"], "negatives": report["negatives"], "dropped": dropped}
    return answers.result("grade", counts | {name: count for name, count in grading.asked.items() if count})


class _Proposals(NamedTuple):
    """Some pairs with all candidates proposed for them."""

    first: int
    """Number of the first pair in its file."""
    proposals: list[Proposal]
    """Pairs with their written and given candidates."""
    mined: Mined
    """Mined candidates; `pair` is counted from the first pair."""


class _Grading:
    """The passes over the candidates of a run, with the state that one pass leaves to the next."""

    def __init__(self, config: Config, run_dir: RunDir, answers: Answers, engine: Engine) -> None:
        self._config, self._run_dir, self._answers = config, run_dir, answers
        self._engine, self._embed = engine, judge_encoder(config, run_dir, engine)
        self._known = false_negatives_of(run_dir)
        self._corpus = Corpus(run_dir.corpus)
        self._judges = judges(config, self._embed, run_dir)
        self._repairs: list[plans.Plan] = []
        self._calibration: Calibration | None = None
        self._verdicts: dict[tuple[str, str], bool] = {}
        self._suspected: set[tuple[str, str]] = set()
        self.asked: Counter[str] = Counter()
        """Number of requests, by purpose."""
        self.precision = getattr(self._embed, "precision", None)
        """Precision in which the judge encodes."""
        self.missing: dict[str, list[int]] = {}
        """Grades that stayed empty, by the id of a pair that the language model writes for."""
        self.report = Report([], config.seed)
        self.sources = SourceCounts([])

    def grade(self) -> None:
        """Grade all candidates."""
        config, run_dir = self._config, self._run_dir
        grader = self._grader()
        self.report = Report(list(grader.judges), config.seed)
        self.sources = SourceCounts(config.data.source_names)
        self.missing = {}
        grades, writes_for = config.synthesis.grades_from("llm"), plans.ids_to_write_for(config, run_dir)
        with (
            atomic_file(run_dir.tuples) as tuples,
            atomic_file(run_dir.dropped) as dropped,
            dropped_writer(run_dir.dropped_mined) as dropped_mined,
            meter("grading", count_lines(run_dir.train_pairs)) as progress,
        ):
            for block, begun in self._begun(grader, progress):
                graded = grader.finish(begun)
                self.report.add(block.proposals, block.mined, graded)
                if config.data.sources:
                    self.sources.add(block.proposals, block.mined, graded)
                tuples.writelines(to_line(to_json(record)) for record in self._with_source(graded, block))
                dropped.writelines(to_line(to_json(record)) for record in graded.dropped)
                dropped_mined.write(block.first, block.mined, graded.dropped_mined)
                self._note_missing(block, graded, grades, writes_for)

    def repair(self, attempt: int) -> None:
        """Ask again for the grades that stayed empty."""
        plan = plans.repairs(self._config, self._run_dir, self.missing, attempt)
        say(f"  {plan.count} requests to fill {sum(map(len, self.missing.values()))} grades that stayed empty")
        self.asked["repairs"] += plan.count
        try:
            for _ in self._answers.ask(self._config, plan):
                pass
        except LLMError as error:  # the candidates written and mined before are still there
            say(f"  warning: empty grades are not repaired: {error}")
            return
        self._repairs.append(plan)

    def ask_whether_they_answer(self) -> None:
        """Ask a language model whether the candidates of the highest relevance answer the query.

        After a repair, it is asked about the new candidates.
        """
        if self._calibration is None:
            self._calibration = self._calibrate()
            if warning := self._distrust(self._calibration):
                say(f"  warning: {warning}")
        if self._calibration.is_usable:
            write_records(self._run_dir.suspects, self._suspects())
            for id, text, rating in self._rated(self._run_dir.suspects):
                self._verdicts[id, text] = self._calibration.answers(rating)

    @staticmethod
    def _distrust(calibration: Calibration) -> str | None:
        if calibration.known < FEWEST_KNOWN:
            wanted = f"the language model cannot be calibrated: wanted {FEWEST_KNOWN} off-topic texts, found"
            return f"{wanted} {calibration.known}; its ratings are not used."
        if not calibration.is_usable:
            told = "the language model tells positives from off-topic texts with an accuracy of only"
            return f"{told} {calibration.accuracy:.2f} (wanted {USABLE}); its ratings are not used."
        return None

    def _calibrate(self) -> Calibration:
        """Calibrate the language model on positives, and on the least relevant candidates."""
        positives: list[Candidate] = []
        negatives: list[Candidate] = []
        for block, known in self._measured():
            off_topic = _first_of_grade_1(block, known)
            for place in np.flatnonzero(block.own[:, 0] > 0).tolist():
                if len(negatives) < CALIBRATED_ON:
                    pair = block.pairs[place]
                    positives.append(Candidate(pair.id, 4, pair.positive, "mined", "positive"))
                    negatives += [Candidate(pair.id, 1, text, "mined", "off topic") for text in off_topic[place]]
            if len(negatives) >= CALIBRATED_ON:
                break
        if len(negatives) < FEWEST_KNOWN:
            return Calibration(max(RATINGS), 0.5, len(negatives))  # too few texts to ask about
        rated: list[list[int]] = []
        for name, texts in zip(("relevant", "irrelevant"), (positives, negatives), strict=True):
            path = self._run_dir.known(name)
            write_records(path, texts[:CALIBRATED_ON])
            try:
                rated.append([rating for _, _, rating in self._rated(path)])
            except LLMReplyError as error:
                say(f"  warning: {error}")
                return Calibration(max(RATINGS), 0.5, len(negatives))
        return calibrate(*rated)

    def _rated(self, candidates: Path) -> Iterator[tuple[str, str, int]]:
        plan = plans.verdicts(self._config, self._run_dir, candidates)
        self.asked["verdicts"] += plan.count
        yield from self._answers.ask(self._config, plan)

    def _suspects(self) -> Iterator[Candidate]:
        """Yield the candidates of high relevance that the language model has not been asked about yet."""
        hardest = self._config.grading.bands[-1]
        for block, known in self._measured():
            suspects = block.measured[block.measured.relevance.max(axis=1, initial=0.0) >= hardest]
            for place, text in zip(suspects.pair.tolist(), block.texts_of(suspects, known), strict=True):
                key = block.pairs[place].id, text
                if key not in self._suspected:
                    self._suspected.add(key)
                    yield Candidate(key[0], 4, text, "mined", "suspect")

    def _measured(self) -> Iterator[tuple[MeasuredBlock, Signatures]]:
        grader = self._grader()
        for _, begun in self._begun(grader):
            yield grader.measure(begun), grader.signatures

    def _begun(self, grader: Grader, progress: Meter | None = None) -> Iterator[tuple[_Proposals, MeasuredBlock]]:
        """Yield the blocks, each begun; while one is finished, an engine encodes the texts of the next ones."""
        waiting: deque[tuple[_Proposals, MeasuredBlock]] = deque()
        for block in self._blocks(progress):
            waiting.append((block, grader.begin(block.proposals, block.mined)))
            if self._engine.ahead:
                grader.request(waiting[-1][1])
            if len(waiting) > min(self._engine.ahead, MOST_BEGUN):
                yield waiting.popleft()
        yield from waiting

    def _grader(self) -> Grader:
        config = self._config
        return Grader(
            judges=self._judges,
            section=config.grading,
            per_grade=max(config.synthesis.per_grade, 1),
            origins={grade: _origins(config, grade) for grade in (1, 2, 3, 4)},
            longest=config.training.max_tokens or config.model.max_tokens,
            nearest=config.mining.nearest,
            verdicts=self._verdicts,
            known=self._known,
            texts_of=self._corpus.texts,
        )

    def _with_source(self, graded: Graded, block: _Proposals) -> Iterable[GradedTuple]:
        """Return the tuples; if there are several sources, each with its own."""
        if not self._config.data.sources:
            return graded.tuples
        sources = {pair.id: pair.source for pair, _ in block.proposals}
        return (replace(graded_tuple, source=sources[graded_tuple.id]) for graded_tuple in graded.tuples)

    def _blocks(self, progress: Meter | None = None) -> Iterator[_Proposals]:
        run_dir = self._run_dir
        repaired = [_candidates_of(plan, run_dir) for plan in self._repairs]
        stream = by_pair(read_pairs(run_dir.train_pairs), read_candidates(run_dir.candidates), *repaired)
        mined, first = MinedFile(run_dir.mined), 0
        while block := list(islice(stream, BLOCK)):
            yield _Proposals(first, block, mined.up_to(first + len(block)).counted_from(first))
            first += len(block)
            if progress:
                progress.advance(len(block))

    def _note_missing(self, proposed: _Proposals, graded: Graded, grades: Sequence[int], writes_for: set[str]) -> None:
        by_id = {graded_tuple.id: graded_tuple for graded_tuple in graded.tuples}
        hopeless = {dropped.candidate.pair_id for dropped in graded.dropped if dropped.rule == IRRELEVANT_POSITIVE}
        for each in graded.dropped_mined:
            if each.rule == IRRELEVANT_POSITIVE:
                hopeless.update(proposed.proposals[place][0].id for place in proposed.mined.pair[each.row].tolist())
        for pair, _ in proposed.proposals:
            if pair.id in writes_for and pair.id not in hopeless and (empty := unfilled(by_id.get(pair.id), grades)):
                self.missing[pair.id] = empty


def _first_of_grade_1(block: MeasuredBlock, known: Signatures) -> list[list[str]]:
    """Return for each pair its first candidate of grade 1, if there is one."""
    easiest = block.measured[block.measured.grade == 1]
    pairs, first = np.unique(easiest.pair, return_index=True)
    found: list[list[str]] = [[] for _ in block.pairs]
    for place, text in zip(pairs.tolist(), block.texts_of(easiest[first], known), strict=True):
        found[place].append(text)
    return found


def _origins(config: Config, grade: int) -> frozenset[Source]:
    """Return the allowed sources of the negatives of a grade; if none is named, the language model."""
    sources: tuple[Source, ...] = ("llm", "mined")
    named = [source for source in sources if grade in config.synthesis.grades_from(source)]
    return frozenset(named or ["llm"])


def _candidates_of(plan: plans.Plan, run_dir: RunDir) -> Iterator[Candidate]:
    for outcome in plan.outcomes(run_dir):
        if isinstance(outcome, list):
            yield from outcome


def judges(config: Config, embed: Embed, run_dir: RunDir) -> dict[str, Judge]:
    """Return the measuring judges by name; if only a language model is named, the embedding."""
    names = [name for name in config.grading.judge if name != "llm"] or ["embedding"]
    return {name: _judge(name, config, embed, run_dir) for name in names}


def _judge(name: str, config: Config, embed: Embed, run_dir: RunDir) -> Judge:
    if name == "embedding":
        return EmbeddingJudge(embed)
    if name == "bm25":
        from multigrain.grading.bm25_judge import Bm25Judge

        queries = (pair.query for pair in read_pairs(run_dir.train_pairs))
        texts = (document.text for document in read_documents(run_dir.corpus) if document.split != "held_out")
        return Bm25Judge(config.mining.language, queries, texts)
    from multigrain.model.load import load_cross_encoder

    assert config.grading.cross_encoder  # checked by the section
    name, key = config.grading.cross_encoder, "grading.cross_encoder"
    return CrossEncoderJudge(load_cross_encoder(name, config.grading.judge_max_tokens, key).predict)
