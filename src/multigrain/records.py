"""The records that pass between stages, one frozen class each.

pair       a query with one positive
document   a text of the corpus
candidate  a text proposed as a negative, with the grade it was asked for or mined at
dropped    a candidate with the rule and the value that removed it
negative   a candidate that survived, with its measured grade and judge score
tuple      a query, its positive, and its negatives by grade

A *grade* is a small integer; higher means closer to relevant: 1 is the easiest negative, 4 the hardest.
"""

import hashlib
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal

GIVEN = "given"
"""Recorded in place of a model's name for a negative that came with its pair."""

GRADES = (1, 2, 3, 4)

Source = Literal["llm", "mined"]
Split = Literal["train", "held_out", "both"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the passage that answers it; `source` names where both came from.

    `task` names the kind of search. `instruction` says in one line what the query looks for; training and evaluation
    put it before the query, in place of `model.instruction`. Texts of the same `group`, such as an intent or a class,
    are never negatives of each other.
    """

    id: str
    query: str
    positive: str
    source: str | None = None
    instruction: str | None = None
    task: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A text of the corpus; `split` says which part of the run may use it; `group` is as in `Pair`.

    In a run with several sources, `sources` names those whose corpora hold the text, and `other_groups` are its groups
    in the corpora of further sources.
    """

    id: str
    text: str
    split: Split = "both"
    group: str | None = None
    sources: list[str] | None = None
    other_groups: list[str] | None = None

    @property
    def groups(self) -> list[str]:
        """All groups of the text."""
        return [*([] if self.group is None else [self.group]), *(self.other_groups or [])]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that `source` proposed, using `model`, as a negative of `grade`."""

    pair_id: str
    grade: int
    text: str
    source: Source
    model: str
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate, the rule that removed it, and the value that broke the rule."""

    candidate: Candidate
    rule: str
    value: float

    def to_json(self) -> dict[str, Any]:
        """Return one flat object: the candidate's fields, then `rule` and `value`."""
        return {**to_json(self.candidate), "rule": self.rule, "value": self.value}


@dataclass(frozen=True, slots=True)
class Negative:
    """A candidate that was kept, with its measured `grade` and the judge's `score`."""

    text: str
    grade: int
    score: float
    source: Source


@dataclass(frozen=True, slots=True)
class GradedTuple:
    """A query, its positive, and its negatives in ascending grade; `score` is the judge's score of the positive."""

    id: str
    query: str
    positive: str
    negatives: tuple[Negative, ...]
    instruction: str | None = None
    task: str | None = None
    score: float | None = None
    group: str | None = None
    source: str | None = None
    """The source of the pair, in a run with several sources."""


def encodable(text: str) -> str:
    """Return the text with lone surrogates, which UTF-8 cannot encode, replaced by question marks."""
    return text.encode("utf-8", "replace").decode()


def is_one_line(text: str) -> bool:
    r"""Return whether a text is one line, with something on it and no line break at its end either.

    >>> is_one_line("find it"), is_one_line("find it\n"), is_one_line(" ")
    (True, False, False)
    """
    return bool(text.strip()) and text.splitlines() == [text]


_WIDE_OR_NARROW = re.compile("[\\u3000\\uff01-\\uffee]+")


def folded(text: str) -> str:
    r"""Return the text in the normalized form in which texts are compared.

    It removes differences in white space, case, character width and the encoding of accents.

    >>> folded("\uff37\uff48\uff4f  is it\uff1f")
    'who is it?'
    """
    if text.isascii():
        return _folded_ascii(text)
    text = unicodedata.normalize("NFC", _WIDE_OR_NARROW.sub(_in_usual_width, text))
    return " ".join(text.split()).casefold()


_SPACES = bytes.maketrans(b"\t\n\v\f\r\x1c\x1d\x1e\x1f", b" " * 9)


def _folded_ascii(text: str) -> str:
    """Return the folded form of ASCII text, which most texts are, in a tenth of the time."""
    line = text.encode().translate(_SPACES)
    while b"  " in line:
        line = line.replace(b"  ", b" ")
    return line.strip(b" ").lower().decode()


def _in_usual_width(found: re.Match[str]) -> str:
    """Normalize the width of this block only: elsewhere NFKC would turn 1 with a superscript 0 into 10."""
    return unicodedata.normalize("NFKC", found[0])


def identity(text: str) -> bytes:
    """Return a 16-byte digest of the `folded` text, for comparing more texts than fit into memory."""
    return hashlib.blake2b(folded(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


Record = Pair | Document | Candidate | Dropped | Negative | GradedTuple


def to_json(record: Record) -> dict[str, Any]:
    """Return the record as a JSON object; absent optional fields are left out."""
    if isinstance(record, Dropped):
        return record.to_json()
    if isinstance(record, GradedTuple):
        return {key: value for key, value in asdict(record).items() if value is not None}
    return {key: value for key in record.__slots__ if (value := getattr(record, key)) is not None}


_OPTIONAL_TEXTS = ("instruction", "task", "group", "source")


def tuple_from_json(fields: dict[str, Any]) -> GradedTuple:
    """Return the graded tuple that `to_json` wrote.

    Raises:
        TypeError, KeyError, ValueError: the fields do not form a graded tuple.
    """
    negatives = tuple(Negative(**negative) for negative in fields["negatives"])
    graded = GradedTuple(**{**fields, "negatives": negatives})
    for name, text in (("id", graded.id), ("query", graded.query), ("positive", graded.positive)):
        _require(name, text, _is_text(text), "a text")
    for name in _OPTIONAL_TEXTS:
        more = getattr(graded, name)
        _require(name, more, more is None or isinstance(more, str), "a text")
    _require("instruction", graded.instruction, not graded.instruction or is_one_line(graded.instruction), "one line")
    for negative in negatives:
        _require("text", negative.text, _is_text(negative.text), "a text")
        _require("grade", negative.grade, type(negative.grade) is int and negative.grade in GRADES, "1, 2, 3 or 4")
        _require("score", negative.score, _is_number(negative.score), "a number")
    return graded


def _is_text(found: Any) -> bool:
    return isinstance(found, str) and bool(found.strip())


def _is_number(found: Any) -> bool:
    return isinstance(found, int | float) and abs(found) < inf


def _require(name: str, found: Any, is_good: bool, wanted: str) -> None:
    if not is_good:
        raise ValueError(f'"{name}": found {found!r}; wanted {wanted}')


FALSE_NEGATIVE = 5
"""The grade of a candidate that is too close to the positive."""


def grade_of(relative: float, bounds: Sequence[float]) -> int:
    """Return the grade 1..4 of a relative relevance r = cos(q, c) / cos(q, p), or `FALSE_NEGATIVE`.

    Here q is the query, p its positive and c the candidate; other judges use their own score in place of the cosine.

    >>> [grade_of(r, (0.35, 0.6, 0.8, 0.95)) for r in (-0.1, 0.35, 0.79, 0.8, 0.95)]
    [1, 2, 3, 4, 5]
    """
    return bisect_right(bounds, relative) + 1


def band_of(grade: int, bounds: Sequence[float]) -> tuple[float, float]:
    """Return the relative relevance at which a grade 1..4 begins, and that at which the next grade begins.

    >>> band_of(2, (0.35, 0.6, 0.8, 0.95))
    (0.35, 0.6)
    """
    return (-inf, *bounds)[grade - 1], bounds[grade - 1]
