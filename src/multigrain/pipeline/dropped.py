"""Show the candidates that grading dropped, and why: counts for a run, or all candidates of one pair."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from operator import attrgetter
from typing import Literal

from multigrain.data.corpus_file import Corpus
from multigrain.data.dropped_candidates import read_dropped
from multigrain.data.jsonl import read_objects_with, read_pairs
from multigrain.data.mined_candidates import Mined, read_mined_of
from multigrain.errors import ConfigError, RunError
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import GIVEN, GRADES, GradedTuple, Pair, Source, tuple_from_json
from multigrain.terminal import columns, counted, shortened

FEWEST_CHARACTERS = 24
"""Minimum number of characters of a text to show, however narrow the terminal is."""

Origin = Literal["written", "given", "embedding", "bm25"]
"""Origin of a dropped candidate: the language model, the input, or a method of mining."""


@dataclass(frozen=True, slots=True)
class DroppedCount:
    """The number of candidates of one source and grade that one rule dropped."""

    rule: str
    source: Source
    grade: int
    """Grade that the candidates were written or mined for."""
    count: int


@dataclass(frozen=True, slots=True)
class DroppedCandidate:
    """A candidate that grading dropped."""

    rule: str
    grade: int
    """Grade that the candidate was written or mined for."""
    origin: Origin
    value: float
    """Value that broke the rule."""
    text: str
    scores: Mapping[str, float]
    """Judge -> its score of query and text, if mining has measured it."""


@dataclass(frozen=True, slots=True)
class DroppedOfPair:
    """The kept and the dropped candidates of one pair."""

    pair: Pair
    kept: GradedTuple | None
    """The graded tuple of the pair; None if no negative was kept."""
    scores: Mapping[str, float]
    """Judge -> its score of query and positive, if mining has measured it."""
    dropped: Sequence[DroppedCandidate]
    """Dropped candidates by rule, then from the hardest grade to the easiest."""


def dropped_counts(run_dir: RunDir) -> list[DroppedCount]:
    """Return the number of candidates that each rule dropped, the most common rule first.

    Raises:
        RunError: see `dropped_of_pair`.
    """
    _require_graded(run_dir)
    report = json.loads(run_dir.report.read_text(encoding="utf-8"))
    order = list(report["dropped"])
    found: list[DroppedCount] = []
    for source, rows in report["by_source"].items():
        for row in rows:
            found += [DroppedCount(rule, source, row["grade"], count) for rule, count in row["dropped"].items()]
    return sorted(found, key=lambda count: (order.index(count.rule), count.source, count.grade))


def dropped_of_pair(run_dir: RunDir, pair_id: str) -> DroppedOfPair:
    """Return the kept and the dropped candidates of a pair.

    In the large files, only lines and row groups that may mention the pair are parsed.

    Raises:
        ConfigError: there is no such pair; names the one with the nearest id.
        RunError: the run is not graded, or was mined again after the grading.
    """
    _require_graded(run_dir)
    number, pair = _pair(run_dir, pair_id)
    tuples = read_objects_with(run_dir.tuples, "id", pair_id)
    kept = next((tuple_from_json(fields) for _, fields in tuples), None)
    mined = read_mined_of(run_dir.mined, number)
    dropped = [*_written_and_given(run_dir, pair_id), *_mined(run_dir, number, mined)]
    dropped.sort(key=lambda candidate: (candidate.rule, -candidate.grade, candidate.origin))
    own = {judge: float(scores[0]) for judge, scores in mined.positives.items() if len(scores)}
    return DroppedOfPair(pair, kept, own, dropped)


def _require_graded(run_dir: RunDir) -> None:
    if "grade" not in run_dir.stages():
        raise RunError(f"{run_dir.folder}: there are no graded tuples yet. Run: multigrain grade RUN.toml")


def _pair(run_dir: RunDir, pair_id: str) -> tuple[int, Pair]:
    """Return a pair and its number, from 0."""
    for line, fields in read_objects_with(run_dir.train_pairs, "id", pair_id):
        return line - 1, Pair(**fields)
    for path in (run_dir.held_out_pairs, run_dir.other_pairs):
        if path.is_file() and any(read_objects_with(path, "id", pair_id)):
            fault = f'contains the pair "{pair_id}", which is not trained on and so has no candidates'
            raise ConfigError(path, [fault])
    near = get_close_matches(pair_id, (pair.id for pair in read_pairs(run_dir.train_pairs)), 1)
    advice = f'did you mean "{near[0]}"?' if near else f"see {run_dir.train_pairs} for all ids"
    raise ConfigError(run_dir.folder, [f'no training pair has the id "{pair_id}"; {advice}'])


def _written_and_given(run_dir: RunDir, pair_id: str) -> Iterator[DroppedCandidate]:
    for _, fields in read_objects_with(run_dir.dropped, "pair_id", pair_id):
        origin: Origin = "given" if fields["model"] == GIVEN else "written"
        yield DroppedCandidate(fields["rule"], fields["grade"], origin, fields["value"], fields["text"], scores={})


def _mined(run_dir: RunDir, number: int, mined: Mined) -> Iterator[DroppedCandidate]:
    """Yield the dropped documents of a pair, by its number; `mined` holds all documents mined for it."""
    rows = {document: row for row, document in enumerate(mined.document.tolist())}
    found = list(read_dropped(run_dir.dropped_mined, number))
    texts = Corpus(run_dir.corpus).texts(fields["document"] for fields in found) if found else []
    for fields, text in zip(found, texts, strict=True):
        row = rows.get(fields["document"])
        if row is None:
            raise RunError(f"{run_dir.mined}: newer than the grading. Run: multigrain grade RUN.toml --force")
        scores = {judge: float(of_rows[row]) for judge, of_rows in mined.scores.items()}
        yield DroppedCandidate(fields["rule"], fields["grade"], fields["method"], fields["value"], text, scores)


def render_counts(counts: Sequence[DroppedCount]) -> str:
    """Return the counts as a table, with a hint how to see the candidates."""
    if not counts:
        return "nothing was dropped"
    table: dict[tuple[str, str], dict[int, int]] = {}
    for count in counts:
        table.setdefault((count.rule, count.source), {})[count.grade] = count.count
    rows = [("rule", "source", *(f"grade {grade}" for grade in GRADES))]
    for names, by_grade in table.items():
        rows.append((*names, *(str(by_grade.get(grade, "")) for grade in GRADES)))
    total = sum(count.count for count in counts)
    hint = f"{counted(total, 'candidates')} dropped; to see those of one pair: multigrain dropped RUN --pair ID"
    return "\n".join([*columns(rows, texts=2), "", hint])


def render_pair(found: DroppedOfPair, width: int | None) -> str:
    """Return the kept and the dropped candidates of a pair as text, with a line for each.

    Args:
        found: the pair.
        width: length of a line in characters, to which texts are cut; None to show whole texts.
    """
    lines = [f"{'query':10}{_cut(found.pair.query, width, used=10)}"]
    lines.append(f"{'positive':10}{_cut(found.pair.positive, width, used=10)}")
    if found.scores:
        lines.append(" " * 10 + ", ".join(f"{judge} {score:.3f}" for judge, score in found.scores.items()))
    return "\n".join([*lines, "", *_kept_lines(found.kept, width), "", *_dropped_lines(found, width)])


def _kept_lines(kept: GradedTuple | None, width: int | None) -> list[str]:
    if kept is None:
        return ["nothing was kept"]
    negatives = kept.negatives[::-1]
    rows = [("source", "grade", "score"), *((str(n.source), str(n.grade), f"{n.score:.3f}") for n in negatives)]
    return ["kept", *_table(rows, [negative.text for negative in negatives], width)]


def _dropped_lines(found: DroppedOfPair, width: int | None) -> list[str]:
    if not found.dropped:
        return ["nothing was dropped"]
    judges = list(found.scores)
    rows = [("source", "grade", "value", *judges), *(_cells(candidate, judges) for candidate in found.dropped)]
    head, *table = _table(rows, [candidate.text for candidate in found.dropped], width)
    rest = iter(table)
    lines = ["dropped", head]
    for rule, candidates in groupby(found.dropped, key=attrgetter("rule")):
        below = [next(rest) for _ in candidates]
        lines += [f"{rule} ({len(below)})", *below]
    return lines


def _cells(candidate: DroppedCandidate, judges: Sequence[str]) -> tuple[str, ...]:
    scores = [f"{candidate.scores[judge]:.3f}" if judge in candidate.scores else "" for judge in judges]
    return (candidate.origin, str(candidate.grade), f"{candidate.value:.4g}", *scores)


def _table(rows: Sequence[Sequence[str]], texts: Sequence[str], width: int | None) -> list[str]:
    """Return the rows of figures, each followed by its text; the first row is the header."""
    figures = columns(rows)
    longest = max(map(len, figures))
    places = [f"  {line:{longest}}  " for line in figures]
    shown = ["text", *texts]
    return [place + _cut(text, width, used=len(place)) for place, text in zip(places, shown, strict=True)]


def _cut(text: str, width: int | None, used: int) -> str:
    """Return the text on one line, cut to the rest of the width if there is one."""
    return " ".join(text.split()) if width is None else shortened(text, max(width - used, FEWEST_CHARACTERS))
